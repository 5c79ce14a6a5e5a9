package bolt_test

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/bolt"
	"github.com/parley-chat/parley/persist/store/storetest"
)

func transactions(t *testing.T, s *bolt.Store) int {
	t.Helper()
	n, err := s.Transactions()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSmallAppendsShareACommit: they wait for each other, and not while somebody else is in a hurry.
func TestSmallAppendsShareACommit(t *testing.T) {
	s, err := bolt.Open(bolt.Config{Path: filepath.Join(t.TempDir(), "store.db"), Gather: time.Hour}) // nothing but a hurry ends it
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	if err := s.Prepare(t.Context(), storetest.Partitions); err != nil {
		t.Fatal(err)
	}
	before := transactions(t, s)
	const appends = 3
	var running sync.WaitGroup
	for p := range int32(appends) {
		running.Go(func() {
			if err := s.Append(t.Context(), nil, contracts.Checkpoint{}, contracts.Checkpoint{Partition: p, Epoch: 1, Offset: 1}); err != nil {
				t.Errorf("append: %v", err)
			}
		})
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); s.Waiting() < appends; <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%d wait, not %d", s.Waiting(), appends)
		}
	}
	if err := s.Prepare(t.Context(), storetest.Partitions); err != nil {
		t.Fatal(err)
	}
	running.Wait()
	if n := transactions(t, s) - before; n != 1 {
		t.Errorf("%d transactions for %d small appends and what was in a hurry, want one", n, appends)
	}
	all, err := s.Checkpoints(t.Context())
	if err != nil || len(all) != appends {
		t.Errorf("%d checkpoints, %v", len(all), err)
	}
}
