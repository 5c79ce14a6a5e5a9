//go:build !lean

package embedded

import (
	"errors"
	"net"
	"sync"
)

// outboxBytes is the most that may wait for a client to read it, as Redis bounds its subscribers' output by default.
const outboxBytes = 32 << 20

var errOutboxFull = errors.New("the client does not read")

// outbox is a connection whose Write does not wait: what is written while a system call is under way goes out with the
// next one. A client that lets too much wait is disconnected.
type outbox struct {
	net.Conn

	mu      sync.Mutex // guards what follows
	more    *sync.Cond
	waiting []byte
	closed  bool
}

func newOutbox(nc net.Conn) *outbox {
	c := &outbox{Conn: nc}
	c.more = sync.NewCond(&c.mu)
	return c
}

// Write takes b, or fails where the connection has ended or too much waits.
func (c *outbox) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case len(c.waiting)+len(b) > outboxBytes:
		c.end()
		return 0, errOutboxFull
	}
	c.waiting = append(c.waiting, b...)
	c.more.Signal()
	return len(b), nil
}

// Close gives up what waits.
func (c *outbox) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end()
}

func (c *outbox) end() error {
	if c.closed {
		return nil
	}
	c.closed, c.waiting = true, nil
	c.more.Signal()
	return c.Conn.Close()
}

// run writes until the connection ends.
func (c *outbox) run() {
	var spare []byte
	for {
		c.mu.Lock()
		for len(c.waiting) == 0 && !c.closed {
			c.more.Wait()
		}
		if c.closed {
			c.mu.Unlock()
			return
		}
		now := c.waiting
		c.waiting = spare[:0]
		c.mu.Unlock()
		if _, err := c.Conn.Write(now); err != nil {
			_ = c.Close()
			return
		}
		if spare = now; cap(spare) > 1<<20 {
			spare = nil
		}
	}
}
