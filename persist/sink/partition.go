package sink

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

// inboxBatches is how many polled batches may wait for a partition.
const inboxBatches = 2

// rereadRecords is how many records one re-read asks for.
const rereadRecords = 2000

// Why a partition stands still, as it shows in the metric's label.
const (
	whyLost     = "log_lost"    // records are lost or the log was replaced: the epoch is raised
	whyTrimmed  = "log_trimmed" // somebody deleted records that were not stored
	whyVersion  = "newer_version"
	whyTripwire = "tripwire"
)

// alarmError is something wrong with a partition that waiting cannot mend.
type alarmError struct {
	why    string
	reason string
	// lost: a new epoch mends it, if it is found again by then. certain: also if not, as what was read before is gone.
	lost, certain bool
}

func (e *alarmError) Error() string { return e.reason }

// partition is one owned partition. Its goroutine is run.
type partition struct {
	// Static after construction.
	sink     *Sink
	id       int32
	inbox    chan journal.Batch
	wake     chan struct{}   // holds one; see missed
	draining chan struct{}   // closed by drain
	done     chan struct{}   // closed when run has returned
	verdicts chan error      // holds one; see condemn
	ctx      context.Context // run's, ended by cancel
	cancel   context.CancelFunc

	start int64  // the log's, as far as the keeper knows; the keeper's
	swept string // where the next walk for old messages begins; Sink.retain's

	dropped atomic.Bool // a batch was dropped since the last re-read began

	mu sync.Mutex // guards st
	st Status

	// Owned by run.
	*backlog
	behind bool           // records from next on were dropped since the last re-read began
	unsure bool           // the log may have been replaced since the checkpoint was compared with it
	halted bool           // the record at next is not to be read: it waits for a newer release
	jobs   sync.WaitGroup // started by run; each reports on its channel, which has room for it
	since  time.Time      // when the front that is not being written was first seen; zero: there is none

	looking, writing, reading bool
	lookups                   chan lookupDone
	writes                    chan writeDone
	rereads                   chan rereadDone
	writingItems              int
}

type lookupDone struct {
	lookup         *roomlog.Lookup
	entries, heads []roomlog.Found
	err            error
}

type writeDone struct {
	bulk *bulk
	err  error
}

type rereadDone struct {
	records []journal.Record
	err     error
}

func newPartition(s *Sink, id int32) *partition {
	ctx, cancel := context.WithCancel(context.Background())
	return &partition{
		sink: s, id: id, ctx: ctx, cancel: cancel, st: Status{Partition: id},
		inbox:    make(chan journal.Batch, inboxBatches),
		wake:     make(chan struct{}, 1),
		draining: make(chan struct{}),
		done:     make(chan struct{}),
		verdicts: make(chan error, 1),
	}
}

