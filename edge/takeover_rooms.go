package edge

import (
	"time"

	"github.com/parley-chat/parley/contracts"
)

const (
	// maxRecent and maxRecentBytes bound what a room keeps for members that are still to come over.
	maxRecent      = 4096
	maxRecentBytes = 4 << 20
	// hearAgain is the pause before a lane that could not be heard is tried again.
	hearAgain = time.Second
)

// recent is what a room has passed on while a take-over goes on: members come with positions of their own, which may be
// behind the room's here.
type recent struct {
	held    bool // the room is kept open for those to come
	entries []recentEntry
	bytes   int
}

type recentEntry struct {
	seq   contracts.Seq
	frame []byte
}

// add keeps an entry. Beyond the bound the oldest go; whoever needs them is told of a gap.
func (k *recent) add(seq contracts.Seq, frame []byte) {
	k.entries = append(k.entries, recentEntry{seq, frame})
	k.bytes += len(frame)
	for len(k.entries) > maxRecent || k.bytes > maxRecentBytes {
		k.bytes -= len(k.entries[0].frame)
		k.entries[0] = recentEntry{}
		k.entries = k.entries[1:]
	}
}

// open makes the node listen to rooms before their members come, from where the predecessor is. It returns their lanes.
func (h *hub) open(rooms []roomRecord) map[contracts.Lane]bool {
	lanes := make(map[contracts.Lane]bool)
	for _, rec := range rooms {
		lane := contracts.LaneOf(rec.Room)
		lanes[lane] = true
		sh := h.shard(lane)
		sh.mu.Lock()
		r := h.roomOf(sh, rec.Room, lane)
		r.members++
		r.recent = &recent{held: true}
		if rec.Known && !r.known {
			r.known, r.epoch, r.passed = true, rec.Epoch, rec.Seq
			r.head = max(r.head, r.passed)
		}
		sh.mu.Unlock()
	}
	return lanes
}

// opened ends what open began: who has not come is not waited for any more.
func (h *hub) opened() {
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.Lock()
		for _, r := range sh.rooms {
			k := r.recent
			r.recent = nil
			if k != nil && k.held {
				r.members--
				h.emptied(sh, r)
			}
		}
		sh.mu.Unlock()
	}
}

// heads lists the rooms of this node and how far they have come.
func (h *hub) heads() []roomRecord {
	var all []roomRecord
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.Lock()
		for id, r := range sh.rooms {
			all = append(all, roomRecord{Room: id, Known: r.known, Epoch: r.epoch, Seq: r.passed})
		}
		sh.mu.Unlock()
	}
	return all
}

// recentOf returns what the room has passed on from an entry on, and its position.
func (h *hub) recentOf(r *room, next contracts.Seq) (entries []recentEntry, at contracts.RoomHead) {
	sh := h.shard(r.lane)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if r.recent != nil {
		for _, e := range r.recent.entries {
			if e.seq >= next {
				entries = append(entries, e)
			}
		}
	}
	return entries, contracts.RoomHead{Epoch: r.epoch, Seq: r.passed}
}

// begin makes a room keep what it passes on, and reports whether it did not before.
func (h *hub) begin(r *room) bool {
	sh := h.shard(r.lane)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if r.recent != nil {
		return false
	}
	r.recent = &recent{}
	return true
}

// hearUntil tries to hear a lane until it succeeds or the server stops.
func (h *hub) hearUntil(lane contracts.Lane, then func()) {
	h.lanes.heard(lane, func(err error) {
		switch {
		case err == nil:
			then()
		case h.srv.up.Load():
			time.AfterFunc(hearAgain, func() { h.hearUntil(lane, then) })
		}
	})
}

// catchUp hears a room's lane and asks for its head: it was joined after the predecessor listed its rooms.
func (h *hub) catchUp(lane contracts.Lane, id contracts.RoomID) {
	h.hearUntil(lane, func() { h.askHeadsOf(lane.Partition(h.srv.cfg.Partitions), []contracts.RoomID{id}) })
}

// reenter makes c the member that it was in the predecessor: it gets each entry from the record's next on, once.
func (c *conn) reenter(rec *memberRecord) {
	h := c.loop.srv.hub
	lc := c.enter(rec.Room)
	if !rec.Listening {
		return // its client asks on
	}
	fresh := h.begin(lc.room)
	now := h.settle(lc.room, contracts.RoomHead{Epoch: rec.Epoch, Seq: rec.Next - 1})
	if fresh {
		h.catchUp(lc.room.lane, rec.Room)
	}
	var entries []recentEntry
	if now.Epoch == rec.Epoch {
		// What is passed on from here on is in the loop's inbox, behind what is read here.
		entries, now = h.recentOf(lc.room, rec.Next)
	}
	m := &lc.members[lc.find(c)]
	m.listening, m.epoch, m.next = true, rec.Epoch, rec.Next
	if now.Epoch != rec.Epoch {
		lc.reset(now.Epoch, now.Seq)
		return
	}
	if lc.last == 0 {
		lc.last = now.Seq
	}
	if rec.Behind {
		entries = nil
	}
	c.handOn(lc, entries, now.Seq)
}

// handOn sends a member what its room has passed on so far: the entries, and as gaps what is missing among them up to
// passed.
func (c *conn) handOn(lc *local, entries []recentEntry, passed contracts.Seq) {
	for i := 0; ; i++ {
		at := lc.find(c)
		if at < 0 || lc.members[at].behind {
			return // a gap tells of the rest
		}
		m := &lc.members[at]
		to := passed
		if i < len(entries) {
			to = entries[i].seq - 1
		}
		if from := m.next; from <= to {
			m.next = to + 1
			c.sendGap(lc, from, to)
			if at = lc.find(c); at < 0 || lc.members[at].behind {
				return
			}
			m = &lc.members[at]
		}
		if i == len(entries) {
			return
		}
		e := &entries[i]
		m.next = e.seq + 1
		if n, done := c.try(e.frame); !done {
			c.enqueue(piece{frames: e.frame, kind: pieceEntries, room: lc, first: e.seq, last: e.seq}, n)
		}
	}
}
