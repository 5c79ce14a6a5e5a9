package loadtest

import (
	"strconv"
	"time"

	"github.com/gobwas/ws"
)

// This file: requests, rooms and entries.

// begin starts a request in the loop's buffer: {"id":…,
func (l *loop) begin(c *conn, slot, kind int) []byte {
	c.serial++
	return appendID(l.buf[:headRoom], requestID(c.serial, slot, kind))
}

func appendID(b []byte, id uint64) []byte {
	b = append(b, `{"id":`...)
	b = strconv.AppendUint(b, id, 10)
	return append(b, ',')
}

// finish sends what was begun.
func (l *loop) finish(c *conn, b []byte) {
	l.buf = b
	if c.fd < 0 {
		return // it ended while the request was made
	}
	if err := l.net.write(c, sealFrame(b, ws.OpText, l.rng.Uint32())); err != nil {
		l.broken(c, err)
	}
}

// request sends a request that is always the same.
func (l *loop) request(c *conn, slot, kind int, body string) {
	b := l.begin(c, slot, kind)
	b = append(b, body...)
	l.finish(c, append(b, '}'))
}

// writeFrame sends a control frame.
func (l *loop) writeFrame(c *conn, op ws.OpCode, payload []byte) {
	b := append(l.buf[:headRoom], payload...)
	l.buf = b
	if c.fd < 0 {
		return
	}
	if err := l.net.write(c, sealFrame(b, op, l.rng.Uint32())); err != nil {
		l.broken(c, err)
	}
}

func (l *loop) appendOp(b []byte, op string, room int32) []byte {
	b = append(b, `"op":"`...)
	b = append(b, op...)
	b = append(b, `","room":"`...)
	b = l.plan.roomName(b, int(room))
	return append(b, '"')
}

// join asks for a room, from the position held if there is one.
func (l *loop) join(c *conn, slot int) {
	m := &c.rooms[slot]
	m.state, m.asked, m.again = joining, l.now, false
	b := l.begin(c, slot, askJoin)
	b = l.appendOp(b, "join", m.room)
	if m.known {
		b = append(b, `,"since":{"epoch":`...)
		b = strconv.AppendUint(b, uint64(m.epoch), 10)
		b = append(b, `,"seq":`...)
		b = strconv.AppendUint(b, m.ledger.contiguous(), 10)
		b = append(b, '}')
	} else {
		b = append(b, `,"limit":0`...)
	}
	l.finish(c, append(b, '}'))
}

// text handles one text frame.
func (l *loop) text(c *conn, payload []byte) {
	e, ok := l.reader.read(payload)
	if !ok {
		l.tally.counts[nMalformed]++
		l.tally.fail("frame that is no event and no reply")
		return
	}
	switch e.kind {
	case message, entry:
		l.live(c, e)
	case reply:
		l.answered(c, e)
	case gap:
		l.gap(c, e)
	case reset:
		l.forget(c, e)
	case reconnect:
		l.askedToMove(c, e)
	case failure:
		l.tally.fail("error event: " + string(e.code))
	case roomNews:
		l.tally.counts[nEvents]++
		if c.membership(e.room) == nil {
			l.tally.counts[nForeign]++
		}
	default:
		l.tally.counts[nEvents]++
	}
}

// live handles an entry that came by itself.
func (l *loop) live(c *conn, e *event) {
	m := c.membership(e.room)
	if m == nil || m.state == absent || m.state == joining && !m.live || e.ours && e.mark.room != e.room {
		l.tally.counts[nForeign]++
		l.note(Gap{Room: l.roomOf(e), Conn: l.global(c), From: e.seq, To: e.seq, Kind: "foreign"})
		return
	}
	m.epoch = e.epoch
	switch m.ledger.take(e.seq) {
	case doubled:
		l.tally.counts[nDoubled]++
		l.note(Gap{Room: l.roomOf(e), Conn: l.global(c), From: e.seq, To: e.seq, Kind: "doubled"})
		return
	case late:
		l.tally.counts[nReordered]++
		l.note(Gap{Room: l.roomOf(e), Conn: l.global(c), From: e.seq, To: e.seq, Kind: "late"})
	}
	l.tally.counts[nDelivered]++
	if !e.ours {
		l.tally.counts[nStrangers]++
		return
	}
	took := l.now - e.mark.intended
	l.tally.time(tNow, took)
	if e.mark.intended >= l.from && e.mark.intended < l.to {
		l.tally.counts[nMeasured]++
		l.tally.time(tDelivery, took)
	}
	if int(e.mark.sender) == l.global(c) {
		l.echo(c, e.mark.n, uint64(e.seq))
	}
}

// echo books a message that came back to its sender.
func (l *loop) echo(c *conn, n uint32, seq uint64) {
	if c.box == nil {
		return
	}
	switch c.box.echo(n, seq) {
	case doubled:
		l.tally.counts[nDoubled]++
		l.note(Gap{Room: l.roomName(c.rooms[0].room), Conn: l.global(c), From: uint64(n), To: uint64(n), Kind: "sent once, numbered twice"})
	case late:
		l.tally.counts[nReordered]++
		l.note(Gap{Room: l.roomName(c.rooms[0].room), Conn: l.global(c), From: uint64(n), To: uint64(n), Kind: "sender's order broken"})
	}
	l.refill(c)
}

