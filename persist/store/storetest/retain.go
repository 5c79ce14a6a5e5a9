package storetest

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

// sweep calls Blank until it is done and returns how many rows it made tombstones of, and where the next sweep begins.
func (s suite) sweep(t *testing.T, old store.Old, from string, most int) (blanked int, next string) {
	t.Helper()
	for range 10_000 {
		swept, err := s.Blank(s.ctx, old, from, most)
		if err != nil {
			t.Fatalf("blank from %q: %v", from, err)
		}
		if swept.Blanked > most {
			t.Errorf("one step of %d blanked %d", most, swept.Blanked)
		}
		blanked, from = blanked+swept.Blanked, swept.Next
		if swept.Done {
			return blanked, from
		}
	}
	t.Fatal("a sweep does not end")
	return 0, ""
}

// partitionOf is where the suite's stores look for a room.
func partitionOf(room contracts.RoomID) int32 { return contracts.LaneOf(room).Partition(Partitions) }

// near returns ids of rooms of one partition.
func near(room contracts.RoomID, n int) []contracts.RoomID {
	rooms := []contracts.RoomID{room}
	for i := 0; len(rooms) < n; i++ {
		if id := contracts.RoomID(fmt.Sprintf("%s-%d", room, i)); partitionOf(id) == partitionOf(room) {
			rooms = append(rooms, id)
		}
	}
	return rooms
}

// testBlank: only messages of the partition that are old in time and below the position are blanked, and to numbering
// they are what they were.
func testBlank(t *testing.T, s suite) {
	const stamp = 1_700_000_000_000 // of offset 0
	rooms := near("lobby", 2)
	id := partitionOf("lobby")
	var elsewhere contracts.RoomID
	for i := 0; elsewhere == ""; i++ {
		if room := contracts.RoomID(fmt.Sprint("else-", i)); partitionOf(room) != id {
			elsewhere = room
		}
	}
	entries := []store.Entry{
		entry(rooms[0], 1, 1, 100), entry(rooms[1], 1, 1, 101), entry(rooms[0], 2, 1, 102), entry(rooms[0], 3, 1, 103),
		entry(rooms[1], 2, 2, 0), entry(rooms[0], 4, 2, 150), entry(rooms[0], 5, 2, 160), entry(rooms[0], 6, 2, 170),
	}
	entries[0].Meta, entries[2].ReplyTo, entries[2].From.Guest = []byte(`{"a":1}`), 1, true
	foreign := entry(elsewhere, 1, 1, 100)
	next := at(171)
	next.Partition, next.Epoch = id, 2
	s.append(t, entries, none, next)
	other := at(101)
	other.Partition = partitionOf(elsewhere)
	s.append(t, []store.Entry{foreign}, none, other)

	old := store.Old{Partition: id, Below: position(2, 160), Before: stamp + 103}
	var want [2][]store.Entry
	check := func(what string) {
		t.Helper()
		want = [2][]store.Entry{}
		for _, e := range entries {
			if e.Position().Less(old.Below) && e.Stamp < old.Before {
				e.Text, e.Meta, e.From.Name = "", nil, "ann"
			}
			for i := range rooms {
				if e.Room == rooms[i] {
					want[i] = append(want[i], e)
				}
			}
		}
		for i := range rooms {
			got, err := s.Page(s.ctx, rooms[i], 1, contracts.MaxInt, 10, false)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want[i], got); diff != "" {
				t.Errorf("%s: room %s (-want +got):\n%s", what, rooms[i], diff)
			}
		}
		s.wantRoom(t, elsewhere, []store.Entry{foreign})
	}
	n, from := s.sweep(t, old, "", 100)
	if n != 4 { // the fourth is the one of the next epoch, whose stamp is that of offset 0
		t.Errorf("%d blanked, want 4", n)
	}
	check("first sweep")
	if n, _ := s.sweep(t, old, "", 100); n != 0 {
		t.Errorf("%d blanked again", n)
	}
	old.Before = stamp + 1_000_000
	n, from = s.sweep(t, old, from, 100)
	if n != 2 {
		t.Errorf("%d blanked when time went on, want 2", n)
	}
	check("later")
	old.Below = position(2, 171)
	if n, _ = s.sweep(t, old, from, 100); n != 2 {
		t.Errorf("%d blanked when the checkpoint went on, want 2", n)
	}
	check("at the end")

	// What is stored again is the same, whether its row was blanked or not.
	again := next
	again.Offset++
	s.append(t, entries, next, again)
	check("stored again")
	var queries []roomlog.EntryQuery
	var places []roomlog.Found
	for i := range entries {
		queries = append(queries, roomlog.EntryQuery{Identity: entries[i].Identity(), Before: position(3, 0)})
		places = append(places, found(entries[i]))
	}
	keys, heads, err := s.Lookup(s.ctx, queries, []roomlog.HeadQuery{{Room: rooms[0], Before: position(2, 160)}, {Room: rooms[1], Before: position(9, 0)}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(places, keys); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]roomlog.Found{found(entries[5]), found(entries[4])}, heads); diff != "" {
		t.Errorf("heads (-want +got):\n%s", diff)
	}
}

// testBlankSteps walks many rows a few at a time, some of a clock that was ahead, and again as time goes on.
func testBlankSteps(t *testing.T, s suite) {
	const stamp, ahead = 1_700_000_000_000, 40
	rooms := near("den", 3)
	id := partitionOf("den")
	var entries []store.Entry
	for i := range 60 {
		e := entry(rooms[i%len(rooms)], contracts.Seq(i/len(rooms)+1), 1, int64(i))
		if i >= 30 && i < 33 {
			e.Stamp += ahead
			e.Hash = hashOf(&e)
		}
		entries = append(entries, e)
	}
	// Numbers that were lost have the place of the entry above them, and are stored after it.
	entries = append(entries, entry(rooms[0], 29, 1, 60))
	for seq := range contracts.Seq(8) {
		e := entry(rooms[0], 21+seq, 1, 60)
		e.Key, e.Text, e.From.Name = key(int64(seq), 77), "", "_"
		e.From.ID = "_"
		e.Hash = contracts.Hash{}
		entries = append(entries, e)
	}
	next := at(61)
	next.Partition = id
	s.append(t, entries, none, next)
	from, blanked := "", 0
	for now := int64(10); now <= 61+ahead; now++ {
		var n int
		n, from = s.sweep(t, store.Old{Partition: id, Below: position(1, 61), Before: stamp + now}, from, 4)
		blanked += n
	}
	for _, room := range rooms {
		page, err := s.Page(s.ctx, room, 1, contracts.MaxInt, 100, false)
		if err != nil {
			t.Fatal(err)
		}
		for i := range page {
			if e := &page[i]; e.Text != "" || e.From.Name != string(e.From.ID) || e.Seq != contracts.Seq(i+1) {
				t.Errorf("seq %d of room %s is left: %+v", e.Seq, room, e)
			}
		}
	}
	if blanked < 61 || blanked > len(entries) {
		t.Errorf("%d blanked of %d", blanked, len(entries))
	}
}
