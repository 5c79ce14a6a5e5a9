package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

func testAppend(t *testing.T, s suite) {
	if _, found, err := s.Checkpoint(s.ctx, 3); err != nil || found {
		t.Fatalf("checkpoint before the first append: found %v, %v", found, err)
	}
	entries := run("lobby", 3)
	s.append(t, entries, none, at(3))
	s.wantRoom(t, "lobby", entries)
	s.wantCheckpoint(t, at(3))

	s.append(t, nil, at(3), at(7))
	s.wantCheckpoint(t, at(7))

	first := at(1)
	first.Partition, first.Epoch, first.Last = 0, 1<<32-1, contracts.Hash{}
	s.append(t, nil, none, first)
	all, err := s.Checkpoints(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]contracts.Checkpoint{first, at(7)}, all); diff != "" {
		t.Errorf("checkpoints (-want +got):\n%s", diff)
	}
}

func testAppendAgain(t *testing.T, s suite) {
	entries := run("lobby", 6)
	s.append(t, entries[:3], none, at(3))
	s.append(t, entries[:3], none, at(3)) // its first answer was lost
	s.wantCheckpoint(t, at(3))
	// Somebody else has already stored a part of the next bulk, and the bulk reaches back below the checkpoint.
	s.append(t, entries[1:6], at(3), at(6))
	s.append(t, entries[1:6], at(3), at(6))
	s.wantCheckpoint(t, at(6))
	s.wantRoom(t, "lobby", entries)
}

func testConflict(t *testing.T, s suite) {
	refused := func(what string, prev, next contracts.Checkpoint) {
		t.Helper()
		if err := s.Append(s.ctx, nil, prev, next); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", what, err)
		}
	}
	refused("moves a checkpoint that does not exist", at(2), at(3))
	if _, found, err := s.Checkpoint(s.ctx, 3); err != nil || found {
		t.Fatalf("a refused append left a checkpoint: %v, %v", found, err)
	}
	s.append(t, nil, none, at(5))
	refused("creates one that exists", none, at(6))
	refused("is behind", at(4), at(6))
	refused("is ahead", at(7), at(8))
	for field, change := range map[string]func(*contracts.Checkpoint){
		"epoch":     func(c *contracts.Checkpoint) { c.Epoch++ },
		"key time":  func(c *contracts.Checkpoint) { c.KeyTime++ },
		"hash":      func(c *contracts.Checkpoint) { c.Last[15]++ },
		"sequencer": func(c *contracts.Checkpoint) { c.Sequencer++ },
	} {
		prev := at(5)
		change(&prev)
		refused("differs in "+field, prev, at(6))
	}
	s.wantCheckpoint(t, at(5))

	// The one who lost may have stored entries, but they are the ones that the winner stores as well.
	entries := run("lobby", 2)
	if err := s.Append(s.ctx, entries, at(4), at(6)); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("append by the loser: %v, want ErrConflict", err)
	}
	s.append(t, entries, at(5), at(7))
	s.wantRoom(t, "lobby", entries)
}

func testTripwire(t *testing.T, s suite) {
	stored := run("lobby", 3)
	s.append(t, stored, none, at(3))
	change := func(f func(*store.Entry)) store.Entry {
		e := stored[1]
		f(&e)
		return e
	}
	for what, wrong := range map[string]store.Entry{
		"other hash":              change(func(e *store.Entry) { e.Hash[0]++ }),
		"other offset":            change(func(e *store.Entry) { e.Offset += 10 }),
		"other epoch":             change(func(e *store.Entry) { e.Epoch++ }),
		"other key":               change(func(e *store.Entry) { e.Key = key(5, 5) }),
		"other sender":            change(func(e *store.Entry) { e.From.ID = "bob" }),
		"its key has another seq": change(func(e *store.Entry) { e.Seq = 5 }),
	} {
		fresh := entry("garden", 1, 1, 3)
		for _, bulk := range [][]store.Entry{{wrong}, {fresh, wrong}, {wrong, fresh}} {
			err := s.Append(s.ctx, bulk, at(3), at(4))
			var trip *store.TripwireError
			if !errors.Is(err, store.ErrTripwire) || !errors.As(err, &trip) {
				t.Fatalf("%s: %v, want ErrTripwire", what, err)
			}
			if trip.Room != wrong.Room || trip.Seq != wrong.Seq || trip.Found == "" {
				t.Errorf("%s: the error names %+v", what, *trip)
			}
			s.wantCheckpoint(t, at(3))
		}
	}
	// A bulk that was refused has not moved the room's head, however high its seqs.
	heads := []roomlog.HeadQuery{{Room: "lobby", Before: position(3, 0)}}
	if _, got, err := s.Lookup(s.ctx, nil, heads); err != nil || got[0] != found(stored[2]) {
		t.Errorf("the head of the room is %v, %v, want %v", got, err, found(stored[2]))
	}
	twice := entry("lobby", 4, 1, 10)
	again := twice
	again.Seq, again.Offset = 5, 11
	if err := s.Append(s.ctx, []store.Entry{twice, again}, at(3), at(4)); !errors.Is(err, store.ErrTripwire) {
		t.Errorf("one key twice in a bulk: %v, want ErrTripwire", err)
	}
	s.wantCheckpoint(t, at(3))
	if got, err := s.Page(s.ctx, "lobby", 1, 3, 10, false); err != nil || !cmp.Equal(got, stored) {
		t.Errorf("what was stored has changed: %v\n%s", err, cmp.Diff(stored, got))
	}
}

