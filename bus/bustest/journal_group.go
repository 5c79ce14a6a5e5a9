package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
)

func testJournalPoll(t *testing.T, s *journalSuite) {
	s.fill(t, 0, 0, 300)
	s.fill(t, 1, 0, 3)
	r := newJournalReader(t, s.JournalFixture, "g")
	r.waitNext(0, 300)
	r.waitNext(1, 3)
	for i := 300; i < 320; i++ {
		s.fill(t, 0, i, i+1)
		r.waitNext(0, int64(i+1))
	}
	if diff := cmp.Diff(journalValues(0, 320), r.values(0)); diff != "" {
		t.Errorf("partition 0 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(journalValues(0, 3), r.values(1)); diff != "" {
		t.Errorf("partition 1 (-want +got):\n%s", diff)
	}
	r.wait("the log's end", func() bool { return r.ends[0] == 320 && r.ends[1] == 3 })
}

func testJournalCaughtUp(t *testing.T, s *journalSuite) {
	s.fill(t, 1, 0, 5)
	r := newJournalReader(t, s.JournalFixture, "g", func(r *journalReader) {
		r.start = func(_ context.Context, partition int32, _ *journal.Commit) (int64, error) {
			if partition == 1 {
				return 5, nil
			}
			return 0, nil
		}
	})
	r.wait("the end of every partition", func() bool { return len(r.ends) == s.Partitions })
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ends[0] != 0 || r.ends[1] != 5 || len(r.read) != 0 {
		t.Errorf("ends %v, read %v", r.ends, r.read)
	}
}

// idleOwner is an owner that starts at the commits or at 0 and commits nothing.
type idleOwner struct{}

func (idleOwner) Assign(_ context.Context, _ int32, c *journal.Commit) (int64, error) {
	if c != nil {
		return c.Offset, nil
	}
	return 0, nil
}
func (idleOwner) Revoke(context.Context, []int32) {}
func (idleOwner) Lose([]int32)                    {}

func testJournalPollTime(t *testing.T, s *journalSuite) {
	c, err := s.Consumer(s.Groups+"g", idleOwner{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeConsumer(t, c)
	for range 3 {
		if _, err := c.Poll(s.ctx, 0); err != nil {
			t.Errorf("poll without waiting: %v", err)
		}
	}
	Soon(t, "poll for 100 ms", 5*time.Second, func() time.Duration {
		began := time.Now()
		for time.Since(began) < 100*time.Millisecond {
			if _, err := c.Poll(s.ctx, 100*time.Millisecond-time.Since(began)); err != nil {
				t.Errorf("poll: %v", err)
			}
		}
		return time.Since(began)
	})
	ctx, cancel := context.WithCancel(s.ctx)
	time.AfterFunc(20*time.Millisecond, cancel)
	for err = nil; err == nil; {
		_, err = c.Poll(ctx, Patience)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("poll with an ended context: %v", err)
	}
}

func closeConsumer(t *testing.T, c journal.Consumer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("close consumer: %v", err)
	}
}

func testJournalCommit(t *testing.T, s *journalSuite) {
	if got, err := s.log.Committed(s.ctx, s.Groups+"g"); err != nil || len(got) != 0 {
		t.Errorf("commits of a group that never was: %v, %v", got, err)
	}
	s.fill(t, 0, 0, 10)
	first := newJournalReader(t, s.JournalFixture, "g", func(r *journalReader) { r.epoch = 7 })
	first.waitNext(0, 10)
	first.waitOwned(s.Partitions)
	first.mu.Lock()
	given := first.given[0]
	first.mu.Unlock()
	if given != nil {
		t.Errorf("the first member was given the commit %v", *given)
	}
	first.halt()
	if err := first.consumer.Commit(s.ctx, map[int32]journal.Commit{0: {Offset: 4, Epoch: 6}}); err != nil {
		t.Errorf("commit: %v", err)
	}
	got, err := s.log.Committed(s.ctx, s.Groups+"g")
	if diff := cmp.Diff(map[int32]journal.Commit{0: {Offset: 4, Epoch: 6}}, got); diff != "" || err != nil {
		t.Errorf("committed (%v) (-want +got):\n%s", err, diff)
	}
	first.close() // commits what was read
	if err := first.consumer.Commit(s.ctx, map[int32]journal.Commit{0: {Offset: 5}}); !errors.Is(err, journal.ErrNotOwner) {
		t.Errorf("commit without owning: %v, want %v", err, journal.ErrNotOwner)
	}

	s.fill(t, 0, 10, 12)
	second := newJournalReader(t, s.JournalFixture, "g")
	second.waitNext(0, 12)
	if diff := cmp.Diff(journalValues(10, 12), second.values(0)); diff != "" {
		t.Errorf("the second member read (-want +got):\n%s", diff)
	}
	second.mu.Lock()
	defer second.mu.Unlock()
	if diff := cmp.Diff(&journal.Commit{Offset: 10, Epoch: 7}, second.given[0]); diff != "" {
		t.Errorf("the second member was given (-want +got):\n%s", diff)
	}
}

func testJournalCommitBeside(t *testing.T, s *journalSuite) {
	s.fill(t, 0, 0, 3)
	r := newJournalReader(t, s.JournalFixture, "g")
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	err := journal.ErrNotOwner // until it owns the partition
	for errors.Is(err, journal.ErrNotOwner) && s.ctx.Err() == nil {
		<-tick.C
		err = r.consumer.Commit(s.ctx, map[int32]journal.Commit{0: {Offset: 2, Epoch: 5}})
	}
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	got, err := s.log.Committed(s.ctx, s.Groups+"g")
	if diff := cmp.Diff(map[int32]journal.Commit{0: {Offset: 2, Epoch: 5}}, got); diff != "" || err != nil {
		t.Errorf("committed (%v) (-want +got):\n%s", err, diff)
	}
	s.fill(t, 0, 3, 5)
	r.waitNext(0, 5)
}

func testJournalRebalance(t *testing.T, s *journalSuite) {
	// Records are appended all the time, while members come and go.
	var stop atomic.Bool
	counts := make(chan []int, 1)
	go func() {
		count := make([]int, s.Partitions)
		for !stop.Load() {
			for p := range count {
				if got := <-s.append(s.writer, int32(p), fmt.Appendf(nil, "v%d", count[p])); got.err != nil {
					t.Errorf("append: %v", got.err)
				}
				count[p]++
			}
		}
		counts <- count
	}()
	t.Cleanup(func() { stop.Store(true) })
	moved := func(r *journalReader) {
		r.wait("records from every partition it owns", func() bool {
			for p := range r.owned {
				if len(r.read[p]) == 0 {
					return false
				}
			}
			return true
		})
	}

	a := newJournalReader(t, s.JournalFixture, "g")
	a.waitOwned(s.Partitions)
	moved(a)
	b := newJournalReader(t, s.JournalFixture, "g")
	b.wait("its share", func() bool { return len(b.owned) > 0 && len(b.owned) < s.Partitions })
	moved(b)
	a.mu.Lock()
	kept := len(a.owned)
	told := slices.Clone(a.told)
	a.mu.Unlock()
	if kept == 0 || len(told) != 2*s.Partitions-kept {
		t.Errorf("the first member kept %d of %d partitions and was told %v: only what moves is to be revoked", kept, s.Partitions, told)
	}
	a.close()
	b.waitOwned(s.Partitions)
	moved(b)
	c := newJournalReader(t, s.JournalFixture, "g")
	c.wait("its share", func() bool { return len(c.owned) > 0 })
	moved(c)
	c.close()
	b.waitOwned(s.Partitions)

	stop.Store(true)
	count := <-counts
	counts <- count
	for p, n := range count {
		b.waitNext(int32(p), int64(n))
	}
	b.close()
	for p, n := range count {
		// Each one continues exactly where the one before had committed, so every record was read once, by one of them.
		seen := make(map[string]int)
		for _, r := range []*journalReader{a, b, c} {
			for _, v := range r.values(int32(p)) {
				seen[v]++
			}
		}
		for i := range n {
			if v := fmt.Sprint("v", i); seen[v] != 1 {
				t.Errorf("partition %d: %s was read %d times", p, v, seen[v])
			}
		}
	}
	for _, r := range []*journalReader{a, b, c} {
		for _, what := range r.told {
			if what[:4] == "lose" {
				t.Errorf("a member was told %q", what)
			}
		}
	}
}

func testJournalSlowAssign(t *testing.T, s *journalSuite) {
	s.fill(t, 0, 0, 3)
	s.fill(t, 1, 0, 3)
	var ended atomic.Bool
	release := make(chan struct{})
	asked := make(chan struct{}, 100)
	r := newJournalReader(t, s.JournalFixture, "g", func(r *journalReader) {
		r.start = func(ctx context.Context, partition int32, _ *journal.Commit) (int64, error) {
			if partition != 0 {
				return 0, nil
			}
			asked <- struct{}{}
			select {
			case <-release:
				return 1, nil
			case <-ctx.Done():
				ended.Store(true)
				return 0, ctx.Err()
			}
		}
	})
	r.waitNext(1, 3)
	r.waitOwned(s.Partitions - 1)
	<-asked
	close(release)
	r.waitNext(0, 3)
	if diff := cmp.Diff(journalValues(1, 3), r.values(0)); diff != "" {
		t.Errorf("partition 0 (-want +got):\n%s", diff)
	}
	r.close()

	release = make(chan struct{})
	again := newJournalReader(t, s.JournalFixture, "g", func(n *journalReader) { n.start = r.start })
	again.waitOwned(s.Partitions - 1)
	<-asked
	again.close()
	if !ended.Load() {
		t.Error("the context of a waiting Assign did not end when the partition was given up")
	}
	for _, what := range again.told {
		if what == "revoke 0" {
			t.Error("Revoke names a partition whose Assign never succeeded")
		}
	}
}

func testJournalFailedAssign(t *testing.T, s *journalSuite) {
	s.fill(t, 0, 0, 3)
	var tries atomic.Int32
	r := newJournalReader(t, s.JournalFixture, "g", func(r *journalReader) {
		r.start = func(_ context.Context, partition int32, _ *journal.Commit) (int64, error) {
			if partition == 0 && tries.Add(1) < 3 {
				return 0, errors.New("the store is away")
			}
			return 0, nil
		}
	})
	r.waitNext(0, 3)
	if n := tries.Load(); n != 3 {
		t.Errorf("assigned %d times, want 3", n)
	}
}

func testJournalOutOfRange(t *testing.T, s *journalSuite) {
	s.fill(t, 0, 0, 20)
	s.fill(t, 1, 0, 2)
	if err := s.log.Trim(s.ctx, 0, 10); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		start int64
	}{{"below the start", 5}, {"above the end", 21}} {
		t.Run(tt.name, func(t *testing.T) {
			var restarted atomic.Bool
			restart := make(chan struct{})
			r := newJournalReader(t, s.JournalFixture, "g-"+fmt.Sprint(tt.start), func(r *journalReader) {
				r.start = func(_ context.Context, partition int32, _ *journal.Commit) (int64, error) {
					switch {
					case partition != 0:
						return 0, nil
					case restarted.Load():
						return 10, nil
					}
					return tt.start, nil
				}
				r.between = func() {
					select {
					case <-restart:
						if restarted.CompareAndSwap(false, true) {
							r.consumer.Restart(0)
						}
					default:
					}
				}
			})
			r.wait("the error", func() bool { return r.errs[0] != nil })
			r.waitNext(1, 2) // the others go on
			r.mu.Lock()
			err, read := r.errs[0], len(r.read[0])
			r.mu.Unlock()
			if !errors.Is(err, journal.ErrOutOfRange) || read != 0 {
				t.Errorf("%d records and the error %v, want %v", read, err, journal.ErrOutOfRange)
			}
			close(restart)
			r.wait("what is behind the restart", func() bool { return len(r.read[0]) >= 10 })
			if diff := cmp.Diff(journalValues(10, 20), r.values(0)); diff != "" {
				t.Errorf("after the restart (-want +got):\n%s", diff)
			}
		})
	}
}

func testJournalOutage(t *testing.T, s *journalSuite) {
	if s.Interrupt == nil {
		t.Skip("this log cannot be interrupted")
	}
	s.fill(t, 0, 0, 50)
	r := newJournalReader(t, s.JournalFixture, "g")
	r.waitNext(0, 50)
	resume := s.Interrupt()
	var outs []<-chan appended
	for i := 50; i < 100; i++ {
		outs = append(outs, s.append(s.writer, 0, fmt.Appendf(nil, "v%d", i)))
	}
	resume()
	for _, out := range outs {
		if got := <-out; got.err != nil {
			t.Fatal(got.err)
		}
	}
	r.waitNext(0, 100)
	if diff := cmp.Diff(journalValues(0, 100), r.values(0)); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
}

func testJournalLose(t *testing.T, s *journalSuite) {
	if s.Interrupt == nil {
		t.Skip("this log cannot be interrupted")
	}
	s.fill(t, 0, 0, 10)
	r := newJournalReader(t, s.JournalFixture, "g")
	r.waitNext(0, 10)
	r.waitOwned(s.Partitions)
	resume := s.Interrupt()
	over := time.NewTimer(s.SessionTimeout * 3 / 2)
	defer over.Stop()
	<-over.C
	resume()
	r.wait("the loss", func() bool { return slices.Contains(r.told, "lose 0") })
	r.waitOwned(s.Partitions)
	s.fill(t, 0, 10, 20)
	r.waitNext(0, 20)
	// Nothing was committed, so it has begun at the start again.
	if diff := cmp.Diff(append(journalValues(0, 10), journalValues(0, 20)...), r.values(0)); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	if got, err := s.log.Committed(s.ctx, s.Groups+"g"); err != nil || len(got) != 0 {
		t.Errorf("committed: %v, %v", got, err)
	}
}

func testJournalAlive(t *testing.T, s *journalSuite) {
	began := time.Now()
	r := newJournalReader(t, s.JournalFixture, "g")
	if at := r.consumer.Alive(); !at.IsZero() && at.Before(began) {
		t.Errorf("alive since %v, before it was made", began.Sub(at))
	}
	r.waitOwned(s.Partitions)
	if r.consumer.Alive().IsZero() {
		t.Error("owns partitions before the group has confirmed it")
	}
	first := awaitAlive(t, r.consumer, began)
	second := awaitAlive(t, r.consumer, first)
	if now := time.Now(); second.After(now) {
		t.Errorf("alive %v ahead of now", second.Sub(now))
	}
	if s.Interrupt == nil {
		return
	}
	resume := s.Interrupt()
	cut := time.Now()
	quiet := time.NewTimer(time.Second)
	defer quiet.Stop()
	<-quiet.C
	if at := r.consumer.Alive(); at.After(cut) {
		t.Errorf("alive %v after the log went away", at.Sub(cut))
	}
	resume()
	awaitAlive(t, r.consumer, cut)
}

// awaitAlive waits until c was confirmed after a time, and returns when.
func awaitAlive(t *testing.T, c journal.Consumer, after time.Time) time.Time {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(Patience)
	for {
		if at := c.Alive(); at.After(after) {
			return at
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("the group does not confirm its member")
		}
	}
}

func testJournalConsumerClose(t *testing.T, s *journalSuite) {
	r := newJournalReader(t, s.JournalFixture, "g", func(r *journalReader) { r.epoch = contracts.Epoch(3) })
	r.waitOwned(s.Partitions)
	r.close()
	r.mu.Lock()
	if len(r.owned) != 0 {
		t.Errorf("still owned after close: %v", r.owned)
	}
	r.mu.Unlock()
	if _, err := r.consumer.Poll(s.ctx, time.Second); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("poll after close: %v, want %v", err, journal.ErrClosed)
	}
	if err := r.consumer.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	never, err := s.Consumer(s.Groups+"g", idleOwner{})
	if err != nil {
		t.Fatal(err)
	}
	closeConsumer(t, never)
}
