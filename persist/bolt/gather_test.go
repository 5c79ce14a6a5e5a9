package bolt_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/bustest"
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

func expectWaiting(t *testing.T, s *bolt.Store, n int) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(bustest.Patience); s.Waiting() < n; <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%d wait, not %d", s.Waiting(), n)
		}
	}
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
	expectWaiting(t, s, appends)
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

// TestMembershipWaitsAQuarter: also behind an append that waits longer, which is committed with it then.
func TestMembershipWaitsAQuarter(t *testing.T) {
	s, err := bolt.Open(bolt.Config{Path: filepath.Join(t.TempDir(), "store.db"), Gather: 4 * time.Hour})
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
	s.CommittedAt(time.Now().Add(-2 * time.Hour))
	before := transactions(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), bustest.Patience) // a membership that waits for the append is written then
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() {
		if err := s.Append(ctx, nil, contracts.Checkpoint{}, contracts.Checkpoint{Partition: 1, Epoch: 1, Offset: 1}); err != nil {
			t.Errorf("append: %v", err)
		}
	})
	expectWaiting(t, s, 1)
	if err := s.Join(t.Context(), contracts.Membership{Room: "lobby", User: contracts.Person{ID: "ann", Name: "Ann"}}); err != nil {
		t.Fatal(err)
	}
	running.Wait()
	if ctx.Err() != nil {
		t.Error("the membership waited for as long as the append")
	}
	if n := transactions(t, s) - before; n != 1 {
		t.Errorf("%d transactions, want one for both", n)
	}
}
