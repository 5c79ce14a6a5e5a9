package bustest

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
)

// Lossy loses a share of what passes. The same seed loses the same calls, counted in the order in which they come.
type Lossy struct {
	Seed  uint64
	Share float64 // 0 … 1
}

// Publisher loses messages without an error, as Redis does to a subscriber that is not connected.
func (l Lossy) Publisher(next fanout.Publisher) fanout.Publisher {
	return &lossyPublisher{Publisher: next, dice: l.dice()}
}

// Receiver loses messages on their way to next. Down and Up pass.
func (l Lossy) Receiver(next fanout.Receiver) fanout.Receiver {
	return &lossyReceiver{Receiver: next, dice: l.dice()}
}

// Client loses, by turns, requests on the way there and replies on the way back. Either way the asker gets ErrTimeout:
// for a lost request after the timeout, for a lost reply at the time at which the reply came. What is asked together is
// lost together.
func (l Lossy) Client(next rpc.Client) rpc.Client {
	return &lossyClient{Client: next, dice: l.dice()}
}

func (l Lossy) dice() *dice {
	return &dice{share: l.Share, rand: rand.New(rand.NewPCG(l.Seed, 0))}
}

// dice decides call after call.
type dice struct {
	mu    sync.Mutex // guards rand
	share float64
	rand  *rand.Rand
}

func (d *dice) hit() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.Float64() < d.share
}

type lossyPublisher struct {
	fanout.Publisher
	dice *dice
}

func (p *lossyPublisher) Publish(ctx context.Context, messages []fanout.Message) error {
	kept := make([]fanout.Message, 0, len(messages))
	for _, m := range messages {
		if !p.dice.hit() {
			kept = append(kept, m)
		}
	}
	return p.Publisher.Publish(ctx, kept)
}

type lossyReceiver struct {
	fanout.Receiver
	dice *dice
}

func (r *lossyReceiver) Receive(lane contracts.Lane, body []byte) {
	if !r.dice.hit() {
		r.Receiver.Receive(lane, body)
	}
}

type lossyClient struct {
	rpc.Client
	dice  *dice
	lost  atomic.Int64
	later later
}

func (c *lossyClient) Ask(subject string, body []byte, timeout time.Duration, done func(reply []byte, err error)) {
	switch {
	case !c.dice.hit():
		c.Client.Ask(subject, body, timeout, done)
	case c.lost.Add(1)%2 == 1:
		c.lose(timeout, done)
	default:
		c.Client.Ask(subject, body, timeout, unanswered(done))
	}
}

// AskTogether makes the client an rpc.Gatherer.
func (c *lossyClient) AskTogether(to string, questions []rpc.Question) {
	together, ok := c.Client.(rpc.Gatherer)
	if !ok {
		for i := range questions {
			q := &questions[i]
			q.Together = 1
			c.Ask(q.Subject, q.Body, q.Timeout, q.Done)
		}
		return
	}
	switch {
	case !c.dice.hit():
		together.AskTogether(to, questions)
	case c.lost.Add(1)%2 == 1:
		for i := range questions {
			questions[i].Together = len(questions)
			c.lose(questions[i].Timeout, questions[i].Done)
		}
	default:
		for i := range questions {
			questions[i].Done = unanswered(questions[i].Done)
		}
		together.AskTogether(to, questions)
	}
}

// lose tells after the timeout that no answer came.
func (c *lossyClient) lose(timeout time.Duration, done func([]byte, error)) {
	c.later.call(timeout, func(early bool) {
		if early {
			done(nil, rpc.ErrDown)
		} else {
			done(nil, rpc.ErrTimeout)
		}
	})
}

// unanswered loses the answer.
func unanswered(done func([]byte, error)) func([]byte, error) {
	return func(_ []byte, err error) {
		if err == nil {
			err = rpc.ErrTimeout
		}
		done(nil, err)
	}
}

func (c *lossyClient) Close() error {
	err := c.Client.Close()
	c.later.close()
	return err
}

