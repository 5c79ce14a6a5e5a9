package sink_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/bolt"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/persist/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const partitions = 4

var names contracts.Names

// world is a log and a store under test in a bubble of its own time.
type world struct {
	t     *testing.T
	log   *memoryLog
	store *bolt.Store
	cfg   sink.Config

	started []*process

	logged lockedBuffer
}

// inWorld runs a test in a bubble.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	synctest.Test(t, func(t *testing.T) {
		s, err := bolt.Open(bolt.Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		if err := s.Prepare(t.Context(), partitions); err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, log: newMemoryLog(), store: s, cfg: sink.Config{Partitions: partitions, BulkEntries: 20}}
		defer func() {
			for _, p := range w.started {
				p.stop()
			}
		}()
		test(w)
	})
}

// process is one running sink.
type process struct {
	*sink.Sink
	*memoryConsumer
	store    *moodyStore
	lanes    lanes
	registry *prometheus.Registry
	cancel   context.CancelFunc
	done     chan struct{}

	// between, if set, is called after the take-over, before anything is read.
	between func()
}

// start runs a sink that owns the partitions; launch one whose store is not in its best mood.
func (w *world) start(ids ...int32) *process {
	w.t.Helper()
	p := &process{store: &moodyStore{Store: w.store}}
	w.launch(p, ids...)
	return p
}

func (w *world) launch(p *process, ids ...int32) {
	w.t.Helper()
	p.registry, p.done = prometheus.NewRegistry(), make(chan struct{})
	p.Sink = sink.New(w.cfg, sink.Deps{
		Log: w.log, Store: p.store, Publisher: &p.lanes, Registerer: p.registry, Logger: slog.New(slog.NewTextHandler(&w.logged, nil)),
		Consume: func(o journal.Owner) (journal.Consumer, error) {
			p.memoryConsumer = w.log.consumer(names.PersistGroup(), o)
			p.assign(ids...)
			if p.between != nil {
				p.later(func(context.Context) { p.between() })
			}
			return p.memoryConsumer, nil
		},
	})
	ctx, cancel := context.WithCancel(w.t.Context())
	p.cancel = cancel
	w.started = append(w.started, p)
	go func() {
		defer close(p.done)
		if err := p.Run(ctx); err != nil {
			w.t.Errorf("run: %v", err)
		}
	}()
	synctest.Wait()
}

// stop ends a sink as a signal does, if it has not ended yet.
func (p *process) stop() {
	p.cancel()
	<-p.done
}

// kill ends a sink without any last word to store or group.
func (p *process) kill(ids ...int32) {
	p.store.away.Store(true)
	p.lose(ids...)
	synctest.Wait()
	p.stop()
}

// pass lets time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// caughtUp waits until the sinks have stored all there is.
func (w *world) caughtUp(ps ...*process) {
	w.t.Helper()
	pass(2 * time.Second) // two polls, so that each has seen what was appended
	for _, p := range ps {
		for range 600 {
			if p.CaughtUp() {
				break
			}
			pass(time.Second)
		}
		if !p.CaughtUp() {
			w.t.Fatalf("not caught up after ten minutes: %v\n%+v\n%s", p.Ready(), p.Status(), w.logged.String())
		}
	}
}

// key is a UUIDv7 of its own for each pair of a time in Unix milliseconds and n.
func key(ms int64, n uint32) contracts.Key {
	var k contracts.Key
	binary.BigEndian.PutUint64(k[:], uint64(ms)<<16)
	k[6], k[8] = 0x70, 0x80
	binary.BigEndian.PutUint32(k[12:], n)
	return k
}

// roomsOf lists ids of rooms that belong to a partition.
func roomsOf(partition int32, n int) []contracts.RoomID {
	var rooms []contracts.RoomID
	for i := 0; len(rooms) < n; i++ {
		id := contracts.RoomID(fmt.Sprintf("room-%d", i))
		if contracts.LaneOf(id).Partition(partitions) == partition {
			rooms = append(rooms, id)
		}
	}
	return rooms
}

