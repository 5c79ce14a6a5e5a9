package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/parley-chat/parley/contracts"
)

const (
	closeWait    = time.Second      // for the server's close frame
	refusedWait  = 5 * time.Second  // for the close frame behind a refused connect
	writeTimeout = 10 * time.Second // for one write
	// maxOut bounds what waits to be written.
	maxOut = 4 << 20
)

// session is one connection.
type session struct {
	// Static after open.
	conn  net.Conn
	mu    *sync.Mutex   // the client's
	wake  chan struct{} // something is in out; capacity 1
	quit  chan struct{} // closed by end
	wrote chan struct{} // closed once the writer has returned

	// Owned by run.
	in      inbox
	heard   time.Time // when bytes came last
	pinged  time.Time // when op ping was sent; zero while nothing is amiss
	stood   time.Time // when connect was answered
	refused *contracts.Error

	// Guarded by mu.
	ready        bool // connect was answered
	draining     bool // the server has asked to move: start nothing new
	calls        map[uint64]*call
	lastID       uint64
	out          []byte
	wakeAt       time.Time // the read deadline: when the next thing may be due
	connectAt    time.Time // when to send connect again
	connectTries int       // see retryAfter
	giveUpAt     time.Time // when to stop waiting for the server's close frame
	moveAt       time.Time // when to stop waiting for answers, then when to move
	move         *moveError
}

// call is a request without its reply.
type call struct {
	due  time.Time
	done func(ok []byte, err error) // called by run, without mu
}

// moveError ends a session that another is to follow before it is closed.
type moveError struct {
	url   string
	after time.Duration
	ready bool // the answers were awaited: moveAt is the time to move
}

func (e *moveError) Error() string { return "the server drains" }

// statusError is an answer to the upgrade other than 101.
type statusError struct {
	code       int
	retryAfter time.Duration
	body       string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the upgrade was answered %d %s: %s", e.code, http.StatusText(e.code), e.body)
}

// open connects and upgrades.
func (c *Client) open(url string) (*session, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.DialTimeout)
	defer cancel()
	var status *statusError
	d := ws.Dialer{
		Protocols: []string{contracts.Subprotocol}, Header: ws.HandshakeHeaderHTTP(c.cfg.Header), NetDial: c.cfg.NetDial,
		OnStatusError: func(code int, _ []byte, resp io.Reader) { status = readStatus(code, resp) },
	}
	conn, br, _, err := d.Dial(ctx, url)
	if err != nil {
		if status != nil {
			return nil, status
		}
		return nil, fmt.Errorf("dial: %w", err)
	}
	s := &session{
		conn: conn, mu: &c.mu, wake: make(chan struct{}, 1), quit: make(chan struct{}), wrote: make(chan struct{}),
		calls: make(map[uint64]*call), heard: time.Now(),
	}
	if br != nil {
		rest, _ := br.Peek(br.Buffered())
		for len(rest) > 0 {
			n := copy(s.in.space(), rest)
			s.in.add(n)
			rest = rest[n:]
		}
		ws.PutReader(br)
	}
	go s.write()
	return s, nil
}

func readStatus(code int, resp io.Reader) *statusError {
	e := &statusError{code: code}
	res, err := http.ReadResponse(bufio.NewReader(resp), nil)
	if err != nil {
		return e
	}
	defer res.Body.Close() // of a connection that is about to be closed
	if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.retryAfter = min(time.Duration(seconds)*time.Second, time.Minute)
	}
	body, _ := io.ReadAll(io.LimitReader(res.Body, 200)) // as much of it as there is
	e.body = strings.TrimSpace(string(body))
	return e
}

// write writes what the others put into out. It closes the connection when that fails, for run to notice.
func (s *session) write() {
	defer close(s.wrote)
	var spare []byte
	for {
		select {
		case <-s.quit:
			return
		case <-s.wake:
		}
		s.mu.Lock()
		b := s.out
		s.out = spare[:0]
		s.mu.Unlock()
		if len(b) > 0 {
			err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
			if err == nil {
				_, err = s.conn.Write(b)
			}
			if err != nil {
				s.conn.Close() // run reports
				return
			}
		}
		spare = b
	}
}

// end waits for the writer and closes the connection, with a close frame unless code is 0.
func (s *session) end(code contracts.CloseCode) {
	close(s.quit)
	deadline := time.Now()
	if code != 0 {
		deadline = deadline.Add(closeWait)
	}
	if s.conn.SetWriteDeadline(deadline) == nil && code != 0 {
		<-s.wrote
		_, _ = s.conn.Write(appendMasked(nil, ws.OpClose, binary.BigEndian.AppendUint16(nil, uint16(code)))) // a courtesy
	}
	s.conn.Close() // nothing is left to be lost
	<-s.wrote
}