// replayed handles an entry in the answer to a join.
func (l *loop) replayed(c *conn, m *membership, raw []byte) {
	var e event
	if !l.reader.parse(raw, &e) || e.seq == 0 {
		l.tally.counts[nMalformed]++
		return
	}
	if e.room != m.room || e.ours && e.mark.room != e.room {
		l.tally.counts[nForeign]++
		l.note(Gap{Room: l.roomOf(&e), Conn: l.global(c), From: e.seq, To: e.seq, Kind: "foreign"})
		return
	}
	if m.ledger.take(e.seq) == doubled {
		return // it came live before the answer
	}
	l.tally.counts[nRecovered]++
	if e.ours && int(e.mark.sender) == l.global(c) {
		l.echo(c, e.mark.n, uint64(e.seq))
	}
}

// answered handles a reply.
func (l *loop) answered(c *conn, e *event) {
	serial, slot, kind := splitID(e.id)
	switch kind {
	case askConnect:
		l.greeted(c, e)
	case askJoin:
		l.joined(c, slot, e)
	case askLeave:
		if e.ok != nil && slot < len(c.rooms) && c.rooms[slot].state == leaving {
			l.abandon(c, slot)
		}
	case askSend:
		l.sent(c, serial, e)
	case askHistory:
		l.paged(c, e)
	}
	if e.ok == nil && kind != askConnect && kind != askSend && kind != askJoin {
		l.tally.fail(requestNames[kind] + ": " + parseRefusal(e.err).code)
	}
}

var requestNames = [...]string{"", "connect", "join", "leave", "send", "history", "ping", ""}

// joined handles the answer to a join.
func (l *loop) joined(c *conn, slot int, e *event) {
	if slot >= len(c.rooms) || c.rooms[slot].state != joining {
		return
	}
	m := &c.rooms[slot]
	if e.ok == nil {
		f := parseRefusal(e.err)
		l.tally.fail("join: " + f.code)
		m.state = absent
		if m.live {
			m.state = listening // a refused join changes nothing
		} else if f.retry {
			l.after(max(time.Duration(f.afterMS)*time.Millisecond, backoff(l.rng, 1)), c, timerJoin, slot)
		} else if slot == 0 {
			l.entered(c) // for good
		}
		return
	}
	j, ok := parseJoined(e.ok)
	if !ok {
		l.tally.counts[nMalformed]++
		l.broken(c, errJSON)
		return
	}
	l.tally.time(tJoin, l.now-m.asked)
	asked := m.known
	m.epoch = j.epoch
	if !asked || j.state == "reset" {
		l.settle(c, m, j, asked)
	} else {
		gen := c.gen
		for w := array(j.entries); ; {
			raw, ok := w.element()
			if !ok {
				break
			}
			l.replayed(c, m, raw)
			if c.gen != gen {
				return
			}
		}
		if j.state == "more" {
			l.join(c, slot)
			return
		}
		m.ledger.upTo(j.head)
		l.tally.counts[nResumes]++
		if c.lost != 0 && slot == 0 {
			l.tally.time(tResume, l.now-c.lost)
		}
	}
	m.state, m.known, m.live = listening, true, true
	if m.again {
		l.join(c, slot)
		return
	}
	if slot == 0 {
		l.entered(c)
		c.lost = 0
		l.arrived(c)
		l.sendQueued(c)
		l.refill(c)
	}
}

// settle begins a room at its head: a first join, or one after which what lay between is not known.
func (l *loop) settle(c *conn, m *membership, j joined, wasKnown bool) {
	if wasKnown {
		l.tally.counts[nResets]++
		if j.head > m.ledger.pos {
			l.tally.counts[nSkipped] += int64(j.head - m.ledger.pos)
		}
		if c.box != nil {
			c.box.excuse()
		}
	}
	m.ledger.start(j.head)
}

// gap asks for what the server says it did not send.
func (l *loop) gap(c *conn, e *event) {
	m := c.membership(e.room)
	if m == nil || e.to < e.from {
		l.tally.counts[nForeign]++
		return
	}
	l.tally.counts[nGaps]++
	l.tally.counts[nAnnounced] += int64(e.to - e.from + 1)
	l.rejoin(c, m)
}

func (l *loop) rejoin(c *conn, m *membership) {
	switch m.state {
	case joining:
		m.again = true
	case listening:
		for slot := range c.rooms {
			if &c.rooms[slot] == m {
				l.join(c, slot)
				return
			}
		}
	}
}

// forget handles the event reset: the position means nothing any more.
func (l *loop) forget(c *conn, e *event) {
	m := c.membership(e.room)
	if m == nil {
		return
	}
	l.tally.counts[nResets]++
	m.known, m.live = false, false
	if c.box != nil {
		c.box.excuse()
	}
	l.rejoin(c, m)
}

// abandon ends a membership and judges it as it stands.
func (l *loop) abandon(c *conn, slot int) {
	m := &c.rooms[slot]
	l.judge(c, m)
	c.rooms = append(c.rooms[:slot], c.rooms[slot+1:]...)
}

func (l *loop) roomName(room int32) string { return string(l.plan.roomName(nil, int(room))) }

func (l *loop) roomOf(e *event) string {
	if e.room < 0 {
		return "?"
	}
	return l.roomName(e.room)
}
