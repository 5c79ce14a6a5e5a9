// Package proxy passes TCP connections on and, while it is told to, mistreats them: it holds bytes back one way or both,
// slows them, resets, half closes, refuses, or accepts and then says nothing.
//
// No byte is ever dropped, doubled or changed: a network does not do that to a TCP connection either. What a fault
// holds back goes on once it is over, however stale it is by then. Only an Editor, which knows the protocol, changes what
// is said: it plays a server.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Direction is the way of bytes through a proxy.
type Direction int

// The two ways.
const (
	Up   Direction = iota // from who connected to the target
	Down                  // back
)

// Fault is how a proxy treats its connections; the zero value passes everything on.
type Fault struct {
	// HoldUp and HoldDown keep all bytes of one way back, those of new connections too, until the fault is over. Both
	// are a partition.
	HoldUp, HoldDown bool
	// Latency is added to each piece of up to 32 KiB, each way; what arrives meanwhile makes the next piece.
	Latency time.Duration
	// Rate bounds each connection's bytes per second and way. 0: no bound.
	Rate int
	// Refuse resets every new connection at once.
	Refuse bool
	// Hang accepts new connections and does nothing more for them, also not when the fault is over: they are reset then.
	Hang bool
}

func (f *Fault) holds(d Direction) bool { return d == Up && f.HoldUp || d == Down && f.HoldDown }

// dialTimeout bounds reaching the target.
const dialTimeout = 5 * time.Second

// piece is how much is read at once.
const piece = 32 << 10

// state is a fault in force; changed is closed when another takes its place.
type state struct {
	Fault
	target  string
	changed chan struct{}
}

// Proxy listens on one address. All its methods are safe for concurrent use.
type Proxy struct {
	ln     net.Listener
	ctx    context.Context // the proxy's own, until Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // accept and every connection
	now    atomic.Pointer[state]
	trip   atomic.Pointer[func([]byte) bool]
	editor atomic.Pointer[func() Editor]

	mu    sync.Mutex // guards conns, changes of now, and closed
	conns map[*conn]struct{}
}

// conn is one connection and its other half, which is nil until the target was reached.
type conn struct {
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	hung   bool
	editor Editor // nil: none

	mu   sync.Mutex // guards ends against being set and closed at once
	ends [2]*net.TCPConn
}

// Listen opens a proxy on addr that passes connections on to target; both are host:port.
func Listen(addr, target string) (*Proxy, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("open a proxy to %s: %w", target, err)
	}
	p := &Proxy{ln: ln, conns: make(map[*conn]struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.now.Store(&state{target: target, changed: make(chan struct{})})
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Set puts a fault in force, in place of the one before it. Connections that a Hang left are reset.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	old := p.now.Load()
	p.now.Store(&state{Fault: f, target: old.target, changed: make(chan struct{})})
	close(old.changed)
	p.mu.Unlock()
	p.each(func(c *conn) bool { return c.hung }, (*conn).reset)
}

// Trip resets each connection that is about to carry a piece up of which on says true; nil ends that. It is called from
// many goroutines.
func (p *Proxy) Trip(on func(piece []byte) bool) {
	if on == nil {
		p.trip.Store(nil)
		return
	}
	p.trip.Store(&on)
}

// Editor changes what one connection carries. Edit is called for both ways at once, for each way with one piece after the
// other, and returns what goes on in its place; what it keeps it returns with a later piece.
type Editor interface {
	Edit(d Direction, piece []byte) []byte
}

// Through gives every new connection an Editor of its own. The proxy's faults come before it.
func (p *Proxy) Through(editor func() Editor) { p.editor.Store(&editor) }

// Retarget sends new connections elsewhere and resets those there are, as a changed address does.
func (p *Proxy) Retarget(target string) {
	p.mu.Lock()
	old := p.now.Load()
	p.now.Store(&state{Fault: old.Fault, target: target, changed: make(chan struct{})})
	close(old.changed)
	p.mu.Unlock()
	p.Reset()
}

// Reset resets all connections and returns how many there were.
func (p *Proxy) Reset() int { return p.each(func(*conn) bool { return true }, (*conn).reset) }

// HalfClose ends one way of all connections and leaves the other open. It returns how many there were.
func (p *Proxy) HalfClose(d Direction) int {
	return p.each(func(c *conn) bool { return !c.hung }, func(c *conn) { c.closeWrite(d) })
}

func (p *Proxy) each(which func(*conn) bool, do func(*conn)) int {
	var found []*conn
	p.mu.Lock()
	for c := range p.conns {
		if which(c) {
			found = append(found, c)
		}
	}
	p.mu.Unlock()
	for _, c := range found {
		do(c)
	}
	return len(found)
}

// Close stops listening, resets what is open and waits for it.
func (p *Proxy) Close() error {
	p.cancel()
	err := p.ln.Close()
	p.Reset()
	p.wg.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close a proxy: %w", err)
	}
	return nil
}

