package fanout_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

// slowPublisher takes a second per call, and for ever where a message is of the lane group that hangs.
type slowPublisher struct {
	sharded bool
	hangs   int // a lane group; below 0: none

	mu    sync.Mutex
	calls [][]string
	err   error
}

func (p *slowPublisher) Sharded() bool { return p.sharded }

func (p *slowPublisher) Publish(ctx context.Context, messages []fanout.Message) error {
	var bodies []string
	wait := time.Second
	for _, m := range messages {
		bodies = append(bodies, string(m.Body))
		if m.Lane.Group() == p.hangs {
			wait = time.Hour
		}
	}
	p.mu.Lock()
	p.calls = append(p.calls, bodies)
	err := p.err
	p.mu.Unlock()
	select {
	case <-time.After(wait):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func message(lane contracts.Lane, body string) fanout.Message {
	return fanout.Message{Lane: lane, Body: []byte(body)}
}

// TestGather: who is alone goes at once; those that come meanwhile share the next round trip, in their order, and its end.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &slowPublisher{hangs: -1}
		g := fanout.NewGather(t.Context(), p)
		var all sync.WaitGroup
		began := time.Now()
		send := func(want time.Duration, lost int, bodies ...string) {
			var messages []fanout.Message
			for _, body := range bodies {
				messages = append(messages, message(contracts.Lane(len(messages)), body))
			}
			all.Go(func() {
				if n, err := g.Send(t.Context(), messages); n != lost || (err == nil) != (lost == 0) || time.Since(began) != want {
					t.Errorf("%v: %d lost (%v) after %v, want %d after %v", bodies, n, err, time.Since(began), lost, want)
				}
			})
			synctest.Wait()
		}
		send(time.Second, 0, "a")
		send(2*time.Second, 0, "b", "c")
		send(2*time.Second, 0, "d")
		all.Wait()
		p.err = errors.New("away")
		send(3*time.Second, 2, "e", "f")
		all.Wait()
		if n, err := g.Send(t.Context(), nil); n != 0 || err != nil {
			t.Errorf("nothing: %d lost (%v)", n, err)
		}
		want := [][]string{{"a"}, {"b", "c", "d"}, {"e", "f"}}
		if !slices.EqualFunc(p.calls, want, slices.Equal) {
			t.Errorf("sent %v, want %v", p.calls, want)
		}
	})
}

// TestGatherGivesUp: who waits no longer is not sent, and the end of whose turn it is does not end it for the others.
func TestGatherGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &slowPublisher{hangs: -1}
		g := fanout.NewGather(t.Context(), p)
		short, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			if n, err := g.Send(short, []fanout.Message{message(1, "a")}); n != 0 || err != nil {
				t.Errorf("who sends: %d lost (%v)", n, err)
			}
		})
		synctest.Wait()
		if n, err := g.Send(short, []fanout.Message{message(1, "b"), message(2, "b")}); n != 2 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who waits: %d lost (%v)", n, err)
		}
		all.Wait()
		if len(p.calls) != 1 {
			t.Errorf("sent %v, want what was waited for", p.calls)
		}
	})
}

// TestGatherSharded: a server that hangs holds up its own lane groups only.
func TestGatherSharded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &slowPublisher{sharded: true, hangs: 3}
		g := fanout.NewGather(t.Context(), p)
		began := time.Now()
		n, err := g.Send(t.Context(), []fanout.Message{message(2, "a"), message(3, "b"), message(4, "c")})
		if n != 1 || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 2*time.Second {
			t.Errorf("%d lost (%v) after %v", n, err, time.Since(began))
		}
		n, err = g.Send(t.Context(), []fanout.Message{message(2, "a")})
		if n != 0 || err != nil || time.Since(began) != 3*time.Second {
			t.Errorf("beside it: %d lost (%v) after %v", n, err, time.Since(began))
		}
	})
}
