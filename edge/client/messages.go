package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// frame is any message of the server. Fields that mean different things in different events stay raw.
type frame struct {
	ID    uint64           `json:"id"`
	OK    json.RawMessage  `json:"ok"`
	Error *contracts.Error `json:"error"`

	Event string           `json:"event"`
	Room  contracts.RoomID `json:"room"`
	Seq   contracts.Seq    `json:"seq"`
	Epoch contracts.Epoch  `json:"epoch"`
	Head  contracts.Seq    `json:"head"`
	Time  int64            `json:"time"`
	From  json.RawMessage  `json:"from"`
	To    contracts.Seq    `json:"to"`
	Key   string           `json:"key"`
	Text  string           `json:"text"`

	AfterMS int64  `json:"after_ms"`
	URL     string `json:"url"`

	Code         contracts.Code `json:"code"`
	Message      string         `json:"message"`
	Field        string         `json:"field"`
	Retry        bool           `json:"retry"`
	RetryAfterMS int64          `json:"retry_after_ms"`
}

// decode reads a message. A field of another type than expected is as if it were absent: later servers may have
// events whose fields we do not know.
func decode(payload []byte) (frame, error) {
	var f frame
	err := json.Unmarshal(payload, &f)
	var mismatch *json.UnmarshalTypeError
	if err != nil && !errors.As(err, &mismatch) {
		return f, &CloseError{Code: closeAbnormal, Err: fmt.Errorf("the server sent no JSON object: %w", err)}
	}
	return f, nil
}

// event is what OnEvent gets.
func (f *frame) event(raw []byte, live bool) Event {
	ev := Event{
		Kind: f.Event, Room: f.Room, Seq: f.Seq, Epoch: f.Epoch, Time: f.Time, Text: f.Text, Live: live, Raw: raw,
	}
	switch f.Event {
	case EventGap:
		ev.Last = f.To
		_ = json.Unmarshal(f.From, &ev.First) // absent: 0
	case EventReset:
		ev.Seq = f.Head
	case EventError:
		ev.Err = &contracts.Error{Code: f.Code, Message: f.Message, Field: f.Field, Retry: f.Retry, RetryAfterMS: f.RetryAfterMS}
	default:
		_ = json.Unmarshal(f.From, &ev.From) // absent: nobody
	}
	if key, err := contracts.ParseKey(f.Key); err == nil {
		ev.Key = key
	}
	return ev
}

// message takes one message of the server. An error ends the session.
func (c *Client) message(s *session, payload []byte) error {
	f, err := decode(payload)
	if err != nil {
		return err
	}
	if f.ID != 0 && f.Event == "" {
		c.reply(s, &f)
		return nil
	}
	ev := f.event(payload, true)
	if ev.Entry() {
		if c.live(&ev) {
			c.cfg.OnEvent(ev)
		}
		return nil
	}
	switch ev.Kind {
	case EventReset:
		if !c.reset(&ev) {
			return nil
		}
		c.cfg.OnEvent(ev)
		c.mu.Lock()
		if r := c.rooms[ev.Room]; r != nil {
			c.startJoin(r)
		}
		c.mu.Unlock()
		return nil
	case EventLeft: // also of rooms that are not joined
		c.mu.Lock()
		if r := c.rooms[ev.Room]; r != nil && r.wanted {
			c.unlisten(r, ErrLeft)
			c.tidy(r)
		}
		c.mu.Unlock()
	case EventGap:
		c.mu.Lock()
		r := c.rooms[ev.Room]
		wanted := r != nil && r.wanted
		if wanted && r.have && ev.Last > r.pos.Seq {
			c.startJoin(r)
		}
		c.mu.Unlock()
		if !wanted {
			return nil
		}
	case EventReconnect:
		c.mu.Lock()
		if s.move == nil {
			c.drain(s, &f)
		}
		c.mu.Unlock()
	case EventToken:
		c.mu.Lock()
		c.refresh(s)
		c.mu.Unlock()
	}
	c.cfg.OnEvent(ev)
	return nil
}

func (c *Client) reply(s *session, f *frame) {
	c.mu.Lock()
	call := s.calls[f.ID]
	delete(s.calls, f.ID)
	if s.move != nil && len(s.calls) == 0 {
		s.at(time.Now())
	}
	c.mu.Unlock()
	switch {
	case call == nil: // the caller has given up
	case f.Error != nil:
		call.done(nil, f.Error)
	default:
		call.done(f.OK, nil)
	}
}

// drain begins to move to another connection. The caller holds mu.
func (c *Client) drain(s *session, f *frame) {
	s.draining = true
	c.unready()
	s.move = &moveError{url: c.target(f.URL), after: max(0, min(time.Duration(f.AfterMS)*time.Millisecond, time.Minute))}
	now := time.Now()
	s.moveAt = now.Add(answersWait)
	if len(s.calls) == 0 {
		s.at(now)
		return
	}
	s.at(s.moveAt)
}

// target is where to move: what the server names, unless that would be less than the encryption we have.
func (c *Client) target(to string) string {
	base, err := url.Parse(c.cfg.URL)
	if err != nil || to == "" {
		return c.cfg.URL
	}
	u, err := base.Parse(to)
	if err != nil || u.Host == "" || u.Scheme != base.Scheme && u.Scheme != "wss" {
		return c.cfg.URL
	}
	return u.String()
}

// refresh asks for another token for a guest; who came with a token renews it when it is refused. The caller holds mu.
func (c *Client) refresh(s *session) {
	if c.cfg.Token != "" || c.usable() != s {
		return
	}
	s.ask(contracts.OpRefresh, nil, c.cfg.ReplyTimeout, func(ok []byte, err error) {
		var reply contracts.RefreshOK
		if err == nil && json.Unmarshal(ok, &reply) == nil && reply.Token != "" {
			c.mu.Lock()
			c.token = reply.Token
			c.mu.Unlock()
		}
	})
}

// sayConnect sends connect. The caller holds mu.
func (c *Client) sayConnect(s *session) {
	name, value := "token", c.token
	if value == "" {
		name, value = "guest", c.cfg.Guest
	}
	fields := contracts.AppendString(append(contracts.AppendString(nil, name), ':'), value)
	s.ask(contracts.OpConnect, fields, c.cfg.ReplyTimeout, func(ok []byte, err error) { c.connected(s, ok, err) })
}

// connected takes the reply to connect.
func (c *Client) connected(s *session, ok []byte, err error) {
	now := time.Now()
	var hello contracts.ConnectOK
	if err == nil {
		err = json.Unmarshal(ok, &hello)
	}
	var e *contracts.Error
	switch {
	case err == nil:
	case !errors.As(err, &e):
		return // disconnected, or no answer that one could use: the session ends by itself
	case e.Retry:
		c.mu.Lock()
		s.connectAt = now.Add(retryAfter(e, &s.connectTries))
		s.at(s.connectAt)
		c.mu.Unlock()
		return
	default:
		s.refused = e
		c.mu.Lock()
		s.giveUpAt = now.Add(refusedWait)
		s.at(s.giveUpAt)
		c.mu.Unlock()
		return
	}
	s.stood = now
	c.renewed = false
	c.mu.Lock()
	if hello.Token != "" {
		c.token = hello.Token
	}
	c.hello = &hello
	c.ahead = hello.Time - contracts.Millis(now)
	s.ready = true
	c.unready()
	s.at(now) // from here on silence is watched
	for _, r := range c.rooms {
		c.startJoin(r)
		c.flush(r)
	}
	close(c.ready)
	c.mu.Unlock()
	c.cfg.OnState(State{Phase: Connected, Session: &hello})
}
