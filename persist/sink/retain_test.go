package sink_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/sink"
)

// texts returns what is stored of a room, the text of each row.
func (w *world) texts(room contracts.RoomID) (all []string) {
	w.t.Helper()
	page, err := w.store.Page(w.t.Context(), room, 1, contracts.MaxInt, 10_000, false)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range page {
		if page[i].Seq != contracts.Seq(i+1) {
			w.t.Fatalf("room %s has seq %d as its row %d", room, page[i].Seq, i+1)
		}
		all = append(all, page[i].Text)
	}
	return all
}

// TestRetain: what is old is blanked and nothing else, and numbering goes on as if it was not, through a copy of an old
// message, a new owner and a log that was lost.
func TestRetain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cfg.Retain = 24 * time.Hour
		rooms := [2]contracts.RoomID{roomsOf(0, 1)[0], roomsOf(1, 1)[0]}
		old := [2][][]byte{}
		for id, room := range rooms {
			old[id] = messages([]contracts.RoomID{room}, time.Now().UnixMilli(), 1200)
			w.log.append(int32(id), old[id]...)
		}
		p := w.start(0, 1)
		w.caughtUp(p)
		pass(23 * time.Hour)
		for id, room := range rooms {
			if got := w.texts(room); len(got) != 1200 || slices.Contains(got, "") {
				t.Errorf("room %s has lost something before its time", room)
			}
			w.log.append(int32(id), messages([]contracts.RoomID{room}, time.Now().UnixMilli(), 10)...)
		}
		w.caughtUp(p)
		if n := p.metric(t, "parley_persist_blanked_total"); n != 0 {
			t.Errorf("%v blanked after 23 hours", n)
		}
		pass(2 * time.Hour)
		check := func(what string, more int) {
			t.Helper()
			for _, room := range rooms {
				got := w.texts(room)
				if len(got) != 1210+more || strings.Join(got[:1200], "") != "" || slices.Contains(got[1200:], "") {
					t.Errorf("%s: room %s has %d rows, or a wrong one is blank", what, room, len(got))
				}
			}
		}
		check("after 25 hours", 0)
		if n := p.metric(t, "parley_persist_blanked_total"); n != 2400 {
			t.Errorf("%v blanked, want 2400", n)
		}
		if n := p.metric(t, "parley_persist_swept_timestamp_seconds"); time.Since(time.Unix(int64(n), 0)) > time.Hour+time.Minute {
			t.Errorf("the last sweep is said to have been at %v", n)
		}
		p.lint(t)

		p.kill(0, 1)
		p = w.start(0, 1)
		for id, room := range rooms {
			w.log.append(int32(id), old[id][7], old[id][1199])
			w.log.append(int32(id), messages([]contracts.RoomID{room}, time.Now().UnixMilli(), 5)...)
		}
		w.caughtUp(p)
		check("after copies", 5)
		if n := p.metric(t, "parley_persist_duplicates_total"); n != 4 {
			t.Errorf("%v duplicates, want 4", n)
		}
		if said := strings.Count(w.logged.String(), "old messages deleted"); said != 1 {
			t.Errorf("said %d times that messages were deleted", said)
		}

		// The log is lost and comes again: everything is found by its key, blank or not.
		records, err := w.log.Read(t.Context(), 0, 0, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		var again [][]byte
		for _, r := range records[:900] {
			again = append(again, r.Value)
		}
		w.log.replace(0, 0, again...)
		pass(5 * time.Minute)
		w.caughtUp(p)
		check("in a new epoch", 5)
	})
}

func TestRetainForLongEnough(t *testing.T) {
	for d, ok := range map[time.Duration]bool{0: true, sink.LeastRetain: true, sink.LeastRetain - 1: false, -1: false} {
		if err := (sink.Config{Retain: d}).Validate(); (err == nil) != ok {
			t.Errorf("%v: %v", d, err)
		}
	}
}
