package wire_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/bustest"
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

// parts is an installation of real parts, all embedded, with two partitions and one room, the lobby.
type parts struct {
	t         *testing.T
	settings  wire.Settings
	file      *bolt.Store
	partition int32 // of the lobby
	edge      *rpc.NATS
}

func newParts(t *testing.T, prefix string) *parts {
	const partitions = 2
	names := contracts.Names{Prefix: prefix}
	log := slog.New(slog.NewTextHandler(bustest.Output(t), nil))
	kafka, err := embedded.StartKafka(embedded.KafkaConfig{Partitions: partitions, Names: names})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	nats, err := embedded.ListenNATS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nats.Close() })
	redis, err := embedded.StartRedis()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = redis.Close() })
	file, err := bolt.Open(bolt.Config{Path: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	if err := file.Prepare(t.Context(), partitions); err != nil {
		t.Fatal(err)
	}
	edge, err := rpc.Connect(rpc.Config{URL: nats.URL()}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = edge.Close() })
	return &parts{
		t: t, file: file, partition: contracts.LaneOf("lobby").Partition(partitions), edge: edge,
		settings: wire.Settings{
			Names: names, Partitions: partitions, Version: "1", Store: file, Log: log, Ops: ops.New(ops.Config{Listen: "off"}, log),
			NATS: rpc.Config{URL: nats.URL()}, Redis: fanout.Config{URL: redis.URL()},
			Kafka: journal.Config{Brokers: kafka.Addrs(), Names: names, Partitions: partitions},
		},
	}
}

// start runs a role until the test ends.
func (p *parts) start(graph fx.Option) {
	p.t.Helper()
	app, err := wire.New(graph)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := wire.Start(p.t.Context(), app); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), bustest.Patience)
		defer cancel()
		if err := app.Stop(ctx); err != nil {
			p.t.Error(err)
		}
	})
}

