package workers_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/workers"
)

// hanging plays a cluster of which the server of one lane group hangs: what goes to the others is out at once, the call
// ends with ctx.
type hanging struct {
	next  fanout.Publisher
	group int
}

func (*hanging) Sharded() bool { return true }

func (p *hanging) Publish(ctx context.Context, messages []fanout.Message) error {
	var out []fanout.Message
	for _, m := range messages {
		if m.Lane.Group() != p.group {
			out = append(out, m)
		}
	}
	if err := p.next.Publish(ctx, out); err != nil || len(out) == len(messages) {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// TestServerHangs: events of rooms whose server is well go at once, also those that one request has for many rooms.
func TestServerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		f.replace(func(d *workers.Deps) { d.Publisher = &hanging{next: d.Publisher} })
		var well, ill []contracts.RoomID
		for i := 0; len(ill) < 10; i++ {
			if room := contracts.RoomID(fmt.Sprint("room", i)); contracts.LaneOf(room).Group() == 0 {
				ill = append(ill, room)
			} else {
				well = append(well, room)
			}
		}
		wantTold := func(what string, want int) {
			t.Helper()
			synctest.Wait()
			if got := len(f.told()); got != want {
				t.Errorf("%s: %d events got out, want %d", what, got, want)
			}
		}
		typing := func(room contracts.RoomID) {
			c := cmd(contracts.OpTyping, `{"on":true}`)
			c.Room = room
			f.begin(c)
			synctest.Wait()
		}
		for i := range 100 {
			typing(ill[i%len(ill)])
			typing(well[i%len(well)])
		}
		wantTold("beside one that hangs", 100)

		gone := contracts.Command{Op: contracts.OpGone}
		f.set(func() {
			for _, room := range append(ill, well...) {
				f.online[room] = map[contracts.UserID]contracts.Person{ada.ID: ada}
				gone.Gone = append(gone.Gone, contracts.Presence{Room: room, User: ada})
			}
		})
		f.begin(gone)
		wantTold("of one request", len(well))
		time.Sleep(5 * time.Second)
		wantTold("later", 0)
	})
}
