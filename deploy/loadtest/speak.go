package loadtest

import (
	"time"
)

// This file: sending, and what becomes of what was sent.

// speak makes a message whose time was intended and sends it if nothing holds it back. It reports whether the sender
// could take it.
func (l *loop) speak(c *conn, intended int64) bool {
	if !c.speaks() {
		return false
	}
	if c.box == nil {
		c.box = &outbox{}
	}
	if len(c.box.letters) >= maxWindow || c.box.underway() >= l.plan.Window {
		return false
	}
	letter := c.box.add(intended)
	if !c.box.holding {
		l.tally.time(tBehind, l.clock.now()-intended)
		l.post(c, letter)
	}
	return true
}

// post writes a letter, always with the same key and the same text.
func (l *loop) post(c *conn, t *letter) {
	if t.firstMS == 0 {
		t.firstMS = time.Now().UnixMilli() + l.plan.Skew
		l.tally.counts[nSent]++
	} else {
		l.tally.counts[nRetried]++
	}
	t.state = written
	g := l.global(c)
	room := c.rooms[0].room
	b := appendID(l.buf[:headRoom], requestID(t.n, 0, askSend))
	b = l.appendOp(b, "send", room)
	b = append(b, `,"key":"`...)
	b = appendKey(b, t.firstMS, l.plan.Seed, g, t.n)
	b = append(b, `","text":"`...)
	b = appendMark(b, l.plan.Run, mark{room: room, sender: int32(g), n: t.n, intended: t.intended}, l.plan.Size)
	l.finish(c, append(b, `"}`...))
}

// sent handles the answer to a send.
func (l *loop) sent(c *conn, n uint32, e *event) {
	box := c.box
	if box == nil {
		return
	}
	if e.ok != nil {
		was, ok := box.ack(n)
		if !ok {
			l.tally.fail("send: an answer to nothing asked")
			return
		}
		l.tally.counts[nAcked]++
		if was.intended >= l.from && was.intended < l.to {
			l.tally.time(tAck, l.now-was.intended)
		}
		box.tries = 0
		l.release(c)
		return
	}
	f := parseRefusal(e.err)
	l.tally.fail("send: " + f.code)
	t := box.find(n)
	if t == nil {
		return
	}
	if !f.retry {
		box.forget(n)
		l.tally.counts[nRefused]++
		l.release(c)
		return
	}
	t.state = refused
	box.holding = true
	l.hold(c, f)
}

// hold plans the next attempt at the oldest message that was refused for now. Those behind it wait: the server refuses
// them until that one comes again.
func (l *loop) hold(c *conn, f refusal) {
	if c.box.armed {
		return
	}
	c.box.armed = true
	l.after(max(time.Duration(f.afterMS)*time.Millisecond, backoff(l.rng, c.box.tries)), c, timerSend, 0)
	c.box.tries = min(c.box.tries+1, 16)
}

// sendHeld makes that attempt, unless an answer to the oldest message is still to come: that one decides.
func (l *loop) sendHeld(c *conn) {
	if c.box == nil || !c.box.holding {
		return
	}
	c.box.armed = false
	for i := range c.box.letters {
		switch t := &c.box.letters[i]; t.state {
		case acked:
			continue
		case refused, queued:
			l.post(c, t)
		}
		return
	}
	c.box.holding = false
}

// release sends what waited behind a message that is settled now.
func (l *loop) release(c *conn) {
	if c.box.holding && !c.box.armed {
		c.box.holding = false
		l.sendQueued(c)
	}
	l.refill(c)
}

// sendQueued writes everything that waits, in order.
func (l *loop) sendQueued(c *conn) {
	if c.box == nil || c.box.holding {
		return
	}
	gen := c.gen
	for i := 0; i < len(c.box.letters) && c.gen == gen; i++ {
		if t := &c.box.letters[i]; t.state == queued || t.state == refused {
			l.post(c, t)
		}
	}
}

// refill keeps a sender of the closed loop busy.
func (l *loop) refill(c *conn) {
	if !l.schedule.closed || !l.plan.sends(l.global(c)) {
		return
	}
	for c.speaks() && (c.box == nil || len(c.box.letters) < l.plan.Window && !c.box.holding) {
		if !l.speak(c, l.clock.now()) {
			return
		}
	}
}

// turn gives the next message to a sender.
func (l *loop) turn(intended int64) {
	s := &l.schedule
	for range 8 {
		s.at = (s.at + 1) % len(s.senders)
		if l.plan.Scenario == Chat || l.plan.Scenario == Soak {
			s.at = l.rng.IntN(len(s.senders))
		}
		if c := &l.conns[s.senders[s.at]]; c.speaks() {
			if !l.speak(c, intended) {
				l.tally.counts[nUnsent]++
			}
			return
		}
	}
	l.tally.counts[nUnsent]++
}
