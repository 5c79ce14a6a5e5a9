package check

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// message is what is known of one (room, sender, key).
type message struct {
	id     contracts.Identity
	bodies []string // what was sent under the key; nearly always one

	attempts, rejected int
	safe               bool  // the answers may wait until it is stored
	first              int64 // the earliest attempt's time
	firstAt            string
	firstConn          connRoom

	acked   int64 // the earliest ok, 0 for none
	ackedAt string
	seen    int64 // the earliest live receipt, 0 for none
	seenAt  string
	reached int64   // the earliest receipt, live or in a reply, 0 for none
	early   []int64 // receipts read before the first attempt

	seq contracts.Seq // its place in the store
}

type attemptID struct {
	connRoom
	key contracts.Key
}

type connRoom struct {
	client string
	conn   uint64
	room   contracts.RoomID
}

// attempt is one sent line that waits for its answer, or the order that it had.
type attempt struct {
	m       *message
	at      int64
	place   int // among the attempts of its connection and room
	outcome history.Outcome
}

// pipeline is what one connection sent to one room.
type pipeline struct {
	attempts int
	tried    map[*message]int // the place of the message's first attempt here
	all      []*attempt
}

func (c *Checker) message(id contracts.Identity) *message {
	m := c.messages[id]
	if m == nil {
		m = &message{id: id}
		c.messages[id] = m
	}
	return m
}

func (c *Checker) sent(e *history.Event) {
	m := c.message(contracts.Identity{Room: e.Room, Sender: e.User, Key: e.Key})
	c.room(e.Room)
	m.attempts++
	m.safe = m.safe || e.Safe
	if !slices.Contains(m.bodies, e.Hash) {
		m.bodies = append(m.bodies, e.Hash)
	}
	at := connRoom{client: e.Client, conn: e.Conn, room: e.Room}
	if m.attempts == 1 || e.At < m.first {
		m.first, m.firstAt, m.firstConn = e.At, e.Source, at
	}
	for _, received := range m.early {
		c.delays.add(m.first, received)
	}
	m.early = nil
	p := c.conns[at]
	if p == nil {
		p = &pipeline{tried: make(map[*message]int)}
		c.conns[at] = p
	}
	a := &attempt{m: m, at: e.At, place: p.attempts}
	p.attempts++
	if _, again := p.tried[m]; !again {
		p.tried[m] = a.place
	}
	p.all = append(p.all, a)
	c.attempts[attemptID{at, e.Key}] = a
}

func (c *Checker) answered(e *history.Event) {
	id := attemptID{connRoom{client: e.Client, conn: e.Conn, room: e.Room}, e.Key}
	a := c.attempts[id]
	if a == nil {
		c.violate(Violation{Kind: Malformed, Room: e.Room, Key: e.Key, Client: e.Client, What: "an answer to what was not sent, or a second one", Evidence: []string{e.Source}})
		return
	}
	delete(c.attempts, id)
	a.outcome = e.Outcome
	switch e.Outcome {
	case history.OK:
		if a.m.acked == 0 || e.At < a.m.acked {
			a.m.acked, a.m.ackedAt = e.At, e.Source
		}
	case history.Rejected:
		a.m.rejected++
	case history.Unknown:
	default:
		c.violate(Violation{Kind: Malformed, Room: e.Room, Key: e.Key, Client: e.Client, What: fmt.Sprintf("unknown outcome %q", e.Outcome), Evidence: []string{e.Source}})
	}
}

