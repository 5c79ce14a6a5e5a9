package edge_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
)

// entries answers a repair with the entries from … to.
func (q *asked) entries(from, to contracts.Seq) {
	a := contracts.Answer{Entries: []contracts.NumberedJSON{}}
	for seq := from; seq <= to; seq++ {
		a.Entries = append(a.Entries, contracts.NumberedJSON{Seq: seq, JSON: json.RawMessage(entryJSON(q.Room, q.Range.Epoch, seq))})
	}
	q.answer(a)
}

func (w *world) repair(t *testing.T, from, to contracts.Seq) *asked {
	t.Helper()
	q := w.worker.next(t, contracts.OpRepair)
	if q.Range == nil || *q.Range != (contracts.Range{Epoch: 1, From: from, To: to}) {
		t.Fatalf("asked for %+v instead of %d to %d", q.Range, from, to)
	}
	return q
}

func TestRepair(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		c.joined(w, lobby, 10)
		// A hole: nothing behind it is delivered before it is filled; a part of an answer is asked on from.
		w.say(lobby, 11)
		w.say(lobby, 15)
		w.say(lobby, 16)
		c.entry(11)
		q := w.repair(t, 12, 15)
		c.quiet()
		q.entries(12, 13)
		c.entry(12)
		c.entry(13)
		q = w.repair(t, 14, 16)
		q.entries(14, 14)
		for seq := contracts.Seq(14); seq <= 16; seq++ {
			c.entry(seq)
		}
		// A head tells that the last one was lost. Failures are asked again; wrong answers are not taken.
		w.ear.publish(headOf(lobby, 1, 17), headOf(lobby, 1, 16))
		w.repair(t, 17, 17).answer(rpc.ErrNoServer)
		w.repair(t, 17, 17).entries(18, 20)
		w.repair(t, 17, 17).answer(`nonsense`)
		w.repair(t, 17, 17).entries(16, 17)
		c.entry(17)
		// The hole is filled by itself while the repair is asked.
		w.say(lobby, 19)
		q = w.repair(t, 18, 19)
		w.say(lobby, 18)
		c.entry(18)
		c.entry(19)
		q.entries(18, 19)
		w.say(lobby, 20)
		c.entry(20)
		c.quiet()
		// A join may wait behind a hole.
		w.say(lobby, 22)
		q = w.repair(t, 21, 22)
		d := w.connected()
		d.joined(w, lobby, 22)
		q.entries(21, 21)
		c.entry(21)
		c.entry(22)
		w.say(lobby, 23)
		d.entry(23)
	})
}

func TestRepairPages(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		c.joined(w, lobby, 0)
		w.ear.publish(headOf(lobby, 1, 1200))
		for _, page := range [][2]contracts.Seq{{1, 500}, {501, 1000}, {1001, 1200}} {
			w.repair(t, page[0], page[1]).entries(page[0], page[1])
			for seq := page[0]; seq <= page[1]; seq++ {
				c.entry(seq)
			}
		}
	})
}

func TestRepairGivesUp(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		w.worker.script(contracts.OpRepair, func(q *asked) { q.answer(rpc.ErrNoServer) })
		c := w.connected()
		c.joined(w, lobby, 10)
		begin := time.Now()
		w.say(lobby, 12)
		w.say(lobby, 14)
		// A join under way meanwhile fails; then the gap is told to it as well.
		c.join(6, lobby)
		q := w.worker.next(t, contracts.OpJoin)
		d := w.connected()
		d.joined(w, lobby, 10)
		for _, step := range []struct{ gap, entry contracts.Seq }{{11, 12}, {13, 14}} {
			if m := d.get(); m.Event != "gap" || m.from() != step.gap || m.To != step.gap {
				t.Fatalf("got %s instead of a gap at %d", m.raw, step.gap)
			}
			d.entry(step.entry)
		}
		if took := time.Since(begin); took < 5*time.Second {
			t.Errorf("gave up after %s", took)
		}
		q.err(contracts.CodeUnavailable)
		c.fails(6, contracts.CodeUnavailable)
		if m := c.get(); m.Event != "gap" || m.from() != 11 || m.To != 13 {
			t.Fatalf("got %s instead of a gap", m.raw)
		}
		c.entry(14)
		if n := w.metric("gaps_total"); n != 2 {
			t.Errorf("%v gaps counted", n)
		}
	})
}

