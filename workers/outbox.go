package workers

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
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
	turn       chan struct{} // 1: held by the caller who publishes

	mu      sync.Mutex
	waiting []*outgoing // guarded by mu
}

// outgoing is what one caller publishes.
type outgoing struct {
	messages []fanout.Message
	err      error         // written before done is closed and read after
	done     chan struct{} // closed when the messages are published, or lost
}

func newOutbox(background context.Context, publisher fanout.Publisher) *outbox {
	return &outbox{background: background, publisher: publisher, turn: make(chan struct{}, 1)}
}

// publish returns when the messages are published, by this caller or by another one, or ctx ends.
func (o *outbox) publish(ctx context.Context, messages []fanout.Message) error {
	out := &outgoing{messages: messages, done: make(chan struct{})}
	o.mu.Lock()
	o.waiting = append(o.waiting, out)
	o.mu.Unlock()
	for {
		select {
		case <-out.done:
			return out.err
		case o.turn <- struct{}{}:
			o.send()
			<-o.turn
		case <-ctx.Done():
			o.mu.Lock()
			o.waiting = slices.DeleteFunc(o.waiting, func(other *outgoing) bool { return other == out })
			o.mu.Unlock()
			return ctx.Err()
		}
	}
}

// send publishes what waits longest. The turn is held. It is done for others too, so the caller's end does not end it.
func (o *outbox) send() {
	o.mu.Lock()
	n := min(len(o.waiting), eventsAtOnce)
	batch := o.waiting[:n:n]
	o.waiting = o.waiting[n:]
	if len(o.waiting) == 0 {
		o.waiting = nil
	}
	o.mu.Unlock()
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
