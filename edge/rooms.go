package edge

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/parley-chat/parley/contracts"
)

// Bounds of what one loop keeps of a room for those whose join is under way.
const (
	maxKept      = 4096
	maxKeptBytes = 4 << 20
)

// local is one loop's part of a room: the members among the loop's connections. It is owned by the loop.
//
// What the hub hands over comes in seq order and without holes; a hole that could not be repaired comes as a gap. While
// a member's join is under way, that is kept too, so that the reply and what follows it can be joined without a hole.
type local struct {
	loop *loop
	room *room

	members []member
	pending []item // not written yet
	dirty   bool   // in loop.dirty

	joining   int             // members whose join is under way
	kept      []item          // entries since the first of them began
	keptBytes int             //
	lost      contracts.Seq   // the highest entry that was dropped from kept, or given up in a gap
	lostEpoch contracts.Epoch // of lost

	last contracts.Seq // the last entry that was passed on here, or given up in a gap
}

// member is one connection in a room. It gets the entries from next on.
type member struct {
	conn  *conn
	next  contracts.Seq // meaningful if listening
	epoch contracts.Epoch
	// listening: live entries go out at once, or, while join is not nil, go on where they stopped if the join fails.
	listening bool
	behind    bool // the connection is too slow: it gets nothing until its socket has drained, then a gap from next on
	join      *joining
}

func (lc *local) find(c *conn) int {
	for i := len(lc.members) - 1; i >= 0; i-- { // who joins came last
		if lc.members[i].conn == c {
			return i
		}
	}
	return -1
}

// queue takes an entry or an event; it is written when it is the room's turn.
func (lc *local) queue(it *item) {
	if len(lc.members) == 0 {
		return
	}
	lc.pending = append(lc.pending, *it)
	if !lc.dirty {
		lc.dirty = true
		lc.loop.dirty = append(lc.loop.dirty, lc)
	}
}

// flush writes what waits, framed once, with one system call per member.
func (lc *local) flush() {
	lc.dirty = false
	all := lc.pending
	lc.pending = nil
	for left := all; len(left) > 0; {
		n, size := 0, 0
		for n < len(left) && (n == 0 || size+len(left[n].frame) <= flushBytes) {
			size += len(left[n].frame)
			n++
		}
		lc.deliver(left[:n], size)
		left = left[n:]
	}
	if cap(all) <= 64 && len(lc.members) > 0 {
		clear(all)
		lc.pending = all[:0]
	}
}

func (lc *local) deliver(batch []item, size int) {
	if lc.joining > 0 {
		lc.keep(batch)
	}
	together := batch[0].frame
	if len(batch) > 1 {
		together = make([]byte, 0, size)
		for i := range batch {
			together = append(together, batch[i].frame...)
		}
	}
	first, last, epoch := contracts.Seq(0), contracts.Seq(0), contracts.Epoch(0)
	plain := true // nothing in it has somebody who must not get it
	for i := range batch {
		switch {
		case batch[i].kind == itemEvent:
			plain = plain && batch[i].except == 0
		case first == 0:
			first, last, epoch = batch[i].seq, batch[i].seq, batch[i].epoch
		default:
			last = batch[i].seq
		}
	}
	if first != 0 {
		lc.last = last
	}
	metrics := lc.loop.srv.metrics
	delivered, writes := 0, 0
	var h *held
	for i := 0; i < len(lc.members); i++ {
		m := &lc.members[i]
		if !m.listening || m.behind || m.join != nil {
			continue
		}
		c := m.conn
		if plain && (first == 0 || m.epoch == epoch && m.next <= first) {
			if first != 0 {
				m.next = last + 1
			}
			if n, done := c.try(together); !done {
				h = c.holdBatch(lc, batch, together, h, n)
			}
			delivered += len(batch)
			writes++
		} else {
			end := 0
			for j := range batch {
				it := &batch[j]
				start := end
				end += len(it.frame)
				if it.kind == itemEvent {
					if it.except == c.id {
						continue
					}
				} else if it.epoch != m.epoch || it.seq < m.next {
					continue
				} else {
					m.next = it.seq + 1
				}
				if n, done := c.try(it.frame); !done {
					h = c.holdBatch(lc, batch[j:j+1], together[start:end], h, n)
				}
				delivered++
				writes++
				if i >= len(lc.members) || lc.members[i].conn != c || lc.members[i].behind {
					break
				}
			}
		}
		if i < len(lc.members) && lc.members[i].conn != c {
			i-- // the write closed it, and another member took its place
		}
	}
	metrics.deliveries.Add(float64(delivered))
	metrics.writes.Add(float64(writes))
	lc.loop.wrote += writes
}