// Twice lets everything happen two times.
type Twice struct{}

// Publisher publishes each message twice, one right behind the other.
func (Twice) Publisher(next fanout.Publisher) fanout.Publisher { return twicePublisher{next} }

// Receiver gives each message to next twice. Down and Up pass once.
func (Twice) Receiver(next fanout.Receiver) fanout.Receiver { return twiceReceiver{next} }

// Client asks each question twice and calls back with the first outcome: the server serves the request twice.
func (Twice) Client(next rpc.Client) rpc.Client { return twiceClient{next} }

type twicePublisher struct{ fanout.Publisher }

func (p twicePublisher) Publish(ctx context.Context, messages []fanout.Message) error {
	doubled := make([]fanout.Message, 0, 2*len(messages))
	for _, m := range messages {
		doubled = append(doubled, m, m)
	}
	return p.Publisher.Publish(ctx, doubled)
}

type twiceReceiver struct{ fanout.Receiver }

func (r twiceReceiver) Receive(lane contracts.Lane, body []byte) {
	again := slices.Clone(body) // the first one may be changed by next
	r.Receiver.Receive(lane, body)
	r.Receiver.Receive(lane, again)
}

type twiceClient struct{ rpc.Client }

func (c twiceClient) Ask(subject string, body []byte, timeout time.Duration, done func(reply []byte, err error)) {
	body = slices.Clone(body)
	var once sync.Once
	first := func(reply []byte, err error) { once.Do(func() { done(reply, err) }) }
	c.Client.Ask(subject, body, timeout, first)
	c.Client.Ask(subject, body, timeout, first)
}

// Slow delays what passes.
type Slow struct {
	By time.Duration
}

// Publisher waits before it publishes, or until the context ends.
func (s Slow) Publisher(next fanout.Publisher) fanout.Publisher { return slowPublisher{next, s.By} }

// Client delays every outcome. Close calls back at once what it still holds, and waits for it.
func (s Slow) Client(next rpc.Client) rpc.Client { return &slowClient{Client: next, by: s.By} }

type slowPublisher struct {
	fanout.Publisher
	by time.Duration
}

func (p slowPublisher) Publish(ctx context.Context, messages []fanout.Message) error {
	timer := time.NewTimer(p.by)
	defer timer.Stop()
	select {
	case <-timer.C:
		return p.Publisher.Publish(ctx, messages)
	case <-ctx.Done():
		return ctx.Err()
	}
}

type slowClient struct {
	rpc.Client
	by    time.Duration
	later later
}

func (c *slowClient) Ask(subject string, body []byte, timeout time.Duration, done func(reply []byte, err error)) {
	c.Client.Ask(subject, body, timeout, func(reply []byte, err error) {
		c.later.call(c.by, func(bool) { done(reply, err) })
	})
}

func (c *slowClient) Close() error {
	err := c.Client.Close()
	c.later.close()
	return err
}

// later runs functions after a while, or when it is closed. The zero value is ready.
type later struct {
	wg sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  bool
	pending map[*time.Timer]func(early bool)
}

// call runs f once: after d, or early when later is closed.
func (l *later) call(d time.Duration, f func(early bool)) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		f(true)
		return
	}
	defer l.mu.Unlock()
	if l.pending == nil {
		l.pending = make(map[*time.Timer]func(bool))
	}
	l.wg.Add(1)
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		l.mu.Lock() // call has stored the timer
		f := l.pending[timer]
		delete(l.pending, timer)
		l.mu.Unlock()
		if f != nil {
			f(false)
			l.wg.Done()
		}
	})
	l.pending[timer] = f
}

func (l *later) close() {
	l.mu.Lock()
	l.closed = true
	pending := l.pending
	l.pending = nil
	l.mu.Unlock()
	for timer, f := range pending {
		timer.Stop()
		f(true)
		l.wg.Done()
	}
	l.wg.Wait()
}
