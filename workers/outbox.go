package workers

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

const (
	eventTimeout = 2 * time.Second // for publishing an ephemeral event
	eventsAtOnce = 256             // calls whose events go together
)

// outbox publishes ephemeral events. A caller whose turn it is publishes what waits by then, its own and others', in the
// order of coming; what comes meanwhile waits for the next turn. So an event of an idle worker goes at once, and a storm of
// them shares the round trips.
type outbox struct {
	background context.Context // ends all when the worker closes
	publisher  fanout.Publisher
	queues     []*outboxQueue // by lane group if the publisher is sharded, one in all otherwise
}

// outboxQueue is what waits for one turn.
type outboxQueue struct {
	turn chan struct{} // 1: held by the caller who publishes

	mu      sync.Mutex
	waiting []*outgoing // guarded by mu
}

// outgoing is what one caller publishes through one queue.
type outgoing struct {
	messages []fanout.Message
	err      error         // written before done is closed and read after
	done     chan struct{} // closed when the messages are published, or lost
}

func newOutbox(background context.Context, publisher fanout.Publisher) *outbox {
	o := &outbox{background: background, publisher: publisher}
	queues := 1
	if p, ok := publisher.(fanout.Sharded); ok && p.Sharded() {
		queues = contracts.LaneGroups // so that a server that hangs holds up its own rooms only
	}
	for range queues {
		o.queues = append(o.queues, &outboxQueue{turn: make(chan struct{}, 1)})
	}
	return o
}

// publish returns when the messages are published, by this caller or by others, or ctx ends, and how many may be lost.
func (o *outbox) publish(ctx context.Context, messages []fanout.Message) (lost int) {
	byQueue := make(map[int][]fanout.Message, 1)
	for _, m := range messages {
		q := m.Lane.Group() % len(o.queues)
		byQueue[q] = append(byQueue[q], m)
	}
	var failed atomic.Int64
	var all sync.WaitGroup
	for q, some := range byQueue {
		do := func() {
			if o.through(ctx, o.queues[q], some) != nil {
				failed.Add(int64(len(some)))
			}
		}
		if len(byQueue) == 1 {
			do()
		} else {
			all.Go(do)
		}
	}
	all.Wait()
	return int(failed.Load())
}

// through returns when q's messages are published, or ctx ends.
func (o *outbox) through(ctx context.Context, q *outboxQueue, messages []fanout.Message) error {
	out := &outgoing{messages: messages, done: make(chan struct{})}
	q.mu.Lock()
	q.waiting = append(q.waiting, out)
	q.mu.Unlock()
	for {
		select {
		case <-out.done:
			return out.err
		case q.turn <- struct{}{}:
			o.send(q)
			<-q.turn
		case <-ctx.Done():
			q.mu.Lock()
			q.waiting = slices.DeleteFunc(q.waiting, func(other *outgoing) bool { return other == out })
			q.mu.Unlock()
			return ctx.Err()
		}
	}
}

// send publishes what waits longest. The turn is held. It is done for others too, so the caller's end does not end it.
func (o *outbox) send(q *outboxQueue) {
	q.mu.Lock()
	n := min(len(q.waiting), eventsAtOnce)
	batch := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	if len(q.waiting) == 0 {
		q.waiting = nil
	}
	q.mu.Unlock()
	if n == 0 {
		return
	}
	var all []fanout.Message
	for _, out := range batch {
		all = append(all, out.messages...)
	}
	ctx, cancel := context.WithTimeout(o.background, eventTimeout)
	defer cancel()
	err := o.publisher.Publish(ctx, all)
	for _, out := range batch {
		out.err = err
		close(out.done)
	}
}
