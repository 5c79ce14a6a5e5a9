// Package sim is Parley's surroundings in memory, for simulations in a synctest bubble: a log with consumer groups, a Redis, a
// NATS and a store, each of which can be slow, away, or lie in the ways in which the real ones do.
//
// Every handle is made for a Proc. What a dead Proc asks for fails, and what it still says is not heard: to kill a process
// is to Kill its Proc and then to stop its goroutines at leisure. The random decisions come from one Dice, so that a seed
// fixes which faults strike; the order in which goroutines run stays Go's own.
package sim

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// ErrAway is what everything answers that cannot be reached.
var ErrAway = errors.New("away")

// Proc is one process of the simulation. The zero value lives.
type Proc struct{ dead atomic.Bool }

// Kill ends the process as kill -9 does.
func (p *Proc) Kill() { p.dead.Store(true) }

// Dead reports whether the process was killed.
func (p *Proc) Dead() bool { return p.dead.Load() }

// Dice decides. It is safe for concurrent use.
type Dice struct {
	mu  sync.Mutex // guards rnd
	rnd *rand.Rand
}

// NewDice returns the Dice of a seed.
func NewDice(seed uint64) *Dice { return &Dice{rnd: rand.New(rand.NewPCG(seed, 1))} }

// Hit is true with the probability p.
func (d *Dice) Hit(p float64) bool {
	if p <= 0 {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rnd.Float64() < p
}

// N returns 0 … n-1.
func (d *Dice) N(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rnd.IntN(n)
}

// Time returns a duration below most.
func (d *Dice) Time(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Duration(d.rnd.Int64N(int64(most)))
}

// Mood is how a part behaves. The zero value is well. It is safe for concurrent use.
type Mood struct {
	mu sync.Mutex // guards what follows
	// away: nothing is answered. lose: the share of the calls that are lost or fail. late: the longest pause before each.
	away       bool
	lose, late float64
	changed    chan struct{} // closed and replaced at each change
}

// Set changes the mood: lose is a share, late the longest pause in seconds.
func (m *Mood) Set(away bool, lose, late float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away, m.lose, m.late = away, lose, late
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

func (m *Mood) get() (away bool, lose float64, late time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.away, m.lose, time.Duration(m.late * float64(time.Second))
}

// change is closed at the next Set.
func (m *Mood) change() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	return m.changed
}

// sleep pauses, and reports whether until was still open behind it.
func sleep(d time.Duration, until <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-until:
		return false
	}
}
