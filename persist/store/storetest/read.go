package storetest

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

// twoEpochs is a room whose log was replaced after its second entry, so that its offsets began anew, beside neighbours
// whose ids are close.
func twoEpochs(t *testing.T, s suite) []store.Entry {
	t.Helper()
	entries := []store.Entry{entry("lobby", 1, 1, 10), entry("lobby", 2, 1, 20), entry("lobby", 3, 2, 5), entry("lobby", 4, 2, 15)}
	near := []store.Entry{entry("lobb", 1, 1, 1), entry("lobby-", 1, 1, 2), entry("lobby0", 1, 2, 3), entry("Lobby", 1, 2, 4)}
	s.append(t, append(near, entries...), none, at(30))
	return entries
}

func position(epoch contracts.Epoch, offset int64) contracts.Position {
	return contracts.Position{Epoch: epoch, Offset: offset}
}

func found(e store.Entry) roomlog.Found { return roomlog.Found{Seq: e.Seq, Position: e.Position()} }

func testLookupKeys(t *testing.T, s suite) {
	entries := twoEpochs(t, s)
	other := entries[0].Identity()
	other.Sender = "bob"
	elsewhere := entries[0].Identity()
	elsewhere.Room = "lobby0"
	var queries []roomlog.EntryQuery
	var want []roomlog.Found
	for _, c := range []struct {
		id     contracts.Identity
		before contracts.Position
		want   roomlog.Found
	}{
		{entries[0].Identity(), position(1, 11), found(entries[0])},
		{entries[0].Identity(), position(1, 10), roomlog.Found{}}, // the record's own row does not count
		{entries[0].Identity(), position(1, 9), roomlog.Found{}},
		{entries[0].Identity(), position(2, 0), found(entries[0])}, // an earlier epoch is before every offset
		{entries[2].Identity(), position(2, 6), found(entries[2])},
		{entries[2].Identity(), position(2, 5), roomlog.Found{}},
		{entries[2].Identity(), position(1, 1<<40), roomlog.Found{}}, // a later epoch is behind every offset
		{other, position(3, 0), roomlog.Found{}},
		{elsewhere, position(3, 0), roomlog.Found{}},
	} {
		queries = append(queries, roomlog.EntryQuery{Identity: c.id, Before: c.before})
		want = append(want, c.want)
	}
	// Many of them, in a mixed order, some twice.
	many := make([]store.Entry, 250)
	for i := range many {
		many[i] = entry("many", contracts.Seq(i+1), 1, 100+int64(i))
	}
	s.append(t, many, at(30), at(350))
	for i := range many {
		e := many[i*7%len(many)]
		queries = append(queries, roomlog.EntryQuery{Identity: e.Identity(), Before: position(1, 1000)})
		want = append(want, found(e))
		if i%10 == 0 {
			queries = append(queries, roomlog.EntryQuery{Identity: e.Identity(), Before: e.Position()})
			want = append(want, roomlog.Found{})
		}
	}
	got, heads, err := s.Lookup(s.ctx, queries, nil)
	if err != nil || len(heads) != 0 {
		t.Fatalf("lookup: %d heads, %v", len(heads), err)
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("lookup (-want +got):\n%s", diff)
	}
}

func testLookupHeads(t *testing.T, s suite) {
	entries := twoEpochs(t, s)
	var queries []roomlog.HeadQuery
	var want []roomlog.Found
	for _, c := range []struct {
		room   contracts.RoomID
		before contracts.Position
		want   roomlog.Found
	}{
		{"lobby", position(1, 10), roomlog.Found{}},
		{"lobby", position(1, 11), found(entries[0])},
		{"lobby", position(1, 20), found(entries[0])},
		{"lobby", position(1, 1<<40), found(entries[1])},
		{"lobby", position(2, 0), found(entries[1])},
		{"lobby", position(2, 5), found(entries[1])},
		{"lobby", position(2, 6), found(entries[2])},
		{"lobby", position(2, 16), found(entries[3])},
		{"lobby", position(3, 0), found(entries[3])},
		{"lobb", position(3, 0), roomlog.Found{Seq: 1, Position: position(1, 1)}},
		{"lob", position(3, 0), roomlog.Found{}},
		{"lobby-1", position(3, 0), roomlog.Found{}},
		{"zzz", position(3, 0), roomlog.Found{}},
		{"-", position(3, 0), roomlog.Found{}},
	} {
		queries = append(queries, roomlog.HeadQuery{Room: c.room, Before: c.before})
		want = append(want, c.want)
	}
	// The newest one that counts may be far below the newest one, in many rooms at once.
	const long = 400
	c := at(30)
	for i := range 6 {
		room := contracts.RoomID(fmt.Sprintf("long-%d", i))
		rows := make([]store.Entry, long)
		for j := range rows {
			rows[j] = entry(room, contracts.Seq(j+1), 2, 1000+int64(j))
		}
		next := at(31 + int64(i))
		s.append(t, rows, c, next)
		c = next
		for _, below := range []int{0, 1, 2, 50, 51, 52, 150, 151, 152, 350, 351, 352, long - 1, long} {
			q := roomlog.HeadQuery{Room: room, Before: position(2, 1000+int64(long-below))}
			queries = append(queries, q)
			if below < long {
				want = append(want, found(rows[long-below-1]))
			} else {
				want = append(want, roomlog.Found{})
			}
		}
	}
	keys, got, err := s.Lookup(s.ctx, nil, queries)
	if err != nil || len(keys) != 0 {
		t.Fatalf("lookup: %d keys, %v", len(keys), err)
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("lookup (-want +got):\n%s", diff)
	}
	// Both kinds in one call.
	keys, got, err = s.Lookup(s.ctx, []roomlog.EntryQuery{{Identity: entries[3].Identity(), Before: position(2, 16)}}, queries[7:8])
	if err != nil || len(keys) != 1 || len(got) != 1 || keys[0] != found(entries[3]) || got[0] != found(entries[3]) {
		t.Errorf("lookup of both: %v, %v, %v", keys, got, err)
	}
	if keys, got, err := s.Lookup(s.ctx, nil, nil); err != nil || len(keys)+len(got) != 0 {
		t.Errorf("lookup of nothing: %v, %v, %v", keys, got, err)
	}
}

