package workers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/workers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("away")

var secret = []byte("0123456789abcdef0123456789abcdef")

// world is everything around a worker: one room's truth, and how much of it each part has.
type world struct {
	t testing.TB
	w *workers.Worker

	mu        sync.Mutex
	epoch     contracts.Epoch
	head      contracts.Seq // what the dispatcher says
	truth     contracts.Seq // what the log has
	floor     contracts.Seq // what the dispatcher says and has
	certain   bool
	cut       int                                                  // entries per reply of the dispatcher; 0: all
	dispatch  func(q contracts.Question) (*contracts.Reply, error) // nil reply and error: as usual
	questions []contracts.Question
	silent    bool // the dispatcher never answers
	replyTime time.Duration

	cached     map[contracts.Seq]bool
	cacheDown  bool
	cacheReads int

	stored    contracts.Seq // the store has 1 … stored, without holes
	holes     map[contracts.Seq]bool
	storeDown bool
	pages     int
	pageTime  time.Duration
	found     map[contracts.Identity]contracts.Seq // by Lookup
	joined    map[string]int                       // by "room/user"
	joins     int                                  // calls of Join
	joinTime  time.Duration
	refused   []contracts.UserID // Join writes nothing of what holds one of them
	members   map[contracts.UserID][]contracts.RoomInfo
	public    []contracts.RoomInfo

	appended []contracts.Record
	calls    int
	appends  []func(int64, error)               // callbacks held back
	onAppend func(n int) (hold bool, err error) // of the n-th append, from 0
	extents  []journal.Extent
	extErr   error

	online      map[contracts.RoomID]map[contracts.UserID]contracts.Person
	base        int // people in every room beside those in online
	rosterDown  bool
	turn        bool
	renewed     int
	published   []contracts.Envelope
	publishErr  error
	publishes   int // round trips
	publishTime time.Duration
}

func newWorld(t testing.TB, change func(*workers.Config)) *world {
	t.Helper()
	f := &world{
		t: t, epoch: 3, floor: 1, certain: true, turn: true,
		cached: map[contracts.Seq]bool{}, holes: map[contracts.Seq]bool{}, found: map[contracts.Identity]contracts.Seq{},
		joined: map[string]int{}, members: map[contracts.UserID][]contracts.RoomInfo{},
		online: map[contracts.RoomID]map[contracts.UserID]contracts.Person{},
	}
	cfg := workers.Config{Node: "worker1", Partitions: 8, Secret: secret, Version: "1.2.3", Durability: "process"}
	if change != nil {
		change(&cfg)
	}
	w, err := workers.New(cfg, workers.Deps{
		Ask: (*fakeAsk)(f), Log: (*fakeLog)(f), Recent: (*fakeRecent)(f), Publisher: (*fakePublisher)(f), Roster: (*fakeRoster)(f), Store: (*fakeStore)(f), Extents: (*fakeLog)(f),
	})
	if err != nil {
		t.Fatal(err)
	}
	f.w = w
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := w.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return f
}

// replace makes the world's worker another one, with changed dependencies.
func (f *world) replace(change func(*workers.Deps)) {
	f.t.Helper()
	deps := workers.Deps{
		Ask: (*fakeAsk)(f), Log: (*fakeLog)(f), Recent: (*fakeRecent)(f), Publisher: (*fakePublisher)(f), Roster: (*fakeRoster)(f), Store: (*fakeStore)(f), Extents: (*fakeLog)(f),
	}
	change(&deps)
	w, err := workers.New(workers.Config{Node: "worker1", Partitions: 8, Secret: secret, Version: "1.2.3", Durability: "process"}, deps)
	if err != nil {
		f.t.Fatal(err)
	}
	f.w = w
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := w.Close(ctx); err != nil {
			f.t.Errorf("close: %v", err)
		}
	})
}

// begin hands a command to the worker; the answer comes on the channel.
func (f *world) begin(cmd contracts.Command) <-chan contracts.Answer {
	f.t.Helper()
	got := make(chan contracts.Answer, 1)
	f.beginThen(cmd, func(a contracts.Answer) { got <- a })
	return got
}

// beginThen hands a command to the worker, which calls then with the answer.
func (f *world) beginThen(cmd contracts.Command, then func(contracts.Answer)) {
	f.t.Helper()
	if cmd.Node == "" {
		cmd.Node = "edge1"
	}
	if cmd.LeftMS == 0 {
		cmd.LeftMS = 5000
	}
	body, err := json.Marshal(&cmd)
	if err != nil {
		f.t.Fatal(err)
	}
	f.hand(cmd.Op, body, then)
}