// fates compares what senders were told with what is stored.
func (c *Checker) fates() {
	for _, m := range c.sorted() {
		c.report.Figures.message(m)
		r := c.rooms[m.id.Room]
		row := r.rows[m.id]
		if row != nil {
			m.seq = row.seq
		}
		switch {
		case m.attempts == 0:
			continue // a ghost: where it was met says so
		case m.acked != 0 && row == nil && c.report.has(inputRows):
			c.violate(Violation{Kind: Lost, Room: m.id.Room, Key: m.id.Key, What: "acked, and not in the store", Evidence: []string{m.firstAt, m.ackedAt}})
		case m.rejected == m.attempts && row != nil:
			c.violate(Violation{Kind: Appeared, Room: m.id.Room, Seq: row.seq, Key: m.id.Key, What: "refused for certain on every attempt, and in the store", Evidence: []string{m.firstAt, row.source}})
		}
		switch {
		case m.acked != 0:
			c.inLog(m, row)
		case m.rejected == m.attempts && c.logged[m.id]:
			c.violate(Violation{Kind: Appeared, Room: m.id.Room, Key: m.id.Key, What: "refused for certain on every attempt, and in the log", Evidence: []string{m.firstAt}})
		}
	}
}

func (c *Checker) sorted() []*message {
	all := make([]*message, 0, len(c.messages))
	for _, m := range c.messages {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *message) int {
		return cmp.Or(cmp.Compare(a.id.Room, b.id.Room), cmp.Compare(a.first, b.first), slices.Compare(a.id.Key[:], b.id.Key[:]))
	})
	return all
}

// realTime looks for a message that was acked, or seen by anybody, before one with a lower seq was first sent. One pass in
// the order of the seqs with the latest first attempt so far is enough.
func (c *Checker) realTime(r *room) {
	var latest *message
	for _, seq := range r.order {
		row := r.places[seq].row
		m := c.messages[row.id]
		if m == nil || m.attempts == 0 {
			continue
		}
		known, at := m.acked, m.ackedAt
		if m.seen != 0 && (known == 0 || m.seen < known) {
			known, at = m.seen, m.seenAt
		}
		if latest != nil && known != 0 && known < latest.first {
			c.violate(Violation{Kind: Order, Room: r.id, Seq: row.seq, Key: m.id.Key,
				What:     fmt.Sprintf("known to be accepted %d ns before key %v was first sent, which has the lower seq %d", latest.first-known, latest.id.Key, latest.seq),
				Evidence: []string{at, latest.firstAt}})
		}
		if latest == nil || m.first > latest.first {
			latest = m
		}
	}
}

// pipelines looks, per connection and room, for two accepted messages whose first and whose accepted attempts came in one
// order and whose seqs in the other. A message that was tried elsewhere before may have an older copy from there; it
// counts as the earlier of a pair alone. Clients make sends again in their order, as the protocol wants: one that does not changes
// places itself.
func (c *Checker) pipelines() {
	at := make([]connRoom, 0, len(c.conns))
	for id := range c.conns {
		at = append(at, id)
	}
	slices.SortFunc(at, func(a, b connRoom) int {
		return cmp.Or(cmp.Compare(a.client, b.client), cmp.Compare(a.conn, b.conn), cmp.Compare(a.room, b.room))
	})
	for _, id := range at {
		p := c.conns[id]
		best := make(highest, p.attempts+1)
		for _, a := range p.all {
			if a.outcome != history.OK || a.m.seq == 0 {
				continue
			}
			first := p.tried[a.m]
			if before := best.below(first); before != nil && before.m.seq > a.m.seq && a.m.firstConn == id {
				c.violate(Violation{Kind: Pipeline, Room: id.room, Seq: a.m.seq, Key: a.m.id.Key, Client: id.client,
					What:     fmt.Sprintf("sent on this connection behind key %v, which has the higher seq %d", before.m.id.Key, before.m.seq),
					Evidence: []string{before.m.firstAt, a.m.firstAt}})
			}
			best.put(first, a)
		}
	}
}

// highest is a Fenwick tree: the attempt with the highest seq of all first attempts below a place.
type highest []*attempt

func (h highest) put(place int, a *attempt) {
	for i := place + 1; i < len(h); i += i & -i {
		if h[i] == nil || h[i].m.seq < a.m.seq {
			h[i] = a
		}
	}
}

func (h highest) below(place int) (best *attempt) {
	for i := place; i > 0; i -= i & -i {
		if h[i] != nil && (best == nil || h[i].m.seq > best.m.seq) {
			best = h[i]
		}
	}
	return best
}
