package workers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/workers"
)

// told returns the bodies published since the last call.
func (f *world) told() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, e := range f.published {
		if e.Kind != contracts.EnvelopeEvent {
			f.t.Errorf("published kind %d", e.Kind)
		}
		all = append(all, string(e.Body))
	}
	f.published = nil
	return all
}

func joinAs(f *world, user contracts.UserID) contracts.JoinOK {
	c := cmd(contracts.OpJoin, `{}`)
	c.User = &contracts.Person{ID: user, Name: "n" + string(user)}
	return decode[contracts.JoinOK](f.t, f.do(c))
}

func TestPresenceOfSmallRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		wantTold := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, f.told()); diff != "" {
				t.Error(diff)
			}
			time.Sleep(time.Second) // the room's pause
		}
		if j := joinAs(f, "a"); j.Online != 1 {
			t.Errorf("online %d", j.Online)
		}
		wantTold(`{"event":"presence","room":"lobby","joined":[{"id":"a","name":"na"}],"left":[],"count":1}`)
		joinAs(f, "a")
		wantTold()
		if j := joinAs(f, "b"); j.Online != 2 {
			t.Errorf("online %d", j.Online)
		}
		wantTold(`{"event":"presence","room":"lobby","joined":[{"id":"b","name":"nb"}],"left":[],"count":2}`)
		p := decode[contracts.PresenceOK](t, f.do(cmd(contracts.OpPresence, `{}`)))
		if diff := cmp.Diff(contracts.PresenceOK{Count: 2, Users: []contracts.Person{{ID: "a", Name: "na"}, {ID: "b", Name: "nb"}}}, p); diff != "" {
			t.Error(diff)
		}
		leave := cmd(contracts.OpLeave, `{}`)
		leave.User = &contracts.Person{ID: "b", Name: "nb"}
		decode[struct{}](t, f.do(leave))
		wantTold(`{"event":"presence","room":"lobby","joined":[],"left":[{"id":"b","name":"nb"}],"count":1}`)
		joinAs(f, "c")
		wantTold(`{"event":"presence","room":"lobby","joined":[{"id":"c","name":"nc"}],"left":[],"count":2}`)
		gone := contracts.Command{Op: contracts.OpGone}
		decode[struct{}](t, f.do(gone))
		wantTold()
		for _, id := range []contracts.UserID{"a", "x", "c"} {
			gone.Gone = append(gone.Gone, contracts.Presence{Room: "lobby", User: contracts.Person{ID: id, Name: "n" + string(id)}})
		}
		decode[struct{}](t, f.do(gone))
		wantTold(`{"event":"presence","room":"lobby","joined":[],"left":[{"id":"a","name":"na"},{"id":"c","name":"nc"}],"count":0}`)
		if f.renewed != 2 {
			t.Errorf("lease renewed %d times", f.renewed)
		}
		if p := f.do(cmd(contracts.OpPresence, `{}`)); string(p.OK) != `{"count":0,"users":[]}` {
			t.Errorf("nobody is %s", p.OK)
		}
	})
}

// Above a hundred people only the number is told, in turn, and always the last one.
func TestPresenceOfLargeRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		f.base = 100
		number := func(n int) string {
			return fmt.Sprintf(`{"event":"presence","room":"lobby","joined":[],"left":[],"count":%d}`, n)
		}
		joinAs(f, "a")
		synctest.Wait()
		if diff := cmp.Diff([]string{number(101)}, f.told()); diff != "" {
			t.Error(diff)
		}
		f.set(func() { f.turn = false })
		for i := range 50 {
			joinAs(f, contracts.UserID(fmt.Sprint("u", i)))
		}
		synctest.Wait()
		if told := f.told(); len(told) != 0 {
			t.Errorf("told out of turn: %v", told)
		}
		time.Sleep(11 * time.Second) // not our turn the first time either
		if told := f.told(); len(told) != 0 {
			t.Errorf("told out of turn: %v", told)
		}
		f.set(func() { f.turn = true })
		time.Sleep(6 * time.Second)
		if diff := cmp.Diff([]string{number(151)}, f.told()); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Minute)
		if told := f.told(); len(told) != 0 {
			t.Errorf("told again: %v", told)
		}
		// Many who go at once are a number too, however few stay.
		f.set(func() { f.base = 60 })
		gone := contracts.Command{Op: contracts.OpGone}
		for i := range 120 {
			u := contracts.Person{ID: contracts.UserID(fmt.Sprint("v", i)), Name: "v"}
			f.online["lobby"][u.ID] = u
			gone.Gone = append(gone.Gone, contracts.Presence{Room: "lobby", User: u})
		}
		decode[struct{}](t, f.do(gone))
		synctest.Wait()
		if diff := cmp.Diff([]string{number(111)}, f.told()); diff != "" {
			t.Error(diff)
		}
	})
}