func (f *world) beginRaw(op contracts.Op, body []byte) <-chan contracts.Answer {
	f.t.Helper()
	got := make(chan contracts.Answer, 1)
	f.hand(op, body, func(a contracts.Answer) { got <- a })
	return got
}

// hand gives a request's bytes to the endpoint of op.
func (f *world) hand(op contracts.Op, body []byte, then func(contracts.Answer)) {
	f.t.Helper()
	for _, e := range f.w.Services()[0].Endpoints {
		if e.Name != string(op) {
			continue
		}
		e.Handler(rpc.Request{Subject: e.Subject, Body: body, Answer: func(reply []byte) {
			var a contracts.Answer
			if err := json.Unmarshal(reply, &a); err != nil {
				f.t.Errorf("answer %q: %v", reply, err)
			}
			then(a)
		}})
		return
	}
	f.t.Fatalf("no endpoint for %s", op)
}

// do asks and waits.
func (f *world) do(cmd contracts.Command) contracts.Answer {
	f.t.Helper()
	select {
	case a := <-f.begin(cmd):
		return a
	case <-time.After(20 * time.Second):
		f.t.Fatalf("%s was not answered", cmd.Op)
		return contracts.Answer{}
	}
}

var ada = contracts.Person{ID: "u1", Name: "Ada"}

// cmd is a command of Ada's in the lobby.
func cmd(op contracts.Op, body string) contracts.Command {
	return contracts.Command{Op: op, Conn: 7, User: &ada, Room: "lobby", Body: json.RawMessage(body)}
}

// decode reads an answer that must be good.
func decode[T any](t testing.TB, a contracts.Answer) T {
	t.Helper()
	if a.Err != nil {
		t.Fatalf("refused: %v (field %q)", a.Err, a.Err.Field)
	}
	var v T
	if err := json.Unmarshal(a.OK, &v); err != nil {
		t.Fatalf("decode %s: %v", a.OK, err)
	}
	return v
}

func wantErr(t testing.TB, a contracts.Answer, code contracts.Code, field string) {
	t.Helper()
	switch {
	case a.Err == nil:
		t.Fatalf("got ok %s, want %s", a.OK, code)
	case a.OK != nil:
		t.Fatalf("both ok and error: %s", a.OK)
	case a.Err.Code != code || a.Err.Field != field || a.Err.Retry != code.Retryable():
		t.Fatalf("got %+v, want %s naming %q", *a.Err, code, field)
	case code.Retryable() && code != contracts.CodeInternal && a.Err.RetryAfterMS == 0:
		t.Fatalf("got %+v, which does not say when to ask again", *a.Err)
	}
}

// seqs reads the seqs of entries and checks that each is the truth.
func (f *world) seqs(entries []json.RawMessage) string {
	f.t.Helper()
	var all []string
	for _, raw := range entries {
		var e struct {
			Room contracts.RoomID `json:"room"`
			Seq  contracts.Seq    `json:"seq"`
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			f.t.Fatal(err)
		}
		if want := string(f.json(e.Room, e.Seq)); string(raw) != want {
			f.t.Errorf("entry %d is\n%s, want\n%s", e.Seq, raw, want)
		}
		all = append(all, fmt.Sprint(e.Seq))
	}
	if len(all) > 6 {
		all = []string{all[0], "…", all[len(all)-1], fmt.Sprintf("(%d)", len(all))}
	}
	return strings.Join(all, " ")
}

func (f *world) entry(room contracts.RoomID, seq contracts.Seq) contracts.Entry {
	key := contracts.Key{6: 0x70, 8: 0x80, 15: byte(seq), 14: byte(seq >> 8)}
	return contracts.Entry{
		Record: contracts.Record{
			Kind: contracts.KindMessage, Room: room, From: ada, Key: key, Stamp: 1_790_000_000_000 + int64(seq),
			Text: fmt.Sprintf("<%d> & \u2028 é", seq), Meta: json.RawMessage(`{"a":"<b>"}`),
		},
		Seq: seq, Epoch: 1 + contracts.Epoch(seq/100), Offset: int64(seq),
	}
}

func (f *world) json(room contracts.RoomID, seq contracts.Seq) json.RawMessage {
	e := f.entry(room, seq)
	return contracts.AppendEntry(nil, &e)
}