func testAbove(t *testing.T, s suite) {
	room := func(partition int32) contracts.RoomID { // the partition follows from the name
		for i := 0; ; i++ {
			if id := contracts.RoomID(fmt.Sprint("room-", i)); contracts.LaneOf(id).Partition(Partitions) == partition {
				return id
			}
		}
	}
	before := entry(room(2), 1, 1, 500)
	rows := []store.Entry{entry(room(3), 1, 1, 9), entry(room(3), 2, 1, 10), entry(room(3), 3, 1, 200), entry(room(3), 4, 2, 3)}
	behind := entry(room(4), 1, 1, 0)
	for partition, entries := range map[int32][]store.Entry{2: {before}, 3: rows, 4: {behind}} {
		s.append(t, entries, none, contracts.Checkpoint{Partition: partition, Epoch: 2, Offset: 600, Sequencer: roomlog.Version})
	}
	for _, c := range []struct {
		partition int32
		from      contracts.Position
		want      []store.Entry
	}{
		{3, position(1, 0), rows},
		{3, position(1, 9), rows},
		{3, position(1, 10), rows[1:]},
		{3, position(1, 201), rows[3:]},
		{3, position(2, 3), rows[3:]},
		{3, position(2, 4), nil},
		{3, position(3, 0), nil},
		{4, position(1, 0), []store.Entry{behind}},
		{5, position(1, 0), nil},
	} {
		got, err := s.Above(s.ctx, c.partition, c.from)
		slices.SortFunc(got, func(a, b store.Entry) int { return cmp.Compare(a.Seq, b.Seq) })
		if diff := gocmp.Diff(c.want, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("partition %d from %v: %v (-want +got):\n%s", c.partition, c.from, err, diff)
		}
	}
}

func testPage(t *testing.T, s suite) {
	all := run("lobby", 120)
	var near []store.Entry
	for _, room := range []contracts.RoomID{"lobb", "lobby-", "lobby0", "lobbyy", "Lobby"} {
		near = append(near, entry(room, 1, 1, 500), entry(room, 50, 1, 501))
	}
	for i := range near {
		near[i].Offset += int64(i) * 10
	}
	s.append(t, append(near, all...), none, at(1000))
	for _, c := range []struct {
		from, to contracts.Seq
		limit    int
		newest   bool
		// want is the first and the last seq of the answer; 0 for an empty one.
		first, last contracts.Seq
	}{
		{1, contracts.MaxInt, 1000, false, 1, 120},
		{1, contracts.MaxInt, 1000, true, 1, 120},
		{0, 120, 1000, false, 1, 120},
		{1, contracts.MaxInt, 50, false, 1, 50},
		{1, contracts.MaxInt, 50, true, 71, 120},
		{8, 12, 100, false, 8, 12},    // 9 → 10
		{98, 102, 100, true, 98, 102}, // 99 → 100
		{8, 12, 2, false, 8, 9},
		{8, 12, 2, true, 11, 12},
		{9, 10, 1, true, 10, 10},
		{99, 100, 1, true, 100, 100},
		{120, 500, 10, false, 120, 120},
		{120, 500, 10, true, 120, 120},
		{7, 7, 10, false, 7, 7},
		{121, 500, 10, false, 0, 0},
		{121, 500, 10, true, 0, 0},
		{12, 8, 10, false, 0, 0},
		{1, 120, 0, false, 0, 0},
		{1, 120, -1, true, 0, 0},
		{0, 0, 10, true, 0, 0},
	} {
		t.Run(fmt.Sprintf("%d-%d/%d/newest=%v", c.from, c.to, c.limit, c.newest), func(t *testing.T) {
			var want []store.Entry
			if c.first > 0 {
				want = all[c.first-1 : c.last]
			}
			got, err := s.Page(s.ctx, "lobby", c.from, c.to, c.limit, c.newest)
			if err != nil || len(got) != len(want) {
				t.Fatalf("%d entries, %v, want %d", len(got), err, len(want))
			}
			for i := range want {
				if !gocmp.Equal(want[i], got[i]) {
					t.Fatalf("entry %d (-want +got):\n%s", i, gocmp.Diff(want[i], got[i]))
				}
			}
		})
	}
	for _, newest := range []bool{false, true} {
		if got, err := s.Page(s.ctx, "nowhere", 1, contracts.MaxInt, 10, newest); err != nil || len(got) != 0 {
			t.Errorf("page of a room without entries: %d, %v", len(got), err)
		}
	}
}
