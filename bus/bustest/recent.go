package bustest

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/contracts"
)

func recentEntry(room contracts.RoomID, epoch contracts.Epoch, seq contracts.Seq) recent.Entry {
	return recent.Entry{Room: room, Epoch: epoch, Seq: seq, JSON: fmt.Appendf(nil, `{"room":%q,"epoch":%d,"seq":%d}`, room, epoch, seq)}
}

func recentEntries(room contracts.RoomID, epoch contracts.Epoch, from, to contracts.Seq) []recent.Entry {
	var list []recent.Entry
	for seq := from; seq <= to; seq++ {
		list = append(list, recentEntry(room, epoch, seq))
	}
	return list
}

// Recent checks what package recent promises. start returns an empty cache that keeps keep entries of a room, and
// maybe some more.
func Recent(t *testing.T, keep int, start func(t *testing.T) recent.Cache) {
	appendAll := func(t *testing.T, c recent.Cache, entries []recent.Entry) {
		t.Helper()
		if err := c.Append(t.Context(), entries); err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
	// expect reads the queries; hits says which of them the cache must hold.
	expect := func(t *testing.T, c recent.Cache, queries []recent.Query, hits ...bool) {
		t.Helper()
		got, err := c.Read(t.Context(), queries)
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		want := make([][]contracts.NumberedJSON, len(queries))
		for i, q := range queries {
			if hits[i] {
				want[i] = []contracts.NumberedJSON{}
				for seq := q.From; seq <= q.To; seq++ {
					want[i] = append(want[i], contracts.NumberedJSON{Seq: seq, JSON: json.RawMessage(recentEntry(q.Room, q.Epoch, seq).JSON)})
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Read (-want +got):\n%s", diff)
		}
	}

	t.Run("read what was appended", func(t *testing.T) {
		c := start(t)
		appendAll(t, c, nil)
		appendAll(t, c, append(recentEntries("a", 1, 1, 20), recentEntries("b", 3, 7, 9)...))
		appendAll(t, c, recentEntries("a", 1, 21, 22))
		expect(t, c, []recent.Query{
			{Room: "a", Epoch: 1, From: 1, To: 22},
			{Room: "b", Epoch: 3, From: 7, To: 9},
			{Room: "a", Epoch: 1, From: 22, To: 22},
			{Room: "a", Epoch: 1, From: 23, To: 22}, // empty
			{Room: "c", Epoch: 1, From: 1, To: 0},
		}, true, true, true, true, true)
		expect(t, c, nil)
	})

	t.Run("all or nothing", func(t *testing.T) {
		c := start(t)
		appendAll(t, c, append(recentEntries("a", 1, 5, 9), recentEntries("a", 1, 11, 13)...))
		expect(t, c, []recent.Query{
			{Room: "a", Epoch: 1, From: 4, To: 9},
			{Room: "a", Epoch: 1, From: 5, To: 9},
			{Room: "a", Epoch: 1, From: 9, To: 11},
			{Room: "a", Epoch: 1, From: 10, To: 10},
			{Room: "a", Epoch: 1, From: 11, To: 13},
			{Room: "a", Epoch: 1, From: 12, To: 14},
			{Room: "a", Epoch: 2, From: 5, To: 9},
			{Room: "A", Epoch: 1, From: 5, To: 9},
			{Room: "a", Epoch: 1, From: 0, To: 5},
			{Room: "a", Epoch: 1, From: 1, To: contracts.MaxInt},
		}, false, true, false, false, true, false, false, false, false, false)
	})

	t.Run("repeats and steps back", func(t *testing.T) {
		c := start(t)
		appendAll(t, c, recentEntries("a", 1, 3, 8))
		other := recentEntry("a", 1, 5)
		other.JSON = []byte(`"another body"`)
		appendAll(t, c, []recent.Entry{other, recentEntry("a", 1, 2), recentEntry("a", 1, 8), recentEntry("a", 1, 9)})
		expect(t, c, []recent.Query{{Room: "a", Epoch: 1, From: 3, To: 9}, {Room: "a", Epoch: 1, From: 2, To: 3}}, true, false)
	})

	t.Run("keeps the newest", func(t *testing.T) {
		c := start(t)
		last := contracts.Seq(10 * keep)
		appendAll(t, c, recentEntries("a", 1, 1, last))
		expect(t, c, []recent.Query{
			{Room: "a", Epoch: 1, From: last - contracts.Seq(keep) + 1, To: last},
			{Room: "a", Epoch: 1, From: 1, To: contracts.Seq(keep)},
		}, true, false)
	})
}
