//go:build !lean

package embedded

import (
	"fmt"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// clockStep is how often the embedded Redis looks for expired keys: a key may live that much longer than it should.
const clockStep = 250 * time.Millisecond

// Redis is a Redis server inside this process, on a loopback port of its own. It keeps nothing on disk. It is safe for
// concurrent use.
type Redis struct {
	server *miniredis.Miniredis
	url    string
	stop   chan struct{}
	done   chan struct{}

	mu      sync.Mutex // guards what follows
	running bool
	closed  bool
}

// StartRedis starts a server on a free loopback port.
func StartRedis() (*Redis, error) {
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("start the embedded redis server: %w", err)
	}
	r := &Redis{
		server:  m,
		url:     "redis://" + m.Addr(),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
		running: true,
	}
	go r.run()
	return r, nil
}

// run moves the server's clock. The server's own clock (ClockTTL) walks all keys at every command.
func (r *Redis) run() {
	defer close(r.done)
	ticker := time.NewTicker(clockStep)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.server.FastForward(clockStep)
		case <-r.stop:
			return
		}
	}
}

// URL is what fanout.Connect wants. It stays the same through Interrupt and Resume.
func (r *Redis) URL() string { return r.url }

// FastForward lets d pass for the keys that expire.
func (r *Redis) FastForward(d time.Duration) { r.server.FastForward(d) }

// Interrupt stops the server, as an outage does: every connection ends and new ones are refused. The keys stay.
func (r *Redis) Interrupt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running {
		r.server.Close()
		r.running = false
	}
}

// Resume starts the server again on the same port. It does nothing while the server runs.
func (r *Redis) Resume() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running || r.closed {
		return nil
	}
	if err := r.server.Restart(); err != nil {
		return fmt.Errorf("restart the embedded redis server: %w", err)
	}
	r.running = true
	return nil
}

// Close stops the server and waits until it has ended.
func (r *Redis) Close() error {
	r.Interrupt()
	r.mu.Lock()
	closed := r.closed
	r.closed = true
	r.mu.Unlock()
	if !closed {
		close(r.stop)
	}
	<-r.done
	return nil
}
