package sink

import (
	"context"
	"errors"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/store"
)

const (
	firstSweep = time.Minute // after the start, so that one who is often started anew sweeps, too
	sweepRows  = 500         // of one step
	sweepRest  = 20 * time.Millisecond
)

// retain makes tombstones of old messages, again and again until ctx ends. They keep all that numbering asks of the store
// and that tells one record from another, so one may be made of any row below C at any time, also by two persisters at once.
func (s *Sink) retain(ctx context.Context) {
	for wait := min(firstSweep, s.cfg.SweepEvery); pause(ctx, wait); wait = s.cfg.SweepEvery {
		s.sweep(ctx)
	}
}

func (s *Sink) sweep(ctx context.Context) {
	began := time.Now()
	before := began.Add(-s.cfg.Retain)
	blanked, whole := 0, true
	for _, p := range s.snapshot() {
		n, err := s.blank(ctx, p, before)
		blanked += n
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			whole = false
			s.log.Warn("cannot look for old messages", "partition", p.id, "err", err)
		}
	}
	if whole {
		s.metrics.swept.SetToCurrentTime()
	}
	if blanked > 0 {
		s.log.Info("old messages deleted", "messages", blanked, "older_than", before.UTC().Truncate(time.Second), "took", time.Since(began))
	}
}

// blank makes tombstones of a partition's old messages, in steps between which it rests for as long as they take.
func (s *Sink) blank(ctx context.Context, p *partition, before time.Time) (n int, err error) {
	st := p.status()
	if st.fresh || st.target == nil { // nothing is stored, or it is not known how much
		return 0, nil
	}
	old := store.Old{Partition: p.id, Below: contracts.Position{Epoch: st.Epoch, Offset: st.Stored}, Before: before.UnixMilli()}
	for from := p.swept; ; {
		began := time.Now()
		callCtx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
		swept, err := s.deps.Store.Blank(callCtx, old, from, sweepRows)
		cancel()
		if err != nil {
			return n, err
		}
		n += swept.Blanked
		s.metrics.blanked.Add(float64(swept.Blanked))
		from = swept.Next
		if swept.Done {
			p.swept = from
			return n, nil
		}
		if !pause(ctx, max(sweepRest, time.Since(began))) || p.ended() {
			return n, errors.New("the partition was given up meanwhile")
		}
	}
}