// Presence is not promised: without a roster joins and leaves work all the same.
func TestRosterAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		f.rosterDown = true
		if j := joinAs(f, "a"); j.Online != 1 || j.State != contracts.JoinComplete {
			t.Errorf("got %+v", j)
		}
		decode[struct{}](t, f.do(cmd(contracts.OpLeave, `{}`)))
		wantErr(t, f.do(cmd(contracts.OpPresence, `{}`)), contracts.CodeUnavailable, "")
		wantErr(t, f.do(contracts.Command{Op: contracts.OpGone}), contracts.CodeUnavailable, "")
		f.set(func() { f.rosterDown, f.publishErr = false, errAway })
		joinAs(f, "a")
		decode[struct{}](t, f.do(cmd(contracts.OpTyping, `{"on":true}`)))
	})
}

// halfRoster is a roster of which one room's server hangs.
type halfRoster struct {
	fanout.Roster
	ill contracts.RoomID
}

func (r *halfRoster) Leave(ctx context.Context, node contracts.NodeID, who []contracts.Presence) ([]fanout.Change, error) {
	changes, err := r.Roster.Leave(ctx, node, who)
	for i := range who {
		if who[i].Room == r.ill {
			changes[i] = fanout.Change{}
			<-ctx.Done()
			err = ctx.Err()
		}
	}
	return changes, err
}

// TestPartOfRosterAway: rooms hear of those who left although others could not be taken off their rosters.
func TestPartOfRosterAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		f.replace(func(d *workers.Deps) { d.Roster = &halfRoster{Roster: d.Roster, ill: "ill"} })
		gone := contracts.Command{Op: contracts.OpGone}
		for _, room := range []contracts.RoomID{"ill", "well"} {
			f.online[room] = map[contracts.UserID]contracts.Person{ada.ID: ada}
			gone.Gone = append(gone.Gone, contracts.Presence{Room: room, User: ada})
		}
		decode[struct{}](t, f.do(gone))
		synctest.Wait()
		want := []string{`{"event":"presence","room":"well","joined":[],"left":[{"id":"u1","name":"Ada"}],"count":0}`}
		if diff := cmp.Diff(want, f.told()); diff != "" {
			t.Error(diff)
		}
	})
}

// lateRoster answers some people's entries late.
type lateRoster struct {
	fanout.Roster
	order atomic.Uint64
	late  map[contracts.UserID]time.Duration
}

func (r *lateRoster) Enter(ctx context.Context, node contracts.NodeID, who []contracts.Presence) ([]fanout.Change, error) {
	changes, err := r.Roster.Enter(ctx, node, who)
	changes[0].Order = r.order.Add(1)
	time.Sleep(r.late[who[0].User.ID])
	return changes, err
}

