package wire_test

import (
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/ops"
	"github.com/parley-chat/parley/deploy/wire"
	"github.com/parley-chat/parley/persist/bolt"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/workers"
)

// TestLogFills stops the persister until the log is at its limit: sends are refused and all else goes on, until a persister is
// back and has trimmed the log. What was acked is stored, once and in order, and what was refused is not.
func TestLogFills(t *testing.T) {
	const partitions = 2
	names := contracts.Names{Prefix: "full"}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
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
	if err := file.Prepare(t.Context(), partitions); err != nil {
		t.Fatal(err)
	}
	settings := wire.Settings{
		Names: names, Partitions: partitions, Version: "1", Store: file, Log: log, Ops: ops.New(ops.Config{Listen: "off"}, log),
		NATS: rpc.Config{URL: nats.URL()}, Redis: fanout.Config{URL: redis.URL()},
		Kafka: journal.Config{Brokers: kafka.Addrs(), Names: names, Partitions: partitions},
	}
	start := func(graph fx.Option) {
		app, err := wire.New(graph)
		if err != nil {
			t.Fatal(err)
		}
		if err := wire.Start(t.Context(), app); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := wire.Stop(app); err != nil {
				t.Error(err)
			}
		})
	}
	const keep = 10
	start(wire.Dispatch(settings, "d"))
	start(wire.Worker(settings, workers.Config{Node: "w", Secret: []byte(strings.Repeat("x", 32)), LogBytes: 50_000}, journal.DurabilityVolatile,
		fx.Decorate(func(c workers.Config) workers.Config { c.LogKeep = keep; return c })))
	edge, err := rpc.Connect(rpc.Config{URL: nats.URL()}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = edge.Close() }()
	ada := contracts.Person{ID: "ada", Name: "Ada"}
	partition := contracts.LaneOf("lobby").Partition(partitions)
	ask := func(op contracts.Op, object string) contracts.Answer {
		t.Helper()
		body, err := contracts.Marshal(&contracts.Command{Op: op, Node: "e", User: &ada, LeftMS: 5000, Room: "lobby", Body: json.RawMessage(object)})
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan contracts.Answer, 1)
		edge.Ask(names.Work(op, partition), body, 10*time.Second, func(reply []byte, err error) {
			var a contracts.Answer
			if err == nil {
				err = contracts.DecodeAnswer(reply, &a)
			}
			if err != nil {
				a.Err = contracts.AsError(err)
			}
			got <- a
		})
		return <-got
	}
	var acked []contracts.Key
	send := func() *contracts.Error {
		t.Helper()
		key, err := contracts.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		a := ask(contracts.OpSend, `{"text":"hi","key":"`+key.String()+`"}`)
		if a.Err == nil {
			acked = append(acked, key)
		}
		return a.Err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	patience := time.Now().Add(time.Minute)
	until := func(what string, done func(*contracts.Error) bool) {
		t.Helper()
		for !done(send()) {
			if time.Now().After(patience) {
				t.Fatalf("%s not within a minute", what)
			}
			<-tick.C
		}
	}
	until("overloaded", func(err *contracts.Error) bool {
		if err != nil && err.Code != contracts.CodeOverloaded {
			t.Errorf("a send got %v", err)
		}
		return err != nil
	})
	full := len(acked)
	if err := send(); err == nil || err.Code != contracts.CodeOverloaded || !err.Retry || err.RetryAfterMS == 0 {
		t.Errorf("the next send got %+v", err)
	}
	var page contracts.HistoryOK
	if a := ask(contracts.OpHistory, `{"limit":1}`); a.Err != nil {
		t.Errorf("history at the limit: %v", a.Err)
	} else if err := json.Unmarshal(a.OK, &page); err != nil || int(page.Head) != full {
		t.Errorf("history at the limit has head %d of %d, %v", page.Head, full, err)
	}

	start(wire.Persist(settings, "p", fx.Decorate(func(c sink.Config) sink.Config {
		c.KeepRecords, c.KeepEvery = keep, 200*time.Millisecond
		return c
	})))
	until("sends again", func(err *contracts.Error) bool { return err == nil })
	for {
		rows, err := file.Page(t.Context(), "lobby", 1, contracts.MaxInt, len(acked)+10, false)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) < len(acked) {
			<-tick.C
			continue
		}
		if len(rows) != len(acked) {
			t.Fatalf("%d rows for %d acked", len(rows), len(acked))
		}
		for i := range rows {
			if rows[i].Key != acked[i] || rows[i].Seq != contracts.Seq(i+1) {
				t.Fatalf("row %d is seq %d with key %s, want %s", i, rows[i].Seq, rows[i].Key, acked[i])
			}
		}
		t.Logf("%d acked up to the limit, %d in all", full, len(acked))
		return
	}
}
