package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley/deploy/chaos/history"
)

const (
	atOnce = 3 // faults that may be in force at a time
	// With faults of full length there is hardly a moment without one. So that there is enough of that to be judged, all is left
	// alone from time to time, twice as long as it has to settle.
	calmEvery = 10 * time.Minute
	calm      = 20 * time.Second
)

// available are the kinds that can be injected here, in order, and why the others cannot.
func available(cfg Config, p *plant) (names []string, notes []string) {
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		k := kinds[name]
		chosen := slices.Contains(cfg.Faults, name)
		switch {
		case len(cfg.Faults) > 0 && !chosen, k.onlyLong && !cfg.Long && !chosen:
			continue
		case k.lacks != nil && k.lacks(p) != "":
			notes = append(notes, fmt.Sprintf("no %s: %s", name, k.lacks(p)))
			continue
		}
		names = append(names, name)
	}
	return names, notes
}

// plan draws a schedule: rounds in which every kind comes once, in an order of chance. The same seed, kinds and
// durations make the same schedule.
func plan(cfg Config, p *plant, names []string) []*fault {
	rng := rand.New(rand.NewPCG(cfg.Seed, 1))
	var all []*fault
	var round []string
	var nextCalm time.Duration
	for at := cfg.Every / 2; at < cfg.Duration && len(names) > 0; at += cfg.Every/2 + rand64(rng, cfg.Every) {
		if len(round) == 0 {
			round = slices.Clone(names)
			rng.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		}
		k := kinds[round[0]]
		f := &fault{kind: round[0], at: at, how: rng.Uint64()}
		round = round[1:]
		span := k.short
		if cfg.Long || span[1] == 0 {
			span = k.long
		}
		f.length = span[0] + rand64(rng, span[1]-span[0])
		if k.targets != nil {
			targets := k.targets(p)
			slices.Sort(targets)
			f.target = targets[rng.IntN(len(targets))]
		}
		f.parts = []string{f.target}
		if k.claims != nil {
			f.parts = k.claims(f.target)
		}
		if cfg.Long && at >= nextCalm {
			f.calm, nextCalm = true, at+calmEvery
		}
		all = append(all, f)
	}
	return all
}

func rand64(rng *rand.Rand, d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(rng.Int64N(int64(d)))
}

// claims keeps two faults from touching the same part.
type claims struct {
	mu   sync.Mutex // guards held
	cond *sync.Cond
	held map[string]bool
}

func newClaims() *claims {
	c := &claims{held: make(map[string]bool)}
	c.cond = sync.NewCond(&c.mu)
	return c
}

// take waits until all names are free and takes them; it returns false when ctx ends first.
func (c *claims) take(ctx context.Context, names []string) bool {
	defer context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.cond.Broadcast()
	})()
	c.mu.Lock()
	defer c.mu.Unlock()
	for slices.ContainsFunc(names, func(name string) bool { return c.held[name] }) {
		if ctx.Err() != nil {
			return false
		}
		c.cond.Wait()
	}
	for _, name := range names {
		c.held[name] = true
	}
	return ctx.Err() == nil
}

func (c *claims) give(names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		delete(c.held, name)
	}
	c.cond.Broadcast()
}

// inject works a schedule off and returns once everything is made good again. When ctx ends what is in force ends early.
func (w *world) inject(ctx context.Context, faults []*fault) {
	begin := time.Now()
	end := begin.Add(w.cfg.Duration)
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	taken := newClaims()
	for i, f := range faults {
		if !wait(ctx, time.Until(begin.Add(f.at))) {
			break
		}
		if f.calm {
			wg.Wait()
			if !wait(ctx, calm) {
				break
			}
			begin = time.Now().Add(-f.at) // the rest of the schedule comes later by that
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		f.w, f.rng = w, rand.New(rand.NewPCG(f.how, 2))
		wg.Go(func() {
			defer func() { <-slots }()
			if !taken.take(ctx, f.parts) {
				return
			}
			defer taken.give(f.parts)
			w.inflict(ctx, i, f)
		})
	}
	wait(ctx, time.Until(end))
	w.crowd.stop() // what is started again catches up sooner, on a small machine by minutes
	wg.Wait()
	w.healLinks()
}

// soon is how long a fault lasts at most until it must show.
const soon = 5 * time.Second

// errHarmless is what a fault ends with that could not harm anything, as what it harms was not there.
var errHarmless = errors.New("nothing was harmed")

// inflict runs one fault and records it.
func (w *world) inflict(ctx context.Context, n int, f *fault) {
	k := kinds[f.kind]
	name := fmt.Sprintf("%d %s for %.1f s", n+1, f, f.length.Seconds())
	signals := k.signals
	if k.signalsOf != nil {
		signals = k.signalsOf(f.target)
	}
	// What the end of the run cuts off may have had no time to show.
	lasts := f.length
	if end, ok := ctx.Deadline(); ok {
		lasts = min(lasts, time.Until(end))
	}
	w.begun(f.kind, f.String())
	defer w.over(f.String())
	w.conductor.Add(history.Event{
		Kind: history.Fault, At: history.SharedNow(), Fault: name, What: f.kind, Process: f.target, Signals: signals,
		Within: int64(k.within), Silent: k.silent || lasts < k.shows || lasts < f.length && lasts < soon,
	})
	err := k.do(ctx, f)
	w.conductor.Add(history.Event{Kind: history.Heal, At: history.SharedNow(), Fault: name, Silent: errors.Is(err, errHarmless)})
	if err != nil && !errors.Is(err, errHarmless) {
		w.tally.odd(fmt.Sprintf("fault %s: %v", name, err))
	}
}

// begun and over keep which faults are in force, for the screen and the report.
func (w *world) begun(kind, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inForce = append(w.inForce, name)
	w.done[kind]++
}

// alone returns how many faults have begun so far, or -1 while more than one is in force.
func (w *world) alone() (begun int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.inForce) > 1 {
		return -1
	}
	for _, n := range w.done {
		begun += n
	}
	return begun
}

func (w *world) over(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.Index(w.inForce, name); i >= 0 {
		w.inForce = slices.Delete(w.inForce, i, i+1)
	}
}
