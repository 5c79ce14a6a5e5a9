package dispatch_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/workers/dispatch"
)

// A store that has little time answers a few questions before they are given up, and none where all are asked at once,
// again and again. Whoever takes everything over there gets ready in about the time that the answers take one by one.
func TestTakeOverFromSlowStore(t *testing.T) {
	tests := []struct {
		name              string
		partitions, rooms int
		takes, within     time.Duration
	}{
		{"many partitions", 64, 64, 500 * time.Millisecond, 60 * time.Second},
		{"many rooms", 1, 300, 50 * time.Millisecond, 60 * time.Second},
		{"one answer hardly in time", 64, 32, 2 * time.Second, 150 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.partitions = tt.partitions
				w.storeTakes = tt.takes
				perPartition := make(map[int32]int)
				for i, rooms := 0, 0; rooms < tt.rooms; i++ {
					room := fmt.Sprintf("room-%d", i)
					p := contracts.LaneOf(contracts.RoomID(room)).Partition(tt.partitions)
					if perPartition[p] >= (tt.rooms+tt.partitions-1)/tt.partitions {
						continue
					}
					perPartition[p]++
					rooms++
					w.send(room, "text")
				}
				d, stop := w.run(dispatch.Config{})
				defer stop()
				began := time.Now()
				elapse(time.Second)
				for err := d.Ready(); err != nil; err = d.Ready() {
					if time.Since(began) > tt.within {
						t.Fatalf("not ready after %v: %v", tt.within, err)
					}
					elapse(time.Second)
				}
				t.Logf("ready after %v", time.Since(began))
			})
		})
	}
}

// brokenFor is a store that cannot look up what is of one partition.
type brokenFor struct {
	*world
	partition int32
}

func (s brokenFor) Lookup(ctx context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (fe, fh []roomlog.Found, err error) {
	for _, q := range heads {
		if contracts.LaneOf(q.Room).Partition(s.partitions) == s.partition {
			return nil, nil, errAway
		}
	}
	return s.world.Lookup(ctx, entries, heads)
}

// A partition whose look-ups always fail slows the pace for all, but does not keep it while it waits to try again.
func TestFailingPartitionHoldsUpNoOther(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.partitions = 2
		rooms := make(map[int32][]contracts.RoomID)
		for i := 0; len(rooms[0]) < 300 || len(rooms[1]) < 30; i++ {
			room := contracts.RoomID(fmt.Sprintf("room-%d", i))
			p := contracts.LaneOf(room).Partition(2)
			rooms[p] = append(rooms[p], room)
		}
		for _, room := range rooms[0] {
			w.send(string(room), "text")
		}
		_, stop := w.runWith(dispatch.Config{}, func(deps *dispatch.Deps) { deps.Store = brokenFor{w, 0} })
		defer stop()
		elapse(20 * time.Second)
		for _, room := range rooms[1][:30] {
			began := time.Now()
			if r := w.head(string(room)); r.Err != nil || time.Since(began) > 100*time.Millisecond {
				t.Errorf("the head of %s came after %v: %v", room, time.Since(began), r.Err)
			}
			elapse(300 * time.Millisecond)
		}
	})
}
