package workers_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// TestUnsettledRoomHoldsUpNoKnownOne: any room's records may wait for the store.
func TestUnsettledRoomHoldsUpNoKnownOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := full(t, 5)
		var rooms []contracts.RoomID // of one partition
		for i := 0; len(rooms) < 200; i++ {
			if room := contracts.RoomID(fmt.Sprint("room", i)); contracts.LaneOf(room).Partition(8) == 3 {
				rooms = append(rooms, room)
			}
		}
		late := rooms[100]
		unsettled := false
		f.dispatch = func(q contracts.Question) (*contracts.Reply, error) {
			waits := unsettled && slices.Contains(q.Heads, late)
			took := 2 * time.Millisecond
			if waits && !q.Partly {
				took = 400 * time.Millisecond
			}
			f.mu.Unlock()
			time.Sleep(took)
			f.mu.Lock()
			r := &contracts.Reply{Epoch: 3, Certain: true}
			for _, room := range q.Heads {
				h := contracts.Head{Seq: contracts.Seq(len(room)), Floor: 1}
				if room == late && waits && q.Partly {
					h, r.Unsettled = contracts.Head{}, []contracts.RoomID{room}
				}
				r.Heads = append(r.Heads, h)
			}
			return r, nil
		}
		for pass := range 3 {
			f.set(func() { unsettled, f.questions = pass > 0, nil })
			begun := time.Now()
			type answer struct {
				contracts.Answer
				took time.Duration
			}
			answers := make([]chan answer, len(rooms))
			for i, room := range rooms {
				answers[i] = make(chan answer, 1)
				c := cmd(contracts.OpJoin, `{"limit":0}`)
				c.Room = room
				f.beginThen(c, func(a contracts.Answer) { answers[i] <- answer{a, time.Since(begun)} })
			}
			for i, room := range rooms {
				a := <-answers[i]
				if j := decode[contracts.JoinOK](t, a.Answer); j.Head != contracts.Seq(len(room)) {
					t.Errorf("pass %d: the join of %s is answered %+v", pass, room, j)
				}
				if room == late && a.took > 450*time.Millisecond || room != late && a.took > 10*time.Millisecond {
					t.Errorf("pass %d: the join of %s took %v", pass, room, a.took)
				}
			}
			f.set(func() {
				if n := len(f.questions); pass > 0 && n > 4 { // one may begin before the others have come, and the late room's are apart
					t.Errorf("pass %d: %d questions", pass, n)
				}
			})
		}
	})
}
