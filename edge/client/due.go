package client

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/parley-chat/parley/contracts"
)

const (
	defaultPing = 25 * time.Second // where the server names no interval
	// pongWait is how long an op ping may stay unanswered.
	pongWait = 10 * time.Second
	// answersWait is how long answers are awaited before a move.
	answersWait = 5 * time.Second
)

// errSilent and errNoReply end a session; the client connects again.
var (
	errSilent  = errors.New("the server is silent")
	errNoReply = errors.New("a request was not answered in time")
)

// due does what is due at now and sets the deadline for what is due next. An error ends the session.
func (c *Client) due(s *session, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.wakeAt = time.Time{}
	next := now.Add(time.Hour)
	// passed reports whether t has passed, and makes it a time to wake up at if not.
	passed := func(t time.Time) bool {
		if t.IsZero() {
			return false
		}
		if t.After(now) {
			if t.Before(next) {
				next = t
			}
			return false
		}
		return true
	}
	if passed(s.giveUpAt) {
		return refusal(s, errSilent)
	}
	if passed(s.connectAt) {
		s.connectAt = time.Time{}
		c.sayConnect(s)
	}
	for _, call := range s.calls {
		if passed(call.due) {
			return &CloseError{Code: closeAbnormal, Err: errNoReply}
		}
	}
	if s.ready {
		if err := c.listen(s, now, passed); err != nil {
			return err
		}
		for _, r := range c.rooms {
			if passed(r.joinAt) {
				r.joinAt = time.Time{}
				c.startJoin(r)
			}
			if passed(r.sendAt) {
				r.sendAt = time.Time{}
				c.flush(r)
			}
		}
	}
	if s.move != nil {
		if !s.move.ready && (len(s.calls) == 0 || passed(s.moveAt)) {
			s.move.ready = true
			s.moveAt = now
			if s.move.after > 0 {
				s.moveAt = now.Add(rand.N(s.move.after))
			}
		}
		if s.move.ready && passed(s.moveAt) {
			return s.move
		}
	}
	s.at(next)
	return nil
}

// listen asks a server that has said nothing for its ping interval, and gives it up when it does not answer.
func (c *Client) listen(s *session, now time.Time, passed func(time.Time) bool) error {
	if !s.pinged.IsZero() {
		if passed(s.pinged.Add(pongWait)) {
			return &CloseError{Code: closeAbnormal, Err: errSilent}
		}
		return nil
	}
	interval := time.Duration(c.hello.Ping) * time.Second
	if interval <= 0 {
		interval = defaultPing
	}
	if passed(s.heard.Add(interval)) {
		s.pinged = now
		s.ask(contracts.OpPing, nil, c.cfg.ReplyTimeout, func([]byte, error) {})
		passed(now.Add(pongWait))
	}
	return nil
}
