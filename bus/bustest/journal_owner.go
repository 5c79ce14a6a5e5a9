package bustest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
)

// journalReader is a member of a group that polls on a goroutine of its own, remembers what it was told and read, and commits
// what it has read when it is revoked. It fails its test when a promise of Owner or Consumer is broken.
type journalReader struct {
	t        *testing.T
	consumer journal.Consumer
	epoch    contracts.Epoch // of its commits
	start    func(ctx context.Context, partition int32, committed *journal.Commit) (int64, error)
	between  func() // called on the polling goroutine before each Poll
	stop     context.CancelFunc
	done     chan struct{}

	mu      sync.Mutex // guards what follows
	changed chan struct{}
	working bool // the goroutine works on what Poll returned
	owned   map[int32]bool
	given   map[int32]*journal.Commit
	next    map[int32]int64
	ends    map[int32]int64
	read    map[int32][]journal.Record
	errs    map[int32]error
	told    []string
}

// newJournalReader starts a reader that begins at its group's commits, else at 0.
func newJournalReader(t *testing.T, f JournalFixture, group string, opts ...func(*journalReader)) *journalReader {
	t.Helper()
	r := &journalReader{
		t: t, done: make(chan struct{}), changed: make(chan struct{}), epoch: 1,
		owned: make(map[int32]bool), given: make(map[int32]*journal.Commit), next: make(map[int32]int64),
		ends: make(map[int32]int64), read: make(map[int32][]journal.Record), errs: make(map[int32]error),
	}
	r.start = func(_ context.Context, _ int32, committed *journal.Commit) (int64, error) {
		if committed != nil {
			return committed.Offset, nil
		}
		return 0, nil
	}
	for _, o := range opts {
		o(r)
	}
	var err error
	if r.consumer, err = f.Consumer(f.Groups+group, r); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go r.run(ctx)
	t.Cleanup(r.close)
	return r
}

// run polls until ctx ends.
func (r *journalReader) run(ctx context.Context) {
	defer close(r.done)
	for ctx.Err() == nil {
		if r.between != nil {
			r.between()
		}
		batches, err := r.consumer.Poll(ctx, 100*time.Millisecond)
		if err != nil && ctx.Err() == nil {
			r.t.Errorf("poll: %v", err)
			return
		}
		r.update(func() { r.working = true })
		r.update(func() {
			for _, b := range batches {
				r.take(b)
			}
		})
		r.update(func() { r.working = false })
	}
}

// take remembers a batch. Under r.mu.
func (r *journalReader) take(b journal.Batch) {
	if !r.owned[b.Partition] {
		r.t.Errorf("batch of partition %d, which is not owned", b.Partition)
		return
	}
	if b.Err != nil {
		r.errs[b.Partition] = b.Err
		return
	}
	for _, rec := range b.Records {
		if want := r.next[b.Partition]; rec.Offset != want {
			r.t.Errorf("partition %d: read offset %d, want %d", b.Partition, rec.Offset, want)
		}
		r.next[b.Partition] = rec.Offset + 1
		r.read[b.Partition] = append(r.read[b.Partition], rec)
	}
	if b.End < r.next[b.Partition] {
		r.t.Errorf("partition %d: end %d is before what was read, %d", b.Partition, b.End, r.next[b.Partition])
	}
	r.ends[b.Partition] = b.End
}

// Assign implements journal.Owner.
func (r *journalReader) Assign(ctx context.Context, partition int32, committed *journal.Commit) (int64, error) {
	start, err := r.start(ctx, partition, committed)
	if err != nil {
		return 0, err
	}
	r.update(func() {
		r.owned[partition] = true
		r.given[partition] = committed
		r.next[partition] = start
		delete(r.ends, partition)
		r.told = append(r.told, fmt.Sprint("assign ", partition))
	})
	return start, nil
}

// Revoke implements journal.Owner.
func (r *journalReader) Revoke(ctx context.Context, partitions []int32) {
	commits := make(map[int32]journal.Commit)
	r.update(func() {
		r.giveUp("revoke", partitions)
		for _, p := range partitions {
			commits[p] = journal.Commit{Offset: r.next[p], Epoch: r.epoch}
		}
	})
	if err := r.consumer.Commit(ctx, commits); err != nil {
		r.t.Errorf("commit on revoke: %v", err)
	}
}

// Lose implements journal.Owner.
func (r *journalReader) Lose(partitions []int32) {
	r.update(func() { r.giveUp("lose", partitions) })
}

// giveUp is what Revoke and Lose have in common. Under r.mu.
func (r *journalReader) giveUp(what string, partitions []int32) {
	if r.working {
		r.t.Errorf("%s while the reader works on a batch", what)
	}
	for _, p := range partitions {
		if !r.owned[p] {
			r.t.Errorf("%s of partition %d, which is not owned", what, p)
		}
		delete(r.owned, p)
		r.told = append(r.told, fmt.Sprint(what, " ", p))
	}
}

// update runs f under r.mu and wakes who waits.
func (r *journalReader) update(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.changed)
	r.changed = make(chan struct{})
}

// wait waits until cond, which is called under r.mu, holds.
func (r *journalReader) wait(what string, cond func() bool) {
	r.t.Helper()
	timeout := time.After(Patience)
	for {
		r.mu.Lock()
		ok, changed := cond(), r.changed
		told := slices.Clone(r.told)
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			r.t.Fatalf("waited in vain for %s; told so far: %v", what, told)
		}
	}
}

// waitOwned waits until the reader owns exactly n partitions.
func (r *journalReader) waitOwned(n int) {
	r.t.Helper()
	r.wait(fmt.Sprintf("%d partitions", n), func() bool { return len(r.owned) == n })
}

// waitNext waits until the reader has read a partition up to an offset.
func (r *journalReader) waitNext(partition int32, offset int64) {
	r.t.Helper()
	r.wait(fmt.Sprintf("offset %d of partition %d", offset, partition), func() bool { return r.next[partition] >= offset })
}

// values returns what was read of a partition.
func (r *journalReader) values(partition int32) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, rec := range r.read[partition] {
		out = append(out, string(rec.Value))
	}
	return out
}

// halt ends the polling, without leaving the group.
func (r *journalReader) halt() {
	r.stop()
	<-r.done
}

// close ends the polling and leaves the group.
func (r *journalReader) close() {
	r.halt()
	if err := r.consumer.Close(); err != nil {
		r.t.Errorf("close consumer: %v", err)
	}
}
