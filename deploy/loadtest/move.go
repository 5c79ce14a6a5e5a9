package loadtest

import (
	"bytes"
	"time"

	"github.com/gobwas/ws"
)

// This file: how a connection leaves a server that asks it to, by the event reconnect.

const (
	answerTime = 5 * time.Second       // the longest wait for answers before it moves
	answerPoll = 50 * time.Millisecond // how often it looks whether they came
)

// move is a connection's way to another server.
type move struct {
	within    time.Duration // it moves at a random time within this
	answersBy int64
	settled   bool // the answers have come, or are not waited for any more
	// leave ends the old connection; nil as long as there is no new one.
	leave func(last []byte)
}

// askedToMove starts nothing new from here on.
func (l *loop) askedToMove(c *conn, e *event) {
	if c.moving != nil || c.state != connected {
		return
	}
	c.moving = &move{within: time.Duration(e.after) * time.Millisecond, answersBy: l.now + int64(answerTime)}
	l.moveOn(c)
}

// moveOn does the next step: it waits for the answers, then for its time, then opens the new connection.
func (l *loop) moveOn(c *conn) {
	m := c.moving
	switch {
	case m == nil || c.state != connected || m.leave != nil:
	case !m.settled && c.asks() && l.now < m.answersBy:
		l.after(answerPoll, c, timerMove, 0)
	case !m.settled:
		m.settled = true
		l.after(time.Duration(l.rng.Int64N(int64(m.within)+1)), c, timerMove, 0)
	default:
		m.leave = l.net.part(c)
		c.hops++
		l.absent(c)
		l.dial(c)
	}
}

// asks reports whether an answer is awaited that matters.
func (c *conn) asks() bool {
	for i := range c.rooms {
		if s := c.rooms[i].state; s == joining || s == leaving {
			return true
		}
	}
	return c.reading || c.box != nil && c.box.underway() > 0
}

// arrived ends the old connection: the new one has resumed its room.
func (l *loop) arrived(c *conn) {
	if c.moving == nil || c.moving.leave == nil {
		return
	}
	l.tally.counts[nMoved]++
	l.partOld(c)
}

// partOld ends the old connection, if there is one beside the new. It reports whether there was.
func (l *loop) partOld(c *conn) bool {
	m := c.moving
	c.moving = nil
	if m == nil || m.leave == nil {
		return false
	}
	b := append(l.buf[:headRoom], 0x03, 0xe8)
	l.buf = b
	m.leave(bytes.Clone(sealFrame(b, ws.OpClose, l.rng.Uint32())))
	return true
}
