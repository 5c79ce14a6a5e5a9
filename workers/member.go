package workers

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley/contracts"
)

const (
	knownMembers  = 100_000 // memberships known to be written
	memberWriters = 2       // writes at once: one under way while the next one fills
	memberBatch   = 500     // memberships in one
	memberTimeout = 5 * time.Second

	// How long a writer waits after a write that failed, and at most after several in a row.
	memberWait    = 250 * time.Millisecond
	memberMaxWait = 5 * time.Second
)

// members writes memberships of public rooms behind the joins' backs, so that a store that is slow or away holds up
// nobody: a bounded queue, each one tried until it is written, and once per person and room as far as it is remembered. What
// fails is tried again in halves, in turn with what is new, so that one that the store never takes holds up no other.
type members struct {
	background context.Context // ends the tries when the worker closes
	store      Store
	running    *tracker
	log        *slog.Logger
	metrics    *metrics
	most       int
	known      *cache[membership, struct{}]

	mu      sync.Mutex
	pending map[membership]*memberWrite // guarded by mu; queued or under way
	queue   []*memberWrite              // guarded by mu
	again   []*memberWrite              // guarded by mu; those of writes that failed
	retry   bool                        // guarded by mu; it is their turn, where there are both
	writers int                         // guarded by mu
	closed  bool                        // guarded by mu
	stop    chan struct{}               // closed when closed is set
}

type membership struct {
	room contracts.RoomID
	user contracts.UserID
}

type memberWrite struct {
	membership
	person contracts.Person
	done   chan struct{} // closed when written, given up or called off
	off    bool          // guarded by members.mu; called off
	most   int           // guarded by members.mu; in its next write
}

func newMembers(background context.Context, store Store, running *tracker, log *slog.Logger, m *metrics, most int) *members {
	return &members{
		background: background, store: store, running: running, log: log, metrics: m, most: most,
		known:   newCache[membership, struct{}](knownMembers),
		pending: make(map[membership]*memberWrite),
		stop:    make(chan struct{}),
	}
}

// note sees to it that the person becomes a member. The channel is closed when it is written, or will not be by this call.
func (m *members) note(room contracts.RoomID, person contracts.Person) <-chan struct{} {
	key := membership{room, person.ID}
	if _, ok := m.known.get(key); ok {
		return closed
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if w, ok := m.pending[key]; ok && !w.off {
		return w.done
	}
	if m.closed || len(m.pending) >= m.most || m.pending[key] != nil {
		m.metrics.memberDropped.Inc()
		return closed
	}
	w := &memberWrite{membership: key, person: person, done: make(chan struct{}), most: memberBatch}
	m.pending[key] = w
	m.queue = append(m.queue, w)
	if m.writers < memberWriters {
		m.writers++
		m.running.begin()
		go m.write()
	}
	return w.done
}

// write works the queue off and ends.
func (m *members) write() {
	defer m.running.end()
	wait := memberWait
	for batch := m.next(); batch != nil; batch = m.next() {
		if m.try(batch) {
			wait = memberWait
			continue
		}
		timer := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-timer.C:
		case <-m.stop:
			timer.Stop()
		}
		wait = min(2*wait, memberMaxWait)
	}
}

// next takes from the queue what is written together. Without any the writer has ended.
func (m *members) next() []*memberWrite {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.queue)+len(m.again) > 0 {
		retry := len(m.queue) == 0 || m.retry && len(m.again) > 0
		from := &m.queue
		if retry {
			from = &m.again
		}
		m.retry = !retry
		q, n := *from, 0
		for n < min(len(q), q[0].most) && q[n].most == q[0].most {
			n++
		}
		*from = q[n:]
		over := m.closed && retry
		batch := slices.DeleteFunc(q[:n:n], func(w *memberWrite) bool {
			if over || w.off {
				m.end(w)
				return true
			}
			return false
		})
		if len(batch) > 0 {
			return batch
		}
	}
	m.queue, m.again = nil, nil
	m.writers--
	return nil
}

// try writes memberships. Those of a write that failed are tried again with half as many.
func (m *members) try(batch []*memberWrite) bool {
	rows := make([]contracts.Membership, len(batch))
	for i, w := range batch {
		rows[i] = contracts.Membership{Room: w.room, User: w.person}
	}
	ctx, cancel := context.WithTimeout(m.background, memberTimeout)
	err := m.store.Join(ctx, rows...)
	cancel()
	if err != nil {
		m.log.Debug("memberships not written yet", "members", len(batch), "err", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range batch {
		switch {
		case w.off:
			m.end(w)
		case err != nil:
			w.most = max(1, len(batch)/2)
			m.again = append(m.again, w)
		default:
			m.known.put(w.membership, struct{}{})
			m.end(w)
		}
	}
	return err == nil
}

// end needs mu.
func (m *members) end(w *memberWrite) {
	delete(m.pending, w.membership)
	close(w.done)
}

// quit ends a membership, and one that is not written yet first.
func (m *members) quit(ctx context.Context, room contracts.RoomID, user contracts.UserID) error {
	key := membership{room, user}
	m.mu.Lock()
	w := m.pending[key]
	if w != nil {
		w.off = true
	}
	m.known.remove(key)
	m.mu.Unlock()
	if w != nil {
		select {
		case <-w.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return m.store.Quit(ctx, room, user)
}

// waiting is how many are not written yet.
func (m *members) waiting() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.pending)
}

// close lets each one that waits have its first try.
func (m *members) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.closed = true
		close(m.stop)
	}
}