// TestPresenceCountsTheLast: the number of people is that after the last change of the roster, whoever tells it last.
func TestPresenceCountsTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		f.replace(func(d *workers.Deps) {
			d.Roster = &lateRoster{Roster: d.Roster, late: map[contracts.UserID]time.Duration{"a": 20 * time.Millisecond, "b": 10 * time.Millisecond}}
		})
		for _, id := range []contracts.UserID{"a", "b", "c"} {
			c := cmd(contracts.OpJoin, `{}`)
			c.User = &contracts.Person{ID: id, Name: "n" + string(id)}
			f.begin(c)
			synctest.Wait()
		}
		time.Sleep(time.Second)
		want := []string{
			`{"event":"presence","room":"lobby","joined":[{"id":"c","name":"nc"}],"left":[],"count":3}`,
			`{"event":"presence","room":"lobby","joined":[{"id":"b","name":"nb"},{"id":"a","name":"na"}],"left":[],"count":3}`,
		}
		if diff := cmp.Diff(want, f.told()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestTyping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		decode[struct{}](t, f.do(cmd(contracts.OpTyping, `{"on":true}`)))
		synctest.Wait()
		want := []contracts.Envelope{{
			Kind: contracts.EnvelopeEvent, Room: "lobby", Except: contracts.Conn{Node: "edge1", ID: 7},
			Body: []byte(`{"event":"typing","room":"lobby","user":{"id":"u1","name":"Ada"},"on":true}`),
		}}
		if diff := cmp.Diff(want, f.published); diff != "" {
			t.Error(diff)
		}
	})
}

func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		var ok struct{ Time int64 }
		if err := json.Unmarshal(f.do(cmd(contracts.OpPing, `{}`)).OK, &ok); err != nil || ok.Time != time.Now().UnixMilli() {
			t.Errorf("time %d, %v", ok.Time, err)
		}
	})
}

// TestEventsShareRoundTrips: what comes while events are being published goes together, in the order of coming.
func TestEventsShareRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		f.publishTime = 100 * time.Millisecond
		const rooms = 200
		var want []contracts.RoomID
		for i := range rooms {
			c := cmd(contracts.OpTyping, `{"on":true}`)
			c.Room = contracts.RoomID(fmt.Sprint("room", i))
			want = append(want, c.Room)
			f.begin(c)
			synctest.Wait()
		}
		time.Sleep(time.Second)
		var got []contracts.RoomID
		f.set(func() {
			for _, e := range f.published {
				got = append(got, e.Room)
			}
			if f.publishes != 2 {
				t.Errorf("%d round trips, want the first and one for all others", f.publishes)
			}
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestPresenceOfManyAtOnce: the first is told at once, the others together, and who came and went not at all.
func TestPresenceOfManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		wantTold := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, f.told()); diff != "" {
				t.Error(diff)
			}
		}
		leave := func(user contracts.UserID) {
			c := cmd(contracts.OpLeave, `{}`)
			c.User = &contracts.Person{ID: user, Name: "n" + string(user)}
			decode[struct{}](t, f.do(c))
			synctest.Wait() // the room is told behind the answer
		}
		joinAs(f, "a")
		wantTold(`{"event":"presence","room":"lobby","joined":[{"id":"a","name":"na"}],"left":[],"count":1}`)
		for _, id := range []contracts.UserID{"b", "c", "d"} {
			joinAs(f, id)
			synctest.Wait()
		}
		leave("a")
		leave("c")
		wantTold()
		time.Sleep(time.Second)
		wantTold(`{"event":"presence","room":"lobby","joined":[{"id":"b","name":"nb"},{"id":"d","name":"nd"}],"left":[{"id":"a","name":"na"}],"count":2}`)

		joinAs(f, "e") // the pause after that one is over
		wantTold(`{"event":"presence","room":"lobby","joined":[{"id":"e","name":"ne"}],"left":[],"count":3}`)
		leave("e")
		joinAs(f, "e")
		time.Sleep(time.Second)
		wantTold()
		for i := range 150 {
			joinAs(f, contracts.UserID(fmt.Sprint("crowd-", i)))
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for _, body := range f.told() {
			var e struct {
				Joined []contracts.Person
				Count  int
			}
			if err := json.Unmarshal([]byte(body), &e); err != nil || len(e.Joined) > 100 || len(e.Joined) > 0 && e.Count > 100 {
				t.Errorf("told %.200s, %v", body, err)
			}
		}
	})
}

