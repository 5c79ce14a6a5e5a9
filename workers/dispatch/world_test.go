package dispatch_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/workers/dispatch"
)

var errAway = errors.New("away")

// world is everything around a dispatcher, in memory, with faults at the tests' will.
type world struct {
	t          *testing.T
	partitions int

	mu      sync.Mutex // guards what follows
	logs    map[int32]*partitionLog
	changed chan struct{} // closed when the log grew or revoke was set
	revoke  []int32
	commits map[int32]journal.Commit

	lastBeat    time.Time // where the heartbeats ended; zero: they go on
	crash       bool
	commitErr   error
	commitTakes time.Duration
	committing  bool
	logReads    int

	// The store: everything of checkpoint.Epoch below its offset, and older, the rows of epochs before.
	checkpoints map[int32]contracts.Checkpoint
	older       []contracts.Entry
	storeErr    error
	storeHangs  chan struct{} // look-ups wait until it is closed
	storeTakes  time.Duration // for a question of a look-up; it takes one after the other, also those that nobody waits for any more
	storeBusy   time.Time     // until when it is

	// Redis.
	told         []told
	cached       []recent.Entry
	publications int
	publish      func(kinds []contracts.EnvelopeKind) error // asked before a publication is taken
	lossy        func() bool                                // asked whether a publication's entries are lost on their way

	handlers map[string]rpc.Handler
	keyTime  int64
	keys     int
}

// told is one envelope that Redis took.
type told struct {
	contracts.Envelope
	at time.Time
}

func newWorld(t *testing.T) *world {
	return &world{
		t: t, partitions: 1,
		logs: make(map[int32]*partitionLog), changed: make(chan struct{}),
		commits: make(map[int32]journal.Commit), checkpoints: make(map[int32]contracts.Checkpoint),
		handlers: make(map[string]rpc.Handler), keyTime: 1_000_000,
	}
}

func (w *world) log(p int32) *partitionLog {
	l := w.logs[p]
	if l == nil {
		l = &partitionLog{}
		w.logs[p] = l
	}
	return l
}

func (w *world) change() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *world) commit(id int32) *journal.Commit {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, ok := w.commits[id]; ok {
		return &c
	}
	return nil
}

func (w *world) crashes() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.crash
}

// set changes the world.
func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

// look reads the world.
func (w *world) look(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// record makes a record with a key of a time that is later than all before.
func (w *world) record(room, text string) contracts.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keyTime += 10
	return w.recordAt(room, text, w.keyTime)
}

func (w *world) recordAt(room, text string, keyTime int64) contracts.Record {
	w.keys++
	var u uuid.UUID
	for i := range 6 {
		u[i] = byte(keyTime >> (8 * (5 - i)))
	}
	u[6], u[8] = 0x70, 0x80
	u[14], u[15] = byte(w.keys>>8), byte(w.keys)
	return contracts.Record{
		Kind: contracts.KindMessage, Room: contracts.RoomID(room), From: contracts.Person{ID: "ann", Name: "Ann"},
		Key: contracts.Key(u), Stamp: 1000 + int64(w.keys), Text: text,
	}
}

// append writes records to the log, each to its partition.
func (w *world) append(records ...contracts.Record) {
	w.set(func() {
		for _, r := range records {
			value, err := contracts.EncodeRecord(&r)
			if err != nil {
				w.t.Error(err)
			}
			p := contracts.LaneOf(r.Room).Partition(w.partitions)
			w.log(p).values = append(w.log(p).values, value)
		}
	})
}

func (w *world) send(room string, texts ...string) {
	for _, text := range texts {
		w.append(w.record(room, text))
	}
}

// numbered is the reference: what a partition's log means, numbered in the plainest way.
func (w *world) numbered(p int32) []contracts.Entry {
	seqs := make(map[contracts.RoomID]contracts.Seq)
	seen := make(map[contracts.Identity]bool)
	for _, e := range w.older {
		seqs[e.Room] = max(seqs[e.Room], e.Seq)
		seen[e.Identity()] = true
	}
	epoch := max(w.checkpoints[p].Epoch, 1)
	var out []contracts.Entry
	l := w.log(p)
	for i, value := range l.values {
		rec, err := contracts.DecodeRecord(value, p, w.partitions)
		if err != nil || seen[rec.Identity()] {
			continue
		}
		seen[rec.Identity()] = true
		seqs[rec.Room]++
		out = append(out, contracts.Entry{
			Record: rec, Seq: seqs[rec.Room], Epoch: epoch, Offset: l.start + int64(i), Hash: contracts.HashRecord(value),
		})
	}
	return out
}