// keep holds entries for those whose join is under way. Beyond the bound the oldest go; lost says so.
func (lc *local) keep(batch []item) {
	for i := range batch {
		if batch[i].kind == itemEntry {
			lc.kept = append(lc.kept, batch[i])
			lc.keptBytes += len(batch[i].frame)
		}
	}
	n := 0
	for len(lc.kept)-n > maxKept || lc.keptBytes > maxKeptBytes {
		lc.noteLost(lc.kept[n].epoch, lc.kept[n].seq)
		lc.keptBytes -= len(lc.kept[n].frame)
		n++
	}
	if n > 0 {
		lc.kept = slices.Delete(lc.kept, 0, n)
	}
}

func (lc *local) noteLost(epoch contracts.Epoch, seq contracts.Seq) {
	if epoch > lc.lostEpoch {
		lc.lostEpoch, lc.lost = epoch, 0
	}
	if epoch == lc.lostEpoch {
		lc.lost = max(lc.lost, seq)
	}
}

// joined counts one join less; after the last nothing is kept any more.
func (lc *local) joined() {
	lc.joining--
	if lc.joining == 0 {
		lc.kept, lc.keptBytes, lc.lost, lc.lostEpoch = nil, 0, 0, 0
	}
}

// gap tells members that entries were given up; they know where live goes on.
func (lc *local) gap(epoch contracts.Epoch, from, to contracts.Seq) {
	if lc.joining > 0 {
		lc.noteLost(epoch, to)
	}
	lc.last = to
	for i := 0; i < len(lc.members); i++ {
		m := &lc.members[i]
		if !m.listening || m.behind || m.join != nil || m.epoch != epoch || m.next > to {
			continue
		}
		c, start := m.conn, max(from, m.next)
		m.next = to + 1
		c.sendGap(lc, start, to)
		if i < len(lc.members) && lc.members[i].conn != c {
			i--
		}
	}
}

// sendGap tells that the entries from … to of a room were not sent. If that has to wait it may still become part of a
// longer gap.
func (c *conn) sendGap(lc *local, from, to contracts.Seq) {
	out := append(c.loop.frameStart(), `{"event":"gap","room":"`...)
	out = append(out, lc.room.id...)
	out = append(out, `","from":`...)
	out = strconv.AppendUint(out, uint64(from), 10)
	out = append(out, `,"to":`...)
	out = strconv.AppendUint(out, uint64(to), 10)
	frame := c.loop.frameEnd(append(out, '}'))
	if n, done := c.try(frame); !done {
		c.enqueue(piece{frames: bytes.Clone(frame), kind: pieceGap, room: lc, first: from, last: to}, n)
	}
}

// holdBatch queues what is left of a batch, of which n bytes were written. h is the memory of the whole batch, nil until
// somebody holds some of it; it is returned for the next member.
func (c *conn) holdBatch(lc *local, batch []item, together []byte, h *held, n int) *held {
	if h == nil {
		h = &held{bytes: len(together)}
	}
	for i, start := 0, 0; i < len(batch); {
		// One piece is a run of entries, or of events.
		p := piece{held: h, kind: pieceEvent, first: batch[i].seq, last: batch[i].seq}
		if batch[i].kind == itemEntry {
			p.kind, p.room = pieceEntries, lc
		}
		end := start + len(batch[i].frame)
		if i++; end <= n {
			start = end
			continue
		}
		for i < len(batch) && (batch[i].kind == itemEntry) == (p.kind == pieceEntries) {
			p.last = batch[i].seq
			end += len(batch[i].frame)
			i++
		}
		p.frames = together[start:end]
		c.enqueue(p, max(n-start, 0))
		if c.state != stateReady {
			break
		}
		start = end
	}
	return h
}

