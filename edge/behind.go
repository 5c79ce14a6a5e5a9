package edge

import (
	"cmp"
	"slices"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/wire"
)

// A connection whose socket takes less than there is gives up, in this order, of what waits for it:
//
//  1. above 1/eventShare of its budget: ephemeral events, which are dropped and counted; from 1/pauseShare on it is not
//     read either;
//  2. above three quarters: the entries of the room with the most waiting. The connection is behind there: its live
//     entries are passed over, at no cost, until the socket has taken all that waits. Then a gap event tells what was not
//     sent, and live goes on behind it;
//  3. above the whole, or when the socket takes nothing at all for a while: itself (4440).
//
// When the edge's connections together hold more than 80 % of what they may, those with the most waiting do so first.
const (
	eventShare  = 4
	pauseShare  = 4
	resumeShare = 8
)

func (o *output) isBehind(lc *local) bool { return slices.Contains(o.behind, lc) }

// fits reports whether size more bytes stay within limit, after giving up what may be given up.
func (c *conn) fits(size, limit int) bool {
	s := c.loop.srv
	if c.busy.out.size+size <= limit && !s.outbound.full() {
		return true
	}
	c.shed(limit - size)
	return c.busy.out.size+size <= limit && !s.outbound.full()
}

// shed gives up what waits until no more than goal is left: ephemeral events, then the rooms with the most waiting.
func (c *conn) shed(goal int) {
	s, o := c.loop.srv, c.busy.out
	from := c.cutBegun()
	s.metrics.droppedEvents.Add(float64(c.drop(from, func(p *piece) bool { return p.kind == pieceEvent })))
	if o.size <= goal && !s.outbound.full() {
		return
	}
	waiting := make(map[*local]int)
	for i := from; i < len(o.queue); i++ {
		if p := &o.queue[i]; p.room != nil {
			waiting[p.room] += len(p.frames) + pieceCost
		}
	}
	for len(waiting) > 0 && (o.size > goal || s.outbound.full()) {
		var most *local
		for lc, n := range waiting {
			if most == nil || n > waiting[most] {
				most = lc
			}
		}
		delete(waiting, most)
		c.fallBehind(most, 0)
	}
}

// drop takes pieces off the queue, from the given one on, and returns how many frames that were.
func (c *conn) drop(from int, which func(*piece) bool) (frames int) {
	l, o := c.loop, c.busy.out
	kept := o.queue[:from]
	for i := from; i < len(o.queue); i++ {
		p := &o.queue[i]
		if !which(p) {
			kept = append(kept, *p)
			continue
		}
		l.account(p, -1)
		o.size -= len(p.frames) + pieceCost
		frames += wire.Frames(p.frames)
	}
	clear(o.queue[len(kept):])
	o.queue = kept
	return frames
}

// fallBehind gives up what waits of a room that c listens to, and all that follows from next on, until the socket has
// taken the rest.
func (c *conn) fallBehind(lc *local, next contracts.Seq) {
	o := c.busy.out
	if o.isBehind(lc) {
		return
	}
	c.drop(c.cutBegun(), func(p *piece) bool {
		if p.room != lc {
			return false
		}
		if next == 0 || p.first < next {
			next = p.first
		}
		return true
	})
	m := &lc.members[lc.find(c)]
	m.behind, m.next = true, next
	if len(o.behind) == 0 {
		c.loop.srv.metrics.behind.Inc()
	}
	o.behind = append(o.behind, lc)
}

// abreast ends that a connection is behind in a room.
func (c *conn) abreast(lc *local, m *member) {
	if !m.behind {
		return
	}
	m.behind = false
	o := c.busy.out
	o.behind = slices.DeleteFunc(o.behind, func(other *local) bool { return other == lc })
	if len(o.behind) == 0 {
		o.behind = nil
		c.loop.srv.metrics.behind.Dec()
	}
}

// tellGaps tells a connection that is not stuck what it missed. Where a join is under way its answer comes first.
func (c *conn) tellGaps() {
	for i := 0; c.state == stateReady && !c.stuck && i < len(c.busy.out.behind); {
		lc := c.busy.out.behind[i]
		if at := lc.find(c); lc.members[at].join == nil {
			c.tellGap(lc, at)
		} else {
			i++
		}
	}
}

// tellGap tells what was not sent in a room; live goes on behind it.
func (c *conn) tellGap(lc *local, at int) {
	m := &lc.members[at]
	c.abreast(lc, m)
	from, to := m.next, lc.last
	if from > to {
		return
	}
	m.next = to + 1
	metrics := c.loop.srv.metrics
	metrics.slowGaps.Inc()
	metrics.droppedEntries.Add(float64(to - from + 1))
	c.sendGap(lc, from, to)
}

// pin keeps what waits of a room where the connection's position does not follow from it any more: it left, or has
// joined anew.
func (c *conn) pin(lc *local) {
	if !c.stuck || c.state == stateClosing {
		return
	}
	for i := range c.busy.out.queue {
		if p := &c.busy.out.queue[i]; p.room == lc {
			*p = piece{frames: p.frames, held: p.held}
		}
	}
}

// relieve makes the loop's slowest connections give up what waits while the edge's connections hold too much together:
// first what may be told as a gap, then themselves. It runs between rounds, as it takes members out of rooms.
func (l *loop) relieve() {
	if len(l.stuck) == 0 || !l.srv.outbound.tight() {
		return
	}
	for _, give := range []func(*conn){func(c *conn) { c.shed(0) }, (*conn).tooSlow} {
		slowest := slices.Clone(l.stuck)
		slices.SortFunc(slowest, func(a, b *conn) int { return cmp.Compare(b.busy.out.size, a.busy.out.size) })
		for _, c := range slowest {
			if !l.srv.outbound.tight() {
				return
			}
			if c.stuck && c.state != stateClosing {
				give(c)
			}
		}
	}
}