// persist moves C, as a persister would.
func (w *world) persist(p int32, offset int64) {
	w.set(func() { w.checkpoints[p] = w.checkpointAt(p, offset) })
}

func (w *world) checkpointAt(p int32, offset int64) contracts.Checkpoint {
	c := contracts.Checkpoint{Partition: p, Epoch: max(w.checkpoints[p].Epoch, 1), Offset: offset, Sequencer: roomlog.Version}
	l := w.log(p)
	for i, value := range l.values[:offset-l.start] {
		if rec, err := contracts.DecodeRecord(value, p, w.partitions); err == nil {
			c.KeyTime = max(c.KeyTime, rec.Key.Time())
		}
		if l.start+int64(i) == offset-1 {
			c.Last = contracts.HashRecord(value)
		}
	}
	return c
}

// rows are what the store holds.
func (w *world) rows() (rows []contracts.Entry) {
	rows = slices.Clone(w.older)
	for p, c := range w.checkpoints {
		for _, e := range w.numbered(p) {
			if e.Offset < c.Offset {
				rows = append(rows, e)
			}
		}
	}
	return rows
}

func (w *world) Checkpoint(_ context.Context, p int32) (contracts.Checkpoint, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, found := w.checkpoints[p]
	return c, found, w.storeErr
}

func (w *world) Checkpoints(context.Context) (all []contracts.Checkpoint, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.checkpoints {
		all = append(all, c)
	}
	return all, w.storeErr
}

