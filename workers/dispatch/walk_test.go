package dispatch_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/workers/dispatch"
)

// TestRandomWalk takes a dispatcher through crashes, hand-overs, late copies, forgetting, a store and a Redis that are away
// and entries that are lost on their way, and compares all that it says with the plain numbering of the log.
func TestRandomWalk(t *testing.T) {
	walks := 100
	if testing.Short() {
		walks = 20
	}
	for seed := range walks {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) { walk(t, w, rand.New(rand.NewPCG(uint64(seed), 1))) })
		})
	}
}

func walk(t *testing.T, w *world, rnd *rand.Rand) {
	cfg := dispatch.Config{
		RingBytes: 1500, WaitingBytes: 3000, QueueBytes: 2000,
		Limits: roomlog.Limits{Rooms: 2, Keys: 4},
	}
	var sent []contracts.Record
	_, stop := w.run(cfg)
	lost := rand.New(rand.NewPCG(rnd.Uint64(), 2)) // the world's, guarded by its mu
	w.set(func() { w.lossy = func() bool { return lost.IntN(4) == 0 } })
	for range 60 {
		switch rnd.IntN(12) {
		case 0, 1, 2, 3:
			for range 1 + rnd.IntN(4) {
				r := w.record(fmt.Sprintf("room-%d", rnd.IntN(4)), "x")
				sent = append(sent, r)
				w.append(r)
			}
		case 4:
			// Accepted long before others, written late: its key time is below K.
			r := w.recordAt(fmt.Sprintf("room-%d", rnd.IntN(4)), "late", 1_000_001+int64(rnd.IntN(500)))
			sent = append(sent, r)
			w.append(r)
		case 5:
			if len(sent) > 0 {
				w.append(sent[rnd.IntN(len(sent))])
			}
		case 6:
			w.set(func() { w.log(0).values = append(w.log(0).values, []byte("?")) })
		case 7:
			var from, end int64
			w.look(func() { from, end = w.checkpoints[0].Offset, w.log(0).end() })
			w.persist(0, from+rnd.Int64N(end-from+1))
		case 8:
			away := rnd.IntN(2) == 0
			w.set(func() {
				if w.storeErr = nil; away {
					w.storeErr = errAway
				}
			})
		case 9:
			away := rnd.IntN(2) == 0
			w.set(func() {
				if w.publish = nil; away {
					w.publish = func([]contracts.EnvelopeKind) error { return errAway }
				}
			})
		case 10, 11:
			crash := rnd.IntN(2) == 0
			w.set(func() { w.crash = crash })
			stop()
			w.set(func() { w.crash = false })
			_, stop = w.run(cfg)
		}
		elapse(time.Duration(rnd.IntN(1500)) * time.Millisecond)
		checkTold(t, w)
		if t.Failed() {
			break
		}
	}
	w.set(func() { w.storeErr, w.publish = nil, nil })
	elapse(15 * time.Second)
	defer stop()
	checkTold(t, w)
	checkAnswers(t, w)
	if c := w.commit(0); c == nil || c.Offset != w.log(0).end() {
		t.Errorf("committed %+v at last, want %d", c, w.log(0).end())
	}
}

// checkTold compares what was told with the reference, and D with what was announced.
func checkTold(t *testing.T, w *world) {
	t.Helper()
	w.look(func() {
		type place struct {
			room contracts.RoomID
			seq  contracts.Seq
		}
		right := make(map[place]string)
		entries := w.numbered(0)
		for _, e := range entries {
			right[place{e.Room, e.Seq}] = string(contracts.AppendEntry(nil, &e))
		}
		heads := make(map[contracts.RoomID][]told)
		for _, e := range w.told {
			switch e.Kind {
			case contracts.EnvelopeEntry:
				if diff := cmp.Diff(right[place{e.Room, e.Seq}], string(e.Body)); diff != "" {
					t.Errorf("room %s, entry %d (-want +got):\n%s", e.Room, e.Seq, diff)
				}
			case contracts.EnvelopeHead:
				if _, ok := right[place{e.Room, e.Seq}]; !ok {
					t.Errorf("room %s: head %d of no entry", e.Room, e.Seq)
				}
				heads[e.Room] = append(heads[e.Room], e)
			}
		}
		for _, e := range entries {
			if e.Offset >= w.commits[0].Offset {
				break
			}
			n := 0
			for _, h := range heads[e.Room] {
				if h.Seq >= e.Seq {
					n++
				}
			}
			if n < 2 {
				t.Errorf("committed %d, but entry %d of room %s at %d was in %d heads", w.commits[0].Offset, e.Seq, e.Room, e.Offset, n)
			}
		}
	})
}

// checkAnswers reads every room through the dispatcher and, below its floor, the store.
func checkAnswers(t *testing.T, w *world) {
	t.Helper()
	want := make(map[contracts.RoomID][]string)
	stored := make(map[contracts.RoomID]contracts.Seq)
	w.look(func() {
		for _, e := range w.numbered(0) {
			want[e.Room] = append(want[e.Room], string(contracts.AppendEntry(nil, &e)))
		}
		for _, e := range w.rows() {
			stored[e.Room] = max(stored[e.Room], e.Seq)
		}
	})
	for room, all := range want {
		r := <-w.ask(0, contracts.Question{
			Heads: []contracts.RoomID{room}, Room: room, Read: &contracts.Range{Epoch: 1, From: 1, To: 1 << 40}, LeftMS: 1000,
		})
		if r.Err != nil || r.Heads[0].Seq != contracts.Seq(len(all)) || r.Heads[0].Floor != r.Floor || r.Floor < 1 || r.Floor-1 > stored[room] {
			t.Errorf("room %s: %+v (%v), want head %d and a floor of at most %d", room, r.Heads, r.Err, len(all), stored[room]+1)
			continue
		}
		if diff := cmp.Diff(all[r.Floor-1:], bodies(r), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("room %s from %d (-want +got):\n%s", room, r.Floor, diff)
		}
	}
}
