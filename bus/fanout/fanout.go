// Package fanout tells: what happens in the rooms goes from dispatchers and workers to every edge, at most once. What
// is lost here is found by the heads and repaired; nothing queues up.
package fanout

import (
	"context"

	"github.com/parley-chat/parley/contracts"
)

// Message is one message on a lane: one or more encoded envelopes, one behind the other.
type Message struct {
	Lane contracts.Lane
	Body []byte
}

// Publisher tells. It is safe for concurrent use.
type Publisher interface {
	// Publish hands the messages to the broker, in order, in as few round trips as it can, and returns when the broker
	// has taken all of them; on an error any of them may have been taken.
	Publish(ctx context.Context, messages []Message) error
}

// Sharded is what a Publisher may be beside.
type Sharded interface {
	// Sharded reports whether the lane groups are on several servers, of which one may hang while the others go on: Publish
	// waits for all that it needs, so who gathers messages of many callers does it for each group apart.
	Sharded() bool
}

// Receiver is what a Subscriber calls. Its methods are called one at a time per lane group and must not block.
type Receiver interface {
	// Receive gets a message of a subscribed lane. body may be kept, but not written into.
	Receive(lane contracts.Lane, body []byte)
	// Down says that messages of the group's lanes may be missing from now on.
	Down(group int)
	// Up says that every subscribed lane of the group is heard again, after a Down. What came in between is lost.
	Up(group int)
}

// Subscriber hears. It is safe for concurrent use.
type Subscriber interface {
	// Subscribe returns when messages of the lanes will arrive. Lanes already subscribed cost nothing. After an error the
	// lanes are not subscribed; while the broker is away it fails at once, and lanes subscribed before come back by themselves.
	Subscribe(ctx context.Context, lanes ...contracts.Lane) error
	// Unsubscribe stops the lanes; a message already under way may still be received.
	Unsubscribe(ctx context.Context, lanes ...contracts.Lane) error
	// Healthy reports whether every group with subscribed lanes is heard: its canary came back within 3 s.
	Healthy() bool
	// Close stops hearing and returns when the Receiver is not called any more.
	Close() error
}
