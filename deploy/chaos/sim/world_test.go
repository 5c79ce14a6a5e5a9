package sim_test

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
	"github.com/parley-chat/parley/deploy/chaos/sim"
	"github.com/parley-chat/parley/edge"
	"github.com/parley-chat/parley/persist/bolt"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/workers"
	"github.com/parley-chat/parley/workers/dispatch"
)

const (
	partitions = 2
	rooms      = 4
	clients    = 5
)

var secret = []byte("a secret that is of no use to anybody else")

// world is an installation in a bubble: edges, workers, dispatchers and persisters as they are, on parts in memory.
type world struct {
	t    *testing.T
	dice *sim.Dice
	bolt *bolt.Store
	log  *sim.Log
	nats *sim.NATS
	reds *sim.Redis
	db   *sim.Store
	slog *slog.Logger

	edges, workers, dispatchers, persisters []*process
	clients                                 []*client
	started                                 int
	trouble                                 []string // beside what the history tells

	mu     sync.Mutex // guards what follows
	events []history.Event
	last   int64
	keys   uint64
}

// process is one running role. stop ends it, gracefully unless its Proc is dead, and waits.
type process struct {
	*sim.Proc
	stop   func()
	member *sim.Member  // of a dispatcher or persister
	edge   *edge.Server // of an edge
	sink   *sink.Sink
	disp   *dispatch.Dispatcher
}

