package bustest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy stands between a client and a TCP server, to play outages of servers that cannot be stopped. It is safe for
// concurrent use.
type Proxy struct {
	target string
	addr   string
	wg     sync.WaitGroup

	mu       sync.Mutex // guards what follows
	moved    *sync.Cond // stalled or closed changed
	listener net.Listener
	conns    map[net.Conn]struct{}
	stalled  bool
	closed   bool
}

// NewProxy starts a proxy to target (host:port) on a free loopback port. It ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p := &Proxy{target: target, conns: make(map[net.Conn]struct{})}
	p.moved = sync.NewCond(&p.mu)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("start a proxy to %s: %v", target, err)
	}
	p.addr = l.Addr().String()
	p.accept(l)
	t.Cleanup(func() {
		_ = p.Interrupt()
		p.mu.Lock()
		p.closed = true
		p.moved.Broadcast()
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

// Addr is the proxy's host:port. It stays the same.
func (p *Proxy) Addr() string { return p.addr }

func (p *Proxy) accept(l net.Listener) {
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.join(c) })
		}
	})
}

// join carries bytes both ways until one side ends.
func (p *Proxy) join(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer far.Close()
	p.mu.Lock()
	if p.listener == nil {
		p.mu.Unlock()
		return
	}
	p.conns[near], p.conns[far] = struct{}{}, struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, near)
		delete(p.conns, far)
		p.mu.Unlock()
	}()
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(far, near) })
	p.copy(near, far)
	wg.Wait()
}

func (p *Proxy) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	_, _ = io.Copy(writer{p, to}, from)
}

// writer waits while the proxy is stalled.
type writer struct {
	p  *Proxy
	to net.Conn
}

func (w writer) Write(b []byte) (int, error) {
	w.p.mu.Lock()
	for w.p.stalled && !w.p.closed && w.p.listener != nil {
		w.p.moved.Wait()
	}
	w.p.mu.Unlock()
	return w.to.Write(b)
}

// Interrupt ends every connection and refuses new ones until Resume.
func (p *Proxy) Interrupt() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		return nil
	}
	err := p.listener.Close()
	p.listener = nil
	for c := range p.conns {
		_ = c.Close()
	}
	p.moved.Broadcast()
	return err
}

// Resume takes connections again, on the same port, and lets bytes pass.
func (p *Proxy) Resume() error {
	p.mu.Lock()
	p.stalled = false
	p.moved.Broadcast()
	running := p.listener != nil
	p.mu.Unlock()
	if running {
		return nil
	}
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.accept(l)
	return nil
}

// Stall lets no byte pass until Resume, while connections stay and new ones are taken: what a frozen server or a
// network without a route looks like.
func (p *Proxy) Stall() {
	p.mu.Lock()
	p.stalled = true
	p.mu.Unlock()
}