// begin takes a backlog that starts at the store's checkpoint and the log's end at that time.
func (p *partition) begin(b *backlog, end int64) {
	p.backlog = b
	p.behind, p.halted, p.unsure, p.since = false, false, true, time.Time{}
	p.looking, p.writing, p.reading, p.writingItems = false, false, false, 0
	p.lookups, p.writes, p.rereads = make(chan lookupDone, 1), make(chan writeDone, 1), make(chan rereadDone, 1)
	select {
	case <-p.verdicts: // about what was held before
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.st.Epoch, p.st.Stored, p.st.Read = b.checkpoint.Epoch, b.checkpoint.Offset, b.checkpoint.Offset
	p.st.End = max(p.st.End, end)
	if p.st.target == nil {
		p.st.target = &end
	}
}

// stop ends run at once and waits for it.
func (p *partition) stop() {
	p.cancel()
	<-p.done
}

// drain lets run write what it holds, takes no more, and waits for it, at the longest until ctx ends.
func (p *partition) drain(ctx context.Context) {
	close(p.draining)
	select {
	case <-p.done:
	case <-ctx.Done():
	}
	p.stop()
}

// ended reports whether run has returned.
func (p *partition) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// missed tells run that a batch was dropped.
func (p *partition) missed() {
	p.dropped.Store(true)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// sawEnd notes the log's end as a poll reported it.
func (p *partition) sawEnd(end int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.st.End = max(p.st.End, end)
}

// alarm says that the partition stands still, until it is assigned again.
func (p *partition) alarm(err error) {
	p.sink.log.Error("partition stopped", "partition", p.id, "err", err)
	why := whyTripwire
	if a := (*alarmError)(nil); errors.As(err, &a) {
		why = a.why
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.st.Alarm, p.st.Why = err.Error(), why
}

// condemn has run end with an error that was found outside of it.
func (p *partition) condemn(err error) {
	select {
	case p.verdicts <- err:
	default:
	}
}

// run persists until the partition is taken away or must stand still. When another persister was faster, everything
// held is forgotten; after a pause, in which a true owner elsewhere gets ahead, it starts from the store's checkpoint.
func (p *partition) run() {
	defer close(p.done)
	defer p.cancel()
	wait := time.Second
	for {
		began := time.Now()
		err := p.fill(p.ctx)
		var a *alarmError
		switch {
		case errors.As(err, &a) && a.lost:
			read := int64(-1)
			if a.certain {
				read = p.next()
			}
			p.mend(a, p.checkpoint.Epoch, read)
			return
		case errors.As(err, &a), errors.Is(err, store.ErrTripwire):
			p.alarm(err)
			return
		case !errors.Is(err, store.ErrConflict):
			return
		}
		if time.Since(began) > time.Minute {
			wait = time.Second
		}
		p.sink.metrics.conflicts.Inc()
		p.sink.log.Warn("another persister moved the checkpoint", "partition", p.id, "err", err, "again_in", wait)
		p.backlog = nil
		if !p.rest(wait/2+rand.N(wait)) || !p.reload() {
			return
		}
		wait = min(2*wait, 30*time.Second)
	}
}

// rest waits, dropping what is polled meanwhile, and reports whether the partition goes on.
func (p *partition) rest(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return true
		case <-p.inbox:
		case <-p.draining:
			return false
		case <-p.ctx.Done():
			return false
		}
	}
}

// reload starts from the store's checkpoint again. What the consumer has read since is read from the log.
func (p *partition) reload() bool {
	var b *backlog
	var end int64
	err := p.sink.persistently(p.ctx, "checkpoint", func(ctx context.Context) (err error) {
		b, end, err = p.sink.load(ctx, p.id)
		return err
	})
	if a := (*alarmError)(nil); errors.As(err, &a) && a.lost {
		p.mend(a, p.status().Epoch, -1)
		return false
	}
	if err != nil {
		if p.ctx.Err() == nil {
			p.alarm(err)
		}
		return false
	}
	p.begin(b, end)
	p.behind = true
	return true
}

// fill works until an error ends it: ctx's, nil after a drain, ErrConflict, ErrTripwire or an alarmError.
func (p *partition) fill(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer p.jobs.Wait()
	defer cancel()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	draining, drained := p.draining, false
	for {
		if p.dropped.Swap(false) {
			p.behind = true
		}
		p.startLookup(ctx)
		p.startWrite(ctx, drained, timer)
		inbox := p.inbox
		if full := p.bytes >= p.sink.cfg.BacklogBytes; full || drained {
			inbox = nil
		} else if p.behind && !p.halted {
			p.startReread(ctx)
		}
		p.report()
		if drained && len(p.items) == 0 {
			return nil
		}
		var err error
		select {
		case b := <-inbox:
			err = p.take(b)
		case d := <-p.lookups:
			p.looked(d)
		case d := <-p.writes:
			err = p.wrote(d)
		case d := <-p.rereads:
			err = p.reread(d)
		case err = <-p.verdicts:
		case <-p.wake:
		case <-timer.C:
		case <-draining:
			draining, drained = nil, true
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// take takes a polled batch. One that does not continue what is held shows that records before it were dropped, or
// that the log has a gap: reading the log tells.
func (p *partition) take(b journal.Batch) error {
	if errors.Is(b.Err, journal.ErrOutOfRange) {
		return p.outOfRange(b.Err)
	}
	for i, r := range b.Records {
		switch {
		case r.Offset < p.next() || p.halted:
			continue
		case i == 0 && r.Offset > p.next():
			p.behind = true
			return nil
		}
		p.read(r)
	}
	return nil
}

// outOfRange is the alarm that the log does not hold what is to be read next.
func (p *partition) outOfRange(err error) error {
	return &alarmError{why: whyLost, lost: true, certain: true, reason: fmt.Sprintf("the log does not hold offset %d any more, or not yet: %v", p.next(), err)}
}

// read puts a record into the backlog.
func (p *partition) read(r journal.Record) {
	if err := p.push(r); err != nil {
		p.halted = true
		p.alarm(&alarmError{why: whyVersion, reason: fmt.Sprintf("record %d waits for a newer release: %v", r.Offset, err)})
	}
}

func (p *partition) report() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.st.Stored, p.st.Read = p.checkpoint.Offset, p.next()
	p.st.End = max(p.st.End, p.st.Read)
	p.st.fresh, p.st.oldest = p.fresh, 0
	if len(p.items) > 0 {
		p.st.oldest = p.items[0].record.Stamp
	}
}

func (p *partition) status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.st
}