// ask has a worker do something in the lobby, as an edge would.
func (p *parts) ask(op contracts.Op, object string) contracts.Answer {
	p.t.Helper()
	ada := contracts.Person{ID: "ada", Name: "Ada"}
	body, err := contracts.Marshal(&contracts.Command{Op: op, Node: "e", User: &ada, LeftMS: 2 * bustest.Patience.Milliseconds(), Room: "lobby", Body: json.RawMessage(object)})
	if err != nil {
		p.t.Fatal(err)
	}
	got := make(chan contracts.Answer, 1)
	p.edge.Ask(p.settings.Names.Work(op, p.partition), body, 2*bustest.Patience, func(reply []byte, err error) {
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

// until calls done again and again.
func (p *parts) until(what string, done func() bool) {
	p.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(p.t.Context(), bustest.Patience)
	defer cancel()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.t.Fatalf("%s: not within %s", what, bustest.Patience)
		}
	}
}

// page is what the store has of the lobby.
func (p *parts) page() []contracts.Entry {
	p.t.Helper()
	rows, err := p.file.Page(p.t.Context(), "lobby", 1, contracts.MaxInt, 1_000_000, false)
	if err != nil {
		p.t.Fatal(err)
	}
	return rows
}

// keeping has a persister leave little of the log.
func keeping(records int64, change func(*sink.Config)) fx.Option {
	return fx.Decorate(func(c sink.Config) sink.Config {
		c.KeepRecords, c.KeepEvery = records, 100*time.Millisecond
		if change != nil {
			change(&c)
		}
		return c
	})
}

var worker = workers.Config{Node: "w", Secret: []byte(strings.Repeat("x", 32)), Deadline: bustest.Patience}

// TestLogFills stops the persister until the log is at its limit: sends are refused and all else goes on, until a persister is
// back and has trimmed the log. What was acked is stored, once and in order, and what was refused is not.
func TestLogFills(t *testing.T) {
	p := newParts(t, "full")
	const keep = 10
	cfg := worker
	cfg.LogBytes = 50_000
	p.start(wire.Dispatch(p.settings, "d"))
	p.start(wire.Worker(p.settings, cfg, journal.DurabilityVolatile,
		fx.Decorate(func(c workers.Config) workers.Config { c.LogKeep = keep; return c })))
	var acked []contracts.Key
	send := func() *contracts.Error {
		t.Helper()
		key, err := contracts.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		a := p.ask(contracts.OpSend, `{"text":"hi","key":"`+key.String()+`"}`)
		if a.Err == nil {
			acked = append(acked, key)
		}
		return a.Err
	}
	var err *contracts.Error
	p.until("sends are refused", func() bool { err = send(); return err != nil })
	full := len(acked)
	for range 2 {
		if err.Code != contracts.CodeOverloaded || !err.Retry || err.RetryAfterMS == 0 {
			t.Errorf("a send at the limit got %+v", err)
		}
		if err = send(); err == nil {
			t.Fatal("a send at the limit was taken")
		}
	}
	p.until("history at the limit has what was acked", func() bool {
		var page contracts.HistoryOK
		a := p.ask(contracts.OpHistory, `{"limit":1}`)
		if a.Err != nil {
			t.Fatalf("history at the limit: %v", a.Err)
		}
		if err := json.Unmarshal(a.OK, &page); err != nil || int(page.Head) > full {
			t.Fatalf("history at the limit has head %d of %d, %v", page.Head, full, err)
		}
		return int(page.Head) == full
	})

	p.start(wire.Persist(p.settings, "p", keeping(keep, nil)))
	p.until("sends are taken again", func() bool { return send() == nil })
	p.until("all is stored", func() bool { return len(p.page()) >= len(acked) })
	rows := p.page()
	if len(rows) != len(acked) {
		t.Fatalf("%d rows for %d acked", len(rows), len(acked))
	}
	for i := range rows {
		if rows[i].Key != acked[i] || rows[i].Seq != contracts.Seq(i+1) {
			t.Fatalf("row %d is seq %d with key %s, want %s", i, rows[i].Seq, rows[i].Key, acked[i])
		}
	}
	t.Logf("%d acked up to the limit, %d in all", full, len(acked))
}

// TestRetention has messages of a month ago and of today in one room. The old ones lose their text, for whoever reads them from
// the first moment on; sends, copies and a resume go on as ever.
func TestRetention(t *testing.T) {
	p := newParts(t, "old")
	p.settings.Retain = 24 * time.Hour
	writer, err := journal.NewWriter(p.settings.Kafka, p.settings.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close(context.WithoutCancel(t.Context())) }()
	const old, fresh = 300, 20
	now := time.Now().UnixMilli()
	var values [][]byte
	for i := range int64(old + fresh) {
		at := now + i
		if i < old {
			at -= (30 * 24 * time.Hour).Milliseconds()
		}
		var key contracts.Key
		binary.BigEndian.PutUint64(key[:], uint64(at)<<16)
		key[6], key[8], key[15] = 0x70, 0x80, byte(i)
		value, err := contracts.EncodeRecord(&contracts.Record{
			Kind: contracts.KindMessage, Room: "lobby", From: contracts.Person{ID: "bob", Name: "Bob"}, Key: key, Stamp: at, Text: fmt.Sprint("text ", i),
		})
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, value)
	}
	write := func(values ...[]byte) {
		t.Helper()
		acked := make(chan error, len(values))
		for _, value := range values {
			writer.Append(p.partition, "lobby", value, func(_ int64, err error) { acked <- err })
		}
		for range values {
			if err := <-acked; err != nil {
				t.Fatal(err)
			}
		}
	}
	write(values...)
	p.start(wire.Dispatch(p.settings, "d"))
	p.start(wire.Worker(p.settings, worker, journal.DurabilityVolatile))
	p.start(wire.Persist(p.settings, "p", keeping(5, func(c *sink.Config) { c.SweepEvery = 100 * time.Millisecond })))

	read := func(op contracts.Op, object string) (j contracts.JoinOK, said string) {
		t.Helper()
		a := p.ask(op, object)
		if a.Err != nil {
			t.Fatalf("%s %s: %v", op, object, a.Err)
		}
		if err := json.Unmarshal(a.OK, &j); err != nil {
			t.Fatal(err)
		}
		for _, e := range j.Entries {
			said += string(e)
		}
		return j, said
	}
	p.until("all is numbered", func() bool { j, _ := read(contracts.OpHistory, `{"limit":0}`); return j.Head == old+fresh })
	if _, said := read(contracts.OpHistory, `{"after":0,"limit":200}`); strings.Contains(said, "text ") {
		t.Errorf("a worker shows what is old: %.300s", said)
	}
	blank := func() (n int) {
		for _, e := range p.page() {
			if e.Text == "" {
				n++
			}
		}
		return n
	}
	p.until("the old ones are blank", func() bool { return blank() == old })

	write(values[3], values[old+3]) // copies
	if a := p.ask(contracts.OpSend, `{"text":"hi"}`); a.Err != nil {
		t.Fatal(a.Err)
	}
	const head = old + fresh + 1
	p.until("the next one is stored", func() bool { return len(p.page()) == head })
	for i, e := range p.page() {
		if e.Seq != contracts.Seq(i+1) || (e.Text == "") != (i < old) {
			t.Errorf("row %d is seq %d: %q", i, e.Seq, e.Text)
		}
	}
	j, said := read(contracts.OpJoin, `{"since":{"epoch":1,"seq":0}}`)
	if j.State != contracts.JoinComplete || len(j.Entries) != head || strings.Count(said, `"deleted":true`) != old {
		t.Errorf("a resume from the beginning: %s with %d entries, %d of them deleted", j.State, len(j.Entries), strings.Count(said, `"deleted":true`))
	}
}