// TestPresenceWhileARoomFillsUp: the pause is as long as it must be for those who are there when it ends.
func TestPresenceWhileARoomFillsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		last, joined := time.Now(), 0
		for i := range 400 {
			if i < 100 {
				joinAs(f, contracts.UserID(fmt.Sprint("u", i)))
			}
			synctest.Wait()
			for _, body := range f.told() {
				var e struct {
					Joined []contracts.Person
					Count  int
				}
				if err := json.Unmarshal([]byte(body), &e); err != nil {
					t.Fatal(err)
				}
				pause := time.Since(last)
				if least := time.Duration(e.Count) * 25 * time.Millisecond; joined > 0 && pause < least {
					t.Errorf("%d were told %v after the last event, want %v", e.Count, pause, least)
				}
				last, joined = time.Now(), joined+len(e.Joined)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if joined != 100 {
			t.Errorf("told of %d who came, want 100", joined)
		}
	})
}

// TestPresenceWithinItsBudget: when people come into very many rooms at once, each room is told in its turn, of all who
// came by then, and those who are told in a second are no more than the budget.
func TestPresenceWithinItsBudget(t *testing.T) {
	const rooms, inRoom = 1000, 80
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		f.base = inRoom - 2
		for i := range 2 * rooms {
			c := cmd(contracts.OpJoin, `{}`)
			c.Room = contracts.RoomID(fmt.Sprint("r", i%rooms))
			c.User = &contracts.Person{ID: contracts.UserID(fmt.Sprint("u", i/rooms)), Name: "n"}
			decode[contracts.JoinOK](t, f.do(c))
		}
		most, heard := 20_000, map[contracts.RoomID]int{} // what was saved up may be told at once
		for second := range 10 {
			synctest.Wait()
			people, both := 0, 0
			for _, body := range f.told() {
				var e struct {
					Room   contracts.RoomID
					Joined []contracts.Person
					Count  int
				}
				if err := json.Unmarshal([]byte(body), &e); err != nil {
					t.Fatal(err)
				}
				people += e.Count
				heard[e.Room] += len(e.Joined)
				if len(e.Joined) == 2 {
					both++
				}
			}
			if people > most {
				t.Errorf("second %d: %d people were told something", second, people)
			}
			if second == 2 && both == 0 {
				t.Error("who waited for their turn heard of one after the other")
			}
			most = 20_000 + 20_000/inRoom + 2*inRoom // paid for as many as were there when the turn was taken
			time.Sleep(time.Second)
		}
		for room := range rooms {
			if n := heard[contracts.RoomID(fmt.Sprint("r", room))]; n != 2 {
				t.Fatalf("room %d heard of %d who came, want 2", room, n)
			}
		}
	})
}

// TestPresenceIsNotTooLate: however many rooms have news, each is told in half a minute, and until then within the budget;
// behind the storm news is told at once.
func TestPresenceIsNotTooLate(t *testing.T) {
	const rooms, inRoom = 9000, 80 // 36 s of the budget
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		f.base = inRoom - 1
		for i := range rooms {
			c := cmd(contracts.OpJoin, `{}`)
			c.Room = contracts.RoomID(fmt.Sprint("r", i))
			decode[contracts.JoinOK](t, f.do(c))
		}
		heard := 0
		most := 20_000 // what was saved up may be told at once
		for range 30 {
			synctest.Wait()
			told := len(f.told())
			if told*inRoom > most {
				t.Errorf("%d people were told something in a second", told*inRoom)
			}
			heard += told
			most = 20_000 + inRoom
			time.Sleep(time.Second)
		}
		time.Sleep(time.Second / 2)
		synctest.Wait()
		if heard += len(f.told()); heard != rooms {
			t.Errorf("%d of %d rooms were told by then", heard, rooms)
		}
		time.Sleep(3 * time.Second) // the rooms' pauses
		for i := range 10 {
			c := cmd(contracts.OpJoin, `{}`)
			c.Room = contracts.RoomID(fmt.Sprint("r", i))
			c.User = &contracts.Person{ID: "late", Name: "n"}
			decode[contracts.JoinOK](t, f.do(c))
		}
		synctest.Wait()
		if told := len(f.told()); told != 10 {
			t.Errorf("%d of 10 rooms were told at once behind the storm", told)
		}
	})
}
