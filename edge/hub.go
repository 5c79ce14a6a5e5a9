package edge

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/planted"
	"github.com/parley-chat/parley/edge/wire"
)

const (
	// shards of the hub: the lanes that share a mutex.
	shards = 64
	// maxAside and maxAsideBytes bound what one room keeps that was heard out of order.
	maxAside      = 1024
	maxAsideBytes = 4 << 20
)

// room is a room with a member on this node. It is guarded by its shard.
type room struct {
	// Static after construction.
	id   contracts.RoomID
	lane contracts.Lane

	locals  []*local                   // per loop; nil where it has no member
	members int                        // over all loops
	users   map[contracts.UserID]int32 // connections per person

	known bool // epoch and passed are meaningful
	epoch contracts.Epoch
	// passed is the last entry that was handed to the loops; all up to it were, from where the first join began.
	passed contracts.Seq
	// head is the highest seq heard of.
	head  contracts.Seq
	aside map[contracts.Seq][]byte // framed entries above passed+1
	size  int                      // bytes in aside

	repairing  bool
	asked      bool // a repair's question is under way
	since      time.Time
	tryAt      time.Time
	unsure     bool            // the last question for its head brought none
	asideEpoch contracts.Epoch // of aside while the room is not known
	recent     *recent         // during a take-over
}

type shard struct {
	mu    sync.Mutex // guards rooms and everything in them
	rooms map[contracts.RoomID]*room
}

// hub holds the rooms of this node and hears their lanes.
type hub struct {
	srv    *Server
	shards [shards]shard
	sub    fanout.Subscriber
	lanes  lanes

	repairMu sync.Mutex // guards repairs, running
	repairs  map[*room]struct{}
	running  int

	down    [contracts.LaneGroups]atomic.Bool
	unheard atomic.Int32
	unsure  atomic.Bool   // some room is
	askNow  chan struct{} // ask for the heads of the groups in upAgain
	upMu    sync.Mutex    // guards upAgain
	upAgain map[int]bool
}

func newHub(s *Server) *hub {
	h := &hub{srv: s, askNow: make(chan struct{}, 1), repairs: make(map[*room]struct{}), upAgain: make(map[int]bool)}
	for i := range h.shards {
		h.shards[i].rooms = make(map[contracts.RoomID]*room)
	}
	h.lanes.init(h)
	return h
}

func (h *hub) shard(l contracts.Lane) *shard { return &h.shards[int(l)%shards] }

// enter makes lc's loop get what happens in the room, and counts one more member.
func (h *hub) enter(lc *local, id contracts.RoomID, user contracts.UserID) *room {
	lane := contracts.LaneOf(id)
	sh := h.shard(lane)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	r := h.roomOf(sh, id, lane)
	r.locals[lc.loop.index] = lc
	r.members++
	r.users[user]++
	return r
}

// roomOf returns a room, and makes it where there is none. The shard is locked.
func (h *hub) roomOf(sh *shard, id contracts.RoomID, lane contracts.Lane) *room {
	r := sh.rooms[id]
	if r == nil {
		r = &room{id: id, lane: lane, locals: make([]*local, h.srv.cfg.Loops), users: make(map[contracts.UserID]int32, 1)}
		sh.rooms[id] = r
		h.lanes.want(lane)
		h.srv.metrics.rooms.Inc()
	}
	return r
}

// emptied forgets a room without a member. The shard is locked.
func (h *hub) emptied(sh *shard, r *room) {
	if r.members > 0 {
		return
	}
	delete(sh.rooms, r.id)
	r.aside, r.repairing = nil, false
	h.lanes.release(r.lane)
	h.srv.metrics.rooms.Dec()
}

// exit counts one member less and reports whether it was the person's last one in the room.
func (h *hub) exit(lc *local, user contracts.UserID) (gone bool) {
	r := lc.room
	sh := h.shard(r.lane)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if len(lc.members) == 0 && r.locals[lc.loop.index] == lc {
		r.locals[lc.loop.index] = nil
	}
	r.members--
	r.users[user]--
	if r.users[user] == 0 {
		delete(r.users, user)
		gone = true
	}
	h.emptied(sh, r)
	return gone
}

// present reports whether a person is in a room through this node.
func (h *hub) present(p contracts.Presence) bool {
	sh := h.shard(contracts.LaneOf(p.Room))
	sh.mu.Lock()
	defer sh.mu.Unlock()
	r := sh.rooms[p.Room]
	return r != nil && r.users[p.User.ID] > 0
}

// heard calls then once the room's lane is heard, or with the error why it is not. It never calls it on the same stack
// under a lock of the hub.
func (h *hub) heard(r *room, then func(error)) { h.lanes.heard(r.lane, then) }

