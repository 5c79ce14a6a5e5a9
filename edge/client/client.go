package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// Client is one person's connection, kept alive until Close or until the server says stop. All its methods are safe
// for concurrent use.
type Client struct {
	// Static after Dial.
	cfg    Config
	ctx    context.Context // the client's own: ends with Close or when the client stops
	cancel context.CancelFunc
	done   chan struct{} // closed once run has returned

	// Owned by run.
	url     string // where the next connection goes
	renewed bool   // the token is a new one that has not served yet
	tries   int    // connections since one stood for steady

	mu      sync.Mutex // guards the rest, the session's guarded fields and the rooms
	session *session   // the connection in use, nil between two
	ready   chan struct{}
	rooms   map[contracts.RoomID]*room
	token   string
	hello   *contracts.ConnectOK
	ahead   int64 // the server's clock minus ours, in milliseconds
	closing bool
	last    error // why the last connection ended
	err     error // why the client has stopped
}

// Dial connects and returns once connect was answered, trying again for as long as ctx and the server let it. ctx
// is for this only; the client lives until Close, which must be called, or until it stops.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	c := &Client{
		cfg: cfg, url: cfg.URL, token: cfg.Token, done: make(chan struct{}),
		ready: make(chan struct{}), rooms: make(map[contracts.RoomID]*room),
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	ready := c.ready
	go c.run()
	select {
	case <-ready:
		return c, nil
	case <-c.done:
		return nil, fmt.Errorf("connect to %s: %w", cfg.URL, c.Err())
	case <-ctx.Done():
		c.mu.Lock()
		err := errors.Join(ctx.Err(), c.last)
		c.mu.Unlock()
		c.Close()
		return nil, fmt.Errorf("connect to %s: %w", cfg.URL, err)
	}
}

// Close ends the connection with a close frame, waits up to a second for the server's, and fails whatever waits with
// ErrClosed. It must not be called by OnEvent or OnState.
func (c *Client) Close() {
	c.mu.Lock()
	if !c.closing {
		c.closing = true
		if s := c.session; s != nil {
			s.sayClose(time.Now())
		}
	}
	c.mu.Unlock()
	c.cancel()
	<-c.done
}

// Drop breaks the connection in use off, as a network would; the client connects again.
func (c *Client) Drop() {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s != nil {
		s.conn.Close() // whoever reads it reports
	}
}

// Done is closed when the client has stopped; Err says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the client has stopped: ErrClosed, or what the server said, mostly a *CloseError. It is nil before.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Session is the latest reply to connect.
func (c *Client) Session() contracts.ConnectOK {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hello == nil {
		return contracts.ConnectOK{}
	}
	return *c.hello
}

// Position is the last entry of the room that was, or is about to be, passed to OnEvent; ok is false where none is known.
func (c *Client) Position(id contracts.RoomID) (at contracts.Since, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.rooms[id]; r != nil && r.have {
		return r.pos, true
	}
	return contracts.Since{}, false
}

// run opens connections and reads them, one after the other, until the client stops.
func (c *Client) run() {
	defer close(c.done)
	defer c.cancel()
	var old *session // the one to close once the next stands
	for {
		s, err := c.open(c.url)
		c.url = c.cfg.URL
		if err == nil {
			err = c.serve(s, old)
			old = nil
		}
		var move *moveError
		if errors.As(err, &move) {
			old, c.url = s, move.url
			continue
		}
		if old != nil {
			old.end(contracts.CloseNormal)
			old = nil
		}
		if err = c.settle(err); err != nil {
			c.stop(err)
			return
		}
	}
}

// settle does what the end of a connection calls for, waiting included, and returns an error where the client is to stop.
func (c *Client) settle(err error) error {
	c.mu.Lock()
	closing := c.closing
	c.last = err
	c.mu.Unlock()
	if closing {
		return ErrClosed
	}
	act, least := judge(err)
	wait := max(backoff(c.tries), least)
	switch act {
	case stop:
		return err
	case renew:
		if err := c.renew(err); err != nil {
			return err
		}
		if c.tries == 0 {
			wait = 0 // later ones wait: the server may refuse what it has just accepted again and again
		}
	}
	c.tries++
	c.cfg.Log.Debug("connection ended, will connect again", "wait", wait, "err", err)
	c.cfg.OnState(State{Phase: Waiting, Wait: wait, Err: err})
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.ctx.Done():
		return ErrClosed
	}
}

// renew gets another token after refused, once between two connections that stood.
func (c *Client) renew(refused error) error {
	if c.cfg.Renew == nil || c.renewed {
		return refused
	}
	token, err := c.cfg.Renew(c.ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing:
		return ErrClosed
	case err != nil:
		return fmt.Errorf("renew the token: %w", errors.Join(err, refused))
	case token == "" || token == c.token:
		return refused
	}
	c.token, c.renewed = token, true
	return nil
}

// stop fails whatever waits with err.
func (c *Client) stop(err error) {
	c.mu.Lock()
	c.err = err
	for _, r := range c.rooms {
		r.fail(err)
	}
	clear(c.rooms)
	c.mu.Unlock()
	c.cfg.Log.Debug("stopped", "err", err)
	c.cfg.OnState(State{Phase: Stopped, Err: err})
}

// usable returns the session that requests may go to, or nil. The caller holds mu.
func (c *Client) usable() *session {
	if s := c.session; s != nil && s.ready && !s.draining && !c.closing {
		return s
	}
	return nil
}

// unready makes callers wait for the next session. The caller holds mu.
func (c *Client) unready() {
	select {
	case <-c.ready:
		c.ready = make(chan struct{})
	default:
	}
}
