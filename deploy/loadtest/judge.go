package loadtest

// Gap is one finding of the ledger.
type Gap struct {
	Room string `json:"room"`
	// Conn is the connection's number in the run.
	Conn int `json:"connection"`
	// From and To are seqs, both included; for findings about one sender's messages, the sender's own numbers.
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
	// Kind is missing, foreign, doubled, late, or what else is said in words.
	Kind string `json:"kind"`
}

// maxGaps bounds the list of findings; the counts go on.
const maxGaps = 200

func (l *loop) note(g Gap) {
	if len(l.gaps) < maxGaps {
		l.gaps = append(l.gaps, g)
	}
}

// judge counts what a membership misses.
func (l *loop) judge(c *conn, m *membership) {
	for _, h := range m.ledger.holes {
		l.tally.counts[nLost] += int64(h.size())
		l.note(Gap{Room: l.roomName(m.room), Conn: l.global(c), From: h.from, To: h.to, Kind: "missing"})
	}
	m.ledger.holes = nil
}

// judgeAll closes the books: heads are the highest seqs that anybody saw, by room. Connections that are away are not
// judged; they are counted as such.
func (l *loop) judgeAll(heads []uint64) {
	for i := range l.conns {
		c := &l.conns[i]
		if c.state != connected {
			continue
		}
		for j := range c.rooms {
			if m := &c.rooms[j]; m.state == listening {
				m.ledger.upTo(heads[m.room])
				l.judge(c, m)
			}
		}
		if c.box == nil || !c.ready() {
			continue
		}
		for _, t := range c.box.letters {
			if t.state == acked && !t.echoed {
				l.tally.counts[nLostAcked]++
				l.note(Gap{Room: l.roomName(c.rooms[0].room), Conn: l.global(c), From: uint64(t.n), To: uint64(t.n), Kind: "accepted and never delivered to its sender"})
			}
		}
	}
}

// raise puts the highest seqs that this loop saw into heads.
func (l *loop) raise(heads []uint64) {
	for i := range l.conns {
		for j := range l.conns[i].rooms {
			if m := &l.conns[i].rooms[j]; m.known {
				heads[m.room] = max(heads[m.room], m.ledger.pos)
			}
		}
	}
}

// behind is the number of memberships that have not reached heads.
func (l *loop) behind(heads []uint64) (n int) {
	for i := range l.conns {
		for j := range l.conns[i].rooms {
			m := &l.conns[i].rooms[j]
			if m.state != listening && l.conns[i].state != dead || m.state == listening && m.ledger.pos < heads[m.room] {
				n++
			}
		}
	}
	return n
}

// takeTally hands over what was counted since the last time, with the present state.
func (l *loop) takeTally() *tally {
	t := l.tally
	l.tally, l.spare = l.spare, t
	l.tally.reset()
	t.clearNow()
	for i := range l.conns {
		c := &l.conns[i]
		switch c.state {
		case connected:
			t.connected++
		case dead:
			t.dead++
		}
		for j := range c.rooms {
			m := &c.rooms[j]
			if m.state == listening {
				t.memberships++
			}
			t.missing += int64(m.ledger.missing())
		}
		if c.ready() {
			t.listening++
		}
		if c.box != nil {
			t.waiting += int64(len(c.box.letters))
		}
	}
	return t
}