func (w *world) Lookup(ctx context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (fe, fh []roomlog.Found, err error) {
	w.mu.Lock()
	hangs := w.storeHangs
	if now := time.Now(); w.storeBusy.Before(now) {
		w.storeBusy = now
	}
	w.storeBusy = w.storeBusy.Add(w.storeTakes * time.Duration(len(entries)+len(heads)))
	busy := time.Until(w.storeBusy)
	w.mu.Unlock()
	if busy > 0 {
		select {
		case <-time.After(busy):
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	if hangs != nil {
		select {
		case <-hangs:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.storeErr != nil {
		return nil, nil, w.storeErr
	}
	rows := w.rows()
	for _, q := range entries {
		var f roomlog.Found
		for _, e := range rows {
			if e.Identity() == q.Identity && e.Position().Less(q.Before) {
				f = roomlog.Found{Seq: e.Seq, Position: e.Position()}
			}
		}
		fe = append(fe, f)
	}
	for _, q := range heads {
		var f roomlog.Found
		for _, e := range rows {
			if e.Room == q.Room && e.Position().Less(q.Before) && e.Seq > f.Seq {
				f = roomlog.Found{Seq: e.Seq, Position: e.Position()}
			}
		}
		fh = append(fh, f)
	}
	return fe, fh, nil
}

func (w *world) Append(_ context.Context, entries []recent.Entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cached = append(w.cached, entries...)
	return nil
}

func (w *world) Read(context.Context, []recent.Query) ([][]contracts.NumberedJSON, error) {
	return nil, errAway
}

func (w *world) Publish(ctx context.Context, messages []fanout.Message) error {
	var all []told
	var kinds []contracts.EnvelopeKind
	for _, m := range messages {
		for rest := m.Body; len(rest) > 0; {
			e, more, err := contracts.NextEnvelope(rest)
			if err != nil || e.Kind != contracts.EnvelopeEpoch && contracts.LaneOf(e.Room) != m.Lane {
				w.t.Errorf("lane %d: bad envelope %+v: %v", m.Lane, e, err)
				return err
			}
			rest = more
			all = append(all, told{e, time.Now()})
			kinds = append(kinds, e.Kind)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.publications++
	if w.publish != nil {
		if err := w.publish(kinds); err != nil {
			return err
		}
	}
	if w.lossy != nil && w.lossy() {
		all = slices.DeleteFunc(all, func(e told) bool { return e.Kind == contracts.EnvelopeEntry })
	}
	w.told = append(w.told, all...)
	return ctx.Err()
}

func (w *world) Serve(s rpc.Service) (stop func() error, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range s.Endpoints {
		if w.handlers[e.Subject] != nil {
			w.t.Errorf("%s is served twice", e.Subject)
		}
		w.handlers[e.Subject] = e.Handler
	}
	return func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, e := range s.Endpoints {
			delete(w.handlers, e.Subject)
		}
		return nil
	}, nil
}

// run starts a dispatcher. stop ends it and waits.
func (w *world) run(cfg dispatch.Config) (d *dispatch.Dispatcher, stop func()) {
	return w.runWith(cfg, func(*dispatch.Deps) {})
}

func (w *world) runWith(cfg dispatch.Config, change func(*dispatch.Deps)) (d *dispatch.Dispatcher, stop func()) {
	cfg.Partitions = w.partitions
	deps := dispatch.Deps{
		Log: fakeLog{w}, Consume: w.consume, Store: w, Recent: w, Publisher: w, Server: w,
		Logger: slog.New(slog.NewTextHandler(bustest.Output(w.t), nil)),
	}
	change(&deps)
	d = dispatch.New(cfg, deps)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	return d, func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	}
}

// elapse lets time pass; only in a synctest bubble.
func elapse(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// ask puts a question and returns where its reply will come.
func (w *world) ask(p int32, q contracts.Question) <-chan contracts.Reply {
	w.t.Helper()
	body, err := json.Marshal(q)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.askRaw(p, body)
}

func (w *world) askRaw(p int32, body []byte) <-chan contracts.Reply {
	reply := make(chan contracts.Reply, 1)
	w.mu.Lock()
	h := w.handlers[contracts.Names{}.Dispatch(p)]
	w.mu.Unlock()
	if h == nil {
		reply <- contracts.Reply{Err: contracts.NewError(contracts.CodeUnavailable, "nobody serves this subject")}
		return reply
	}
	h(rpc.Request{Body: body, Answer: func(b []byte) {
		var r contracts.Reply
		if err := json.Unmarshal(b, &r); err != nil {
			w.t.Error(err)
		}
		reply <- r
	}})
	return reply
}

func (w *world) head(room string) contracts.Reply {
	w.t.Helper()
	id := contracts.RoomID(room)
	return <-w.ask(contracts.LaneOf(id).Partition(w.partitions), contracts.Question{Heads: []contracts.RoomID{id}, LeftMS: 1000})
}

// entries are the entries told, room by room, each room's in order.
func (w *world) entries() (out []string) {
	byRoom := make(map[contracts.RoomID][]string)
	w.look(func() {
		for _, e := range w.told {
			if e.Kind == contracts.EnvelopeEntry {
				byRoom[e.Room] = append(byRoom[e.Room], string(e.Body))
			}
		}
	})
	return roomByRoom(byRoom)
}

func roomByRoom(m map[contracts.RoomID][]string) (out []string) {
	for _, id := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[id]...)
	}
	return out
}

// heads are the heads told of a room.
func (w *world) heads(room string) (out []told) {
	w.look(func() {
		for _, e := range w.told {
			if e.Kind == contracts.EnvelopeHead && e.Room == contracts.RoomID(room) {
				out = append(out, e)
			}
		}
	})
	return out
}

// want are the client encodings of a partition's entries at or above an offset, as entries has them.
func (w *world) want(p int32, from int64) []string {
	byRoom := make(map[contracts.RoomID][]string)
	w.look(func() {
		for _, e := range w.numbered(p) {
			if e.Offset >= from {
				byRoom[e.Room] = append(byRoom[e.Room], string(contracts.AppendEntry(nil, &e)))
			}
		}
	})
	return roomByRoom(byRoom)
}

// bubble runs f with a world in a synctest bubble.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

func expectHead(t *testing.T, r contracts.Reply, seq, floor contracts.Seq) {
	t.Helper()
	if r.Err != nil || len(r.Heads) != 1 || r.Heads[0] != (contracts.Head{Seq: seq, Floor: floor}) {
		t.Errorf("head: got %+v (%v), want %d from %d", r.Heads, r.Err, seq, floor)
	}
}

func expectCode(t *testing.T, r contracts.Reply, code contracts.Code) {
	t.Helper()
	if !errors.Is(r.Err, &contracts.Error{Code: code}) {
		t.Errorf("got %+v, want %s", r, code)
	}
}

func texts(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("text %d", i+1))
	}
	return out
}

// slowCache is a cache that does not answer until it is told to.
type slowCache struct {
	*world
	hang chan struct{}
}

func (s slowCache) Append(ctx context.Context, entries []recent.Entry) error {
	select {
	case <-s.hang:
		return s.world.Append(ctx, entries)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// slowRedis is a publisher that does not answer until it is told to, on one server, or on several where only the one with a
// lane group hangs.
type slowRedis struct {
	*world
	hang    chan struct{}
	sharded bool
	group   int
}

func (s slowRedis) Sharded() bool { return s.sharded }

func (s slowRedis) Publish(ctx context.Context, messages []fanout.Message) error {
	if s.sharded && !slices.ContainsFunc(messages, func(m fanout.Message) bool { return m.Lane.Group() == s.group }) {
		return s.world.Publish(ctx, messages)
	}
	select {
	case <-s.hang:
		return s.world.Publish(ctx, messages)
	case <-ctx.Done():
		return ctx.Err()
	}
}
