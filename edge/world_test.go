package edge_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// patience bounds every wait for something that must come. It is long because nobody who passes waits for it.
const patience = edge.Patience

// ages is for what must not run out of time, however busy the machine is.
const ages = time.Hour

// transports runs a test on both kinds of sockets.
func transports(t *testing.T, test func(t *testing.T, portable bool)) {
	t.Helper()
	for name, portable := range map[string]bool{"epoll": false, "portable": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, portable)
		})
	}
}

// world is an edge with everything around it under the test's control.
type world struct {
	t        testing.TB
	worker   *worker
	ear      *ear
	registry *prometheus.Registry
	server   *edge.Server
}

// newWorld starts an edge; change may alter its configuration.
func newWorld(t testing.TB, portable bool, change ...func(*edge.Config, *edge.Deps)) *world {
	t.Helper()
	w := build(t, "n1", portable, change...)
	w.start()
	return w
}

// build makes an edge that is not started yet. It gives everything its time, unless change says how much: a time of 0 is the
// edge's own.
func build(t testing.TB, node contracts.NodeID, portable bool, change ...func(*edge.Config, *edge.Deps)) *world {
	t.Helper()
	w := &world{t: t, worker: newWorker(), ear: &ear{lanes: make(map[contracts.Lane]bool)}, registry: prometheus.NewRegistry()}
	cfg := edge.Config{
		Node: node, Partitions: 8, Listen: "127.0.0.1:0", Loops: 2, Portable: portable,
		Ping: ages, HeadTime: ages, ConnectTime: ages, FrameTime: ages, CloseTime: ages, AskTime: ages,
	}
	deps := edge.Deps{
		Ask: w.worker,
		Hear: func(r fanout.Receiver) fanout.Subscriber {
			w.ear.receiver = r
			return w.ear
		},
		Log:     slog.New(slog.DiscardHandler),
		Metrics: w.registry,
	}
	for _, f := range change {
		f(&cfg, &deps)
	}
	server, err := edge.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	w.server = server
	return w
}

func (w *world) start() {
	w.t.Helper()
	if err := w.server.Start(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		w.worker.releaseAll()
		if err := w.server.Shutdown(ctx); err != nil {
			w.t.Errorf("shut down: %v", err)
		}
	})
}

// metric returns the sum of a metric over its labels.
func (w *world) metric(name string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "parley_edge_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// until waits for a condition that nothing tells of.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not in time", what)
		}
	}
}

// say publishes an entry on its room's lane, as the dispatcher does.
func (w *world) say(room contracts.RoomID, seq contracts.Seq) { w.ear.publish(entryOf(room, 1, seq)) }

func entryOf(room contracts.RoomID, epoch contracts.Epoch, seq contracts.Seq) contracts.Envelope {
	return contracts.Envelope{Kind: contracts.EnvelopeEntry, Room: room, Epoch: epoch, Seq: seq, Body: entryJSON(room, epoch, seq)}
}

func entryJSON(room contracts.RoomID, epoch contracts.Epoch, seq contracts.Seq) []byte {
	return fmt.Appendf(nil, `{"event":"message","room":"%s","seq":%d,"epoch":%d,"text":"entry %d"}`, room, seq, epoch, seq)
}

func headOf(room contracts.RoomID, epoch contracts.Epoch, seq contracts.Seq) contracts.Envelope {
	return contracts.Envelope{Kind: contracts.EnvelopeHead, Room: room, Epoch: epoch, Seq: seq}
}

// ear is the subscriber that a test speaks into.
type ear struct {
	receiver fanout.Receiver
	deaf     atomic.Bool // it is not healthy

	mu     sync.Mutex // guards the rest
	lanes  map[contracts.Lane]bool
	before func() error // runs in Subscribe before the lanes are heard
	closed bool
}

// gate makes Subscribe call before, and fail with its error.
func (e *ear) gate(before func() error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.before = before
}

func (e *ear) publish(envelopes ...contracts.Envelope) {
	for i := range envelopes {
		e.raw(contracts.LaneOf(envelopes[i].Room), contracts.AppendEnvelope(nil, &envelopes[i]))
	}
}

// raw is a message on a lane; it is lost unless the lane is heard.
func (e *ear) raw(lane contracts.Lane, body []byte) {
	e.mu.Lock()
	heard := e.lanes[lane] && !e.closed
	e.mu.Unlock()
	if heard {
		e.receiver.Receive(lane, body)
	}
}

func (e *ear) Subscribe(ctx context.Context, lanes ...contracts.Lane) error {
	e.mu.Lock()
	before := e.before
	e.mu.Unlock()
	if before != nil {
		if err := before(); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range lanes {
		e.lanes[l] = true
	}
	return ctx.Err()
}

func (e *ear) Unsubscribe(_ context.Context, lanes ...contracts.Lane) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range lanes {
		delete(e.lanes, l)
	}
	return nil
}

func (e *ear) hears(room contracts.RoomID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lanes[contracts.LaneOf(room)]
}

func (e *ear) Healthy() bool { return !e.deaf.Load() }

func (e *ear) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	return nil
}
