package sink_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/sink"
)

func TestStoresTheLog(t *testing.T) {
	inWorld(t, func(w *world) {
		for id := range int32(3) {
			w.log.append(id, messages(roomsOf(id, 7), 1000, 150)...)
		}
		p := w.start(0, 1, 2)
		w.caughtUp(p)
		w.log.append(1, messages(roomsOf(1, 9), 5000, 33)...)
		pass(2 * time.Second)
		if !p.CaughtUp() {
			t.Errorf("not caught up: %+v", p.Status())
		}
		for id := range int32(3) {
			w.stored(id)
		}
		pass(10 * time.Second)
		commits, _ := w.log.Committed(t.Context(), names.PersistGroup())
		want := map[int32]journal.Commit{0: {Offset: 150, Epoch: 1}, 1: {Offset: 183, Epoch: 1}, 2: {Offset: 150, Epoch: 1}}
		if diff := cmp.Diff(want, commits); diff != "" {
			t.Errorf("group commits (-want +got):\n%s", diff)
		}
		if n := p.metric(t, "parley_persist_entries_total"); n != 483 {
			t.Errorf("%v entries counted, want 483", n)
		}
		p.lint(t)
		p.stop()
		if got, _ := p.registry.Gather(); len(got) != 0 {
			t.Errorf("%d metrics stay registered after Run", len(got))
		}
	})
}

// TestBulkDelay sees a single entry stored after the delay and not before, and a full bulk at once.
func TestBulkDelay(t *testing.T) {
	inWorld(t, func(w *world) {
		rooms := roomsOf(0, 1)
		w.cfg.BulkDelay = time.Minute
		w.log.append(0, messages(rooms, 1, 1)...)
		p := w.start(0)
		pass(59 * time.Second)
		if c := p.Status()[0].Stored; c != 0 {
			t.Errorf("checkpoint %d before the delay is over", c)
		}
		pass(2 * time.Second)
		if c := p.Status()[0].Stored; c != 1 {
			t.Errorf("checkpoint %d after the delay, want 1", c)
		}
		w.log.append(0, messages(rooms, 100, 45)...)
		pass(time.Second)
		if c := p.Status()[0].Stored; c != 41 {
			t.Errorf("checkpoint %d after two full bulks of 20, want 41", c)
		}
		p.stop() // writes the rest
		w.stored(0)
	})
}

func TestDuplicates(t *testing.T) {
	inWorld(t, func(w *world) {
		rooms := roomsOf(2, 3)
		first := messages(rooms, 1_000_000, 60)
		w.log.append(2, first...)
		w.log.append(2, first[:30]...) // retries while the keys are held
		p := w.start(2)
		w.caughtUp(p)
		p.kill(2)

		// A new persister holds no keys: copies that are older than K are asked of the store; so is an old key that was
		// never seen; a key above K is new without a question.
		p = w.start(2)
		w.log.append(2, first[59], first[0], message(rooms[0], key(5, 5), "sent long ago"))
		w.log.append(2, message(rooms[1], key(2_000_000, 1), "new"), first[33], message(rooms[1], key(2_000_000, 1), "new"))
		w.caughtUp(p)
		w.stored(2)
		if n := p.metric(t, "parley_persist_duplicates_total"); n != 4 {
			t.Errorf("%v duplicates counted, want 4", n)
		}
		p.stop()
	})
}

func TestDeadLetters(t *testing.T) {
	inWorld(t, func(w *world) {
		rooms := roomsOf(1, 2)
		good := messages(rooms, 1, 10)
		w.log.append(1, []byte{}, good[0], []byte("P\x01{\"kind\":"), make([]byte, contracts.MaxRecordBytes+1), good[1])
		w.log.append(1, message(roomsOf(0, 1)[0], key(7, 7), "of another partition"), good[2], []byte{0xff})
		p := w.start(1)
		// The store takes no dead letter for a while: the checkpoint must not pass one.
		w.caughtUp(p)
		p.stop()
		w.stored(1)
		_, want := w.numbered(1, 8)
		got, err := w.store.DeadLetters(t.Context(), 1, contracts.Position{}, 100)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("dead letters (-want +got):\n%s", diff)
		}
	})
}

func TestNewerVersionStopsThePartition(t *testing.T) {
	inWorld(t, func(w *world) {
		rooms := roomsOf(0, 2)
		w.log.append(0, messages(rooms, 1, 30)...)
		w.log.append(0, []byte("P\x02something newer"))
		w.log.append(0, messages(rooms, 500, 30)...)
		w.log.append(1, messages(roomsOf(1, 2), 1, 30)...)
		p := w.start(0, 1)
		pass(time.Minute)
		w.log.append(0, messages(rooms, 900, 3)...)
		w.log.append(1, messages(roomsOf(1, 2), 900, 3)...)
		pass(time.Minute)
		if c := p.Status()[0].Stored; c != 30 {
			t.Errorf("checkpoint %d, want 30: just before the newer record", c)
		}
		if c := p.Status()[1].Stored; c != 33 {
			t.Errorf("checkpoint %d of the other partition, want 33", c)
		}
		if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "partition 0 stopped: record 30 waits for a newer release") {
			t.Errorf("ready: %v", err)
		}
		if n := p.metric(t, "parley_persist_alarms"); n != 1 {
			t.Errorf("%v alarms, want 1", n)
		}
		p.stop()
		w.check(true, 0, 1)
	})
}