// passed returns what the node has passed on in the room; known is false where it is nothing yet.
func (h *hub) passed(r *room) (at contracts.RoomHead, known bool) {
	sh := h.shard(r.lane)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return contracts.RoomHead{Epoch: r.epoch, Seq: r.passed}, r.known
}

// settle gives a room that is not known its start: the position of a join's answer. It returns up to where the loops may
// not have been handed the room's entries: that start, or what the node had passed on before. A newer epoch resets the room for its members
// first; an answer from an older one than was heard of settles nothing.
func (h *hub) settle(r *room, at contracts.RoomHead) contracts.RoomHead {
	sh := h.shard(r.lane)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if r.known && at.Epoch > r.epoch {
		h.reset(r, at.Epoch, at.Seq)
	}
	if r.known {
		return contracts.RoomHead{Epoch: r.epoch, Seq: r.passed}
	}
	if newest := max(r.epoch, r.asideEpoch); at.Epoch < newest {
		return contracts.RoomHead{Epoch: newest}
	}
	if r.asideEpoch != at.Epoch {
		r.aside, r.size, r.head = nil, 0, 0
	}
	r.known, r.epoch, r.passed = true, at.Epoch, at.Seq
	r.head = max(r.head, r.passed)
	h.drain(r)
	return at
}

// Receive takes a lane's message.
func (h *hub) Receive(lane contracts.Lane, body []byte) {
	sh := h.shard(lane)
	for len(body) > 0 {
		e, rest, err := contracts.NextEnvelope(body)
		if err != nil {
			h.srv.metrics.malformed.Inc()
			return
		}
		body = rest
		if e.Kind == contracts.EnvelopeEpoch {
			h.newEpoch(lane, e.Epoch)
			continue
		}
		if contracts.LaneOf(e.Room) != lane {
			h.srv.metrics.malformed.Inc()
			continue
		}
		if e.Kind == contracts.EnvelopeStored {
			h.srv.stored(&e)
			continue
		}
		sh.mu.Lock()
		if r := sh.rooms[e.Room]; r != nil {
			h.take(r, &e)
		}
		sh.mu.Unlock()
	}
}

// newEpoch asks for the heads of a lane's rooms that are in an older epoch: the answers reset them.
func (h *hub) newEpoch(lane contracts.Lane, epoch contracts.Epoch) {
	var older []contracts.RoomID
	sh := h.shard(lane)
	sh.mu.Lock()
	for id, r := range sh.rooms {
		if r.lane == lane && r.known && r.epoch < epoch {
			older = append(older, id)
		}
	}
	sh.mu.Unlock()
	for chunk := range slices.Chunk(older, headsPerQuestion) {
		h.askHeadsOf(lane.Partition(h.srv.cfg.Partitions), chunk)
	}
}

// take handles one envelope. The shard is locked.
func (h *hub) take(r *room, e *contracts.Envelope) {
	switch e.Kind {
	case contracts.EnvelopeEntry:
		h.entry(r, e.Epoch, e.Seq, wire.AppendText(make([]byte, 0, wire.FrameSize(len(e.Body))), e.Body))
	case contracts.EnvelopeHead:
		h.noteHead(r, e.Epoch, e.Seq)
	case contracts.EnvelopeEvent:
		it := item{kind: itemEvent, frame: wire.AppendText(nil, e.Body)}
		if e.Except.Node == h.srv.cfg.Node {
			it.except = e.Except.ID
		}
		h.hand(r, it)
	case contracts.EnvelopeLeft:
		it := item{kind: itemLeft, user: e.User, frame: wire.AppendText(nil, e.Body)}
		if e.Except.Node == h.srv.cfg.Node {
			it.except = e.Except.ID
		}
		h.hand(r, it)
	}
}

// entry takes an entry that was heard or read. The shard is locked.
func (h *hub) entry(r *room, epoch contracts.Epoch, seq contracts.Seq, frame []byte) {
	if !r.known {
		if r.await(epoch) {
			h.putAside(r, seq, frame)
		}
		return
	}
	switch {
	case epoch < r.epoch:
	case epoch > r.epoch:
		h.reset(r, epoch, seq)
		h.putAside(r, seq, frame)
	case seq <= r.passed:
		h.srv.metrics.late.Inc()
	case seq == r.passed+1 && r.crowded():
		h.srv.metrics.limited[limitInbox].Inc()
		h.putAside(r, seq, frame)
		h.repair(r)
	case seq == r.passed+1 || planted.On(planted.NoGapCheck):
		h.pass(r, seq, frame)
		h.drain(r)
	default:
		h.putAside(r, seq, frame)
		h.repair(r)
	}
}

// await reports whether what comes in an epoch matters to a room that is not known; what came in an older one does not
// any more.
func (r *room) await(epoch contracts.Epoch) bool {
	if epoch > r.asideEpoch {
		r.asideEpoch, r.aside, r.size, r.head = epoch, nil, 0, 0
	}
	return epoch == r.asideEpoch
}

