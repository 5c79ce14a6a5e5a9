package edge

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// portBytes is how much output a port takes before it says errAgain, as a socket's buffer would.
const portBytes = 64 << 10

// port is a connection's socket where there is no epoll: two goroutines stand in for it, one that reads and waits until
// the loop has taken what it read, one that writes what the loop has put there.
type port struct {
	nc    net.Conn
	conn  *conn         // set before dealt is closed
	dealt chan struct{} // closed when the loop has taken the port
	next  chan struct{} // the loop has taken what was read
	quit  chan struct{} // closed by end

	held bool // owned by the loop: the reader waits for next

	mu       sync.Mutex // guards the rest
	cond     sync.Cond
	out      []byte
	writing  bool // the writer is writing what it took from out
	refused  bool // errAgain was said: tell the loop when there is room
	ended    bool
	halfway  bool // close the sending half once out is empty
	detached bool // leave nc open
}

func newPort(nc net.Conn) *port {
	p := &port{nc: nc, next: make(chan struct{}, 1), quit: make(chan struct{}), dealt: make(chan struct{})}
	p.cond.L = &p.mu
	return p
}

// proceed lets the reader read on, once for each time that it waits: its buffer is the loop's until then.
func (p *port) proceed() {
	if p.held {
		p.held = false
		p.next <- struct{}{}
	}
}

func (p *port) read() {
	buf := make([]byte, 16<<10)
	select {
	case <-p.dealt:
	case <-p.quit:
		return
	}
	for {
		n, err := p.nc.Read(buf)
		select {
		case <-p.quit:
			return
		default:
		}
		if !p.conn.loop.call(func() { p.conn.arrived(buf[:n], err) }) {
			p.end(false)
			return
		}
		select {
		case <-p.next:
		case <-p.quit:
			return
		}
	}
}

// arrived takes what the reader read, on the loop.
func (c *conn) arrived(data []byte, err error) {
	c.port.held = true
	if c.state == stateGone {
		return
	}
	if len(data) > 0 {
		c.received(data)
	}
	switch {
	case c.state == stateGone:
	case err != nil:
		c.close()
	case !c.paused:
		c.port.proceed()
	}
}

func (p *port) write() {
	for {
		p.mu.Lock()
		for len(p.out) == 0 && !p.ended && !p.halfway {
			p.cond.Wait()
		}
		out := p.out
		p.out = nil
		p.writing = len(out) > 0
		halfway, ended, detached := p.halfway, p.ended, p.detached
		p.mu.Unlock()
		if len(out) > 0 {
			if _, err := p.nc.Write(out); err != nil {
				p.conn.loop.call(p.conn.close)
				p.wait()
			}
			p.room()
			continue
		}
		if halfway {
			if w, ok := p.nc.(interface{ CloseWrite() error }); ok {
				_ = w.CloseWrite()
			}
			p.wait()
			p.mu.Lock()
			ended, detached = true, p.detached
			p.mu.Unlock()
		}
		if ended && !detached {
			_ = p.nc.Close()
		}
		return
	}
}

// wait blocks until end.
func (p *port) wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.ended {
		p.cond.Wait()
	}
	p.out = nil
}

// room tells the loop that output is taken again.
func (p *port) room() {
	p.mu.Lock()
	tell := p.refused
	p.refused, p.writing = false, false
	p.mu.Unlock()
	if tell {
		p.conn.loop.call(p.conn.writable)
	}
}

// put takes a part of b, never waiting.
func (p *port) put(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.halfway {
		return 0, net.ErrClosed
	}
	n := min(len(b), portBytes-len(p.out))
	p.out = append(p.out, b[:n]...)
	p.cond.Signal()
	if n < len(b) {
		p.refused = true
		return n, errAgain
	}
	return n, nil
}

func (p *port) halfClose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.halfway = true
	p.cond.Signal()
}

// end ends both goroutines; what is still to be written gets a second. With detach the socket is the caller's then.
func (p *port) end(detach bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.ended, p.detached = true, detach
	close(p.quit)
	p.cond.Broadcast()
	switch {
	case detach:
	case p.writing || len(p.out) > 0:
		_ = p.nc.SetDeadline(time.Now().Add(time.Second)) // the writer closes it then
	default:
		_ = p.nc.Close()
	}
}

// The socket of a connection, whichever kind it is.

func (c *conn) put(b []byte) (int, error) {
	c.loop.puts++
	if c.port != nil {
		return c.port.put(b)
	}
	return c.sysWrite(b)
}

func (c *conn) halfClose() {
	if c.port != nil {
		c.port.halfClose()
		return
	}
	c.sysShut()
}

func (c *conn) hangUp() {
	if c.port != nil {
		c.port.end(false)
		return
	}
	c.sysClose()
}

// peer is the address of the socket's other end, the zero one where it has none.
func (c *conn) peer() netip.Addr {
	if c.port == nil {
		return c.sysPeer()
	}
	peer, _ := parseAddr(c.port.nc.RemoteAddr().String())
	return peer
}

// detach takes the socket out of the loop.
func (c *conn) detach() (net.Conn, error) {
	if c.port != nil {
		c.port.end(true)
		return c.port.nc, nil
	}
	return c.sysDetach()
}

// portablePoller has no sockets of its own: ports post what happens to them.
type portablePoller struct {
	bell chan struct{}
}

func newPortablePoller() *portablePoller { return &portablePoller{bell: make(chan struct{}, 1)} }

func (p *portablePoller) wake() {
	select {
	case p.bell <- struct{}{}:
	default:
	}
}

func (p *portablePoller) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.bell:
	case <-t.C:
	}
}

func (*portablePoller) close() {}
