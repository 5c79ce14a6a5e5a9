package rpc

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	servePending = 16384 // requests that wait for the handler, per endpoint (128 KiB); beyond, a request is lost and its asker times out
	stopTimeout  = time.Second
)

// endpoint is one subscription and the goroutine that calls its handler.
type endpoint struct {
	Endpoint
	queue    string
	of       []*endpoint    // whose questions come gathered; nil: this one has a Handler
	requests chan *nats.Msg // a nil ends the goroutine
	sub      *nats.Subscription
	removed  chan struct{} // closed when nats.go delivers to requests no more
	done     chan struct{} // closed when the goroutine has ended
	stopOnce sync.Once
	stopErr  error
	handling sync.Mutex // held while Handler runs: requests come alone and gathered

	served  atomic.Int64
	refused atomic.Int64 // replies that could not be sent
	spent   atomic.Int64 // nanoseconds from taking a request to its answer
	lastErr atomic.Pointer[string]
}

// Serve implements Server. While the broker is away or silent it succeeds: the broker learns of the service when it answers.
func (n *NATS) Serve(s Service) (stop func() error, err error) {
	var endpoints []*endpoint
	undo := func() {
		for _, e := range endpoints {
			_ = e.stop(n)
		}
	}
	all := s.Endpoints
	if s.Gathered != "" {
		all = append(slices.Clip(all), Endpoint{Name: "gathered", Subject: s.Gathered})
	}
	for i, e := range all {
		var of []*endpoint
		if i == len(s.Endpoints) {
			of = slices.Clone(endpoints)
		}
		ep, err := n.startEndpoint(e, s.Queue, of)
		if err != nil {
			undo()
			return nil, fmt.Errorf("serve %s: %w", e.Subject, err)
		}
		endpoints = append(endpoints, ep)
	}
	leave, err := n.announce(s, endpoints)
	if err != nil {
		undo()
		return nil, fmt.Errorf("announce service %s: %w", s.Name, err)
	}
	if err := n.settle(); err != nil {
		_ = leave()
		undo()
		return nil, fmt.Errorf("serve %s: %w", s.Name, err)
	}
	var once sync.Once
	return func() (err error) {
		once.Do(func() {
			err = leave()
			// All at once: each costs a round trip.
			errs := make([]error, len(endpoints))
			var wg sync.WaitGroup
			for i, e := range endpoints {
				wg.Go(func() { errs[i] = e.stop(n) })
			}
			wg.Wait()
			err = errors.Join(append(errs, err)...)
		})
		return err
	}, nil
}

func (n *NATS) startEndpoint(e Endpoint, queue string, of []*endpoint) (*endpoint, error) {
	ep := &endpoint{
		Endpoint: e,
		queue:    queue,
		of:       of,
		requests: make(chan *nats.Msg, servePending),
		removed:  make(chan struct{}),
		done:     make(chan struct{}),
	}
	var err error
	if queue == "" {
		ep.sub, err = n.conn.ChanSubscribe(e.Subject, ep.requests)
	} else {
		ep.sub, err = n.conn.ChanQueueSubscribe(e.Subject, queue, ep.requests)
	}
	if err != nil {
		return nil, err
	}
	// A drain that takes too long is cut short; when the broker then answers, or the connection ends, nats.go calls this again.
	var once sync.Once
	ep.sub.SetClosedHandler(func(string) { once.Do(func() { close(ep.removed) }) })
	n.mu.Lock()
	n.endpoints[ep] = struct{}{}
	n.mu.Unlock()
	go ep.run(n.answers)
	return ep, nil
}

func (e *endpoint) run(answers *bundles) {
	defer close(e.done)
	for m := range e.requests {
		if m == nil {
			return
		}
		if e.of != nil {
			e.serveGathered(m, answers)
			continue
		}
		e.handle(Request{Subject: m.Subject, Body: m.Data, Answer: e.answer(m, answers)})
	}
}

func (e *endpoint) handle(r Request) {
	e.handling.Lock()
	defer e.handling.Unlock()
	e.Handler(r)
}

// answer makes the Answer of a request that came alone.
func (e *endpoint) answer(m *nats.Msg, answers *bundles) func(reply []byte) {
	return e.once(func(reply []byte) {
		if m.Reply == "" {
			return
		}
		if to, id, ok := bundled(m.Reply); ok && !answers.alone(reply) {
			answers.add(e, to, id, reply)
		} else if err := m.Respond(reply); err != nil {
			e.fail(err)
		}
	})
}

// answerGathered makes the Answer of a request that came with others; to is where bundles go.
func (e *endpoint) answerGathered(to string, id uint64, answers *bundles) func(reply []byte) {
	return e.once(func(reply []byte) {
		if !answers.alone(reply) {
			answers.add(e, to, id, reply)
		} else if err := answers.send(to+strconv.FormatUint(id, 36), reply); err != nil {
			e.fail(err)
		}
	})
}

// once lets the first answer count, and counts it.
func (e *endpoint) once(send func(reply []byte)) func(reply []byte) {
	began := time.Now()
	var answered atomic.Bool
	return func(reply []byte) {
		if answered.Swap(true) {
			return
		}
		e.served.Add(1)
		e.spent.Add(int64(time.Since(began)))
		send(reply)
	}
}

// fail notes that an answer could not be sent.
func (e *endpoint) fail(err error) {
	text := err.Error()
	e.refused.Add(1)
	e.lastErr.Store(&text)
}

// stop unsubscribes, lets the handler see what has arrived and waits for it.
func (e *endpoint) stop(n *NATS) error {
	e.stopOnce.Do(func() {
		e.stopErr = e.drain(n)
		n.mu.Lock()
		delete(n.endpoints, e)
		n.mu.Unlock()
	})
	return e.stopErr
}

func (e *endpoint) drain(n *NATS) error {
	var err error
	if n.conn.IsConnected() {
		// The broker answers behind the last request that it sends here; then nats.go removes the subscription.
		err = e.sub.Drain()
		timeout := time.NewTimer(stopTimeout)
		defer timeout.Stop()
		select {
		case <-e.removed:
		case <-n.closed:
		case <-timeout.C:
			err = errors.Join(err, e.sub.Unsubscribe())
		}
	} else {
		err = e.sub.Unsubscribe()
	}
	e.requests <- nil
	<-e.done
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrBadSubscription) {
		err = nil // nothing is left to unsubscribe
	}
	if err != nil {
		return fmt.Errorf("stop serving %s: %w", e.Subject, err)
	}
	return nil
}