// testConcurrent appends to every partition at once, each repeated as after a lost answer, while others read.
func testConcurrent(t *testing.T, s suite) {
	const bulks, size = 4, 10
	var wg sync.WaitGroup
	for p := range int32(Partitions) {
		room := contracts.RoomID(fmt.Sprintf("room-%d", p))
		entries := run(room, bulks*size)
		wg.Go(func() {
			prev := none
			for b := range bulks {
				next := at(int64(b+1) * size)
				next.Partition = p
				for range 2 {
					if err := s.Append(s.ctx, entries[b*size:(b+1)*size], prev, next); err != nil {
						t.Errorf("partition %d, bulk %d: %v", p, b, err)
						return
					}
				}
				// A read that begins after Append has returned sees what it stored.
				page, err := s.Page(s.ctx, room, 1, contracts.MaxInt, 1, true)
				if err != nil || len(page) != 1 || page[0].Seq != contracts.Seq((b+1)*size) {
					t.Errorf("partition %d: the newest after bulk %d is %v, %v", p, b, page, err)
				}
				prev = next
			}
		})
	}
	wg.Wait()
	for p := range int32(Partitions) {
		room := contracts.RoomID(fmt.Sprintf("room-%d", p))
		s.wantRoom(t, room, run(room, bulks*size))
		want := at(bulks * size)
		want.Partition = p
		s.wantCheckpoint(t, want)
	}
}

// testContent stores what is hard to keep and wants it back, and its client encoding with it, byte for byte.
func testContent(t *testing.T, s suite) {
	long := make([]byte, 16<<10)
	for i := range long {
		long[i] = 'a' + byte(i%26)
	}
	var entries []store.Entry
	for _, change := range []func(*store.Entry){
		func(e *store.Entry) {
			e.Text = "日本語 👩‍👩‍👧 é e\u0301 \u202eabc\u202c \u2028 \ufffd $where {\"$gt\":1}"
		},
		func(e *store.Entry) { e.Text = "line\nline\ttab \"quoted\" \\ </script> &amp;" },
		func(e *store.Entry) { e.Text = string(long) },
		func(e *store.Entry) {
			e.Meta = []byte(`{"b":1, "a" : [1.0,1e2,-0],"$set":{"x.y":null},"z":"\u00e9é"}`)
		},
		func(e *store.Entry) { e.Meta = []byte(`{"n":9007199254740993}`) },
		func(e *store.Entry) { e.Meta = fmt.Appendf(nil, `{"s":%q}`, slices.Repeat(long, 8)) },
		func(e *store.Entry) { e.ReplyTo = contracts.MaxInt },
		func(e *store.Entry) {
			e.From = contracts.Person{ID: "_-", Name: "Guest \u2066é\u2069 \"7\"", Guest: true}
		},
		func(e *store.Entry) { e.Stamp = contracts.MaxInt },
		func(e *store.Entry) { e.Stamp = 0 },
	} {
		n := len(entries)
		e := entry("a_B-9", contracts.Seq(n+1), 1, int64(n))
		change(&e)
		e.Hash = hashOf(&e)
		entries = append(entries, e)
	}
	last := entry("a_B-9", contracts.MaxInt, 1<<32-1, 1<<40)
	entries = append(entries, last)
	s.append(t, entries, none, at(20))
	s.append(t, entries, none, at(20))
	s.wantRoom(t, "a_B-9", entries)
	page, err := s.Page(s.ctx, "a_B-9", 1, contracts.MaxInt, 100, false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range page {
		want, got := contracts.AppendEntry(nil, &entries[i]), contracts.AppendEntry(nil, &page[i])
		if string(want) != string(got) {
			t.Errorf("entry %d is encoded as\n%s\nnot as\n%s", page[i].Seq, got, want)
		}
	}
}
