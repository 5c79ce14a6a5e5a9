package sink

import (
	"context"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

const (
	// tellQueue is how many messages may wait to be told of.
	tellQueue = 4096
	// tellBatch is the most that is told at once, tellTime how long that may take.
	tellBatch = 512
	tellTime  = 2 * time.Second
)

// teller tells connections that their messages are stored: at most once, on the room's lane, and never in the way of a
// write. An edge that heard nothing asks.
type teller struct {
	sink  *Sink
	queue chan contracts.Envelope
}

func newTeller(s *Sink) *teller {
	return &teller{sink: s, queue: make(chan contracts.Envelope, tellQueue)}
}

// add takes what was stored just now. What has no room is dropped and counted.
func (t *teller) add(told []contracts.Envelope) {
	if t.sink.deps.Publisher == nil {
		return
	}
	for _, e := range told {
		select {
		case t.queue <- e:
		default:
			t.sink.metrics.untold.Inc()
		}
	}
}

// run tells until ctx ends.
func (t *teller) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-t.queue:
			t.tell(ctx, t.gather(e))
		}
	}
}

// gather returns e and what waits behind it.
func (t *teller) gather(e contracts.Envelope) []fanout.Message {
	var messages []fanout.Message
	for {
		messages = append(messages, fanout.Message{Lane: contracts.LaneOf(e.Room), Body: contracts.AppendEnvelope(nil, &e)})
		if len(messages) == tellBatch {
			return messages
		}
		select {
		case e = <-t.queue:
		default:
			return messages
		}
	}
}

func (t *teller) tell(ctx context.Context, messages []fanout.Message) {
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	if err := t.sink.deps.Publisher.Publish(ctx, messages); err != nil {
		t.sink.metrics.untold.Add(float64(len(messages)))
		t.sink.log.Debug("cannot tell what is stored", "messages", len(messages), "err", err)
	}
}