// TestStoreAway takes the store away for ten minutes under load: what is held stays bounded, polling goes on, the log
// says it once, and nothing is lost.
func TestStoreAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cfg.BacklogBytes = 64 << 10 // about a hundred records
		rooms := roomsOf(0, 5)
		w.log.append(0, messages(rooms, 1, 30)...)
		p := w.start(0)
		w.caughtUp(p)
		p.store.away.Store(true)
		polls := p.polls.Load()
		for minute := range int64(10) {
			w.log.append(0, messages(rooms, 1000*(minute+1), 600)...)
			pass(time.Minute)
			st := p.Status()[0]
			if held := st.Read - st.Stored; held > 200 {
				t.Fatalf("%d records are held after %d minutes", held, minute+1)
			}
		}
		if n := p.polls.Load() - polls; n < 300 {
			t.Errorf("%d polls in ten minutes", n)
		}
		if st := p.Status()[0]; st.Stored != 30 || st.Lag() != 6000 {
			t.Errorf("stored %d, lag %d, want 30 and 6000", st.Stored, st.Lag())
		}
		p.store.away.Store(false)
		w.caughtUp(p)
		w.stored(0)
		if n := p.metric(t, "parley_persist_dropped_batches_total"); n == 0 {
			t.Error("nothing was dropped: the test does not reach the bound")
		}
		p.stop()
		if n := strings.Count(w.logged.String(), "does not answer"); n != 1 {
			t.Errorf("the outage was logged %d times", n)
		}
		if n := strings.Count(w.logged.String(), "answer again"); n != 1 {
			t.Errorf("its end was logged %d times", n)
		}
	})
}

// TestAssignWhileTheStoreIsAway takes partitions when the checkpoint cannot be read.
func TestAssignWhileTheStoreIsAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.log.append(0, messages(roomsOf(0, 2), 1, 30)...)
		p := &process{store: &moodyStore{Store: w.store}}
		p.store.away.Store(true)
		w.launch(p, 0)
		pass(time.Minute)
		if err := p.Ready(); err == nil {
			t.Error("ready without a partition")
		}
		p.store.away.Store(false)
		w.caughtUp(p)
		w.stored(0)
		p.stop()
	})
}

func TestRevokeWritesAndCommits(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cfg.BulkDelay = time.Hour
		w.log.append(0, messages(roomsOf(0, 2), 1, 7)...)
		p := w.start(0)
		pass(time.Second)
		if c := p.Status()[0].Stored; c != 0 {
			t.Fatalf("checkpoint %d: the bulk did not wait", c)
		}
		p.revoke(0)
		synctest.Wait()
		w.stored(0)
		commits, _ := w.log.Committed(t.Context(), names.PersistGroup())
		if commits[0] != (journal.Commit{Offset: 7, Epoch: 1}) {
			t.Errorf("commit %+v", commits[0])
		}
		if len(p.Status()) != 0 {
			t.Errorf("still owns %+v", p.Status())
		}
		// The partition comes back later.
		w.log.append(0, messages(roomsOf(0, 2), 100, 7)...)
		p.assign(0)
		pass(time.Second)
		p.stop()
		w.stored(0)
	})
}

// TestRevokeIsBounded gives a partition up while the store is away.
func TestRevokeIsBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		w.log.append(0, messages(roomsOf(0, 2), 1, 7)...)
		p := w.start(0)
		w.caughtUp(p)
		p.store.away.Store(true)
		w.log.append(0, messages(roomsOf(0, 2), 100, 7)...)
		pass(time.Minute)
		began := time.Now()
		p.stop()
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("stopping took %v", took)
		}
		w.check(true, 0)
	})
}

func TestReadyNamesWhatLacks(t *testing.T) {
	inWorld(t, func(w *world) {
		s := sink.New(w.cfg, sink.Deps{})
		if err := s.Ready(); err == nil || s.CaughtUp() {
			t.Errorf("ready before Run: %v", err)
		}
		w.log.append(0, messages(roomsOf(0, 2), 1, 7)...)
		p := w.start()
		pass(time.Second)
		if err := p.Ready(); err == nil {
			t.Error("ready before the first assignment")
		}
		p.store.fail(func(contracts.Checkpoint) error { return errAway }, nil)
		p.assign(0)
		pass(time.Second)
		if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "partition 0: 7 records to store") {
			t.Errorf("ready: %v", err)
		}
		p.store.fail(nil, nil)
		w.caughtUp(p)
		// Ready once, it does not flap when new records come.
		p.store.away.Store(true)
		w.log.append(0, messages(roomsOf(0, 2), 100, 7)...)
		pass(5 * time.Second)
		if err := p.Ready(); err != nil || p.CaughtUp() {
			t.Errorf("ready: %v, caught up: %v; want ready and not caught up", err, p.CaughtUp())
		}
		p.stop()
	})
}

// TestSpareIsReady runs more persisters than there are partitions.
func TestSpareIsReady(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.start()
		pass(time.Minute)
		if err := p.Ready(); err != nil {
			t.Errorf("ready: %v", err)
		}
		p.stop()
	})
}

// TestGoneWhileTakenOver: a partition that goes elsewhere while it is taken over is nothing that lacks.
func TestGoneWhileTakenOver(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.start()
		pass(time.Minute)
		p.store.away.Store(true)
		ctx, gone := context.WithCancel(context.Background())
		gone()
		if _, err := p.Assign(ctx, 0, nil); err == nil {
			t.Error("taken over without the store")
		}
		if err := p.Ready(); err != nil {
			t.Errorf("ready: %v", err)
		}
		p.stop()
	})
}

func TestConfigValidate(t *testing.T) {
	for _, c := range []struct {
		cfg sink.Config
		ok  bool
	}{
		{sink.Config{}, true},
		{sink.Config{Partitions: 64}, true},
		{sink.Config{Partitions: 63}, false},
		{sink.Config{BulkDelay: -1}, false},
		{sink.Config{KeepRecords: -1}, false},
	} {
		if err := c.cfg.Validate(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
}
