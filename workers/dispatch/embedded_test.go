//go:build !lean

package dispatch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/bolt"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/workers/dispatch"
)

// stack is a dispatcher's real surroundings in this process.
type stack struct {
	t         testing.TB
	log       *slog.Logger
	kafka     journal.Config
	writer    *journal.KafkaWriter
	reader    *journal.KafkaLog
	redis     redis.UniversalClient
	publisher fanout.Publisher
	add       func(key, id, field, value string) error
	nats      *rpc.NATS
	store     *bolt.Store
	heard     chan contracts.Envelope
	keys      world // only for its records
}

func newStack(t testing.TB) *stack {
	t.Helper()
	k, err := embedded.StartKafka(embedded.KafkaConfig{Partitions: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return newStackOn(t, journal.Config{Brokers: k.Addrs(), Dial: k.Dial})
}

// newStackOn is newStack on a Kafka that runs already.
func newStackOn(t testing.TB, kafka journal.Config) *stack {
	t.Helper()
	s := &stack{t: t, log: slog.New(slog.DiscardHandler), heard: make(chan contracts.Envelope, 1<<16)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	closing := func(c io.Closer) {
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	r, err := embedded.StartRedis()
	must(err)
	closing(r)
	s.publisher, s.add = r.Publisher(contracts.Names{}), r.Add
	n, err := embedded.StartNATS()
	must(err)
	closing(n)
	s.kafka = kafka
	s.kafka.Partitions = 2
	if s.kafka.SessionTimeout == 0 {
		s.kafka.SessionTimeout = bustest.Patience // after half of it without a heartbeat a dispatcher says nothing any more
	}
	s.writer, err = journal.NewWriter(s.kafka, s.log)
	must(err)
	t.Cleanup(func() { _ = s.writer.Close(context.Background()) })
	s.reader, err = journal.NewLog(s.kafka, s.log)
	must(err)
	closing(s.reader)
	s.redis, err = fanout.Config{URL: r.URL(), Dial: r.Dial}.Connect()
	must(err)
	closing(s.redis)
	s.nats, err = rpc.Connect(rpc.Config{InProcess: n}, s.log)
	must(err)
	closing(s.nats)
	s.store, err = bolt.Open(bolt.Config{Path: filepath.Join(t.TempDir(), "store")})
	must(err)
	closing(s.store)
	must(s.store.Prepare(t.Context(), 2))
	sub := fanout.NewSubscriber(s.redis, contracts.Names{}, "test", s, s.log)
	closing(sub)
	var lanes []contracts.Lane
	for i := range 10 {
		lanes = append(lanes, contracts.LaneOf(roomN(i)))
	}
	must(sub.Subscribe(t.Context(), lanes...))
	s.keys.keyTime = time.Now().UnixMilli() - 1_000_000
	return s
}

func roomN(i int) contracts.RoomID { return contracts.RoomID(fmt.Sprintf("room-%d", i)) }

func (s *stack) Receive(_ contracts.Lane, body []byte) {
	for len(body) > 0 {
		e, rest, err := contracts.NextEnvelope(body)
		if err != nil {
			s.t.Error(err)
			return
		}
		s.heard <- e
		body = rest
	}
}
func (*stack) Down(int) {}
func (*stack) Up(int)   {}

// dispatch starts a dispatcher and waits until it owns and has read everything.
func (s *stack) dispatch() (stop func()) {
	cache := recent.New(s.redis, contracts.Names{}, recent.Config{Add: s.add})
	d := dispatch.New(dispatch.Config{Partitions: 2, SessionTimeout: s.kafka.SessionTimeout}, dispatch.Deps{
		Log: s.reader, Store: s.store, Recent: cache, Publisher: s.publisher, Server: s.nats, Logger: s.log,
		Consume: func(o journal.Owner) (journal.Consumer, error) {
			return journal.NewConsumer(s.kafka, s.kafka.Names.DispatchGroup(), o, s.log)
		},
	})
	stop = s.start(d.Run)
	s.await("the dispatcher", func() bool { return len(d.Owned()) == 2 && d.Ready() == nil })
	return stop
}

func (s *stack) persist() (stop func()) { return s.persistAs(sink.Config{}) }

func (s *stack) persistAs(cfg sink.Config) (stop func()) {
	cfg.Partitions, cfg.Names = 2, s.kafka.Names
	p := sink.New(cfg, sink.Deps{
		Log: s.reader, Store: s.store, Logger: s.log,
		Consume: func(o journal.Owner) (journal.Consumer, error) {
			return journal.NewConsumer(s.kafka, s.kafka.Names.PersistGroup(), o, s.log)
		},
	})
	return s.start(p.Run)
}

func (s *stack) start(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
}

// await looks again and again, for something that tells nobody when it happens.
func (s *stack) await(what string, cond func() bool) {
	s.t.Helper()
	deadline := time.After(bustest.Patience)
	for !cond() {
		select {
		case <-deadline:
			s.t.Fatalf("waited in vain for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (s *stack) append(r contracts.Record) {
	value, err := contracts.EncodeRecord(&r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.writer.Append(contracts.LaneOf(r.Room).Partition(2), string(r.Room), value, func(_ int64, err error) {
		if err != nil {
			s.t.Error(err)
		}
	})
}

// next returns the next entry that is heard.
func (s *stack) next() contracts.Envelope {
	s.t.Helper()
	deadline := time.After(bustest.Patience)
	for {
		select {
		case e := <-s.heard:
			if e.Kind == contracts.EnvelopeEntry {
				return e
			}
		case <-deadline:
			s.t.Fatal("nothing is heard")
		}
	}
}

func (s *stack) ask(p int32, q contracts.Question) (r contracts.Reply) {
	s.t.Helper()
	body, err := json.Marshal(q)
	if err != nil {
		s.t.Fatal(err)
	}
	type reply struct {
		body []byte
		err  error
	}
	got := make(chan reply, 1)
	s.nats.Ask(contracts.Names{}.Dispatch(p), body, bustest.Patience, func(b []byte, err error) { got <- reply{b, err} })
	a := <-got
	if a.err != nil {
		s.t.Fatal(a.err)
	}
	if err := json.Unmarshal(a.body, &r); err != nil {
		s.t.Fatal(err)
	}
	return r
}

// Beside a persister, on the embedded servers, through a hand-over: every room gapless, once, in order, and the answers
// of dispatcher and store complete each other.
func TestEmbedded(t *testing.T) {
	s := newStack(t)
	defer s.persist()()
	const rounds, each, rooms = 3, 40, 10
	newest := make(map[contracts.RoomID]contracts.Seq)
	var handovers []time.Duration
	for round := range rounds {
		stop := s.dispatch()
		for range each {
			for i := range rooms {
				s.append(s.keys.record(string(roomN(i)), "x"))
			}
		}
		want := contracts.Seq(each * (round + 1))
		for done := 0; done < rooms; {
			e := s.next()
			if e.Seq <= newest[e.Room] {
				continue // told again after the hand-over
			}
			if e.Seq != newest[e.Room]+1 {
				t.Fatalf("room %s: heard %d after %d", e.Room, e.Seq, newest[e.Room])
			}
			if newest[e.Room] = e.Seq; e.Seq == want {
				done++
			}
		}
		for i := range rooms {
			id := roomN(i)
			p := contracts.LaneOf(id).Partition(2)
			r := s.ask(p, contracts.Question{Heads: []contracts.RoomID{id}, Room: id, Read: &contracts.Range{Epoch: 1, From: 1, To: want}, LeftMS: bustest.Patience.Milliseconds()})
			if r.Err != nil || !r.Certain || r.Heads[0].Seq != want || r.Floor > want+1 {
				t.Fatalf("room %s: %+v", id, r)
			}
			below, err := s.store.Page(t.Context(), id, 1, r.Floor-1, 1000, false)
			if err != nil || len(below)+len(r.Entries) != int(want) {
				t.Fatalf("room %s: %d stored below %d and %d answered, want %d (%v)", id, len(below), r.Floor, len(r.Entries), want, err)
			}
		}
		began := time.Now()
		stop()
		handovers = append(handovers, time.Since(began))
	}
	if slices.Min(handovers) > 2*time.Second { // where the machine is busy, one in time says that there is nothing to wait for
		t.Errorf("the hand-overs took %v", handovers)
	}
	commits, err := s.reader.Committed(t.Context(), contracts.Names{}.DispatchGroup())
	if err != nil || len(commits) == 0 {
		t.Errorf("committed %+v (%v)", commits, err)
	}
}

// BenchmarkHop measures from an append to the entry's arrival at a subscriber, one at a time.
func BenchmarkHop(b *testing.B) {
	s := newStack(b)
	defer s.persist()()
	defer s.dispatch()()
	s.append(s.keys.record("room-0", "warm"))
	s.next()
	var took []time.Duration
	for b.Loop() {
		r := s.keys.record("room-0", "x")
		began := time.Now()
		s.append(r)
		s.next()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkEntries measures entries per second through the whole path, from the log to a subscriber.
func BenchmarkEntries(b *testing.B) {
	s := newStack(b)
	defer s.persist()()
	defer s.dispatch()()
	b.ResetTimer()
	for sent, heard := 0, 0; heard < b.N; heard++ {
		for ; sent < b.N && sent-heard < 2000; sent++ {
			s.append(s.keys.record(string(roomN(sent%10)), "hello, how are you"))
		}
		s.next()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
