package edge

import "time"

// moving is how far a connection is on its way to a successor.
type moving uint8

const (
	waits  moving = 1 + iota // its input waits, its requests are being answered
	frozen                   // nothing of it changes: its state is being handed over
	moved                    // it is the successor's
)

// batch is connections of one loop that are frozen. It is used on their loop only.
type batch struct {
	conns   []*conn
	before  []touched
	records []connRecord
	fds     []int
}

// touched is what changes when somebody does something to a frozen connection: its output waits, so all of that can be
// undone by letting it stay.
type touched struct {
	state                           connState
	rooms, storing, waiting, behind int
}

func (c *conn) touched() touched {
	t := touched{state: c.state, rooms: len(c.rooms)}
	if b := c.busy; b != nil {
		t.storing = len(b.storing)
		if b.out != nil {
			t.waiting, t.behind = b.out.size, len(b.out.behind)
		}
	}
	return t
}

// freezeSome freezes connections that have no request under way, as many as belong into one batch, and stops the input of the others.
// since holds when each connection's input was stopped. It returns how many have to wait.
func (l *loop) freezeSome(since map[uint64]time.Time) (b *batch, waiting int) {
	b = &batch{}
	size := 0
	for i := range l.seats {
		c := l.seats[i].conn
		if len(b.conns) >= batchConns || size >= batchStateBytes {
			return b, waiting
		}
		switch {
		case c == nil:
			continue
		case c.over():
			continue // it ends here
		case c.state == stateConnecting || c.busy != nil && c.busy.pending > 0:
			if c.moving == 0 {
				c.moving, c.paused = waits, true
				since[c.id] = time.Now()
			}
			waiting++
			continue
		}
		if !c.freeze() {
			continue
		}
		at, was := since[c.id]
		if !was {
			at = time.Now()
		}
		r := c.record()
		r.Frozen = at.UnixNano()
		size += r.size()
		b.conns = append(b.conns, c)
		b.before = append(b.before, c.touched())
		b.records = append(b.records, r)
		b.fds = append(b.fds, int(c.fd))
	}
	return b, waiting
}

// freeze stops everything that happens to a connection. What its rooms deliver is kept for it, as for one whose join is
// under way; what is written to it waits. It reports false where the connection ends meanwhile.
func (c *conn) freeze() bool {
	for _, lc := range c.rooms {
		lc.flush()
		if c.over() {
			return false
		}
	}
	if c.pay(); c.over() {
		return false
	}
	c.moving, c.paused = frozen, true
	c.mute()
	c.unschedule()
	if !c.stuck {
		c.stick()
	}
	for _, lc := range c.rooms {
		m := &lc.members[lc.find(c)]
		m.join = &joining{lc: lc}
		lc.joining++
	}
	return true
}

// thaw lets a frozen or held connection go on here.
func (c *conn) thaw() {
	was := c.moving
	c.moving = 0
	if was == frozen && c.state != stateGone && !c.wake() {
		return
	}
	if !c.over() {
		c.resume()
	}
}

// wake undoes freeze. It reports false where the connection has ended.
func (c *conn) wake() bool {
	if err := c.hear(); err != nil {
		c.loop.srv.log.Warn("take a connection back", "err", err)
		c.close()
		return false
	}
	if c.due != 0 {
		c.schedule(c.due)
	}
	for i := 0; i < len(c.rooms); {
		lc := c.rooms[i]
		at := lc.find(c)
		m := &lc.members[at]
		m.join = nil
		if m.listening && !m.behind {
			c.catchUp(lc, at)
		}
		lc.joined()
		if c.state == stateGone {
			return false
		}
		if i < len(c.rooms) && c.rooms[i] == lc {
			i++
		}
	}
	c.writable()
	return c.state != stateGone
}

// commit gives the batch's connections away once tell has told the successor which of them stay: those that somebody
// touched. Where it cannot be told all of them stay.
func (b *batch) commit(tell func(stay []int) error) (given int, err error) {
	var stay []int
	for i, c := range b.conns {
		if c.touched() != b.before[i] {
			stay = append(stay, i)
		}
	}
	err = tell(stay)
	for i, c := range b.conns {
		if err != nil || len(stay) > 0 && stay[0] == i {
			if err == nil {
				stay = stay[1:]
			}
			c.thaw()
			continue
		}
		c.moving = moved
		c.forget()
		c.hangUp()
		given++
	}
	return given, err
}

// thaw takes the whole batch back.
func (b *batch) thaw() {
	for _, c := range b.conns {
		c.thaw()
	}
}
