package dispatch

import (
	"context"
	"slices"
	"time"

	"github.com/parley-chat/parley/contracts/roomlog"
)

const (
	maxLookups = 4 // out at once, per partition

	// Look-ups out at once in all partitions together, and questions in one: where it begins, and between what it may lie.
	firstAtOnce    = 8
	mostAtOnce     = 64
	fewestQuestion = 32
)

// pace is how much is asked of the store at once. Whoever takes 64 partitions over has that many look-ups to make, and a
// store that has little time answers none of so many before they are given up; asked again all together they would fail
// again, for as long as it has little time. So answers that take long make it slower, those that come soon faster.
type pace struct {
	atOnce    int // look-ups out at once
	questions int // in one
	out       int // look-ups under way
	slowed    time.Time
	turns     []*partition // that may have something to look up, who waits longest first
}

func newPace() pace { return pace{atOnce: firstAtOnce, questions: roomlog.MaxQuestions} }

// took learns from a look-up that began then and took so long; timeout is what it was given.
func (p *pace) took(began time.Time, long, timeout time.Duration, failed bool) {
	switch {
	case failed || long > timeout/2:
		if began.Before(p.slowed) {
			return // it was asked at the old pace
		}
		p.slowed = time.Now()
		p.atOnce = max(p.atOnce/4, 1)
		p.questions = max(p.questions/4, fewestQuestion)
	case long < timeout/4:
		p.atOnce = min(p.atOnce+1, mostAtOnce)
		p.questions = min(p.questions*2, roomlog.MaxQuestions)
	}
}

// lookUp asks the store what the sequencer does not hold, when it is p's turn.
func (d *Dispatcher) lookUp(p *partition) {
	if !p.inTurn && p.lookups < maxLookups {
		p.inTurn = true
		d.pace.turns = append(d.pace.turns, p)
	}
	for len(d.pace.turns) > 0 && d.pace.out < d.pace.atOnce {
		p := d.pace.turns[0]
		d.pace.turns = slices.Delete(d.pace.turns, 0, 1)
		p.inTurn = false
		if p.gone {
			continue
		}
		l := p.seq.Lookup(d.pace.questions)
		if l == nil {
			continue
		}
		d.question(p, l)
		if p.lookups < maxLookups { // there may be more
			p.inTurn = true
			d.pace.turns = append(d.pace.turns, p)
		}
	}
}

// question puts one look-up to the store. One that fails counts as p's for a pause longer, and as one that is out no more:
// a partition whose look-ups always fail leaves its turns to the others.
func (d *Dispatcher) question(p *partition, l *roomlog.Lookup) {
	p.lookups++
	d.pace.out++
	wait := min(50*time.Millisecond<<min(p.failures, 10), time.Second)
	d.jobs.Go(func() {
		began := time.Now()
		call, cancel := context.WithTimeout(p.ctx, d.cfg.StoreTimeout)
		entries, heads, err := d.deps.Store.Lookup(call, l.Entries, l.Heads)
		cancel()
		long := time.Since(began)
		d.post(func() {
			d.pace.out--
			if !p.gone {
				d.pace.took(began, long, d.cfg.StoreTimeout, err != nil)
				if err == nil {
					d.lookedUp(p, l, entries, heads)
				}
			}
			d.lookUp(p)
		})
		if err == nil || pause(p.ctx, wait) != nil {
			return
		}
		d.post(func() {
			if !p.gone {
				d.notLookedUp(p, l, err)
			}
		})
	})
}

func (d *Dispatcher) notLookedUp(p *partition, l *roomlog.Lookup, err error) {
	p.lookups--
	if p.failures++; p.failures == 1 {
		d.log.Warn("the store does not answer, trying on", "partition", p.id, "err", err)
	}
	d.metrics.lookupErrors.Inc()
	p.seq.Failed(l)
	d.advance(p)
}

func (d *Dispatcher) lookedUp(p *partition, l *roomlog.Lookup, entries, heads []roomlog.Found) {
	p.lookups--
	p.failures = 0
	p.seq.Answer(l, entries, heads)
	for _, o := range p.seq.Take() {
		w := p.pending[o.Offset]
		delete(p.pending, o.Offset)
		p.waitingBytes -= w.size + waitingAllowance
		d.waitingBytes -= w.size + waitingAllowance
		if w.room.waiting--; w.room.waiting == 0 {
			d.waitingRooms--
		}
		d.decided(p, w.room, &w.readRecord, o)
	}
	for _, q := range l.Heads {
		d.wake(p, q.Room)
	}
	for _, q := range l.Entries {
		d.wake(p, q.Identity.Room)
	}
	d.advance(p)
}