func (h *hub) putAside(r *room, seq contracts.Seq, frame []byte) {
	r.head = max(r.head, seq)
	if _, there := r.aside[seq]; there || len(r.aside) >= maxAside || r.size+len(frame) > maxAsideBytes {
		return // the repair reads what has no room here
	}
	if r.aside == nil {
		r.aside = make(map[contracts.Seq][]byte)
	}
	r.aside[seq] = frame
	r.size += len(frame)
}

// pass hands the next entry to the loops.
func (h *hub) pass(r *room, seq contracts.Seq, frame []byte) {
	r.passed = seq
	r.head = max(r.head, seq)
	h.srv.metrics.entries.Inc()
	if r.recent != nil {
		r.recent.add(seq, frame)
	}
	h.hand(r, item{kind: itemEntry, epoch: r.epoch, seq: seq, frame: frame})
}

// drain passes on what was aside and is next now. Who hears of more than that starts a repair.
func (h *hub) drain(r *room) {
	for len(r.aside) > 0 {
		frame, ok := r.aside[r.passed+1]
		if !ok || r.crowded() {
			break
		}
		delete(r.aside, r.passed+1)
		r.size -= len(frame)
		h.pass(r, r.passed+1, frame)
	}
	if len(r.aside) > 0 {
		for seq, frame := range r.aside {
			if seq <= r.passed {
				delete(r.aside, seq)
				r.size -= len(frame)
			}
		}
	}
	if len(r.aside) == 0 {
		r.aside, r.size = nil, 0
	}
	if r.passed < r.head {
		h.repair(r)
	}
}

// noteHead compares a room's head with what was passed on. The shard is locked.
func (h *hub) noteHead(r *room, epoch contracts.Epoch, seq contracts.Seq) {
	switch {
	case !r.known:
		if r.await(epoch) {
			r.head = max(r.head, seq) // settle sees to it
		}
	case epoch < r.epoch:
	case epoch > r.epoch:
		h.reset(r, epoch, seq)
		r.head = seq
	case seq > r.passed:
		r.head = max(r.head, seq)
		h.repair(r)
	}
}

// reset forgets a room's position because the log has a new epoch. The shard is locked.
func (h *hub) reset(r *room, epoch contracts.Epoch, head contracts.Seq) {
	h.srv.metrics.resets.Inc()
	r.known, r.epoch, r.passed, r.head = false, epoch, 0, 0
	r.asideEpoch, r.aside, r.size = epoch, nil, 0
	r.repairing = false
	if r.recent != nil {
		r.recent.entries, r.recent.bytes = nil, 0
	}
	h.hand(r, item{kind: itemReset, epoch: epoch, seq: head})
}

// hand gives an item to every loop with a member. The shard is locked, so that the loops get a room's items in order.
func (h *hub) hand(r *room, it item) {
	for _, lc := range r.locals {
		switch {
		case lc == nil:
		case it.kind == itemEvent && lc.loop.crowded.Load():
			h.srv.metrics.limited[limitInbox].Inc()
		default:
			it.local = lc
			lc.loop.post(it)
		}
	}
}

// crowded reports whether a loop with members takes no more entries at the moment; they are repaired then.
func (r *room) crowded() bool {
	for _, lc := range r.locals {
		if lc != nil && lc.loop.crowded.Load() {
			return true
		}
	}
	return false
}

// Down notes that a group's lanes are not heard; run asks for their heads from now on.
func (h *hub) Down(group int) {
	if !h.down[group].Swap(true) {
		h.srv.metrics.unheard.Set(float64(h.unheard.Add(1)))
	}
}

// Up notes that a group's lanes are heard again; what was lost meanwhile is asked for once.
func (h *hub) Up(group int) {
	if h.down[group].Swap(false) {
		h.srv.metrics.unheard.Set(float64(h.unheard.Add(-1)))
	}
	h.upMu.Lock()
	h.upAgain[group] = true
	h.upMu.Unlock()
	select {
	case h.askNow <- struct{}{}:
	default:
	}
}

// run asks for heads and tries repairs again until ctx ends.
func (h *hub) run(ctx context.Context) {
	ticker := time.NewTicker(repairTick)
	defer ticker.Stop()
	lastPull := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.askNow:
			h.upMu.Lock()
			groups := h.upAgain
			h.upAgain = make(map[int]bool)
			h.upMu.Unlock()
			h.askHeads(func(r *room) bool { return groups[r.lane.Group()] })
		case now := <-ticker.C:
			h.retryRepairs(now)
			if now.Sub(lastPull) < pullEvery {
				continue
			}
			lastPull = now
			if unsure := h.unsure.Swap(false); unsure || h.unheard.Load() > 0 {
				h.askHeads(func(r *room) bool { return r.unsure || h.down[r.lane.Group()].Load() })
			}
		}
	}
}
