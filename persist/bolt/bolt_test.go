package bolt_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/bolt"
	"github.com/parley-chat/parley/persist/store"
	"github.com/parley-chat/parley/persist/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string, sync bool) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(bolt.Config{Path: path, Sync: sync})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	for name, sync := range map[string]bool{"process": false, "power": true} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Store {
				return open(t, filepath.Join(t.TempDir(), "new", "store.db"), sync)
			})
		})
	}
}

func TestOneProcessAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	open(t, path, false)
	if _, err := bolt.Open(bolt.Config{Path: path}); !errors.Is(err, bolt.ErrLocked) {
		t.Errorf("second open: %v, want ErrLocked", err)
	}
}

// TestCopyOfTheFile takes what a kill -9 would leave: the bytes that the operating system has been given when Append
// returns, without a close.
func TestCopyOfTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path, false)
	if err := s.Prepare(t.Context(), storetest.Partitions); err != nil {
		t.Fatal(err)
	}
	var prev contracts.Checkpoint
	var want []store.Entry
	for i := range 20 {
		e := store.Entry{
			Record: contracts.Record{Kind: contracts.KindMessage, Room: "lobby", From: contracts.Person{ID: "ann", Name: "Ann"}, Text: "hello"},
			Seq:    contracts.Seq(i + 1), Epoch: 1, Offset: int64(i),
		}
		var err error
		if e.Key, err = contracts.NewKey(); err != nil {
			t.Fatal(err)
		}
		next := contracts.Checkpoint{Partition: 1, Epoch: 1, Offset: int64(i + 1)}
		if err := s.Append(t.Context(), []store.Entry{e}, prev, next); err != nil {
			t.Fatal(err)
		}
		prev, want = next, append(want, e)

		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), "copy.db")
		if err := os.WriteFile(copied, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c := open(t, copied, false)
		got, err := c.Page(t.Context(), "lobby", 1, contracts.MaxInt, 100, false)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("the copy after append %d (-want +got):\n%s", i, diff)
		}
		if at, found, err := c.Checkpoint(t.Context(), 1); err != nil || !found || at != next {
			t.Fatalf("checkpoint in the copy after append %d: %+v, %v, %v", i, at, found, err)
		}
	}
}

// TestFormat1 opens a file as the release before left it: what was known by its identity still is, and what comes behind
// it is found as well.
func TestFormat1(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	entry := func(seq contracts.Seq) store.Entry {
		key, err := contracts.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		return store.Entry{
			Record: contracts.Record{Kind: contracts.KindMessage, Room: "lobby", Key: key, From: contracts.Person{ID: "ann", Name: "Ann"}, Text: "hello"},
			Seq:    seq, Epoch: 1, Offset: int64(seq - 1),
		}
	}
	at := func(offset int64) contracts.Checkpoint {
		return contracts.Checkpoint{Partition: 1, Epoch: 1, Offset: offset}
	}
	entries := []store.Entry{entry(1), entry(2), entry(3), entry(4)}

	s, err := bolt.Open(bolt.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(s.Prepare(t.Context(), storetest.Partitions),
		s.Append(t.Context(), entries[:2], contracts.Checkpoint{}, at(2)), s.MakeFormat1("lobby", "ann"), s.Close())
	if err != nil {
		t.Fatal(err)
	}

	for _, opened := range []string{"first", "second"} {
		s := open(t, path, false)
		if err := s.Append(t.Context(), entries, at(2), at(4)); err != nil { // the first two are there
			t.Fatalf("%s time: append: %v", opened, err)
		}
		var queries []roomlog.EntryQuery
		var want []roomlog.Found
		for i := range entries {
			queries = append(queries, roomlog.EntryQuery{Identity: entries[i].Identity(), Before: contracts.Position{Epoch: 2}})
			want = append(want, roomlog.Found{Seq: entries[i].Seq, Position: entries[i].Position()})
		}
		got, _, err := s.Lookup(t.Context(), queries, nil)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatalf("%s time: look-up: %v (-want +got):\n%s", opened, err, diff)
		}
		again := entries[0]
		again.Seq, again.Offset = 5, 4
		if err := s.Append(t.Context(), []store.Entry{again}, at(4), at(5)); !errors.Is(err, store.ErrTripwire) {
			t.Errorf("%s time: another number for the same key: %v, want ErrTripwire", opened, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
