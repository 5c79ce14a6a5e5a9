package sink_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/persist/store"
)

// memoryLog is a log in memory. It is safe for concurrent use.
type memoryLog struct {
	journal.Log // nil: what is not overridden is not called

	mu        sync.Mutex // guards what follows
	parts     map[int32]*memoryPartition
	committed map[string]map[int32]journal.Commit
	changed   chan struct{} // closed and replaced when something was appended
}

type memoryPartition struct {
	start  int64
	values [][]byte // from start on
}

func newMemoryLog() *memoryLog {
	return &memoryLog{
		parts: make(map[int32]*memoryPartition), changed: make(chan struct{}),
		committed: make(map[string]map[int32]journal.Commit),
	}
}

func (l *memoryLog) part(id int32) *memoryPartition {
	if l.parts[id] == nil {
		l.parts[id] = &memoryPartition{}
	}
	return l.parts[id]
}

func (l *memoryLog) append(id int32, values ...[]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.part(id)
	p.values = append(p.values, values...)
	close(l.changed)
	l.changed = make(chan struct{})
}

// replace makes another log of a partition.
func (l *memoryLog) replace(id int32, start int64, values ...[]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.parts[id] = &memoryPartition{start: start, values: values}
}

func (l *memoryLog) Bounds(_ context.Context, id int32) (start, end int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.part(id)
	return p.start, p.start + int64(len(p.values)), nil
}

func (l *memoryLog) Extents(context.Context) ([]journal.Extent, error) { panic("not asked") }

func (l *memoryLog) Read(_ context.Context, id int32, from int64, limit int) ([]journal.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.read(id, from, limit)
}

func (l *memoryLog) read(id int32, from int64, limit int) (records []journal.Record, err error) {
	p := l.part(id)
	at := from - p.start
	if at < 0 || at > int64(len(p.values)) {
		return nil, journal.ErrOutOfRange
	}
	for i, v := range p.values[at:min(at+int64(limit), int64(len(p.values)))] {
		records = append(records, journal.Record{Offset: from + int64(i), Value: v})
	}
	return records, nil
}

func (l *memoryLog) Committed(_ context.Context, group string) (map[int32]journal.Commit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	commits := make(map[int32]journal.Commit)
	for id, c := range l.committed[group] {
		commits[id] = c
	}
	return commits, nil
}

func (l *memoryLog) commit(group string, commits map[int32]journal.Commit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.committed[group] == nil {
		l.committed[group] = make(map[int32]journal.Commit)
	}
	for id, c := range commits {
		l.committed[group][id] = c
	}
}

func (l *memoryLog) Trim(_ context.Context, id int32, before int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.part(id)
	if n := before - p.start; n > 0 {
		p.start, p.values = before, p.values[n:]
	}
	return nil
}

// memoryConsumer reads a memoryLog on behalf of an owner. What it owns is up to the test: two may own the same.
type memoryConsumer struct {
	log   *memoryLog
	group string
	owner journal.Owner
	polls atomic.Int64
	mute  atomic.Int64 // Unix nanoseconds since when the group hears nothing of this member; 0: it does

	mu     sync.Mutex // guards what follows
	events []func(context.Context)
	wake   chan struct{} // closed and replaced when there is an event

	most int // records of a partition in one Poll

	// Owned by the poller.
	next map[int32]int64
	seen map[int32]*memoryPartition // which log of the partition is being read: Kafka's clients notice another one
}

func (l *memoryLog) consumer(group string, owner journal.Owner) *memoryConsumer {
	return &memoryConsumer{log: l, group: group, owner: owner, most: 40, wake: make(chan struct{}), next: make(map[int32]int64), seen: make(map[int32]*memoryPartition)}
}

// later has the next Poll do something to the ownership.
func (c *memoryConsumer) later(f func(context.Context)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, f)
	close(c.wake)
	c.wake = make(chan struct{})
}

func (c *memoryConsumer) assign(ids ...int32) {
	for _, id := range ids {
		c.later(func(ctx context.Context) {
			start, err := c.owner.Assign(ctx, id, nil)
			if err != nil {
				if ctx.Err() == nil {
					time.AfterFunc(100*time.Millisecond, func() { c.assign(id) })
				}
				return
			}
			c.next[id] = start
			delete(c.seen, id)
		})
	}
}

