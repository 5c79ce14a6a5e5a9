package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts/planted"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

// startLookup asks the store what the sequencer does not hold.
func (p *partition) startLookup(ctx context.Context) {
	if p.looking {
		return
	}
	l := p.seq.Lookup(roomlog.MaxQuestions)
	if l == nil {
		return
	}
	p.looking = true
	done := p.lookups
	p.jobs.Go(func() {
		d := lookupDone{lookup: l}
		d.err = p.sink.persistently(ctx, "lookup", func(ctx context.Context) (err error) {
			d.entries, d.heads, err = p.sink.deps.Store.Lookup(ctx, l.Entries, l.Heads)
			return err
		})
		done <- d
	})
}

func (p *partition) looked(d lookupDone) {
	p.looking = false
	if d.err != nil {
		p.seq.Failed(d.lookup)
		return
	}
	p.answer(d.lookup, d.entries, d.heads)
}

// startWrite writes the front if it is full, has waited long enough, or now is set; else it sets the timer for when it
// will have waited.
func (p *partition) startWrite(ctx context.Context, now bool, timer *time.Timer) {
	if !p.ready(p.writingItems) {
		return
	}
	if p.since.IsZero() {
		p.since = time.Now()
	}
	if p.writing {
		return
	}
	cfg := &p.sink.cfg
	left := cfg.BulkDelay - time.Since(p.since)
	if !now && left > 0 && len(p.items) < cfg.BulkEntries && p.bytes < cfg.BulkBytes {
		timer.Reset(left)
		return
	}
	w := p.front(cfg.BulkEntries, cfg.BulkBytes)
	if !now && left > 0 && !w.full {
		timer.Reset(left)
		return
	}
	p.writing, p.writingItems, p.since = true, w.items, time.Time{}
	done, unsure := p.writes, p.unsure
	p.unsure = false
	p.jobs.Go(func() {
		var err error
		if unsure {
			err = p.sink.sure(ctx, w)
		}
		if err == nil {
			err = p.sink.write(ctx, w)
		}
		done <- writeDone{w, err}
	})
}

// sure checks once more that the log is the one that the bulk's checkpoint was written for: it may have been replaced
// after the check and before its records were read. From then on the consumer itself would notice, a re-read would not.
func (s *Sink) sure(ctx context.Context, w *bulk) error {
	return s.persistently(ctx, "verify", func(ctx context.Context) error {
		c, _, _, err := s.verify(ctx, w.next.Partition)
		if a := (*alarmError)(nil); err != nil && !errors.As(err, &a) {
			return err
		}
		if c != w.prev {
			return fmt.Errorf("partition %d: %w", w.next.Partition, store.ErrConflict)
		}
		return err
	})
}

func (p *partition) wrote(d writeDone) error {
	if d.err != nil {
		return d.err
	}
	p.writing, p.writingItems = false, 0
	p.written(d.bulk, time.Now())
	return nil
}

// write buries the bulk's dead letters and stores its entries, in this order: the checkpoint passes neither before it
// is kept.
func (s *Sink) write(ctx context.Context, w *bulk) error {
	for _, d := range w.dead {
		if err := s.persistently(ctx, "bury", func(ctx context.Context) error { return s.deps.Store.Bury(ctx, d) }); err != nil {
			return err
		}
		s.log.Warn("record buried", "partition", d.Partition, "offset", d.Position.Offset, "reason", d.Reason)
	}
	began := time.Now()
	err := s.persistently(ctx, "append", func(ctx context.Context) error {
		if !s.alive() {
			return errNotAlive
		}
		if planted.On(planted.CheckpointFirst) {
			if err := s.deps.Store.Append(ctx, nil, w.prev, w.next); err != nil {
				return err
			}
			return s.deps.Store.Append(ctx, w.entries, w.next, w.next)
		}
		return s.deps.Store.Append(ctx, w.entries, w.prev, w.next)
	})
	if err != nil {
		return err
	}
	s.metrics.wrote(w, time.Since(began))
	s.teller.add(w.told)
	return nil
}

// startReread reads what was dropped from the log, until a read begun after the last drop finds nothing more.
func (p *partition) startReread(ctx context.Context) {
	if p.reading {
		return
	}
	p.reading, p.behind = true, false
	from, done := p.next(), p.rereads
	p.jobs.Go(func() {
		var d rereadDone
		d.err = p.sink.persistently(ctx, "reread", func(ctx context.Context) (err error) {
			d.records, err = p.sink.deps.Log.Read(ctx, p.id, from, rereadRecords)
			return err
		})
		done <- d
	})
}

func (p *partition) reread(d rereadDone) error {
	p.reading = false
	if errors.Is(d.err, journal.ErrOutOfRange) {
		return p.outOfRange(d.err)
	}
	if d.err != nil {
		return nil // ctx has ended
	}
	p.behind = p.behind || len(d.records) > 0
	p.unsure = p.unsure || len(d.records) > 0
	for _, r := range d.records {
		if r.Offset >= p.next() && !p.halted {
			p.read(r)
		}
	}
	return nil
}

// slowCall is after how long a call that goes on is counted: a database that is silent shows long before CallTimeout.
const slowCall = 3 * time.Second

// persistently calls do until it succeeds or says that trying again is no use, with growing pauses.
func (s *Sink) persistently(ctx context.Context, what string, do func(context.Context) error) error {
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		callCtx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
		late := time.AfterFunc(slowCall, s.metrics.slow.Inc)
		err := do(callCtx)
		late.Stop()
		cancel()
		var a *alarmError
		switch {
		case err == nil:
			s.outage.over()
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrTripwire), errors.Is(err, journal.ErrOutOfRange), errors.As(err, &a):
			return err
		}
		s.outage.goesOn(what, err)
		s.metrics.retries.WithLabelValues(what).Inc()
		if !pause(ctx, wait/2+rand.N(wait)) {
			return ctx.Err()
		}
	}
}

// outage logs once that calls fail and once that they work again.
type outage struct {
	log *slog.Logger

	mu    sync.Mutex // guards since
	since time.Time
}

func (o *outage) goesOn(what string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		o.since = time.Now()
		o.log.Warn("store or log does not answer, trying on", "call", what, "err", err)
	}
}

func (o *outage) over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.since.IsZero() {
		o.log.Info("store and log answer again", "after", time.Since(o.since))
		o.since = time.Time{}
	}
}
