package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// outbox is the sends of one room that have no answer yet, in order. The client's mu guards it.
type outbox struct {
	items    []*item
	inFlight int
	// holding says that a send got a retryable error: nothing goes out until all in flight are answered and sendAt is over.
	holding bool
	sendAt  time.Time
	failed  int // see retryAfter
	// jammed says that the server waits for the key of a send that was given up.
	jammed bool
}

// item is one message on its way.
type item struct {
	key     contracts.Key // made when it is first sent
	text    string
	stored  bool // its answer waits until it is stored
	flying  bool // sent on this connection, not answered
	refused bool // got a retryable error on this connection
	gone    bool // nobody waits for it
	result  chan sendResult
}

type sendResult struct {
	ok  contracts.SendOK
	err error
}

// Send sends a message and returns once the server has accepted it, trying again under the same key through
// retryable errors and disconnects until ctx ends. Concurrent sends to one room keep the order in which they were begun. When it returns
// ctx's error the message may or may not have been accepted; a *contracts.Error means that it was not, unless its code is
// CodeKeyConflict.
func (c *Client) Send(ctx context.Context, id contracts.RoomID, text string) (contracts.SendOK, error) {
	return c.send(ctx, id, &item{text: text})
}

// SendStored is Send that waits until the message is also in the store, for a few seconds. Where SendOK.State is not "stored" by
// then, an Event of the kind contracts.EventStored may still tell.
func (c *Client) SendStored(ctx context.Context, id contracts.RoomID, text string) (contracts.SendOK, error) {
	return c.send(ctx, id, &item{text: text, stored: true})
}

func (c *Client) send(ctx context.Context, id contracts.RoomID, it *item) (contracts.SendOK, error) {
	if _, err := contracts.ParseRoomID(string(id)); err != nil {
		return contracts.SendOK{}, err
	}
	it.result = make(chan sendResult, 1)
	c.mu.Lock()
	if err := c.gone(); err != nil {
		c.mu.Unlock()
		return contracts.SendOK{}, err
	}
	r := c.room(id)
	r.items = append(r.items, it)
	c.flush(r)
	c.mu.Unlock()
	select {
	case res := <-it.result:
		if res.err != nil {
			return res.ok, fmt.Errorf("send to room %s: %w", id, res.err)
		}
		return res.ok, nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	it.gone = true
	if !it.flying && r.remove(it) {
		r.jammed = r.jammed || it.refused
		c.flush(r)
		c.tidy(r)
	}
	return contracts.SendOK{Key: it.key}, fmt.Errorf("send to room %s: %w", id, ctx.Err())
}

func (o *outbox) remove(it *item) bool {
	for i := range o.items {
		if o.items[i] == it {
			o.items = append(o.items[:i], o.items[i+1:]...)
			return true
		}
	}
	return false
}

// fail gives err to all who wait.
func (o *outbox) fail(err error) {
	for _, it := range o.items {
		it.result <- sendResult{err: err}
	}
	o.items = nil
}

// disconnected makes all items unsent; the server has forgotten what it waited for.
func (o *outbox) disconnected() {
	*o = outbox{items: o.items}
	for _, it := range o.items {
		it.flying, it.refused = false, false
	}
}

// flush sends what may be sent, in order. The caller holds mu.
func (c *Client) flush(r *room) {
	s := c.usable()
	if s == nil || len(r.items) == 0 || r.holding && (r.inFlight > 0 || !r.sendAt.IsZero()) {
		return
	}
	r.holding = false
	if r.jammed {
		r.jammed = false
		s.ask(contracts.OpLeave, roomField(r.id), c.cfg.ReplyTimeout, func([]byte, error) {})
		r.joining = 0
		c.startJoin(r)
	}
	for _, it := range r.items {
		if it.flying {
			continue
		}
		if it.key.IsZero() {
			key, err := newKey(contracts.Millis(time.Now()) + c.ahead)
			if err != nil {
				c.cfg.Log.Error("no randomness for a key", "room", r.id, "err", err)
				return
			}
			it.key = key
		}
		b := roomField(r.id)
		b = append(b, `,"key":"`...)
		b = append(b, it.key.String()...)
		b = append(b, `","text":`...)
		b = contracts.AppendString(b, it.text)
		if it.stored {
			b = append(b, `,"ack":"stored"`...)
		}
		it.flying = true
		r.inFlight++
		s.ask(contracts.OpSend, b, c.cfg.ReplyTimeout, func(ok []byte, err error) { c.sent(s, r, it, ok, err) })
	}
}

// newKey makes a key for a time in Unix milliseconds: that of the server, which judges it.
func newKey(ms int64) (contracts.Key, error) {
	key, err := contracts.NewKey()
	for i := range 6 {
		key[i] = byte(uint64(ms) >> (40 - 8*i))
	}
	return key, err
}

// sent takes the answer to a send.
func (c *Client) sent(s *session, r *room, it *item, ok []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	it.flying = false
	r.inFlight--
	var reply contracts.SendOK
	if err == nil {
		if err = json.Unmarshal(ok, &reply); err != nil {
			err = contracts.NewError(contracts.CodeInternal, "a reply to send that is none")
		}
	}
	var e *contracts.Error
	switch {
	case err == nil:
		r.failed = 0
	case errors.Is(err, ErrDisconnected):
		if it.gone {
			r.remove(it)
			c.tidy(r)
		}
		return
	case errors.As(err, &e) && e.Retry:
		it.refused = true
		if !r.holding {
			r.holding = true
			r.sendAt = time.Now().Add(retryAfter(e, &r.failed))
			s.at(r.sendAt)
		}
		if it.gone {
			r.remove(it)
			r.jammed = true
		}
		c.flush(r)
		return
	}
	r.remove(it)
	it.result <- sendResult{ok: reply, err: err}
	c.flush(r)
	c.tidy(r)
}