// reset ends the listening of all who are in an older epoch.
func (lc *local) reset(epoch contracts.Epoch, head contracts.Seq) {
	for _, m := range slices.Clone(lc.members) {
		if !m.listening || m.epoch >= epoch {
			continue
		}
		out := append(m.conn.loop.frameStart(), `{"event":"reset","room":"`...)
		out = append(out, lc.room.id...)
		out = append(out, `","epoch":`...)
		out = strconv.AppendUint(out, uint64(epoch), 10)
		out = append(out, `,"head":`...)
		out = strconv.AppendUint(out, uint64(head), 10)
		m.conn.send(append(out, '}'))
		if at := lc.find(m.conn); at >= 0 {
			if lc.members[at].join != nil {
				m.conn.abreast(lc, &lc.members[at])
				m.conn.pin(lc)
				lc.members[at].listening = false
			} else {
				m.conn.exit(lc)
			}
		}
	}
}

// left ends the listening of a person who gave up the membership on another connection, and tells them.
func (lc *local) left(user contracts.UserID, except uint64, frame []byte) {
	for _, m := range slices.Clone(lc.members) {
		c := m.conn
		if c.user.ID != user || c.id == except || lc.find(c) < 0 {
			continue
		}
		c.exit(lc)
		c.write(frame, true)
	}
}

// enter makes c a member, not listening yet.
func (c *conn) enter(id contracts.RoomID) *local {
	l := c.loop
	lc := l.locals[id]
	if lc == nil {
		lc = &local{loop: l}
		l.locals[id] = lc
	}
	lc.members = append(lc.members, member{conn: c})
	c.rooms = append(c.rooms, lc)
	lc.room = l.srv.hub.enter(lc, id, c.user.ID)
	return lc
}

// exit ends c's membership; the workers hear of it if it was the person's last one in this room on this node.
func (c *conn) exit(lc *local) {
	l := c.loop
	at := lc.find(c)
	if at < 0 {
		return
	}
	if lc.members[at].join != nil {
		lc.members[at].join.cancelled = true
		lc.joined()
	}
	c.abreast(lc, &lc.members[at])
	c.pin(lc)
	last := len(lc.members) - 1
	lc.members[at] = lc.members[last]
	lc.members[last] = member{}
	lc.members = lc.members[:last]
	if at := slices.Index(c.rooms, lc); at >= 0 {
		c.rooms = slices.Delete(c.rooms, at, at+1)
	}
	if len(lc.members) == 0 {
		lc.members, lc.pending = nil, nil // flush may be running over what was pending
		delete(l.locals, lc.room.id)
	}
	if l.srv.hub.exit(lc, c.user.ID) && c.moving != moved {
		l.srv.gone.add(contracts.Presence{Room: lc.room.id, User: c.user})
	}
}

// leaveAll ends all memberships of a connection that closes.
func (c *conn) leaveAll() {
	for len(c.rooms) > 0 {
		c.exit(c.rooms[len(c.rooms)-1])
	}
	c.rooms = nil
}

// leave takes a request to leave: what the room had waiting goes out first, nothing after the reply.
func (c *conn) leave(req *request) {
	if lc := c.loop.locals[req.room]; lc != nil {
		lc.flush()
		if c.state != stateReady {
			return
		}
		c.exit(lc)
	}
	c.goOn(req.room)
	if req.quit {
		c.forward(req)
		return
	}
	c.reply(req, []byte("{}"))
}