// put queues a frame. The caller holds mu.
func (s *session) put(op ws.OpCode, payload []byte) {
	if len(s.out) > maxOut {
		s.conn.Close() // the server has not read for too long; run reports
		return
	}
	s.out = appendMasked(s.out, op, payload)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// sayClose queues a close frame and gives the server closeWait for its own. The caller holds mu.
func (s *session) sayClose(now time.Time) {
	s.put(ws.OpClose, binary.BigEndian.AppendUint16(nil, uint16(contracts.CloseNormal)))
	s.giveUpAt = now.Add(closeWait)
	s.at(s.giveUpAt)
}

// ask queues a request; fields is the inside of its JSON object. done gets the reply or, where the connection ends first,
// ErrDisconnected. The caller holds mu.
func (s *session) ask(op contracts.Op, fields []byte, timeout time.Duration, done func(ok []byte, err error)) uint64 {
	s.lastID++
	id := s.lastID
	b := append(make([]byte, 0, 48+len(fields)), `{"id":`...)
	b = strconv.AppendUint(b, id, 10)
	b = append(b, `,"op":`...)
	b = contracts.AppendString(b, string(op))
	if len(fields) > 0 {
		b = append(append(b, ','), fields...)
	}
	s.put(ws.OpText, append(b, '}'))
	due := time.Now().Add(timeout)
	s.calls[id] = &call{due: due, done: done}
	s.at(due)
	return id
}

// at makes run look at what is due at t at the latest. The caller holds mu.
func (s *session) at(t time.Time) {
	if s.wakeAt.IsZero() || t.Before(s.wakeAt) {
		s.wakeAt = t
		_ = s.conn.SetReadDeadline(t) // fails on a closed connection, which read notices
	}
}

// serve reads s until it ends and says how. A session that moves stays open.
func (c *Client) serve(s *session, old *session) error {
	c.mu.Lock()
	c.session = s
	c.sayConnect(s)
	if c.closing {
		s.sayClose(time.Now())
	}
	c.mu.Unlock()

	err := c.read(s, &old)
	if old != nil {
		old.end(contracts.CloseNormal)
	}
	var move *moveError
	if !errors.As(err, &move) {
		s.end(0)
	}
	if !s.stood.IsZero() && time.Since(s.stood) >= steady {
		c.tries = 0
	}

	c.mu.Lock()
	c.session = nil
	c.unready()
	calls := s.calls
	s.calls = nil
	c.mu.Unlock()
	for _, call := range calls {
		call.done(nil, ErrDisconnected)
	}
	c.mu.Lock()
	for _, r := range c.rooms {
		r.disconnected()
	}
	c.mu.Unlock()
	return err
}

// read takes frames and works off what is due until the session ends. It closes *old once s stands.
func (c *Client) read(s *session, old **session) error {
	for {
		for {
			op, payload, ok, err := s.in.next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			switch op {
			case ws.OpText:
				if err := c.message(s, payload); err != nil {
					return err
				}
			case ws.OpPing:
				s.mu.Lock()
				s.put(ws.OpPong, payload)
				s.mu.Unlock()
			case ws.OpClose:
				return c.closed(s, payload)
			}
		}
		if *old != nil && !s.stood.IsZero() {
			(*old).end(contracts.CloseNormal)
			*old = nil
		}
		n, err := s.conn.Read(s.in.space())
		if n > 0 {
			s.in.add(n)
			s.heard, s.pinged = time.Now(), time.Time{}
		}
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			err = c.due(s, time.Now())
			if err != nil {
				return err
			}
			continue
		}
		if err != nil && n == 0 {
			return refusal(s, err)
		}
	}
}

// closed answers the server's close frame and returns what it says.
func (c *Client) closed(s *session, payload []byte) error {
	e := &CloseError{Code: contracts.CloseCode(ws.StatusNoStatusRcvd)}
	if len(payload) >= 2 {
		e.Code = contracts.CloseCode(binary.BigEndian.Uint16(payload))
		e.Reason = string(bytes.ToValidUTF8(payload[2:], nil))
	}
	if s.refused != nil {
		e.Err = s.refused
	}
	c.mu.Lock()
	said := c.closing
	c.mu.Unlock()
	frame := appendMasked(nil, ws.OpClose, payload[:min(len(payload), 2)])
	if !said && s.conn.SetWriteDeadline(time.Now().Add(closeWait)) == nil {
		_, _ = s.conn.Write(frame) // a courtesy; the server may be gone
	}
	return e
}

// refusal is how a session ended without a close frame: by cause, and by the refused connect before it if there was one.
func refusal(s *session, cause error) error {
	e := &CloseError{Code: closeAbnormal, Err: cause}
	if s.refused != nil {
		e.Err = s.refused
		switch s.refused.Code {
		case contracts.CodeUnauthorized:
			e.Code = contracts.CloseUnauthorized
		case contracts.CodeForbidden:
			e.Code = contracts.CloseBanned
		default:
			e.Code = contracts.CloseBadRequests
		}
	}
	return e
}
