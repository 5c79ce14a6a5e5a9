package loadtest

import (
	"strconv"
)

// schedule says when a loop does what. It is fixed in advance: nothing that the server does moves it.
type schedule struct {
	pulses  []pulse
	senders []int32 // indices of the loop's connections
	at      int     // the sender whose turn it was
	closed  bool    // the closed loop is on: senders go on by themselves
}

// pulse does something at a steady rate.
type pulse struct {
	start int64
	every float64 // nanoseconds
	done  int64
	do    func(intended int64)
}

func (p *pulse) due() int64 { return p.start + int64(float64(p.done)*p.every) }

// burst bounds what one pulse does before the network is looked after again.
const burst = 128

func (s *schedule) run(l *loop) {
	for i := range s.pulses {
		p := &s.pulses[i]
		for range burst {
			due := p.due()
			if due > l.now {
				break
			}
			p.done++
			p.do(due)
		}
	}
}

// next is the time at which something is due.
func (s *schedule) next() (at int64, ok bool) {
	for i := range s.pulses {
		if due := s.pulses[i].due(); !ok || due < at {
			at, ok = due, true
		}
	}
	return at, ok
}

func (s *schedule) stop() { s.pulses, s.closed = nil, false }

// speakFrom starts the sending at a time.
func (l *loop) speakFrom(at int64) {
	s := &l.schedule
	s.stop()
	s.senders = s.senders[:0]
	for i := range l.conns {
		if l.plan.sends(l.global(&l.conns[i])) {
			s.senders = append(s.senders, int32(i))
		}
	}
	if len(s.senders) == 0 {
		return
	}
	if l.plan.Rate < 0 {
		s.closed = true
		for _, i := range s.senders {
			l.refill(&l.conns[i])
		}
		return
	}
	rate := l.plan.Rate * float64(len(s.senders)) / float64(l.plan.allSenders())
	l.pulse(at, rate, l.turn)
	if l.plan.Scenario == Chat || l.plan.Scenario == Soak {
		l.pulse(at, rate/2, func(int64) { l.showTyping() })
		l.pulse(at, rate/10, func(int64) { l.page() })
		l.pulse(at, rate/10, func(int64) { l.move() })
	}
	if l.plan.Churn > 0 {
		l.pulse(at, l.plan.Churn*float64(len(l.conns)), func(int64) { l.churn() })
	}
}

// pulse adds an activity of so many per second. The loops take turns rather than speaking at once.
func (l *loop) pulse(at int64, rate float64, do func(intended int64)) {
	if rate <= 0 {
		return
	}
	every := 1e9 / rate
	offset := int64(every * float64(l.lane) / float64(l.plan.lanes()))
	l.schedule.pulses = append(l.schedule.pulses, pulse{start: at + offset, every: every, do: do})
}

// anybody picks a connection that listens; nil where chance finds none.
func (l *loop) anybody() *conn {
	for range 8 {
		if c := &l.conns[l.rng.IntN(len(l.conns))]; c.speaks() {
			return c
		}
	}
	return nil
}

// showTyping tells a room that somebody types. There is no answer when it succeeds.
func (l *loop) showTyping() {
	c := l.anybody()
	if c == nil {
		return
	}
	l.tally.counts[nActions]++
	b := l.begin(c, 0, 0)
	b = l.appendOp(append(b[:headRoom], '{'), "typing", c.rooms[0].room)
	l.finish(c, append(b, `,"on":true}`...))
}

// page reads a page of history, as somebody who scrolls up.
func (l *loop) page() {
	c := l.anybody()
	if c == nil || c.reading {
		return
	}
	c.reading, c.asked = true, l.now
	b := l.begin(c, 0, askHistory)
	b = l.appendOp(b, "history", c.rooms[0].room)
	b = append(b, `,"limit":50,"before":`...)
	b = strconv.AppendUint(b, c.rooms[0].ledger.pos+1, 10)
	l.finish(c, append(b, '}'))
}

// paged checks a page: ascending and of that room.
func (l *loop) paged(c *conn, e *event) {
	if !c.reading {
		return
	}
	c.reading = false
	if e.ok == nil {
		return
	}
	l.tally.time(tHistory, l.now-c.asked)
	l.tally.counts[nHistory]++
	var entries []byte
	for w := object(e.ok); ; {
		name, value, ok := w.member()
		if !ok {
			break
		}
		if string(name) == "entries" {
			entries = value
		}
	}
	last := uint64(0)
	for w := array(entries); ; {
		raw, ok := w.element()
		if !ok {
			break
		}
		var e event
		switch {
		case !l.reader.parse(raw, &e):
			l.tally.counts[nMalformed]++
		case e.room != c.rooms[0].room:
			l.tally.counts[nForeign]++
		case e.seq <= last:
			l.tally.counts[nReordered]++
		}
		last = e.seq
	}
}

// move lets somebody look into a second room or come back from it.
func (l *loop) move() {
	c := l.anybody()
	if c == nil || l.plan.Rooms < 2 {
		return
	}
	l.tally.counts[nActions]++
	if len(c.rooms) > 1 {
		if m := &c.rooms[1]; m.state == listening {
			m.state = leaving
			b := l.begin(c, 1, askLeave)
			l.finish(c, append(l.appendOp(b, "leave", m.room), '}'))
		}
		return
	}
	room := int32(l.rng.IntN(l.plan.Rooms))
	if room == c.rooms[0].room {
		return
	}
	c.rooms = append(c.rooms, membership{room: room})
	l.join(c, 1)
}

// churn replaces somebody's connection.
func (l *loop) churn() {
	if c := l.anybody(); c != nil {
		l.replace(c, backoff(l.rng, 0))
	}
}
