package loadtest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// pumps is the network for TLS and for systems without epoll: two goroutines per connection that hand what they read
// to the loop and write what it says.
type pumps struct {
	conns  []conn
	dialer dialFunc
	events chan pumpEvent
	ended  chan struct{}
	links  []*link // by connection; nil where there is none
	wg     sync.WaitGroup
}

type pumpEvent struct {
	link *link
	open bool
	data []byte
	err  error
}

// link is one connection's pair of goroutines.
type link struct {
	index int32
	out   chan []byte
	stop  chan struct{}
	once  sync.Once
	// Guarded by mu.
	mu   sync.Mutex
	sock net.Conn
	dead bool
}

// outQueue bounds the writes that wait on one connection; a server that takes none for so long is given up.
const outQueue = maxWindow + 16

var errStuck = errors.New("the server reads nothing")

func newPumps(p *plan, conns []conn) *pumps {
	dialer := p.dial
	if dialer == nil {
		dialer = connectBy(p.Insecure)
	}
	return &pumps{conns: conns, dialer: dialer, events: make(chan pumpEvent, 1024), ended: make(chan struct{}), links: make([]*link, len(conns))}
}

func (p *pumps) dial(c *conn, to target, source [2]byte) error {
	l := &link{index: c.index, out: make(chan []byte, outQueue), stop: make(chan struct{})}
	p.links[c.index] = l
	c.fd = 1
	c.gen++
	p.wg.Go(func() { p.run(l, to, source) })
	return nil
}

// run connects, starts the writer and reads until the end.
func (p *pumps) run(l *link, to target, source [2]byte) {
	sock, err := p.dialer(to, source)
	if err != nil {
		p.tell(pumpEvent{link: l, err: err})
		return
	}
	l.mu.Lock()
	l.sock = sock
	dead := l.dead
	l.mu.Unlock()
	if dead {
		sock.Close()
		return
	}
	p.tell(pumpEvent{link: l, open: true})
	p.wg.Go(func() {
		for {
			select {
			case b := <-l.out:
				if _, err := sock.Write(b); err != nil {
					return // the reader learns of it too
				}
			case <-l.stop:
				return
			}
		}
	})
	buf := make([]byte, 4<<10)
	for {
		n, err := sock.Read(buf)
		if n > 0 {
			p.tell(pumpEvent{link: l, data: bytes.Clone(buf[:n])})
		}
		if err != nil {
			p.tell(pumpEvent{link: l, err: err})
			return
		}
	}
}

// connectBy is the network's own way to connect; insecure takes every certificate.
func connectBy(insecure bool) dialFunc {
	return func(to target, source [2]byte) (net.Conn, error) { return connectTo(to, source, insecure) }
}

func connectTo(to target, source [2]byte, insecure bool) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	host, _, _ := net.SplitHostPort(to.Host)
	if ip := net.ParseIP(host); canBindLoopback && ip != nil && ip.IsLoopback() && ip.To4() != nil {
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, source[0], source[1])}
	}
	sock, err := d.Dial("tcp", to.Host)
	if err != nil || !to.TLS {
		return sock, err
	}
	secure := tls.Client(sock, &tls.Config{ServerName: host, NextProtos: []string{"http/1.1"}, InsecureSkipVerify: insecure})
	secure.SetDeadline(time.Now().Add(10 * time.Second))
	if err := secure.Handshake(); err != nil {
		sock.Close()
		return nil, err
	}
	secure.SetDeadline(time.Time{})
	return secure, nil
}

// tell hands an event to the loop, or drops it once the network is closed.
func (p *pumps) tell(e pumpEvent) {
	select {
	case p.events <- e:
	case <-p.ended:
	}
}

func (p *pumps) write(c *conn, b []byte) error {
	select {
	case p.links[c.index].out <- append([]byte(nil), b...):
		return nil
	default:
		return errStuck
	}
}

func (p *pumps) drop(c *conn, hard bool) {
	l := p.links[c.index]
	if l == nil {
		return
	}
	p.links[c.index] = nil
	c.fd = -1
	c.gen++
	c.in, c.out = nil, nil
	l.end(hard)
}

func (p *pumps) part(c *conn) (end func(last []byte)) {
	l := p.links[c.index]
	p.links[c.index] = nil
	c.fd = -1
	c.gen++
	c.in, c.out = nil, nil
	return func(last []byte) {
		select {
		case l.out <- last:
		default:
		}
		l.end(false)
	}
}

func (l *link) end(hard bool) {
	l.once.Do(func() { close(l.stop) })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	if l.sock == nil {
		return
	}
	if tcp, ok := l.sock.(*net.TCPConn); ok && hard {
		tcp.SetLinger(0)
	}
	l.sock.Close()
}

func (p *pumps) wait(d time.Duration, h handler) error {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case e := <-p.events:
		p.serve(e, h)
	case <-timer.C:
		return nil
	}
	for range cap(p.events) {
		select {
		case e := <-p.events:
			p.serve(e, h)
		default:
			return nil
		}
	}
	return nil
}

func (p *pumps) serve(e pumpEvent, h handler) {
	if p.links[e.link.index] != e.link {
		return // of a connection that was dropped meanwhile
	}
	c := &p.conns[e.link.index]
	switch {
	case e.open:
		h.opened(c)
	case e.err != nil:
		p.drop(c, false)
		h.closed(c, e.err)
	default:
		h.received(c, e.data)
	}
}

func (p *pumps) close() {
	close(p.ended)
	p.wg.Wait()
}
