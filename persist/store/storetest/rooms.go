package storetest

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/store"
)

// infos are public rooms without a name of their own.
func infos(ids ...contracts.RoomID) []contracts.RoomInfo {
	var all []contracts.RoomInfo
	for _, id := range ids {
		all = append(all, contracts.RoomInfo{ID: id, Name: string(id), Kind: "public"})
	}
	return all
}

func wantRooms(t *testing.T, what string, want []contracts.RoomInfo, got []contracts.RoomInfo, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func testPublicRooms(t *testing.T, s suite) {
	list := func(what string, after contracts.RoomID, limit int, want ...contracts.RoomID) {
		t.Helper()
		got, err := s.PublicRooms(s.ctx, after, limit)
		wantRooms(t, what, infos(want...), got, err)
	}
	list("of an empty store", "", 10)
	s.append(t, []store.Entry{entry("b", 1, 1, 0), entry("a", 1, 1, 1), entry("b", 2, 1, 2), entry("B", 1, 1, 3), entry("b-1", 1, 1, 4)}, none, at(5))
	s.append(t, []store.Entry{entry("b", 3, 1, 5), entry("c", 1, 1, 6)}, at(5), at(7))
	list("all", "", 10, "B", "a", "b", "b-1", "c")
	list("first two", "", 2, "B", "a")
	list("after one", "a", 2, "b", "b-1")
	list("after one that is not there", "aa", 10, "b", "b-1", "c")
	list("after the last", "c", 10)
	list("none asked", "", 0)
}

func testMembers(t *testing.T, s suite) {
	ann, an := contracts.Person{ID: "ann", Name: "Ann"}, contracts.Person{ID: "an", Name: "An", Guest: true}
	join := func(user contracts.Person, rooms ...contracts.RoomID) {
		t.Helper()
		for _, room := range rooms {
			if err := s.Join(s.ctx, contracts.Membership{Room: room, User: user}); err != nil {
				t.Fatalf("join: %v", err)
			}
		}
	}
	list := func(what string, user contracts.UserID, after contracts.RoomID, limit int, want ...contracts.RoomID) {
		t.Helper()
		got, err := s.RoomsOf(s.ctx, user, after, limit)
		wantRooms(t, what, infos(want...), got, err)
	}
	list("of somebody unknown", "ann", "", 10)
	join(ann, "lobby", "garden", "attic", "lobby", "lobby-2")
	join(an, "lobby", "cellar")
	join(contracts.Person{ID: "ann-2"}, "hall")
	list("all", "ann", "", 10, "attic", "garden", "lobby", "lobby-2")
	list("the user whose id begins the other's", "an", "", 10, "cellar", "lobby")
	list("limit", "ann", "", 2, "attic", "garden")
	list("after", "ann", "garden", 10, "lobby", "lobby-2")
	list("after one that is not there", "ann", "h", 1, "lobby")
	list("after the last", "ann", "lobby-2", 10)
	list("none asked", "ann", "", 0)
	for range 2 {
		if err := s.Quit(s.ctx, "garden", "ann"); err != nil {
			t.Fatalf("quit: %v", err)
		}
	}
	list("after a quit", "ann", "", 10, "attic", "lobby", "lobby-2")
	list("of the other", "an", "", 10, "cellar", "lobby")
	join(ann, "garden")
	list("back again", "ann", "attic", 1, "garden")

	if err := s.Join(s.ctx); err != nil {
		t.Fatalf("join of nobody: %v", err)
	}
	var many []contracts.Membership
	for i := range 300 {
		for _, room := range []contracts.RoomID{"lobby", "z"} {
			many = append(many, contracts.Membership{Room: room, User: contracts.Person{ID: contracts.UserID(fmt.Sprint("u", i*7%300))}})
		}
	}
	for _, some := range [][]contracts.Membership{many[:2], many, append(many[:1:1], many[0])} { // some are members already
		if err := s.Join(s.ctx, some...); err != nil {
			t.Fatalf("join of %d: %v", len(some), err)
		}
	}
	for i := range 300 {
		list("of many who came at once", contracts.UserID(fmt.Sprint("u", i)), "", 10, "lobby", "z")
	}
}

func testDead(t *testing.T, s suite) {
	letter := func(partition int32, epoch contracts.Epoch, offset int64, value []byte) store.DeadLetter {
		return store.DeadLetter{Partition: partition, Position: position(epoch, offset), Reason: "not JSON \xe2\x80\xa6", Value: value}
	}
	want := []store.DeadLetter{
		letter(2, 1, 9, []byte("P\x01{")), letter(2, 1, 10, []byte{0, 255, 128}), letter(2, 2, 1, []byte("x")),
		letter(10, 1, 100, make([]byte, contracts.MaxRecordBytes+1)),
	}
	for _, i := range []int{3, 1, 0, 2, 1, 0} {
		if err := s.Bury(s.ctx, want[i]); err != nil {
			t.Fatalf("bury: %v", err)
		}
	}
	again := want[0]
	again.Reason, again.Value = "another", []byte("other bytes")
	if err := s.Bury(s.ctx, again); err != nil {
		t.Fatalf("bury at a position that has one: %v", err)
	}
	if err := s.Bury(s.ctx, letter(11, 1, 0, nil)); err != nil {
		t.Fatalf("bury an empty record: %v", err)
	}
	want = append(want, letter(11, 1, 0, nil))
	expect := func(partition int32, from contracts.Position, limit int, want ...store.DeadLetter) {
		t.Helper()
		got, err := s.DeadLetters(s.ctx, partition, from, limit)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), whole); diff != "" {
			t.Errorf("dead letters of partition %d from %v, limit %d (-want +got):\n%s", partition, from, limit, diff)
		}
	}
	expect(2, contracts.Position{}, 100, want[:3]...)
	expect(2, contracts.Position{}, 2, want[:2]...)
	expect(2, contracts.Position{}, 0)
	expect(2, want[1].Position, 100, want[1:3]...)
	expect(2, position(2, 2), 100)
	expect(3, contracts.Position{}, 100)
	expect(10, contracts.Position{}, 100, want[3])
	expect(11, contracts.Position{}, 100, want[4])
	for range 2 {
		if err := s.Exhume(s.ctx, 2, want[1].Position); err != nil {
			t.Fatalf("exhume: %v", err)
		}
	}
	expect(2, contracts.Position{}, 100, want[0], want[2])
	expect(10, contracts.Position{}, 100, want[3])
}
