package bustest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

// RosterFixture makes rosters that share one set of rooms, which nobody else uses.
type RosterFixture struct {
	Roster func() fanout.Roster
	// Pass lets time pass for all of them.
	Pass func(time.Duration)
}

// Roster checks what package fanout promises of a Roster.
func Roster(t *testing.T, start func(t *testing.T) RosterFixture) {
	t.Run("enter and leave", func(t *testing.T) { testEnterLeave(t, start(t)) })
	t.Run("two nodes", func(t *testing.T) { testTwoNodes(t, start(t)) })
	t.Run("many at once", func(t *testing.T) { testManyAtOnce(t, start(t)) })
	t.Run("order", func(t *testing.T) { testOrder(t, start(t)) })
	t.Run("dead node", func(t *testing.T) { testDeadNode(t, start(t)) })
	t.Run("list", func(t *testing.T) { testList(t, start(t)) })
	t.Run("turn", func(t *testing.T) { testTurn(t, start(t)) })
}

func person(id string) contracts.Person {
	return contracts.Person{ID: contracts.UserID(id), Name: "Name of " + id, Guest: id == "guest"}
}

// who makes presences of people in one room.
func who(room contracts.RoomID, ids ...string) []contracts.Presence {
	var list []contracts.Presence
	for _, id := range ids {
		list = append(list, contracts.Presence{Room: room, User: person(id)})
	}
	return list
}

// expectChanges checks what Enter or Leave returned, apart from the order.
func expectChanges(t *testing.T, what string, got []fanout.Change, err error, want ...fanout.Change) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(fanout.Change{}, "Order")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func expectList(t *testing.T, r fanout.Roster, room contracts.RoomID, ids ...string) {
	t.Helper()
	count, people, err := r.List(t.Context(), room, 100)
	if err != nil {
		t.Fatalf("List(%s): %v", room, err)
	}
	var want []contracts.Person
	for _, id := range ids {
		want = append(want, person(id))
	}
	if count != len(ids) {
		t.Errorf("List(%s) counts %d people, want %d", room, count, len(ids))
	}
	if diff := cmp.Diff(want, people); diff != "" {
		t.Errorf("List(%s) (-want +got):\n%s", room, diff)
	}
}

func testEnterLeave(t *testing.T, f RosterFixture) {
	r, ctx := f.Roster(), t.Context()
	got, err := r.Enter(ctx, "n1", append(who("a", "bob", "ann", "bob"), who("b", "guest")...))
	expectChanges(t, "Enter", got, err, fanout.Change{Changed: true, Count: 1}, fanout.Change{Changed: true, Count: 2},
		fanout.Change{Count: 2}, fanout.Change{Changed: true, Count: 1})
	expectList(t, r, "a", "ann", "bob")
	expectList(t, r, "b", "guest")
	expectList(t, r, "nobody-is-here")

	got, err = r.Leave(ctx, "n1", append(who("a", "bob", "nobody"), who("b", "guest")...))
	expectChanges(t, "Leave", got, err, fanout.Change{Changed: true, Count: 1}, fanout.Change{Count: 1}, fanout.Change{Changed: true})
	expectList(t, r, "a", "ann")
	expectList(t, r, "b")
	got, err = r.Leave(ctx, "n1", who("b", "guest"))
	expectChanges(t, "Leave of an empty room", got, err, fanout.Change{})

	renamed := who("a", "ann")
	renamed[0].User.Name = `Änn "x"` + "\n"
	got, err = r.Enter(ctx, "n1", renamed)
	expectChanges(t, "Enter under another name", got, err, fanout.Change{Count: 1})
	if _, people, err := r.List(ctx, "a", 100); err != nil || len(people) != 1 || people[0] != renamed[0].User {
		t.Errorf("List = %v, %v; want %v", people, err, renamed[0].User)
	}
	got, err = r.Enter(ctx, "n1", nil)
	expectChanges(t, "Enter of nobody", got, err)
}

