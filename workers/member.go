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
)

// members writes memberships of public rooms behind the joins' backs, so that a store that is slow or away holds up
// nobody: a bounded queue, each one tried until it is written, and once per person and room as far as it is remembered.
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
	w := &memberWrite{membership: key, person: person, done: make(chan struct{})}
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
	for {
		m.mu.Lock()
		if len(m.queue) == 0 {
			m.queue = nil
			m.writers--
			m.mu.Unlock()
			return
		}
		n := min(len(m.queue), memberBatch)
		batch := m.queue[:n:n]
		m.queue = m.queue[n:]
		m.mu.Unlock()
		m.try(batch)
	}
}

// try writes memberships until it works, they are called off or the worker closes.
func (m *members) try(batch []*memberWrite) {
	rows := make([]contracts.Membership, 0, len(batch))
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		m.mu.Lock()
		over := m.closed && wait > 250*time.Millisecond
		batch = slices.DeleteFunc(batch, func(w *memberWrite) bool {
			if over || w.off {
				m.end(w)
				return true
			}
			return false
		})
		m.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		rows = rows[:0]
		for _, w := range batch {
			rows = append(rows, contracts.Membership{Room: w.room, User: w.person})
		}
		ctx, cancel := context.WithTimeout(m.background, memberTimeout)
		err := m.store.Join(ctx, rows...)
		cancel()
		if err == nil {
			m.written(batch)
			return
		}
		m.log.Debug("memberships not written yet", "members", len(batch), "err", err)
		timer := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-timer.C:
		case <-m.stop:
			timer.Stop()
		}
	}
}

func (m *members) written(batch []*memberWrite) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range batch {
		if !w.off {
			m.known.put(w.membership, struct{}{})
		}
		m.end(w)
	}
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

// close lets each one that waits have one more try.
func (m *members) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.closed = true
		close(m.stop)
	}
}
