package edge

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/wire"
)

const (
	// repairTick is how often waiting repairs are looked at.
	repairTick = 100 * time.Millisecond
	// maxRepairs is how many rooms are repaired at once.
	maxRepairs = 32
	// repairPage is how many entries are asked for at once.
	repairPage = 500
	// repairTime is how long a repair is tried before the members are told of a gap.
	repairTime = 5 * time.Second
	// pullEvery is how often heads are asked for while lanes are not heard, or after a question that did not bring them.
	pullEvery = 2 * time.Second
	// headsPerQuestion bounds the rooms in one question to a dispatcher.
	headsPerQuestion = 500
)

// repair makes sure that entries up to the room's head are read. The shard is locked.
func (h *hub) repair(r *room) {
	if r.repairing {
		return
	}
	r.repairing = true
	r.since = time.Now()
	r.tryAt = r.since
	h.repairMu.Lock()
	h.repairs[r] = struct{}{}
	h.repairMu.Unlock()
	h.tryRepair(r)
}

// tryRepair asks for what is missing if it gets a turn; otherwise run tries again. The shard is locked.
func (h *hub) tryRepair(r *room) {
	h.repairMu.Lock()
	turn := h.running < maxRepairs
	if turn {
		h.running++
	}
	h.repairMu.Unlock()
	if turn {
		h.askRepair(r)
	}
}

// askRepair asks a worker. The shard is locked, and a turn was taken.
func (h *hub) askRepair(r *room) {
	s := h.srv
	want := contracts.Range{Epoch: r.epoch, From: r.passed + 1, To: min(r.head, r.passed+repairPage)}
	r.asked = true
	s.metrics.repairs.Inc()
	// The question leaves without the lock: its answer may come at once.
	q := question{
		subject:  s.subject(contracts.OpRepair, r.id),
		deadline: time.Now().Add(s.cfg.AskTime),
		body: func(dst []byte, left time.Duration) []byte {
			cmd := s.command(dst, contracts.OpRepair, 0, left, nil, r.id)
			cmd = append(cmd, `,"range":{"epoch":`...)
			cmd = strconv.AppendUint(cmd, uint64(want.Epoch), 10)
			cmd = append(cmd, `,"from":`...)
			cmd = strconv.AppendUint(cmd, uint64(want.From), 10)
			cmd = append(cmd, `,"to":`...)
			cmd = strconv.AppendUint(cmd, uint64(want.To), 10)
			return append(cmd, "}}"...)
		},
		done: func(a *contracts.Answer, _ *contracts.Error) { h.repaired(r, want.Epoch, a) },
	}
	s.wg.Go(func() { s.asker.ask(q) })
}

// repaired takes the answer: nil where there is none.
func (h *hub) repaired(r *room, epoch contracts.Epoch, a *contracts.Answer) {
	h.repairMu.Lock()
	h.running--
	h.repairMu.Unlock()
	sh := h.shard(r.lane)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	r.asked = false
	if !r.repairing || r.epoch != epoch {
		return
	}
	before := r.passed
	if a != nil {
		for _, e := range a.Entries {
			if e.Seq == r.passed+1 && !r.crowded() {
				h.pass(r, e.Seq, wire.AppendText(nil, e.JSON))
			}
		}
	}
	h.drain(r)
	now := time.Now()
	switch {
	case r.passed >= r.head:
		r.repairing = false
	case r.passed > before:
		r.since, r.tryAt = now, now
		h.tryRepair(r)
	case r.crowded(): // whatever was answered, it could not be handed on: that is no worker's fault
		r.since, r.tryAt = now, now.Add(repairTick)
	case now.Sub(r.since) >= repairTime:
		h.giveUp(r)
	default:
		r.tryAt = now.Add(100*time.Millisecond + rand.N(200*time.Millisecond))
	}
}

// giveUp tells the members of every hole, as the questions were for all that was missing, and goes on behind it, as far as
// the loops take it: a loop that waits for this shard takes no more before it is unlocked. The shard is locked.
func (h *hub) giveUp(r *room) {
	for ; r.passed < r.head && !r.crowded(); h.drain(r) {
		to := r.head
		for seq := range r.aside {
			to = min(to, seq-1)
		}
		if to == r.passed {
			continue // what comes next is there
		}
		h.srv.metrics.gaps.Inc()
		h.srv.log.Warn("entries could not be read in time; members are told of a gap", "room", r.id, "from", r.passed+1, "to", to)
		h.hand(r, item{kind: itemGap, epoch: r.epoch, seq: r.passed + 1, to: to})
		r.passed = to
	}
	r.repairing = r.passed < r.head
}

// retryRepairs asks again where it is time, and forgets what is repaired.
func (h *hub) retryRepairs(now time.Time) {
	h.repairMu.Lock()
	waiting := slices.Collect(maps.Keys(h.repairs))
	h.repairMu.Unlock()
	for _, r := range waiting {
		sh := h.shard(r.lane)
		sh.mu.Lock()
		switch {
		case !r.repairing || !r.asked && r.passed >= r.head:
			r.repairing = false // what was missing may have come by itself
			h.repairMu.Lock()
			delete(h.repairs, r)
			h.repairMu.Unlock()
		case !r.asked && !now.Before(r.tryAt):
			if h.drain(r); r.crowded() {
				r.since = now
			} else if r.passed < r.head {
				h.tryRepair(r)
			}
		}
		sh.mu.Unlock()
	}
}

// askHeads asks the dispatchers for the heads of some rooms. of is called with the room's shard locked.
func (h *hub) askHeads(of func(*room) bool) {
	rooms := make(map[int32][]contracts.RoomID)
	for i := range h.shards {
		sh := &h.shards[i]
		sh.mu.Lock()
		for id, r := range sh.rooms {
			if r.known && of(r) {
				p := r.lane.Partition(h.srv.cfg.Partitions)
				rooms[p] = append(rooms[p], id)
			}
		}
		sh.mu.Unlock()
	}
	for partition, ids := range rooms {
		for chunk := range slices.Chunk(ids, headsPerQuestion) {
			h.askHeadsOf(partition, chunk)
		}
	}
}

// askHeadsOf asks for the heads of at most headsPerQuestion rooms of a partition. Those that the answer lacks, because
// their records wait for the store or because there is none, are asked for again by run.
func (h *hub) askHeadsOf(partition int32, ids []contracts.RoomID) {
	s := h.srv
	body, err := contracts.Marshal(contracts.Question{Heads: ids, Partly: true, LeftMS: pullEvery.Milliseconds()})
	if err != nil {
		return
	}
	s.ask.Ask(s.cfg.Names.Dispatch(partition), body, pullEvery, func(reply []byte, err error) {
		var answer contracts.Reply
		failed := err != nil || json.Unmarshal(reply, &answer) != nil || answer.Err != nil || len(answer.Heads) != len(ids)
		late := make(map[contracts.RoomID]bool)
		for _, id := range answer.Unsettled {
			late[id] = true
		}
		for i, id := range ids {
			sh := h.shard(contracts.LaneOf(id))
			sh.mu.Lock()
			if r := sh.rooms[id]; r != nil {
				if r.unsure = failed || late[id]; r.unsure {
					h.unsure.Store(true)
				} else {
					h.noteHead(r, answer.Epoch, answer.Heads[i].Seq)
				}
			}
			sh.mu.Unlock()
		}
	})
}