func testTwoNodes(t *testing.T, f RosterFixture) {
	r1, r2, ctx := f.Roster(), f.Roster(), t.Context()
	got, err := r1.Enter(ctx, "n1", who("a", "ann"))
	expectChanges(t, "Enter through n1", got, err, fanout.Change{Changed: true, Count: 1})
	got, err = r2.Enter(ctx, "n2", who("a", "ann", "bob"))
	expectChanges(t, "Enter through n2", got, err, fanout.Change{Count: 1}, fanout.Change{Changed: true, Count: 2})
	// r1 has read the nodes before n2 existed: it must not take n2 for dead.
	got, err = r1.Enter(ctx, "n1", who("a", "cem"))
	expectChanges(t, "Enter through n1", got, err, fanout.Change{Changed: true, Count: 3})
	expectList(t, r1, "a", "ann", "bob", "cem")
	got, err = r1.Leave(ctx, "n1", who("a", "ann"))
	expectChanges(t, "Leave through n1", got, err, fanout.Change{Count: 3})
	got, err = r1.Leave(ctx, "n2", who("a", "ann"))
	expectChanges(t, "Leave through n2", got, err, fanout.Change{Changed: true, Count: 2})
	expectList(t, r2, "a", "bob", "cem")
}

// testManyAtOnce lets many callers change the same rooms at the same time: each counts once, and what one does after
// another is seen in this order.
func testManyAtOnce(t *testing.T, f RosterFixture) {
	rosters := []fanout.Roster{f.Roster(), f.Roster()}
	rooms := []contracts.RoomID{"a", "b", "c"}
	const people = 60
	counts := make(map[contracts.RoomID]*[people + 1]atomic.Int32)
	for _, room := range rooms {
		counts[room] = new([people + 1]atomic.Int32)
	}
	var wg sync.WaitGroup
	for i := range people {
		for _, room := range rooms {
			wg.Go(func() {
				r, node := rosters[i%len(rosters)], contracts.NodeID(fmt.Sprint("n", i%7))
				whom := who(room, fmt.Sprintf("u%02d", i))
				got, err := r.Enter(t.Context(), node, whom)
				if err != nil || len(got) != 1 || !got[0].Changed || got[0].Count < 1 || got[0].Count > people {
					t.Errorf("Enter = %v, %v", got, err)
					return
				}
				counts[room][got[0].Count].Add(1)
				if i%2 == 1 {
					return
				}
				for n, change := range []func(context.Context, contracts.NodeID, []contracts.Presence) ([]fanout.Change, error){r.Enter, r.Leave, r.Leave, r.Enter} {
					got, err := change(t.Context(), node, whom)
					if err != nil || len(got) != 1 || got[0].Changed != (n == 1 || n == 3) {
						t.Errorf("change %d of %s = %v, %v", n, whom[0].User.ID, got, err)
					}
				}
			})
		}
	}
	wg.Wait()
	for _, room := range rooms {
		var ids []string
		for i := range people {
			ids = append(ids, fmt.Sprintf("u%02d", i))
		}
		expectList(t, rosters[0], room, ids...)
		if counts[room][1].Load() == 0 {
			t.Errorf("nobody was the first in room %s", room)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := rosters[0].Enter(ctx, "n1", who("d", "late")); err == nil {
		t.Error("Enter with an ended context succeeds")
	}
	expectList(t, rosters[1], "d")
}

// testOrder lets many callers enter two rooms at the same time: in the order of what they are told each room has become
// larger.
func testOrder(t *testing.T, f RosterFixture) {
	r := f.Roster()
	const callers = 60
	var mu sync.Mutex
	all := make(map[contracts.RoomID][]fanout.Change)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			id := fmt.Sprint("u", i)
			whom := append(who("a", id), who("b", id, id+"-guest")...)
			got, err := r.Enter(t.Context(), "n1", whom)
			if err != nil || len(got) != len(whom) {
				t.Errorf("Enter = %v, %v", got, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for n, c := range got {
				all[whom[n].Room] = append(all[whom[n].Room], c)
			}
		})
	}
	wg.Wait()
	for room, changes := range all {
		slices.SortFunc(changes, func(a, b fanout.Change) int { return int(a.Order) - int(b.Order) })
		for i, c := range changes {
			if c.Count != i+1 {
				t.Fatalf("change %d of room %s in their order is %v, want the count %d", i, room, c, i+1)
			}
		}
	}
}

func testDeadNode(t *testing.T, f RosterFixture) {
	r, ctx := f.Roster(), t.Context()
	enter := func(node contracts.NodeID, room contracts.RoomID, ids ...string) {
		t.Helper()
		if _, err := r.Enter(ctx, node, who(room, ids...)); err != nil {
			t.Fatal(err)
		}
	}
	for _, room := range []contracts.RoomID{"a", "b", "c"} {
		enter("dies", room, "ann", "bob")
		enter("lives", room, "bob", "cem")
	}
	enter("dies", "d", "ann")
	f.Pass(10 * time.Second)
	if err := r.Renew(ctx, "lives"); err != nil {
		t.Fatal(err)
	}
	expectList(t, r, "a", "ann", "bob", "cem")
	f.Pass(6 * time.Second)
	expectList(t, r, "a", "bob", "cem")
	expectList(t, r, "d")
	got, err := r.Enter(ctx, "lives", who("b", "dan", "ann"))
	expectChanges(t, "Enter beside a dead node", got, err, fanout.Change{Changed: true, Count: 3}, fanout.Change{Changed: true, Count: 4})
	got, err = r.Leave(ctx, "lives", who("c", "bob"))
	expectChanges(t, "Leave beside a dead node", got, err, fanout.Change{Changed: true, Count: 1})

	enter("dies", "a", "eve") // it was only slow
	expectList(t, r, "a", "bob", "cem", "eve")
}

func testList(t *testing.T, f RosterFixture) {
	r, ctx := f.Roster(), t.Context()
	const n = 3000
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprintf("u%04d", i))
	}
	got, err := r.Enter(ctx, "n1", who("big", ids...))
	if err != nil || !got[n-1].Changed || got[n-1].Count != n {
		t.Fatalf("Enter of %d people ends with %v, %v", n, got, err)
	}
	if _, err := r.Enter(ctx, "n2", who("big", ids[:100]...)); err != nil {
		t.Fatal(err)
	}
	count, people, err := r.List(ctx, "big", 100)
	if err != nil || count != n || len(people) != 100 {
		t.Fatalf("List = %d, %d people, %v; want %d and 100 people", count, len(people), err, n)
	}
	for i, p := range people {
		if p != person(string(p.ID)) || i > 0 && people[i-1].ID >= p.ID {
			t.Fatalf("people[%d] = %v after %v, want different people by id", i, p, people[max(i-1, 0)])
		}
	}
	if _, err := r.Enter(ctx, "n1", who("small", ids[:150]...)); err != nil {
		t.Fatal(err)
	}
	count, people, err = r.List(ctx, "small", 100)
	if err != nil || count != 150 || len(people) != 100 || people[0].ID != "u0000" || people[99].ID != "u0099" {
		t.Errorf("List = %d, %v, %v; want 150 and the first hundred", count, people, err)
	}
	if count, people, err = r.List(ctx, "small", 0); err != nil || count != 150 || len(people) != 0 {
		t.Errorf("List with limit 0 = %d, %v, %v; want 150 and nobody", count, people, err)
	}
}

func testTurn(t *testing.T, f RosterFixture) {
	r1, r2, ctx := f.Roster(), f.Roster(), t.Context()
	turn := func(what string, r fanout.Roster, room contracts.RoomID, want bool) {
		t.Helper()
		if got, err := r.Turn(ctx, room); err != nil || got != want {
			t.Errorf("%s: Turn(%s) = %v, %v; want %v", what, room, got, err, want)
		}
	}
	turn("first", r1, "a", true)
	turn("second", r2, "a", false)
	turn("another room", r2, "b", true)
	f.Pass(5500 * time.Millisecond)
	turn("5 s later", r2, "a", true)
	turn("again", r1, "a", false)
}