func (c *memoryConsumer) revoke(ids ...int32) {
	c.later(func(ctx context.Context) {
		c.owner.Revoke(ctx, ids)
		for _, id := range ids {
			delete(c.next, id)
		}
	})
}

func (c *memoryConsumer) lose(ids ...int32) {
	c.later(func(context.Context) {
		for _, id := range ids {
			delete(c.next, id)
		}
		c.owner.Lose(ids)
	})
}

func (c *memoryConsumer) Poll(ctx context.Context, wait time.Duration) ([]journal.Batch, error) {
	c.polls.Add(1)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		c.mu.Lock()
		events, wake := c.events, c.wake
		c.events = nil
		c.mu.Unlock()
		for _, f := range events {
			f(ctx)
		}
		batches, changed, any := c.fetch()
		if any {
			return batches, nil
		}
		select {
		case <-timer.C:
			return batches, nil
		case <-changed:
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// fetch reads some records of each partition.
func (c *memoryConsumer) fetch() (batches []journal.Batch, changed chan struct{}, any bool) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	for id, from := range c.next {
		p := c.log.part(id)
		records, err := c.log.read(id, from, c.most)
		if c.seen[id] == nil {
			c.seen[id] = p
		} else if c.seen[id] != p {
			records, err = nil, journal.ErrOutOfRange
		}
		batches = append(batches, journal.Batch{Partition: id, Records: records, End: p.start + int64(len(p.values)), Err: err})
		any = any || len(records) > 0
		c.next[id] += int64(len(records))
	}
	return batches, c.log.changed, any
}

func (c *memoryConsumer) Commit(_ context.Context, commits map[int32]journal.Commit) error {
	for id := range commits {
		if _, owned := c.next[id]; !owned {
			return journal.ErrNotOwner
		}
	}
	c.log.commit(c.group, commits)
	return nil
}

func (c *memoryConsumer) Restart(id int32) {
	c.owner.Lose([]int32{id})
	delete(c.next, id)
	c.assign(id)
}

func (c *memoryConsumer) Alive() time.Time {
	if since := c.mute.Load(); since != 0 {
		return time.Unix(0, since)
	}
	return time.Now()
}

func (c *memoryConsumer) Close() error {
	ids := make([]int32, 0, len(c.next))
	for id := range c.next {
		ids = append(ids, id)
	}
	c.owner.Revoke(context.Background(), ids)
	return nil
}

var errAway = errors.New("the store is away")

// moodyStore is a store whose calls can be made to fail.
type moodyStore struct {
	sink.Store
	away atomic.Bool

	mu            sync.Mutex // guards before and after
	before, after hook
}

// hook is called around each Append and may fail it.
type hook func(next contracts.Checkpoint) error

// fail sets the hooks, nil for none: after is called when the Append has taken effect.
func (s *moodyStore) fail(before, after hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

func (s *moodyStore) hooks() (before, after hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.before, s.after
}

func (s *moodyStore) err() error {
	if s.away.Load() {
		return errAway
	}
	return nil
}

func (s *moodyStore) Checkpoint(ctx context.Context, id int32) (contracts.Checkpoint, bool, error) {
	if err := s.err(); err != nil {
		return contracts.Checkpoint{}, false, err
	}
	return s.Store.Checkpoint(ctx, id)
}

func (s *moodyStore) Append(ctx context.Context, entries []store.Entry, prev, next contracts.Checkpoint) error {
	if err := s.err(); err != nil {
		return err
	}
	before, after := s.hooks()
	if before != nil {
		if err := before(next); err != nil {
			return err
		}
	}
	if err := s.Store.Append(ctx, entries, prev, next); err != nil {
		return err
	}
	if after != nil {
		return after(next)
	}
	return nil
}

func (s *moodyStore) Lookup(ctx context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (foundEntries, foundHeads []roomlog.Found, err error) {
	if err := s.err(); err != nil {
		return nil, nil, err
	}
	return s.Store.Lookup(ctx, entries, heads)
}

func (s *moodyStore) Bury(ctx context.Context, d store.DeadLetter) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Store.Bury(ctx, d)
}
