package bustest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bodies is a Publisher and Receiver that keeps what it gets.
type bodies struct{ got []string }

func (b *bodies) Publish(_ context.Context, messages []fanout.Message) error {
	for _, m := range messages {
		b.got = append(b.got, string(m.Body))
	}
	return nil
}

func (b *bodies) Receive(_ contracts.Lane, body []byte) {
	b.got = append(b.got, string(body))
	clear(body)
}
func (b *bodies) Down(int) { b.got = append(b.got, "down") }
func (b *bodies) Up(int)   { b.got = append(b.got, "up") }

// echo is a Client whose server answers at once and counts.
type echo struct{ served int }

func (e *echo) Ask(_ string, body []byte, _ time.Duration, done func([]byte, error)) {
	e.served++
	done(body, nil)
}
func (e *echo) AskTogether(_ string, questions []rpc.Question) {
	for i := range questions {
		questions[i].Together = len(questions)
	}
	for _, q := range questions {
		e.Ask(q.Subject, q.Body, q.Timeout, q.Done)
	}
}
func (e *echo) MaxPayload() int { return 1 << 20 }
func (e *echo) Up() bool        { return true }
func (e *echo) Close() error    { return nil }

var (
	_ fanout.Receiver = (*bodies)(nil)
	_ rpc.Client      = (*echo)(nil)
	_ rpc.Gatherer    = (*echo)(nil)
)

func hundred() (messages []fanout.Message) {
	for i := range 100 {
		messages = append(messages, fanout.Message{Lane: 1, Body: []byte(fmt.Sprint(i))})
	}
	return messages
}

func TestLossyIsRepeatable(t *testing.T) {
	lose := func(seed uint64) []string {
		var b bodies
		p := bustest.Lossy{Seed: seed, Share: 0.3}.Publisher(&b)
		if err := p.Publish(t.Context(), hundred()); err != nil {
			t.Fatal(err)
		}
		return b.got
	}
	first := lose(1)
	if len(first) < 50 || len(first) > 90 {
		t.Errorf("%d of 100 messages passed with a share of 0.3 lost", len(first))
	}
	if diff := cmp.Diff(first, lose(1)); diff != "" {
		t.Errorf("the same seed lost others:\n%s", diff)
	}
	if cmp.Equal(first, lose(2)) {
		t.Error("another seed lost the same")
	}
	var b bodies
	r := bustest.Lossy{Share: 1}.Receiver(&b)
	r.Down(1)
	r.Receive(1, []byte("x"))
	r.Up(1)
	if diff := cmp.Diff([]string{"down", "up"}, b.got); diff != "" {
		t.Errorf("a receiver that loses every message (-want +got):\n%s", diff)
	}
}

func TestLossyClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e echo
		c := bustest.Lossy{Share: 1}.Client(&e)
		ends := make(chan time.Duration, 3)
		began := time.Now()
		done := func(_ []byte, err error) {
			if !errors.Is(err, rpc.ErrTimeout) {
				t.Errorf("Ask: %v, want ErrTimeout", err)
			}
			ends <- time.Since(began)
		}
		c.Ask("s", nil, time.Second, done) // the request is lost
		c.Ask("s", nil, time.Second, done) // the reply is lost
		after := []time.Duration{<-ends, <-ends}
		<-time.After(2 * time.Second)
		if len(ends) > 0 {
			t.Error("a question ended twice")
		}
		if diff := cmp.Diff([]time.Duration{0, time.Second}, after); diff != "" || e.served != 1 {
			t.Errorf("%d requests served, want 1; outcomes came after (-want +got):\n%s", e.served, diff)
		}
		ended := make(chan error, 1)
		c.Ask("s", nil, time.Hour, func(_ []byte, err error) { ended <- err })
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, rpc.ErrDown) {
			t.Errorf("a waiting request ended with %v at Close, want ErrDown", err)
		}
	})
}

// What is asked together gets lost as a whole.
func TestLossyTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for share, all := range map[float64]int{0: 1, 0.5: 100, 1: 2} {
			var e echo
			c := bustest.Lossy{Share: share}.Client(&e)
			lost := 0
			for range all {
				served, failed := e.served, make(chan bool, 3)
				questions := make([]rpc.Question, 3)
				for i := range questions {
					questions[i] = rpc.Question{Timeout: time.Second, Done: func(_ []byte, err error) {
						if questions[i].Together != len(questions) {
							t.Errorf("a question is one of %d", questions[i].Together)
						}
						failed <- err != nil
					}}
				}
				c.(rpc.Gatherer).AskTogether("all", questions)
				first, second, third := <-failed, <-failed, <-failed
				if second != first || third != first || e.served != served && e.served != served+3 {
					t.Error("a part of what was asked together was lost")
				}
				if first {
					lost++
				}
			}
			if want := share * float64(all); float64(lost) < 0.7*want || float64(lost) > 1.3*want || e.served < 3*(all-lost) {
				t.Errorf("%d of %d lost with a share of %v; %d served", lost, all, share, e.served)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestTwice(t *testing.T) {
	var b bodies
	if err := (bustest.Twice{}).Publisher(&b).Publish(t.Context(), hundred()[:2]); err != nil {
		t.Fatal(err)
	}
	bustest.Twice{}.Receiver(&b).Receive(1, []byte("x"))
	if diff := cmp.Diff([]string{"0", "0", "1", "1", "x", "x"}, b.got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var e echo
	calls := 0
	bustest.Twice{}.Client(&e).Ask("s", nil, time.Second, func([]byte, error) { calls++ })
	if e.served != 2 || calls != 1 {
		t.Errorf("served %d times, called back %d times; want 2 and 1", e.served, calls)
	}
}

func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bodies
		p := bustest.Slow{By: time.Second}.Publisher(&b)
		began := time.Now()
		if err := p.Publish(t.Context(), hundred()); err != nil || time.Since(began) != time.Second || len(b.got) != 100 {
			t.Errorf("Publish: %v after %s, %d messages", err, time.Since(began), len(b.got))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := p.Publish(ctx, hundred()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Publish: %v, want its deadline", err)
		}
		c := bustest.Slow{By: time.Second}.Client(&echo{})
		came := make(chan time.Duration, 2)
		began = time.Now()
		c.Ask("s", nil, time.Minute, func([]byte, error) { came <- time.Since(began) })
		if d := <-came; d != time.Second {
			t.Errorf("the outcome came after %s, want 1 s", d)
		}
		c.Ask("s", nil, time.Minute, func([]byte, error) { came <- time.Since(began) })
		if err := c.Close(); err != nil || len(came) != 1 {
			t.Errorf("Close: %v, %d outcomes; want the one that was held", err, len(came))
		}
	})
}
