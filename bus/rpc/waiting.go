package rpc

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	waitShards = 32
	sweepEvery = 25 * time.Millisecond // how much later than its timeout a request may end
	never      = time.Duration(math.MaxInt64)
)

// waiting holds the requests that have no reply yet. One timer runs, to when the first of them may run out: looking
// at all of them costs something.
type waiting struct {
	base   time.Time // deadlines count from here
	lastID atomic.Uint64
	shards [waitShards]waitShard

	next   atomic.Int64 // when the timer fires, as a time since base
	arming sync.Mutex   // guards timer, and changes of next
	timer  *time.Timer

	calls    sync.WaitGroup // callbacks that are still to come or run
	sweeping sync.Mutex     // held by sweep until it calls back
}

type waitShard struct {
	mu    sync.Mutex // guards what follows
	asked map[uint64]asked
	shut  bool
}

type asked struct {
	deadline time.Duration // since base
	done     func(reply []byte, err error)
	in       *gathered // the message it went in; nil: it went alone
}

func newWaiting() *waiting {
	w := &waiting{base: time.Now()}
	for i := range w.shards {
		w.shards[i].asked = make(map[uint64]asked)
	}
	w.next.Store(int64(never))
	w.timer = time.AfterFunc(time.Hour, w.sweep)
	w.timer.Stop()
	return w
}

// add registers a request under a number of lastID; ok is false after close.
func (w *waiting) add(id uint64, timeout time.Duration, done func(reply []byte, err error), in *gathered) (ok bool) {
	s := &w.shards[id%waitShards]
	s.mu.Lock()
	if s.shut {
		s.mu.Unlock()
		return false
	}
	w.calls.Add(1)
	now := time.Since(w.base)
	s.asked[id] = asked{deadline: now + timeout, done: done, in: in}
	s.mu.Unlock()
	w.arm(now, now+timeout)
	return true
}

// end calls a request back unless that was done before.
func (w *waiting) end(id uint64, reply []byte, err error) {
	s := &w.shards[id%waitShards]
	s.mu.Lock()
	a, ok := s.asked[id]
	delete(s.asked, id)
	s.mu.Unlock()
	if ok {
		w.finish(a, reply, err)
	}
}

// message is what a request went in, if it waits.
func (w *waiting) message(id uint64) *gathered {
	s := &w.shards[id%waitShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[id].in
}

func (w *waiting) finish(a asked, reply []byte, err error) {
	if a.in != nil {
		a.in.ended(err)
	}
	a.done(reply, err)
	w.calls.Done()
}

// endAll calls back every request that waits now.
func (w *waiting) endAll(err error) {
	taken, _ := w.take(never)
	w.finishAll(taken, err)
}

func (w *waiting) finishAll(taken []asked, err error) {
	for _, a := range taken {
		w.finish(a, nil, err)
	}
}

// take takes out every request whose deadline is not behind now, and returns the first deadline of the others.
func (w *waiting) take(now time.Duration) (taken []asked, first time.Duration) {
	first = never
	for i := range w.shards {
		s := &w.shards[i]
		s.mu.Lock()
		for id, a := range s.asked {
			if a.deadline > now {
				first = min(first, a.deadline)
				continue
			}
			delete(s.asked, id)
			taken = append(taken, a)
		}
		s.mu.Unlock()
	}
	return taken, first
}

// arm makes the timer fire soon enough for a deadline.
func (w *waiting) arm(now, deadline time.Duration) {
	deadline = max(deadline, now+sweepEvery)
	if time.Duration(w.next.Load()) <= deadline {
		return
	}
	w.arming.Lock()
	defer w.arming.Unlock()
	if time.Duration(w.next.Load()) > deadline {
		w.next.Store(int64(deadline))
		w.timer.Reset(deadline - now)
	}
}

// sweep ends what has waited too long, once it has armed the timer for what is left: callbacks that take their time make
// nobody else late.
func (w *waiting) sweep() {
	w.sweeping.Lock()
	w.arming.Lock()
	w.next.Store(int64(never)) // whoever is added from here on arms the timer
	w.arming.Unlock()
	now := time.Since(w.base)
	taken, first := w.take(now)
	if first < never {
		w.arm(now, first)
	}
	w.sweeping.Unlock()
	w.finishAll(taken, ErrTimeout)
}

// close ends what waits with ErrDown and returns when no callback runs any more.
func (w *waiting) close() {
	for i := range w.shards {
		s := &w.shards[i]
		s.mu.Lock()
		s.shut = true
		s.mu.Unlock()
	}
	w.endAll(ErrDown)
	w.calls.Wait()
	w.sweeping.Lock() // a sweep that had begun has ended, and the next would find nothing
	defer w.sweeping.Unlock()
	w.arming.Lock()
	defer w.arming.Unlock()
	w.timer.Stop()
}