// inWorld runs f in a bubble.
func inWorld(t *testing.T, seed uint64, f func(w *world)) {
	path := filepath.Join(t.TempDir(), "store.db")
	synctest.Test(t, func(t *testing.T) {
		dice := sim.NewDice(seed)
		db, err := bolt.Open(bolt.Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Prepare(t.Context(), partitions); err != nil {
			t.Fatal(err)
		}
		w := &world{
			t: t, dice: dice, bolt: db, log: sim.NewLog(partitions, dice), nats: sim.NewNATS(dice), reds: sim.NewRedis(dice), db: sim.NewStore(db, dice),
			slog: slog.New(slog.DiscardHandler),
		}
		if testing.Verbose() {
			w.slog = slog.New(slog.NewTextHandler(bustest.Output(t), nil))
		}
		ticking, stopTick := context.WithCancel(context.Background())
		var tick sync.WaitGroup
		tick.Go(func() {
			for ticking.Err() == nil {
				w.log.Tick()
				select {
				case <-time.After(400 * time.Millisecond):
				case <-ticking.Done():
				}
			}
		})
		for range 2 {
			w.edges = append(w.edges, w.startEdge())
			w.workers = append(w.workers, w.startWorker())
			w.dispatchers = append(w.dispatchers, w.startDispatcher())
			w.persisters = append(w.persisters, w.startPersister())
		}
		f(w)
		for _, c := range w.clients {
			c.close()
		}
		for _, p := range slices.Concat(w.edges, w.workers, w.dispatchers, w.persisters) {
			p.stop()
		}
		stopTick()
		tick.Wait()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// note stamps an event: later ones are later, even where the bubble's time stands still.
func (w *world) note(e history.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = max(w.last+1, time.Now().UnixNano())
	e.At = w.last
	e.Source = fmt.Sprintf("sim:%d", len(w.events)+1)
	w.events = append(w.events, e)
}

func (w *world) key() contracts.Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys++
	return keyAt(time.Now(), w.keys)
}

func (w *world) name(role string) contracts.NodeID {
	w.started++
	return contracts.NodeID(fmt.Sprintf("%s-%d", role, w.started))
}

func (w *world) startEdge() *process {
	p := &process{Proc: &sim.Proc{}}
	ask := w.nats.Client(p.Proc)
	s, err := edge.New(edge.Config{Node: w.name("edge"), Partitions: partitions, Listen: "off", Portable: true, Loops: 1, OutboundBytes: 16 << 10}, edge.Deps{
		Ask: ask, Log: w.slog, Metrics: prometheus.NewRegistry(),
		Hear: func(r fanout.Receiver) fanout.Subscriber { return w.reds.Subscriber(p.Proc, r) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := s.Start(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	p.edge = s
	p.stop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if p.Dead() {
			cancel() // close everything at once
		}
		_ = s.Shutdown(ctx)
		cancel()
		_ = ask.Close()
	}
	return p
}

func (w *world) startWorker() *process {
	p := &process{Proc: &sim.Proc{}}
	ask, log, redis := w.nats.Client(p.Proc), w.log.Writer(p.Proc), w.reds.For(p.Proc)
	wk, err := workers.New(workers.Config{Node: w.name("worker"), Partitions: partitions, Secret: secret}, workers.Deps{
		Ask: ask, Log: log, Recent: redis, Publisher: redis, Roster: redis, Store: w.db.For(p.Proc), Logger: w.slog, Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	var unserve func() error
	for {
		if unserve, err = wk.Serve(w.nats.Server(p.Proc)); err == nil {
			break
		}
		<-time.After(time.Second) // NATS is away
	}
	p.stop = func() {
		_ = unserve()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = log.Close(ctx)
		_ = wk.Close(ctx)
		_ = ask.Close()
	}
	return p
}

func (w *world) startDispatcher() *process {
	p := &process{Proc: &sim.Proc{}}
	redis := w.reds.For(p.Proc)
	d := dispatch.New(dispatch.Config{Partitions: partitions}, dispatch.Deps{
		Log: w.log.View(p.Proc), Store: w.db.For(p.Proc), Recent: redis, Publisher: redis, Server: w.nats.Server(p.Proc), Logger: w.slog,
		Consume: func(o journal.Owner) (journal.Consumer, error) {
			p.member = w.log.Consumer(p.Proc, contracts.Names{}.DispatchGroup(), o)
			return p.member, nil
		},
	})
	p.disp = d
	p.stop = w.running(d.Run)
	return p
}

func (w *world) startPersister() *process {
	p := &process{Proc: &sim.Proc{}}
	s := sink.New(sink.Config{Partitions: partitions, KeepRecords: 20, BulkEntries: 20, KeepEvery: 10 * time.Second}, sink.Deps{
		Log: w.log.View(p.Proc), Store: w.db.For(p.Proc), Publisher: w.reds.For(p.Proc), Logger: w.slog,
		Consume: func(o journal.Owner) (journal.Consumer, error) {
			p.member = w.log.Consumer(p.Proc, contracts.Names{}.PersistGroup(), o)
			return p.member, nil
		},
	})
	p.sink = s
	p.stop = w.running(s.Run)
	return p
}

func (w *world) running(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx); err != nil {
			w.t.Errorf("a role ended: %v", err)
		}
	}()
	synctest.Wait() // it has joined its group
	return func() { cancel(); <-done }
}

// connect adds a client.
func (w *world) connect() *client {
	c := newClient(fmt.Sprintf("client-%d", len(w.clients)+1), w.dice, func() net.Conn {
		w.mu.Lock()
		edges := slices.DeleteFunc(slices.Clone(w.edges), func(p *process) bool { return p.Dead() })
		w.mu.Unlock()
		if len(edges) == 0 {
			return nil
		}
		here, there := net.Pipe()
		edges[w.dice.N(len(edges))].edge.Take(there)
		return here
	}, w.note, w.key)
	w.clients = append(w.clients, c)
	return c
}

func roomName(i int) contracts.RoomID { return contracts.RoomID(fmt.Sprintf("room-%d", i)) }

// dump adds what the store and the log hold.
func (w *world) dump() {
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx := context.Background()
	add := func(e history.Event) {
		e.Source = fmt.Sprintf("dump:%d", len(w.events)+1)
		w.events = append(w.events, e)
	}
	for i := range rooms {
		id := roomName(i)
		all, err := w.bolt.Page(ctx, id, 1, contracts.MaxInt, 1<<30, false)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range all {
			add(history.Event{
				Kind: history.Row, Partition: contracts.LaneOf(id).Partition(partitions), Offset: e.Offset, Epoch: e.Epoch, Room: id, Seq: e.Seq,
				Sender: e.From.ID, Key: e.Key, Hash: history.HashBody(e.Text), Record: hex.EncodeToString(e.Hash[:]),
			})
		}
	}
	for id := range int32(partitions) {
		k, _, err := w.bolt.Checkpoint(ctx, id)
		if err != nil {
			w.t.Fatal(err)
		}
		epoch := max(k.Epoch, 1)
		start, values := w.log.Records(id)
		add(history.Event{Kind: history.Range, Partition: id, Epoch: epoch, Start: start, End: start + int64(len(values))})
		if k.Epoch != 0 || len(values) > 0 {
			add(history.Event{Kind: history.Checkpoint, Partition: id, Epoch: epoch, Offset: k.Offset})
		}
		letters, err := w.bolt.DeadLetters(ctx, id, contracts.Position{}, 1<<30)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, l := range letters {
			hash := contracts.HashRecord(l.Value)
			add(history.Event{Kind: history.Letter, Partition: id, Epoch: l.Position.Epoch, Offset: l.Position.Offset, Record: hex.EncodeToString(hash[:])})
		}
		for i, v := range values {
			hash := contracts.HashRecord(v)
			e := history.Event{Kind: history.Record, Partition: id, Offset: start + int64(i), Record: hex.EncodeToString(hash[:])}
			if r, err := contracts.DecodeRecord(v, id, partitions); err != nil {
				e.Dead = true
			} else {
				e.Room, e.Sender, e.Key, e.Hash = r.Room, r.From.ID, r.Key, history.HashBody(r.Text)
			}
			add(e)
		}
	}
}

// pass lets time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
