package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// questionTimeout bounds one question to a dispatcher: a question that got lost costs this much, then it is asked anew.
const questionTimeout = 1500 * time.Millisecond

// retryIn is when a client is to ask again that got no certain answer. It has waited for that already: a backoff of its
// own, which grows to half a minute, would outlast what was amiss.
const retryIn = time.Second

// errUnavailable is the answer of whoever ran out of time.
var errUnavailable = contracts.NewError(contracts.CodeUnavailable, "this cannot be answered for certain right now").After(retryIn)

// errAgain marks a disagreement that another try, from the head on, will mend.
var errAgain = errors.New("dispatcher, cache and store do not agree yet")

// ask puts q to the partition's dispatcher. done is called exactly once, on any goroutine.
func (w *Worker) ask(partition int32, q contracts.Question, timeout time.Duration, done func(contracts.Reply, error)) {
	q.LeftMS = timeout.Milliseconds()
	body, err := contracts.Marshal(&q)
	if err != nil {
		done(contracts.Reply{}, fmt.Errorf("encode question: %w", err))
		return
	}
	w.deps.Ask.Ask(w.cfg.Names.Dispatch(partition), body, timeout, func(raw []byte, err error) {
		var reply contracts.Reply
		if err == nil {
			err = json.Unmarshal(raw, &reply)
		}
		switch {
		case err != nil:
			w.metrics.undispatched.Inc()
			err = fmt.Errorf("ask dispatcher of partition %d: %w", partition, err)
		case reply.Err != nil:
			err = fmt.Errorf("ask dispatcher of partition %d: %w", partition, reply.Err)
		case len(reply.Heads) != len(q.Heads):
			err = fmt.Errorf("ask dispatcher of partition %d: %d heads for %d rooms", partition, len(reply.Heads), len(q.Heads))
		}
		done(reply, err)
	})
}

// askNow is ask for callers that wait.
func (w *Worker) askNow(ctx context.Context, partition int32, q contracts.Question) (contracts.Reply, error) {
	timeout := questionTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	if timeout < time.Millisecond {
		return contracts.Reply{}, context.DeadlineExceeded
	}
	type answer struct {
		reply contracts.Reply
		err   error
	}
	got := make(chan answer, 1)
	w.ask(partition, q, timeout, func(reply contracts.Reply, err error) { got <- answer{reply, err} })
	select {
	case a := <-got:
		return a.reply, a.err
	case <-ctx.Done():
		return contracts.Reply{}, ctx.Err()
	}
}

// insist calls try until it succeeds, fails with an error that is final for the client, or ctx ends: then the error is
// errUnavailable.
func insist(ctx context.Context, try func() error) error {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		err := try()
		if err == nil {
			return nil
		}
		var known *contracts.Error
		if errors.As(err, &known) && !known.Code.Retryable() {
			return known
		}
		timer := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errUnavailable
		}
	}
}