func (p *Proxy) accept() {
	for {
		in, err := p.ln.Accept()
		if err != nil {
			if p.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			select { // out of descriptors, say
			case <-p.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		c := &conn{}
		c.ends[Up] = in.(*net.TCPConn)
		c.ctx, c.cancel = context.WithCancel(p.ctx)
		st := p.now.Load()
		c.hung = st.Hang
		if make := p.editor.Load(); make != nil {
			c.editor = (*make)()
		}
		if st.Refuse {
			c.reset()
			continue
		}
		p.mu.Lock()
		p.conns[c] = struct{}{}
		p.mu.Unlock()
		p.wg.Go(func() { p.serve(c) })
	}
}

// serve passes a connection on until both ways have ended.
func (p *Proxy) serve(c *conn) {
	defer func() {
		c.reset()
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
	}()
	if c.hung {
		<-c.ctx.Done()
		return
	}
	d := net.Dialer{Timeout: dialTimeout}
	out, err := d.DialContext(c.ctx, "tcp", p.now.Load().target)
	if err != nil || !c.reached(out.(*net.TCPConn)) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.pump(c, Up, c.ends[Up], c.ends[Down]) })
	both.Go(func() { p.pump(c, Down, c.ends[Down], c.ends[Up]) })
	both.Wait()
}

// reached adds the target's end, unless the connection has ended meanwhile.
func (c *conn) reached(out *net.TCPConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		_ = out.Close()
		return false
	}
	c.ends[Down] = out
	return true
}

// reset ends a connection at once, with an RST both ways.
func (c *conn) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel()
	for _, end := range c.ends {
		if end != nil {
			_ = end.SetLinger(0)
			_ = end.Close()
		}
	}
}

// closeWrite tells the end that bytes of one way go to that there are no more.
func (c *conn) closeWrite(d Direction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if to := c.ends[1-d]; to != nil {
		_ = to.CloseWrite()
	}
}

// pump passes one way's bytes on, as the fault in force has it.
func (p *Proxy) pump(c *conn, d Direction, from, to *net.TCPConn) {
	buf := make([]byte, piece)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !p.wait(c, d, n) {
				return
			}
			if trip := p.trip.Load(); trip != nil && d == Up && (*trip)(buf[:n]) {
				c.reset()
				return
			}
			out := buf[:n]
			if c.editor != nil {
				out = c.editor.Edit(d, out)
			}
			if _, err := to.Write(out); err != nil {
				// A half closed way takes nothing; whoever sends into it finds out by the reset.
				c.reset()
				return
			}
		}
		if errors.Is(err, io.EOF) {
			if p.wait(c, d, 0) {
				c.closeWrite(d)
			}
			return
		}
		if err != nil {
			c.reset()
			return
		}
	}
}

// wait returns once n bytes may go on, or false once the connection has ended.
func (p *Proxy) wait(c *conn, d Direction, n int) bool {
	var spent time.Duration // waited in the name of a latency or a rate
	for {
		st := p.now.Load()
		need := st.Latency
		if st.Rate > 0 {
			need += time.Duration(n) * time.Second / time.Duration(st.Rate)
		}
		need -= spent
		held := st.holds(d)
		if !held && need <= 0 {
			return c.ctx.Err() == nil
		}
		begin := time.Now()
		var over <-chan time.Time // with Go 1.23 and newer a timer that nobody holds costs nothing
		if !held {
			over = time.After(need)
		}
		select {
		case <-c.ctx.Done():
			return false
		case <-st.changed:
		case <-over:
		}
		if !held {
			spent += time.Since(begin)
		}
	}
}
