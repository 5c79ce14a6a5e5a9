package wire_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/deploy/ops"
	"github.com/parley-chat/parley/deploy/wire"
	"github.com/parley-chat/parley/persist/bolt"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/persist/store"
	"github.com/parley-chat/parley/workers"
	"github.com/parley-chat/parley/workers/dispatch"
)

// hangingStore answers nothing while it hangs.
type hangingStore struct {
	store.Store
	hangs atomic.Bool
	asked chan struct{} // gets one for each call that hangs, if there is room
}

func (s *hangingStore) wait(ctx context.Context) error {
	if !s.hangs.Load() {
		return nil
	}
	select {
	case s.asked <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return ctx.Err()
}

func (s *hangingStore) Append(ctx context.Context, entries []store.Entry, prev, next contracts.Checkpoint) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	return s.Store.Append(ctx, entries, prev, next)
}

func (s *hangingStore) Checkpoints(ctx context.Context) ([]contracts.Checkpoint, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	return s.Store.Checkpoints(ctx)
}

func (s *hangingStore) Lookup(ctx context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (fe, fh []roomlog.Found, err error) {
	if err := s.wait(ctx); err != nil {
		return nil, nil, err
	}
	return s.Store.Lookup(ctx, entries, heads)
}

func (s *hangingStore) RoomsOf(ctx context.Context, user contracts.UserID, after contracts.RoomID, limit int) ([]contracts.RoomInfo, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	return s.Store.RoomsOf(ctx, user, after, limit)
}

// Whoever is asked to stop does so in time and calls it no failure, also when nothing that it needs answers any more:
// Kafka refuses, NATS, Redis and the store say nothing, and work is under way for all of them.
func TestStopWhileAllIsAway(t *testing.T) {
	const partitions = 8
	var w *workers.Worker
	var d *dispatch.Dispatcher
	var k *sink.Sink
	roles := map[string]struct {
		graph func(wire.Settings) fx.Option
		ready func() bool
	}{
		"worker": {
			func(s wire.Settings) fx.Option {
				return wire.Worker(s, workers.Config{Node: "w", Secret: []byte(strings.Repeat("x", 32))}, journal.DurabilityVolatile, fx.Populate(&w))
			},
			func() bool { return w.Ready() == nil },
		},
		"dispatch": {
			func(s wire.Settings) fx.Option { return wire.Dispatch(s, "d", fx.Populate(&d)) },
			func() bool { return d.Ready() == nil && len(d.Owned()) == partitions },
		},
		"persist": {
			func(s wire.Settings) fx.Option { return wire.Persist(s, "p", fx.Populate(&k)) },
			func() bool { return k.Ready() == nil },
		},
	}
	for name, role := range roles {
		t.Run(name, func(t *testing.T) {
			bustest.Soon(t, "the stop", wire.StopTimeout, func() time.Duration { return stopWhileAllIsAway(t, name, partitions, role.graph, role.ready) })
		})
	}
}

// stopWhileAllIsAway starts a role, stops it as soon as it waits for all of them, and returns how long that took.
func stopWhileAllIsAway(t *testing.T, name string, partitions int, graph func(wire.Settings) fx.Option, ready func() bool) (took time.Duration) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(bustest.Output(t), nil))
	names := contracts.Names{Prefix: "stop-" + name}
	kafka, err := embedded.StartKafka(embedded.KafkaConfig{Partitions: partitions, Names: names})
	if err != nil {
		t.Fatal(err)
	}
	defer kafka.Close()
	nats, err := embedded.ListenNATS()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nats.Close() }()
	redis, err := embedded.StartRedis()
	if err != nil {
		t.Fatal(err)
	}
	defer redis.Close()
	file, err := bolt.Open(bolt.Config{Path: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	st := &hangingStore{Store: file, asked: make(chan struct{}, 1)}
	if err := st.Prepare(t.Context(), partitions); err != nil {
		t.Fatal(err)
	}
	toNATS := bustest.NewProxy(t, strings.TrimPrefix(nats.URL(), "nats://"))
	toRedis := bustest.NewProxy(t, strings.TrimPrefix(redis.URL(), "redis://"))
	settings := wire.Settings{
		Names: names, Partitions: partitions, Version: "1", Store: st, Log: log, Ops: ops.New(ops.Config{Listen: "off"}, log),
		NATS: rpc.Config{URL: "nats://" + toNATS.Addr()}, Redis: fanout.Config{URL: "redis://" + toRedis.Addr()},
		Kafka: journal.Config{Brokers: kafka.Addrs(), Names: names, Partitions: partitions},
	}
	app, err := wire.New(graph(settings))
	if err != nil {
		t.Fatal(err)
	}
	if err := wire.Start(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		<-tick.C
	}
	writer, err := journal.NewWriter(settings.Kafka, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close(t.Context()) }()

	st.hangs.Store(true)
	toRedis.Stall()
	ada := contracts.Person{ID: "ada", Name: "Ada"}
	key, err := contracts.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	value, err := contracts.EncodeRecord(&contracts.Record{Kind: contracts.KindMessage, Room: "lobby", From: ada, Key: key, Stamp: 1, Text: "hi"})
	if err != nil {
		t.Fatal(err)
	}
	partition := contracts.LaneOf("lobby").Partition(partitions)
	if name == "worker" {
		edge, err := rpc.Connect(rpc.Config{URL: nats.URL()}, log)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = edge.Close() }()
		kafka.Interrupt()
		for _, c := range []contracts.Command{
			{Op: contracts.OpSend, Node: "e", User: &ada, LeftMS: bustest.Patience.Milliseconds(), Room: "lobby", Batch: []json.RawMessage{[]byte(`{"id":1,"op":"send","room":"lobby","text":"hi"}`)}},
			{Op: contracts.OpRooms, Node: "e", User: &ada, LeftMS: bustest.Patience.Milliseconds(), Body: []byte(`{"id":1,"op":"rooms"}`)},
		} {
			body, err := contracts.Marshal(&c)
			if err != nil {
				t.Fatal(err)
			}
			edge.Ask(names.Work(c.Op, partition), body, time.Minute, func([]byte, error) {})
		}
	} else {
		acked := make(chan error, 1)
		writer.Append(partition, "lobby", value, func(_ int64, err error) { acked <- err })
		if err := <-acked; err != nil {
			t.Fatal(err)
		}
	}
	<-st.asked
	kafka.Interrupt()
	toNATS.Stall()

	began := time.Now()
	err = wire.Stop(app)
	took = time.Since(began)
	t.Logf("stopped after %v", took)
	if err != nil && took <= wire.StopTimeout {
		t.Errorf("stopped after %v: %v", took, err)
	}
	return took
}
