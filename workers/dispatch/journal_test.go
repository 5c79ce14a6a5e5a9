package dispatch_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/journal"
)

// fakeLog is the world's log, seen from outside any group.
type fakeLog struct{ w *world }

func (l fakeLog) Bounds(ctx context.Context, p int32) (start, end int64, err error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	lg := l.w.log(p)
	return lg.start, lg.end(), ctx.Err()
}

func (l fakeLog) Read(ctx context.Context, p int32, from int64, limit int) ([]journal.Record, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.w.logReads++
	return l.w.log(p).read(from, limit), errors.Join(ctx.Err(), l.w.log(p).check(from))
}

func (fakeLog) Extents(context.Context) ([]journal.Extent, error) { panic("not asked") }
func (fakeLog) Ensure(context.Context, int) error                 { return nil }
func (fakeLog) Ping(context.Context) error                        { return nil }
func (fakeLog) Committed(context.Context, string) (map[int32]journal.Commit, error) {
	return nil, nil
}
func (fakeLog) Trim(context.Context, int32, int64) error { return nil }
func (fakeLog) Durability(context.Context) (journal.Durability, error) {
	return journal.DurabilityVolatile, nil
}
func (fakeLog) Close() error { return nil }

// partitionLog is one partition of the world's log. The world's mu guards it.
type partitionLog struct {
	start  int64
	values [][]byte
}

func (l *partitionLog) end() int64 { return l.start + int64(len(l.values)) }

func (l *partitionLog) check(from int64) error {
	if from < l.start || from > l.end() {
		return journal.ErrOutOfRange
	}
	return nil
}

func (l *partitionLog) read(from int64, limit int) (out []journal.Record) {
	for o := max(from, l.start); o < l.end() && len(out) < limit; o++ {
		out = append(out, journal.Record{Offset: o, Value: l.values[o-l.start]})
	}
	return out
}

// consumer is the one member of the world's consumer group.
type consumer struct {
	w      *world
	owner  journal.Owner
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	found  chan found

	// The poller's.
	begun bool
	parts map[int32]*part
}

type part struct {
	next     int64
	run      int // counts the restarts
	reading  bool
	assigned bool
	fresh    bool // just found: an empty batch says that nothing is to be read
	cancel   context.CancelFunc
	done     chan struct{}
}

type found struct {
	id    int32
	run   int
	start int64
}

func (w *world) consume(o journal.Owner) (journal.Consumer, error) {
	c := &consumer{w: w, owner: o, found: make(chan found, 64), parts: make(map[int32]*part)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

func (c *consumer) assign(id int32, p *part) {
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan struct{})
	p.run++
	p.reading, p.cancel, p.done = false, cancel, done
	run := p.run
	c.wg.Go(func() {
		defer close(done)
		for {
			start, err := c.owner.Assign(ctx, id, c.w.commit(id))
			if err == nil {
				c.found <- found{id, run, start}
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}

func (c *consumer) Poll(ctx context.Context, wait time.Duration) ([]journal.Batch, error) {
	if !c.begun {
		c.begun = true
		for id := range int32(c.w.partitions) {
			c.parts[id] = &part{}
			c.assign(id, c.parts[id])
		}
	}
	timeout := time.After(wait)
	for {
		changed := c.w.change()
		if out := c.batches(); len(out) > 0 {
			return out, nil
		}
		select {
		case f := <-c.found:
			if p := c.parts[f.id]; p != nil && p.run == f.run {
				p.next, p.reading, p.assigned, p.fresh = f.start, true, true, true
			}
		case <-changed:
			c.giveUp()
		case <-timeout:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *consumer) batches() (out []journal.Batch) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(c.parts)) {
		p, l := c.parts[id], c.w.log(id)
		if !p.reading {
			continue
		}
		if l.check(p.next) != nil {
			p.reading = false
			out = append(out, journal.Batch{Partition: id, Err: journal.ErrOutOfRange})
			continue
		}
		records := l.read(p.next, 7)
		if len(records) > 0 || p.fresh {
			out = append(out, journal.Batch{Partition: id, Records: records, End: l.end()})
		}
		p.next += int64(len(records))
		p.fresh = false
	}
	return out
}

// giveUp hands the partitions over that the world wants to have revoked.
func (c *consumer) giveUp() {
	c.w.mu.Lock()
	ids := c.w.revoke
	c.w.revoke = nil
	c.w.mu.Unlock()
	for _, id := range ids {
		if p := c.parts[id]; p != nil {
			p.cancel()
			<-p.done
			if p.assigned {
				c.owner.Revoke(context.Background(), []int32{id})
			}
			delete(c.parts, id)
		}
	}
}

func (c *consumer) Restart(id int32) {
	if p := c.parts[id]; p != nil {
		p.cancel()
		<-p.done
		c.assign(id, p)
	}
}

// Commit fails its test when it is called beside another one: the later of two might be the earlier for the group.
func (c *consumer) Commit(ctx context.Context, commits map[int32]journal.Commit) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.w.committing {
		c.w.t.Error("two commits at once")
	}
	if takes := c.w.commitTakes; takes > 0 {
		c.w.committing = true
		c.w.mu.Unlock()
		select {
		case <-time.After(takes):
		case <-ctx.Done():
		}
		c.w.mu.Lock()
		c.w.committing = false
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if c.w.commitErr != nil {
		return c.w.commitErr
	}
	maps.Copy(c.w.commits, commits)
	return nil
}

func (c *consumer) Alive() time.Time {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if !c.w.lastBeat.IsZero() {
		return c.w.lastBeat
	}
	return time.Now()
}

func (c *consumer) Close() error {
	c.cancel()
	c.wg.Wait()
	var ids []int32
	for id, p := range c.parts {
		if p.assigned {
			ids = append(ids, id)
		}
	}
	if c.w.crashes() {
		c.owner.Lose(ids)
	} else {
		c.owner.Revoke(context.Background(), ids)
	}
	return nil
}
