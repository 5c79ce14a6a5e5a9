package rpc

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	waitShards = 32
	sweepEvery = 25 * time.Millisecond // how much later than its timeout a request may end
)

// waiting holds the requests that have no reply yet. A timer runs only while there are any.
type waiting struct {
	base   time.Time // deadlines count from here
	lastID atomic.Uint64
	count  atomic.Int64
	armed  atomic.Bool // the timer is running or sweep is
	timer  *time.Timer
	shards [waitShards]waitShard

	calls    sync.WaitGroup // callbacks that are still to come or run
	sweeping sync.Mutex     // held by sweep
}

type waitShard struct {
	mu    sync.Mutex // guards what follows
	asked map[uint64]asked
	shut  bool
}

type asked struct {
	deadline time.Duration // since base
	done     func(reply []byte, err error)
}

func newWaiting() *waiting {
	w := &waiting{base: time.Now()}
	for i := range w.shards {
		w.shards[i].asked = make(map[uint64]asked)
	}
	w.timer = time.AfterFunc(time.Hour, w.sweep)
	w.timer.Stop()
	return w
}

// add registers a request; ok is false after close.
func (w *waiting) add(timeout time.Duration, done func(reply []byte, err error)) (id uint64, ok bool) {
	id = w.lastID.Add(1)
	s := &w.shards[id%waitShards]
	s.mu.Lock()
	if s.shut {
		s.mu.Unlock()
		return 0, false
	}
	w.count.Add(1)
	w.calls.Add(1)
	s.asked[id] = asked{deadline: time.Since(w.base) + timeout, done: done}
	s.mu.Unlock()
	w.arm()
	return id, true
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

func (w *waiting) finish(a asked, reply []byte, err error) {
	w.count.Add(-1)
	a.done(reply, err)
	w.calls.Done()
}

// endAll calls back every request that waits now.
func (w *waiting) endAll(err error) {
	w.take(func(asked) bool { return true }, err)
}

// take calls back, with err, every request that the condition holds for.
func (w *waiting) take(cond func(asked) bool, err error) {
	var taken []asked
	for i := range w.shards {
		s := &w.shards[i]
		s.mu.Lock()
		for id, a := range s.asked {
			if cond(a) {
				delete(s.asked, id)
				taken = append(taken, a)
			}
		}
		s.mu.Unlock()
	}
	for _, a := range taken {
		w.finish(a, nil, err)
	}
}

// arm starts the timer where something waits and it does not run.
func (w *waiting) arm() {
	if !w.armed.Load() && w.armed.CompareAndSwap(false, true) {
		w.timer.Reset(sweepEvery)
	}
}

// sweep ends what has waited too long and arms the timer again while something is left.
func (w *waiting) sweep() {
	w.sweeping.Lock()
	defer w.sweeping.Unlock()
	now := time.Since(w.base)
	w.take(func(a asked) bool { return a.deadline <= now }, ErrTimeout)
	w.armed.Store(false)
	if w.count.Load() > 0 {
		w.arm()
	}
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
	w.timer.Stop()
	w.sweeping.Lock() // a sweep that had begun has ended, and the next would find nothing
	defer w.sweeping.Unlock()
}
