package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// ErrLeft is what a Join returns that a Leave, or the server, has overtaken.
var ErrLeft = errors.New("the room was left")

// room is what the client knows of a room. The client's mu guards it.
type room struct {
	id      contracts.RoomID
	wanted  bool // joined, or to be
	have    bool // pos is known
	pos     contracts.Since
	joining int // the number of the join in flight; 0: none
	joins   int // joins so far
	joinAt  time.Time
	tries   int // see retryAfter
	waiters []chan joinResult

	outbox
}

type joinResult struct {
	ok  contracts.JoinOK
	err error
}

// Join listens to the room, from behind since where it is given, else from the latest entries (Config.JoinLimit), or, in a
// room that is joined already, from where it is. It returns the last reply once that is complete or a reset; the entries have gone to
// OnEvent. From then on the room is joined on every later connection, until Leave. When ctx ends first, and the room was
// not joined before, it is left again. The error is a *contracts.Error where the server refused.
func (c *Client) Join(ctx context.Context, id contracts.RoomID, since *contracts.Since) (contracts.JoinOK, error) {
	if _, err := contracts.ParseRoomID(string(id)); err != nil {
		return contracts.JoinOK{}, err
	}
	result := make(chan joinResult, 1)
	c.mu.Lock()
	if err := c.gone(); err != nil {
		c.mu.Unlock()
		return contracts.JoinOK{}, err
	}
	r := c.room(id)
	before := r.wanted
	r.wanted = true
	if since != nil {
		r.pos, r.have = *since, true
		r.joining = 0 // what is in flight answers another question
	}
	r.joinAt = time.Time{}
	r.waiters = append(r.waiters, result)
	c.startJoin(r)
	c.mu.Unlock()
	select {
	case res := <-result:
		if res.err != nil {
			return res.ok, fmt.Errorf("join room %s: %w", id, res.err)
		}
		return res.ok, nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.forget(result)
	if !before && len(r.waiters) == 0 && c.rooms[id] == r {
		c.unlisten(r, nil)
		if s := c.usable(); s != nil {
			s.ask(contracts.OpLeave, roomField(id), c.cfg.ReplyTimeout, func([]byte, error) {})
		}
		c.tidy(r)
	}
	return contracts.JoinOK{}, fmt.Errorf("join room %s: %w", id, ctx.Err())
}

// Leave stops listening to the room and forgets the position. Where there is no connection nothing needs to be said.
func (c *Client) Leave(ctx context.Context, id contracts.RoomID) error {
	if _, err := contracts.ParseRoomID(string(id)); err != nil {
		return err
	}
	result := make(chan error, 1)
	c.mu.Lock()
	if r := c.rooms[id]; r != nil {
		c.unlisten(r, ErrLeft)
		r.jammed = false
		c.tidy(r)
	}
	s := c.usable()
	if s != nil {
		s.ask(contracts.OpLeave, roomField(id), c.cfg.ReplyTimeout, func(_ []byte, err error) { result <- err })
	}
	c.mu.Unlock()
	if s == nil {
		return nil
	}
	select {
	case err := <-result:
		if err != nil && !errors.Is(err, ErrDisconnected) {
			return fmt.Errorf("leave room %s: %w", id, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("leave room %s: %w", id, ctx.Err())
	}
}

// gone is why nothing more can be asked, or nil. The caller holds mu.
func (c *Client) gone() error {
	if c.closing {
		return ErrClosed
	}
	return c.err
}

func (c *Client) room(id contracts.RoomID) *room {
	r := c.rooms[id]
	if r == nil {
		r = &room{id: id}
		c.rooms[id] = r
	}
	return r
}

// tidy forgets a room of which nothing is wanted. The caller holds mu.
func (c *Client) tidy(r *room) {
	if !r.wanted && len(r.items) == 0 && !r.jammed && c.rooms[r.id] == r {
		delete(c.rooms, r.id)
	}
}

// unlisten makes a room one that is not joined. The caller holds mu.
func (c *Client) unlisten(r *room, err error) {
	r.wanted, r.have, r.joining, r.joinAt, r.tries = false, false, 0, time.Time{}, 0
	r.answer(joinResult{err: err})
}

func (r *room) answer(res joinResult) {
	for _, w := range r.waiters {
		w <- res
	}
	r.waiters = nil
}

func (r *room) forget(w chan joinResult) {
	for i := range r.waiters {
		if r.waiters[i] == w {
			r.waiters = append(r.waiters[:i], r.waiters[i+1:]...)
			return
		}
	}
}

// fail gives err to all who wait for something in the room. The caller holds mu.
func (r *room) fail(err error) {
	r.answer(joinResult{err: err})
	r.outbox.fail(err)
}

// disconnected makes the room one of the next session. The caller holds mu.
func (r *room) disconnected() {
	r.joining, r.joinAt, r.tries = 0, time.Time{}, 0
	r.outbox.disconnected()
}

// startJoin sends a join if the room is wanted, there is a connection, and none is in flight or waits. The caller
// holds mu.
func (c *Client) startJoin(r *room) {
	s := c.usable()
	if s == nil || !r.wanted || r.joining != 0 || !r.joinAt.IsZero() {
		return
	}
	b := roomField(r.id)
	switch {
	case r.have:
		b = append(b, `,"since":{"epoch":`...)
		b = strconv.AppendUint(b, uint64(r.pos.Epoch), 10)
		b = append(b, `,"seq":`...)
		b = strconv.AppendUint(b, uint64(r.pos.Seq), 10)
		b = append(b, '}')
	case c.cfg.JoinLimit != 0:
		b = append(b, `,"limit":`...)
		b = strconv.AppendInt(b, int64(max(0, c.cfg.JoinLimit)), 10)
	}
	r.joins++
	n := r.joins
	r.joining = n
	s.ask(contracts.OpJoin, b, c.cfg.ReplyTimeout, func(ok []byte, err error) {
		events, waiters, reply := c.joined(s, r, n, ok, err)
		for _, ev := range events {
			c.cfg.OnEvent(ev)
		}
		for _, w := range waiters {
			w <- joinResult{ok: reply}
		}
	})
}

// joined takes the reply to the nth join of the room. It returns what the reply has to tell and, where it is the last,
// who waits for it: until the events are passed on.
func (c *Client) joined(s *session, r *room, n int, ok []byte, err error) ([]Event, []chan joinResult, contracts.JoinOK) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var reply contracts.JoinOK
	if r.joining != n || c.rooms[r.id] != r || errors.Is(err, ErrDisconnected) {
		return nil, nil, reply
	}
	r.joining = 0
	var entries []Event
	if err == nil {
		reply, entries, err = readJoin(r.id, ok)
	}
	if err != nil {
		return c.joinFailed(s, r, err), nil, reply
	}
	var events []Event
	if reply.State == contracts.JoinReset {
		r.have = false
		events = append(events, Event{Kind: EventReset, Room: r.id, Epoch: reply.Epoch, Seq: reply.Head})
	}
	for _, ev := range entries {
		if !r.have || ev.Seq > r.pos.Seq {
			events = append(events, ev)
			r.pos, r.have = contracts.Since{Epoch: ev.Epoch, Seq: ev.Seq}, true
		}
	}
	r.tries = 0
	if reply.State == contracts.JoinMore {
		r.pos, r.have = contracts.Since{Epoch: reply.Epoch, Seq: entries[len(entries)-1].Seq}, true
		c.startJoin(r)
		return events, nil, reply
	}
	r.pos, r.have = contracts.Since{Epoch: reply.Epoch, Seq: reply.Head}, true
	waiters := r.waiters
	r.waiters = nil
	return events, waiters, reply
}

// readJoin reads the reply to a join. One that does not hold together is an error to be retried.
func readJoin(id contracts.RoomID, ok []byte) (contracts.JoinOK, []Event, error) {
	var reply contracts.JoinOK
	bad := func(what string) (contracts.JoinOK, []Event, error) {
		return reply, nil, contracts.NewError(contracts.CodeInternal, "a reply to join "+what)
	}
	if err := json.Unmarshal(ok, &reply); err != nil {
		return bad("that is none: " + err.Error())
	}
	entries := make([]Event, 0, len(reply.Entries))
	last := contracts.Seq(0)
	for _, raw := range reply.Entries {
		f, err := decode(raw)
		if err != nil {
			return bad("with an entry that is none")
		}
		ev := f.event(raw, false)
		if ev.Room != id || !ev.Entry() || ev.Seq <= last {
			return bad("with entries of another room or out of order")
		}
		last = ev.Seq
		entries = append(entries, ev)
	}
	switch reply.State {
	case contracts.JoinComplete, contracts.JoinReset:
	case contracts.JoinMore:
		if len(entries) == 0 {
			return bad("that says more and brings nothing")
		}
	default:
		return bad("in an unknown state")
	}
	return reply, entries, nil
}

// joinFailed has a join tried again later, or gives the room up. The caller holds mu.
func (c *Client) joinFailed(s *session, r *room, err error) []Event {
	var e *contracts.Error
	if !errors.As(err, &e) {
		e = contracts.NewError(contracts.CodeInternal, err.Error())
	}
	if e.Retry {
		r.joinAt = time.Now().Add(retryAfter(e, &r.tries))
		s.at(r.joinAt)
		return nil
	}
	var events []Event
	if len(r.waiters) == 0 {
		events = []Event{{Kind: EventJoinFailed, Room: r.id, Err: e}}
	}
	c.unlisten(r, e)
	c.tidy(r)
	return events
}

// live reports whether a live entry is the next one, and has what is missing fetched if it is a later one.
func (c *Client) live(ev *Event) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rooms[ev.Room]
	if r == nil || !r.wanted || !r.have || ev.Seq <= r.pos.Seq {
		return false
	}
	if ev.Seq > r.pos.Seq+1 {
		c.startJoin(r)
		return false
	}
	r.pos = contracts.Since{Epoch: ev.Epoch, Seq: ev.Seq}
	return true
}

// reset makes the room's position void and reports whether the room is joined.
func (c *Client) reset(ev *Event) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rooms[ev.Room]
	if r == nil || !r.wanted {
		return false
	}
	r.have = false
	r.joining, r.joinAt = 0, time.Time{} // what is in flight asks from a position that is void
	return true
}

func roomField(id contracts.RoomID) []byte {
	return contracts.AppendString([]byte(`"room":`), string(id))
}
