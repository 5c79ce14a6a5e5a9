//go:build !lean

package fanout_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

// manyRooms returns presences of so many people of one name, each in a room of its own.
func manyRooms(n int) (who []contracts.Presence) {
	for i := range n {
		room := contracts.RoomID(fmt.Sprint("room", i))
		who = append(who, contracts.Presence{Room: room, User: contracts.Person{ID: "ann", Name: "Ann"}})
	}
	return who
}

// answered is a hook of a client that plays a cluster's servers: who is in a room leaves it. The server of one lane group
// hangs.
type answered struct {
	t     *testing.T
	begun time.Time
	hangs int // that group; -1: none

	mu   sync.Mutex
	most int // guarded by mu; rooms in one run
}

func (*answered) DialHook(next redis.DialHook) redis.DialHook { return next }

func (*answered) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (a *answered) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		script, ok := cmd.(*redis.Cmd)
		switch {
		case !ok: // the leases
			return nil
		case strings.Contains(fmt.Sprint(cmd.Args()[3]), fmt.Sprintf(":{g%d}:", a.hangs)):
			<-ctx.Done()
			return ctx.Err()
		case time.Since(a.begun) > 0:
			a.t.Errorf("%v waited for another group", cmd.Args()[3])
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		var results []any
		rooms := cmd.Args()[2].(int) / 2
		a.most = max(a.most, rooms)
		for range rooms {
			results = append(results, []any{int64(1), int64(0), int64(1), int64(0)})
		}
		script.SetVal(results)
		return nil
	}
}

// TestRosterRunsAreShort: people of very many rooms do not go through one run of the script, during which Redis does
// nothing else.
func TestRosterRunsAreShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, hook := connect(t, "redis://unused"), &answered{t: t, begun: time.Now(), hangs: -1}
		client.AddHook(hook)
		who := manyRooms(501)
		got, err := fanout.NewRoster(client, fresh()).Leave(t.Context(), "n1", who)
		if err != nil || len(got) != len(who) {
			t.Fatalf("%d changes, %v", len(got), err)
		}
		for i, c := range got {
			if !c.Changed {
				t.Errorf("change %d is %v", i, c)
			}
		}
		if hook.most != 100 {
			t.Errorf("the longest run visited %d rooms, want 100", hook.most)
		}
	})
}

// TestRosterServerHangs: on a cluster, people of rooms whose server hangs keep nobody else from leaving, and who left is
// told of beside the error.
func TestRosterServerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := connect(t, "redis://unused")
		const ill = 3
		client.AddHook(&answered{t: t, begun: time.Now(), hangs: ill})
		r := fanout.NewRoster(client, fresh())
		r.SplitQueues()
		who := manyRooms(200)
		got, err := r.Leave(t.Context(), "n1", who)
		if !errors.Is(err, context.DeadlineExceeded) || len(got) != len(who) {
			t.Fatalf("%d changes, %v", len(got), err)
		}
		for i, c := range got {
			if c.Changed != (contracts.LaneOf(who[i].Room).Group() != ill) {
				t.Errorf("the change of room %s is %v", who[i].Room, c)
			}
		}
	})
}

// TestRosterOldReading: a room that somebody enters, just when an old reading hides the lease of his node, is rid of him
// all the same when the node dies, even if nobody looked while it lived.
func TestRosterOldReading(t *testing.T) {
	client := connect(t, server(t).URL())
	r := fanout.NewRoster(client, fresh())
	now, old := time.Now(), false
	r.SetClock(func() time.Time {
		if old {
			r.Forget("dies") // also behind the making sure of its lease, as the clock is read again for the run
		}
		return now
	})
	enter := func(node contracts.NodeID, room contracts.RoomID) {
		t.Helper()
		who := []contracts.Presence{{Room: room, User: contracts.Person{ID: "ann", Name: "Ann"}}}
		if _, err := r.Enter(t.Context(), node, who); err != nil {
			t.Fatal(err)
		}
	}
	enter("lives", "elsewhere")
	old = true
	enter("dies", "room")
	old = false
	for range 2 {
		now = now.Add(10 * time.Second)
		if err := r.Renew(t.Context(), "lives"); err != nil {
			t.Fatal(err)
		}
	}
	if count, people, err := r.List(t.Context(), "room", 10); err != nil || count != 0 {
		t.Errorf("List = %d, %v, %v; want nobody", count, people, err)
	}
}