// TestAway loses everything while the lanes are not heard: the heads are asked for, again and again, and once more
// when they are heard again.
func TestAway(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		w.worker.script(opHeads, nil)
		c := w.connected()
		c.joined(w, lobby, 10)
		group := contracts.LaneOf(lobby).Group()
		w.ear.receiver.Down(group)
		w.ear.receiver.Down((group + 1) % contracts.LaneGroups)
		heads := func(seq contracts.Seq) {
			t.Helper()
			q := w.worker.next(t, opHeads)
			if len(q.heads) != 1 || q.heads[0] != lobby {
				t.Fatalf("asked for the heads of %v", q.heads)
			}
			q.answer(contracts.Reply{Epoch: 1, Certain: true, Heads: []contracts.Head{{Seq: seq}}})
		}
		heads(11)
		w.repair(t, 11, 11).entries(11, 11)
		c.entry(11)
		heads(12)
		w.repair(t, 12, 12).entries(12, 12)
		c.entry(12)
		w.ear.receiver.Up(group)
		w.ear.receiver.Up((group + 1) % contracts.LaneGroups)
		heads(13)
		w.repair(t, 13, 13).entries(13, 13)
		c.entry(13)
		if n := w.metric("lane_groups_unheard"); n != 0 {
			t.Errorf("%v groups unheard", n)
		}
		// Answers that say nothing change nothing.
		for _, answer := range []any{`nonsense`, contracts.Reply{Err: contracts.NewError(contracts.CodeUnavailable, "x")}, contracts.Reply{Epoch: 1}} {
			w.ear.receiver.Up(group)
			w.worker.next(t, opHeads).answer(answer)
		}
		c.quiet()
		w.ear.receiver.Up(group)
		w.worker.next(t, opHeads).answer(contracts.Reply{Epoch: 2, Heads: []contracts.Head{{Seq: 3}}})
		if m := c.get(); m.Event != "reset" || m.Epoch != 2 || m.Head != 3 {
			t.Fatalf("got %s instead of a reset", m.raw)
		}
	})
}

// TestUnsettledHead: a room whose records wait for the store keeps no other one from its head, and is asked about again;
// so are all where nobody answered.
func TestUnsettledHead(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		w.worker.script(opHeads, nil)
		lane := contracts.LaneOf(lobby)
		var late contracts.RoomID // shares lobby's questions
		for i := 0; late == "" || contracts.LaneOf(late) != lane; i++ {
			late = contracts.RoomID(fmt.Sprint("late", i))
		}
		c, d := w.connected(), w.connected()
		c.joined(w, lobby, 10)
		d.joined(w, late, 20)
		next := func(rooms ...contracts.RoomID) *asked {
			t.Helper()
			q := w.worker.next(t, opHeads)
			slices.Sort(rooms)
			if !slices.Equal(slices.Sorted(slices.Values(q.heads)), rooms) || !q.partly {
				t.Fatalf("asked for the heads of %v, partly %t, instead of %v", q.heads, q.partly, rooms)
			}
			return q
		}
		w.ear.receiver.Up(lane.Group())
		next(lobby, late).answer(rpc.ErrTimeout)
		q := next(lobby, late)
		reply := contracts.Reply{Epoch: 1, Unsettled: []contracts.RoomID{late}, Heads: make([]contracts.Head, 2)}
		reply.Heads[slices.Index(q.heads, lobby)].Seq = 11
		q.answer(reply)
		w.repair(t, 11, 11).entries(11, 11)
		c.entry(11)
		next(late).answer(contracts.Reply{Epoch: 1, Heads: []contracts.Head{{Seq: 21}}})
		w.repair(t, 21, 21).entries(21, 21)
		d.entry(21)
	})
}

// TestHeadBeforeJoinIsKnown: a head that is heard while the room's first join is under way is not forgotten.
func TestHeadBeforeJoinIsKnown(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		c.join(2, lobby)
		q := w.worker.next(t, contracts.OpJoin)
		w.ear.publish(headOf(lobby, 1, 11))
		q.joined(contracts.JoinComplete, 1, 10)
		c.reply(2)
		w.repair(t, 11, 11).entries(11, 11)
		c.entry(11)
	})
}
