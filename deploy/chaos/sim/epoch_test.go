package sim_test

import (
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/check"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// A partition's log is lost and a new epoch begins: every client that listens to a room of it is told, whatever became of the
// dispatcher that knew the room, and what is said from then on goes on where the room stood.
func TestClientsLearnANewEpoch(t *testing.T) {
	for name, between := range map[string]func(*world){
		"the same dispatchers": func(*world) {},
		"others": func(w *world) {
			for i := range w.dispatchers {
				w.replace(w.dispatchers, i, w.startDispatcher)
			}
		},
		"others, again and again": func(w *world) {
			for range 8 {
				for i := range w.dispatchers {
					w.replace(w.dispatchers, i, w.startDispatcher)
				}
				pass(5 * time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var events []history.Event
			var resets map[string]int
			id := contracts.LaneOf(roomName(0)).Partition(partitions)
			inWorld(t, 1, func(w *world) {
				w.note(history.Event{Kind: history.Fault, Fault: "loss", What: "loss", Silent: true})
				for range clients {
					c := w.connect()
					for i := range rooms {
						c.listen(roomName(i))
					}
				}
				pass(time.Second)
				for i := range rooms {
					w.clients[i].send(roomName(i), 3, 0)
				}
				for !w.settled() {
					pass(time.Second)
				}
				before := len(w.events)
				w.log.Lose(id)
				between(w)
				pass(90 * time.Second)
				// Nobody has said a word since.
				resets = make(map[string]int)
				for _, e := range w.events[before:] {
					if e.Kind == history.Reset && contracts.LaneOf(e.Room).Partition(partitions) == id && e.Epoch == 2 && e.Head == 3 {
						resets[e.Client+" in "+string(e.Room)]++
					}
				}
				for i := range rooms {
					w.clients[i].send(roomName(i), 3, 0)
				}
				w.rest()
				w.dump()
				events = w.events
			})
			want := 0
			for i := range rooms {
				if contracts.LaneOf(roomName(i)).Partition(partitions) == id {
					want += clients
				}
			}
			for who, n := range resets {
				if n != 1 {
					t.Errorf("%s was told %d times", who, n)
				}
			}
			if len(resets) != want {
				t.Errorf("%d of %d listeners were told: %v", len(resets), want, resets)
			}
			judge := check.New(check.Config{})
			for _, e := range events {
				judge.Add(e)
			}
			if r := judge.Finish(); !r.Good() {
				t.Error(report(t, r))
			}
		})
	}
}
