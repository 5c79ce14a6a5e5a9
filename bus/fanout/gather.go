package fanout

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// What goes in one round trip of a Gather, at most, but for the last caller's part.
const (
	gatherCalls = 256
	gatherBytes = 1 << 20
)

// gatherTimeout bounds one round trip of a Gather: it is done for all its callers, so none of their contexts ends it.
const gatherTimeout = 2 * time.Second

// Gather lets callers share round trips. A caller whose turn it is sends what waits by then, its own and others', in the order
// of coming; what comes meanwhile waits for the next turn. So a single call goes at once, and a storm of them shares few
// round trips. It is safe for concurrent use.
type Gather struct {
	background context.Context // ends all that is under way
	publisher  Publisher
	queues     []*gatherQueue // by lane group on several servers, one in all otherwise
}

// gatherQueue is what waits for one turn.
type gatherQueue struct {
	turn chan struct{} // 1: held by the caller who sends

	mu      sync.Mutex
	waiting []*gathered // guarded by mu
}

// gathered is what one caller sends through one queue.
type gathered struct {
	items []Message
	size  int
	err   error         // written before done is closed and read after
	done  chan struct{} // closed when the items are sent, or lost
}

// NewGather makes a Gather of what p publishes, until background ends. Where p is Sharded each lane group has a turn of its
// own, so that a server that hangs holds up its own rooms only.
func NewGather(background context.Context, p Publisher) *Gather {
	g := &Gather{background: background, publisher: p}
	queues := 1
	if IsSharded(p) {
		queues = contracts.LaneGroups
	}
	for range queues {
		g.queues = append(g.queues, &gatherQueue{turn: make(chan struct{}, 1)})
	}
	return g
}

// IsSharded reports whether p is a Sharded that is.
func IsSharded(p Publisher) bool {
	s, ok := p.(Sharded)
	return ok && s.Sharded()
}

// Send returns when the items are sent, by this caller or by others, or ctx ends. On an error lost of them may not be.
func (g *Gather) Send(ctx context.Context, items []Message) (lost int, err error) {
	if len(items) == 0 {
		return 0, nil
	}
	if len(g.queues) == 1 {
		if err := g.through(ctx, g.queues[0], items); err != nil {
			return len(items), err
		}
		return 0, nil
	}
	byQueue := make(map[int][]Message)
	for _, item := range items {
		q := item.Lane.Group()
		byQueue[q] = append(byQueue[q], item)
	}
	var all sync.WaitGroup
	var mu sync.Mutex // guards lost, err
	for q, some := range byQueue {
		all.Go(func() {
			if failed := g.through(ctx, g.queues[q], some); failed != nil {
				mu.Lock()
				lost, err = lost+len(some), errors.Join(err, failed)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return lost, err
}

// through returns when the items are sent through q, or ctx ends.
func (g *Gather) through(ctx context.Context, q *gatherQueue, items []Message) error {
	mine := &gathered{items: items, done: make(chan struct{})}
	for _, item := range items {
		mine.size += len(item.Body)
	}
	q.mu.Lock()
	q.waiting = append(q.waiting, mine)
	q.mu.Unlock()
	for {
		select {
		case <-mine.done:
			return mine.err
		case q.turn <- struct{}{}:
			g.round(q)
			<-q.turn
		case <-ctx.Done():
			select {
			case <-mine.done: // sent while ctx ended, in its own round or another's
				return mine.err
			default:
			}
			q.mu.Lock()
			q.waiting = slices.DeleteFunc(q.waiting, func(other *gathered) bool { return other == mine })
			q.mu.Unlock()
			return ctx.Err()
		}
	}
}

// round sends what waits longest. The turn is held.
func (g *Gather) round(q *gatherQueue) {
	q.mu.Lock()
	n, size := 0, 0
	for n < len(q.waiting) && n < gatherCalls && size < gatherBytes {
		size += q.waiting[n].size
		n++
	}
	batch := q.waiting[:n:n]
	if q.waiting = q.waiting[n:]; len(q.waiting) == 0 {
		q.waiting = nil
	}
	q.mu.Unlock()
	if n == 0 {
		return
	}
	items := batch[0].items
	if n > 1 {
		items = nil
		for _, one := range batch {
			items = append(items, one.items...)
		}
	}
	ctx, cancel := context.WithTimeout(g.background, gatherTimeout)
	defer cancel()
	err := g.publisher.Publish(ctx, items)
	for _, one := range batch {
		one.err = err
		close(one.done)
	}
}