func (f *world) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *world) numbered(room contracts.RoomID, from, to contracts.Seq) []contracts.NumberedJSON {
	var all []contracts.NumberedJSON
	for seq := from; seq <= to; seq++ {
		all = append(all, contracts.NumberedJSON{Seq: seq, JSON: f.json(room, seq)})
	}
	return all
}

type fakeAsk world

func (a *fakeAsk) MaxPayload() int { return 1 << 20 }
func (a *fakeAsk) Up() bool        { return true }
func (a *fakeAsk) Close() error    { return nil }

func (a *fakeAsk) Ask(subject string, body []byte, timeout time.Duration, done func([]byte, error)) {
	f := (*world)(a)
	var q contracts.Question
	if err := json.Unmarshal(body, &q); err != nil || q.LeftMS <= 0 || !strings.HasPrefix(subject, "parley.v1.dispatch.") {
		f.t.Errorf("asked %s with %s", subject, body)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.questions = append(f.questions, q)
	if f.silent {
		time.AfterFunc(timeout, func() { done(nil, rpc.ErrTimeout) })
		return
	}
	if f.dispatch != nil {
		reply, err := f.dispatch(q)
		if err != nil {
			go done(nil, err)
			return
		}
		if reply != nil {
			f.reply(done, *reply)
			return
		}
	}
	r := contracts.Reply{Epoch: f.epoch, Certain: f.certain}
	for range q.Heads {
		r.Heads = append(r.Heads, contracts.Head{Seq: f.head, Floor: f.floor})
	}
	if q.Read != nil {
		r.Floor = f.floor
		r.Entries = f.numbered(q.Room, max(q.Read.From, f.floor), min(q.Read.To, max(f.head, f.truth)))
		if f.cut > 0 && len(r.Entries) > f.cut {
			r.Entries = r.Entries[:f.cut]
		}
	}
	f.reply(done, r)
}

func (f *world) reply(done func([]byte, error), r contracts.Reply) {
	raw, err := contracts.Marshal(&r)
	if err != nil {
		f.t.Error(err)
	}
	after := f.replyTime
	go func() {
		time.Sleep(after)
		done(raw, nil)
	}()
}

type fakeRecent world

func (c *fakeRecent) Append(context.Context, []recent.Entry) error { return errAway }

func (c *fakeRecent) Read(_ context.Context, queries []recent.Query) ([][]contracts.NumberedJSON, error) {
	f := (*world)(c)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cacheReads++
	if f.cacheDown {
		return nil, errAway
	}
	all := make([][]contracts.NumberedJSON, len(queries))
	for i, q := range queries {
		entries := f.numbered(q.Room, q.From, q.To)
		entries = slices.DeleteFunc(entries, func(e contracts.NumberedJSON) bool { return !f.cached[e.Seq] })
		// A cache that breaks its word: what it has of the range, with the holes in it.
		if len(entries) > 0 && q.Epoch == f.epoch {
			all[i] = entries
		}
	}
	return all, nil
}

type fakeLog world

func (l *fakeLog) Close(context.Context) error { return nil }

func (l *fakeLog) Append(partition int32, key string, value []byte, done func(int64, error)) {
	f := (*world)(l)
	r, err := contracts.DecodeRecord(value, partition, 8)
	if err != nil || key != string(r.Room) {
		f.t.Errorf("append of %q: %v", value, err)
	}
	f.mu.Lock()
	n := f.calls
	f.calls++
	var hold bool
	err = nil
	if f.onAppend != nil {
		hold, err = f.onAppend(n)
	}
	if !errors.Is(err, journal.ErrFull) {
		f.appended = append(f.appended, r)
	}
	if hold {
		f.appends = append(f.appends, done)
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()
	if err != nil {
		done(0, err)
		return
	}
	go done(int64(n), nil)
}

func (l *fakeLog) Extents(context.Context) ([]journal.Extent, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.extents, l.extErr
}

type fakePublisher world

func (p *fakePublisher) Publish(_ context.Context, messages []fanout.Message) error {
	f := (*world)(p)
	time.Sleep(f.publishTime)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.publishes++
	if f.publishErr != nil {
		return f.publishErr
	}
	for _, m := range messages {
		for body := m.Body; len(body) > 0; {
			e, rest, err := contracts.NextEnvelope(body)
			if err != nil || contracts.LaneOf(e.Room) != m.Lane {
				f.t.Errorf("published %q: %v", m.Body, err)
				break
			}
			f.published = append(f.published, e)
			body = rest
		}
	}
	return nil
}

type fakeRoster world

func (r *fakeRoster) change(who []contracts.Presence, in bool) ([]fanout.Change, error) {
	f := (*world)(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rosterDown {
		return nil, errAway
	}
	var all []fanout.Change
	for _, p := range who {
		room := f.online[p.Room]
		if room == nil {
			room = map[contracts.UserID]contracts.Person{}
			f.online[p.Room] = room
		}
		_, was := room[p.User.ID]
		if in {
			room[p.User.ID] = p.User
		} else {
			delete(room, p.User.ID)
		}
		all = append(all, fanout.Change{Changed: was != in, Count: len(room) + f.base})
	}
	return all, nil
}

func (r *fakeRoster) Enter(_ context.Context, _ contracts.NodeID, who []contracts.Presence) ([]fanout.Change, error) {
	return r.change(who, true)
}

func (r *fakeRoster) Leave(_ context.Context, _ contracts.NodeID, who []contracts.Presence) ([]fanout.Change, error) {
	return r.change(who, false)
}

func (r *fakeRoster) List(_ context.Context, room contracts.RoomID, limit int) (int, []contracts.Person, error) {
	f := (*world)(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rosterDown {
		return 0, nil, errAway
	}
	var people []contracts.Person
	for _, p := range f.online[room] {
		people = append(people, p)
	}
	slices.SortFunc(people, func(a, b contracts.Person) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return len(people) + f.base, people[:min(limit, len(people))], nil
}

func (r *fakeRoster) Renew(context.Context, contracts.NodeID) error {
	f := (*world)(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewed++
	if f.rosterDown {
		return errAway
	}
	return nil
}

func (r *fakeRoster) Turn(context.Context, contracts.RoomID) (bool, error) {
	f := (*world)(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rosterDown {
		return false, errAway
	}
	return f.turn, nil
}

type fakeStore world

func (s *fakeStore) Page(ctx context.Context, room contracts.RoomID, from, to contracts.Seq, limit int, newest bool) ([]contracts.Entry, error) {
	f := (*world)(s)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pages++
	if f.pageTime > 0 {
		took := time.NewTimer(f.pageTime)
		f.mu.Unlock()
		select {
		case <-took.C:
			f.mu.Lock()
		case <-ctx.Done():
			f.mu.Lock()
			return nil, ctx.Err()
		}
	}
	if f.storeDown {
		return nil, errAway
	}
	var all []contracts.Entry
	for seq := from; seq <= min(to, f.stored); seq++ {
		if !f.holes[seq] {
			all = append(all, f.entry(room, seq))
		}
	}
	if len(all) > limit {
		if newest {
			all = all[len(all)-limit:]
		}
		all = all[:limit]
	}
	return all, nil
}

func (s *fakeStore) Lookup(_ context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (foundEntries, foundHeads []roomlog.Found, err error) {
	f := (*world)(s)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.storeDown {
		return nil, nil, errAway
	}
	for _, q := range entries {
		foundEntries = append(foundEntries, roomlog.Found{Seq: f.found[q.Identity]})
	}
	return foundEntries, make([]roomlog.Found, len(heads)), nil
}

func (s *fakeStore) Join(_ context.Context, members ...contracts.Membership) error {
	f := (*world)(s)
	time.Sleep(f.joinTime)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.joins++
	for _, m := range members {
		if slices.Contains(f.refused, m.User.ID) {
			return errAway
		}
	}
	for _, m := range members {
		f.joined[string(m.Room)+"/"+string(m.User.ID)]++
	}
	if f.storeDown {
		return errAway
	}
	return nil
}

func (s *fakeStore) Quit(_ context.Context, room contracts.RoomID, user contracts.UserID) error {
	f := (*world)(s)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.storeDown {
		return errAway
	}
	delete(f.joined, string(room)+"/"+string(user))
	return nil
}

func above(rooms []contracts.RoomInfo, after contracts.RoomID, limit int) []contracts.RoomInfo {
	var all []contracts.RoomInfo
	for _, r := range rooms {
		if r.ID > after && len(all) < limit {
			all = append(all, r)
		}
	}
	return all
}

func (s *fakeStore) RoomsOf(_ context.Context, user contracts.UserID, after contracts.RoomID, limit int) ([]contracts.RoomInfo, error) {
	f := (*world)(s)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.storeDown {
		return nil, errAway
	}
	return above(f.members[user], after, limit), nil
}

func (s *fakeStore) PublicRooms(_ context.Context, after contracts.RoomID, limit int) ([]contracts.RoomInfo, error) {
	f := (*world)(s)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.storeDown {
		return nil, errAway
	}
	return above(f.public, after, limit), nil
}
