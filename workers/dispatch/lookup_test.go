package dispatch_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
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