// message is a record's bytes.
func message(room contracts.RoomID, k contracts.Key, text string) []byte {
	value, err := contracts.EncodeRecord(&contracts.Record{
		Kind: contracts.KindMessage, Room: room, From: contracts.Person{ID: "ann", Name: "Ann"}, Key: k, Stamp: k.Time(), Text: text,
	})
	if err != nil {
		panic(err)
	}
	return value
}

// messages is n messages spread over rooms, with key times from ms on.
func messages(rooms []contracts.RoomID, ms int64, n int) [][]byte {
	var values [][]byte
	for i := range n {
		values = append(values, message(rooms[i%len(rooms)], key(ms+int64(i), uint32(i)), fmt.Sprintf("text %d", i)))
	}
	return values
}

// numbered is what the store must hold for a log that was never trimmed: numbering as the contract words it, without
// any of the sequencer's shortcuts.
func (w *world) numbered(id int32, before int64) (rows map[contracts.RoomID][]store.Entry, dead []store.DeadLetter) {
	w.t.Helper()
	records, err := w.log.Read(w.t.Context(), id, 0, int(before))
	if err != nil {
		w.t.Fatal(err)
	}
	rows = make(map[contracts.RoomID][]store.Entry)
	seen := make(map[contracts.Identity]bool)
	for _, r := range records {
		record, err := contracts.DecodeRecord(r.Value, id, partitions)
		if err != nil {
			dead = append(dead, store.DeadLetter{
				Partition: id, Position: contracts.Position{Epoch: 1, Offset: r.Offset}, Reason: err.Error(), Value: r.Value,
			})
			continue
		}
		if seen[record.Identity()] {
			continue
		}
		seen[record.Identity()] = true
		rows[record.Room] = append(rows[record.Room], store.Entry{
			Record: record, Seq: contracts.Seq(len(rows[record.Room]) + 1), Epoch: 1, Offset: r.Offset,
			Hash: contracts.HashRecord(r.Value),
		})
	}
	return rows, dead
}

// check compares the store with the log below each partition's checkpoint: nothing missing, nothing else.
func (w *world) check(exact bool, ids ...int32) {
	w.t.Helper()
	for _, id := range ids {
		c, found, err := w.store.Checkpoint(w.t.Context(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		if !found {
			continue
		}
		rows, _ := w.numbered(id, c.Offset)
		for room, want := range rows {
			got, err := w.store.Page(w.t.Context(), room, 1, contracts.MaxInt, len(want)+1000, false)
			if err != nil {
				w.t.Fatal(err)
			}
			if !exact && len(got) > len(want) {
				got = got[:len(want)] // stored, but the checkpoint was not moved yet
			}
			if slices.EqualFunc(want, got, func(a, b store.Entry) bool { return store.Same(&a, &b) && a.Text == b.Text }) {
				continue
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				w.t.Fatalf("room %s of partition %d, checkpoint %d (-want +got):\n%s\n%s", room, id, c.Offset, diff, w.logged.String())
			}
		}
	}
}

// stored checks that a partition's whole log is in the store, and no more.
func (w *world) stored(id int32) {
	w.t.Helper()
	_, end, _ := w.log.Bounds(w.t.Context(), id)
	c, _, err := w.store.Checkpoint(w.t.Context(), id)
	if err != nil || c.Offset != end {
		w.t.Fatalf("partition %d: checkpoint %d, %v, want %d", id, c.Offset, err, end)
	}
	w.check(true, id)
}

// metric is the value of a counter or gauge.
func (p *process) metric(t *testing.T, name string) float64 {
	t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		sum := 0.0
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
		return sum
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func (p *process) lint(t *testing.T) {
	t.Helper()
	problems, err := testutil.GatherAndLint(p.registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
}

// lockedBuffer is a buffer for a log that several write.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
