// Package workers decides: it checks who asks and what, appends messages to the log and answers reads. One file per
// verb of the protocol.
//
// A worker holds nothing that another one needs: any of them may serve any request, and one that dies takes only its
// unanswered requests with it. Edges ask over package rpc with a contracts.Command and get a contracts.Answer:
//
//	send      edge → Worker → log                              answered from the log's callback
//	join      edge → Worker → dispatcher (head) → cache → dispatcher (ring) → store
//	the rest  edge → Worker → one of roster, store, publisher
package workers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
)

// Config is how a worker works. The zero value of a field means its default.
type Config struct {
	// Names builds subjects. Its zero value has the default prefix.
	Names contracts.Names
	// Partitions of the log. Defaults to contracts.DefaultPartitions.
	Partitions int
	// Node names this process. Required.
	Node contracts.NodeID
	// Version is this program's semantic version. Defaults to "0.0.0".
	Version string

	// Secret signs and checks HS256 tokens; at least 32 bytes, or none: then there are no guests.
	Secret []byte
	// JWKSURL is where the keys of RS256, ES256 and EdDSA tokens are. Empty: such tokens are refused.
	JWKSURL string
	// Issuer is the required iss of tokens, Audience the required aud. Empty: not looked at.
	Issuer   string
	Audience string
	// GuestLifetime is how long a guest's token lasts. Defaults to 30 days.
	GuestLifetime time.Duration

	// Durability is the class that connect tells. Defaults to journal.DurabilityVolatile, the least.
	Durability string
	// Limits are the limits of what clients send and get.
	Limits Limits

	// Deadline bounds the work on one request, from its arrival. Defaults to 4 s.
	Deadline time.Duration
	// Margin is what is kept of the asker's time left for the way back. Defaults to 500 ms.
	Margin time.Duration
	// MaxInFlight bounds the sends, the other requests of clients, and what edges ask for themselves, that are worked on at
	// once, each apart. Above it sends are refused as overloaded, and the others wait for their turn. Defaults to 4,096.
	MaxInFlight int
	// MaxWaiting bounds the requests that wait for their turn; above it they are refused as overloaded, and some kinds
	// of them above a part of it; so they are above 64 MiB. Defaults to 65,536.
	MaxWaiting int
	// MaxMemberWrites bounds the memberships that wait to be written. Defaults to 10,000; above it they are left for the
	// person's next join.
	MaxMemberWrites int

	// Retain is how old messages become, by their time, before readers are shown no more than that they were there; see
	// sink.Config. Defaults to 0: they are always shown.
	Retain time.Duration

	// LogBytes bounds, to within what is written in some seconds, the bytes of records in the log beyond LogKeep of each
	// partition: above it sends are refused as overloaded. They count as long as the workers' records are on average, neither
	// compressed nor replicated. Defaults to 0: off.
	LogBytes int64
	// LogKeep is how many records of a partition the persister leaves in the log at least.
	LogKeep int64
}

// Limits bounds what clients send and get. The zero value of a field means its default.
type Limits struct {
	TextBytes     int           // of a message's text. Defaults to 16 KiB.
	TextRunes     int           // of a message's text. Defaults to 4,000.
	MetaBytes     int           // of a message's meta, as sent. Defaults to 2 KiB.
	Page          int           // entries in a reply that asks for no number. Defaults to 50.
	MaxPage       int           // entries in a reply at most. Defaults to 200.
	ResumeEntries int           // how far behind a join may resume. Defaults to 1,000.
	ReplyBytes    int           // of the entries in one reply. Defaults to 250 KiB.
	KeyAge        time.Duration // of a send's key at most. Defaults to 24 h.
	KeyAhead      time.Duration // of a send's key before this clock at most. Defaults to 2 min.
	SendsPerS     float64       // per person and worker, with a burst of twice as many. 0 is off.
	RoomSendsPerS float64       // per room and worker, with a burst of twice as many. 0 is off.
}

func (c *Config) setDefaults() {
	def(&c.Partitions, contracts.DefaultPartitions)
	def(&c.Version, "0.0.0")
	def(&c.GuestLifetime, 30*24*time.Hour)
	def(&c.Durability, string(journal.DurabilityVolatile))
	def(&c.Deadline, 4*time.Second)
	def(&c.Margin, 500*time.Millisecond)
	def(&c.MaxInFlight, 4096)
	def(&c.MaxWaiting, 1<<16)
	def(&c.MaxMemberWrites, 10_000)
	l := &c.Limits
	def(&l.TextBytes, 16<<10)
	def(&l.TextRunes, 4000)
	def(&l.MetaBytes, 2<<10)
	def(&l.Page, 50)
	def(&l.MaxPage, 200)
	def(&l.ResumeEntries, 1000)
	def(&l.ReplyBytes, 250<<10)
	def(&l.KeyAge, 24*time.Hour)
	def(&l.KeyAhead, 2*time.Minute)
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports the first setting that cannot work.
func (c *Config) Validate() error {
	switch {
	case !contracts.ValidID(string(c.Node)):
		return fmt.Errorf("worker's node name %q: use 1 to 64 of A-Z a-z 0-9 _ -", c.Node)
	case c.Partitions != 0 && !contracts.ValidPartitions(c.Partitions):
		return fmt.Errorf("%d partitions: must be a power of two from 1 to %d", c.Partitions, contracts.Lanes)
	case len(c.Secret) > 0 && len(c.Secret) < minSecret:
		return fmt.Errorf("the secret has %d bytes: use at least %d", len(c.Secret), minSecret)
	case len(c.Secret) == 0 && c.JWKSURL == "":
		return errors.New("neither a secret nor a JWKS URL: nobody could connect")
	case c.Retain < 0:
		return fmt.Errorf("messages are to be shown for %v", c.Retain)
	case c.LogBytes < 0 || c.LogKeep < 0:
		return errors.New("a limit of the log below zero")
	case c.Limits.ReplyBytes > contracts.MaxServerFrame-replyOverhead:
		return fmt.Errorf("replies of %d bytes: at most %d fit a frame", c.Limits.ReplyBytes, contracts.MaxServerFrame-replyOverhead)
	}
	return nil
}

// Store is what a worker asks of the database. persist/store describes the methods.
type Store interface {
	Page(ctx context.Context, room contracts.RoomID, from, to contracts.Seq, limit int, newest bool) ([]contracts.Entry, error)
	Lookup(ctx context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (foundEntries, foundHeads []roomlog.Found, err error)
	Join(ctx context.Context, members ...contracts.Membership) error
	Quit(ctx context.Context, room contracts.RoomID, user contracts.UserID) error
	RoomsOf(ctx context.Context, user contracts.UserID, after contracts.RoomID, limit int) ([]contracts.RoomInfo, error)
	PublicRooms(ctx context.Context, after contracts.RoomID, limit int) ([]contracts.RoomInfo, error)
}

// Deps is what a worker works with. All but Extents, Logger and Registerer are required. The caller closes them, after the worker.
type Deps struct {
	Ask       rpc.Client // to the dispatchers
	Log       journal.Writer
	Recent    recent.Cache
	Publisher fanout.Publisher
	Roster    fanout.Roster
	Store     Store
	// Extents is needed with Config.LogBytes only.
	Extents Extents
	// Logger defaults to one that drops everything.
	Logger *slog.Logger
	// Registerer gets the worker's metrics. Defaults to none.
	Registerer prometheus.Registerer
}

// Worker serves requests. It is safe for concurrent use. Close it after its services have stopped.
type Worker struct {
	// Static after construction.
	cfg        Config
	deps       Deps
	log        *slog.Logger
	metrics    *metrics
	replyBytes int // of the entries in one answer

	auth      *auth
	heads     *heads
	flights   *flights
	members   *members
	crowds    *crowds
	news      *news
	outbox    *fanout.Gather
	telling   telling
	sends     *sendRates[contracts.UserID]
	roomSends *sendRates[contracts.RoomID]
	logSize   *logSize // nil: no limit

	// background ends when the worker closes: for work that outlives the request it began with.
	background context.Context
	cancel     context.CancelFunc

	closing atomic.Bool
	sending atomic.Int64 // sends in flight
	line    line         // other requests of clients
	upkeep  line         // what edges ask for themselves
	running tracker
}

// New returns a worker that does nothing yet: register its Services, or call Serve.
func New(cfg Config, deps Deps) (*Worker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Ask == nil || deps.Log == nil || deps.Recent == nil || deps.Publisher == nil || deps.Roster == nil || deps.Store == nil {
		return nil, errors.New("a worker needs a client to the dispatchers, the log, the cache, a publisher, a roster and a store")
	}
	if cfg.LogBytes > 0 && deps.Extents == nil {
		return nil, errors.New("a worker with a limit of the log needs the log's extents")
	}
	cfg.setDefaults()
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Worker{cfg: cfg, deps: deps, log: deps.Logger, replyBytes: cfg.Limits.ReplyBytes}
	if most := deps.Ask.MaxPayload(); most > 0 {
		w.replyBytes = min(w.replyBytes, most-replyOverhead)
	}
	w.line = line{most: cfg.MaxInFlight, mostWaiting: cfg.MaxWaiting, serve: w.serve}
	w.upkeep = line{most: cfg.MaxInFlight, mostWaiting: cfg.MaxWaiting, serve: w.serve}
	w.background, w.cancel = context.WithCancel(context.Background())
	if cfg.LogBytes > 0 {
		w.logSize = &logSize{limit: cfg.LogBytes, keep: cfg.LogKeep, extents: deps.Extents, log: w.log}
	}
	var err error
	if w.metrics, err = newMetrics(deps.Registerer, w); err != nil {
		return nil, fmt.Errorf("register worker metrics: %w", err)
	}
	w.auth = newAuth(&w.cfg, w.log, &w.running)
	w.heads = newHeads(w.ask)
	w.flights = newFlights()
	w.members = newMembers(w.background, deps.Store, &w.running, w.log, w.metrics, cfg.MaxMemberWrites)
	w.crowds = newCrowds(w)
	w.news = newNews(w)
	w.outbox = fanout.NewGather(w.background, deps.Publisher)
	w.telling = newTelling()
	w.sends = newSendRates[contracts.UserID](cfg.Limits.SendsPerS)
	w.roomSends = newSendRates[contracts.RoomID](cfg.Limits.RoomSendsPerS)
	return w, nil
}

// lineOf is where requests of op wait. What edges ask for themselves has a place of its own: an overload of clients would
// otherwise end the edges' leases, so that rosters lose people who are there, and leave holes in rooms.
func (w *Worker) lineOf(op contracts.Op) *line {
	if op == contracts.OpGone || op == contracts.OpRepair {
		return &w.upkeep
	}
	return &w.line
}

// inLine is how many requests other than sends are worked on and how many wait.
func (w *Worker) inLine() (working, waiting int) {
	working, waiting = w.line.count()
	more, behind := w.upkeep.count()
	return working + more, waiting + behind
}

// LogState tells operators how much of the log's size limit is taken; ok is false where there is none.
func (w *Worker) LogState() (state string, ok bool) {
	if w.logSize == nil {
		return "", false
	}
	return w.logSize.state(), true
}

// Ready says why requests would not be served well, or nil.
func (w *Worker) Ready() error {
	switch {
	case w.closing.Load():
		return errors.New("closing")
	case !w.deps.Ask.Up():
		return errors.New("not connected to the dispatchers")
	}
	return nil
}

// Close refuses what still arrives and waits, bounded by ctx, for what is in flight; then it ends the work in the
// background. Memberships that are not written by then are lost: the next join makes up for it.
func (w *Worker) Close(ctx context.Context) error {
	w.closing.Store(true)
	w.news.close()
	w.crowds.close()
	w.members.close()
	err := w.running.wait(ctx)
	w.cancel()
	if err != nil {
		return fmt.Errorf("close worker: %w", err)
	}
	return nil
}

// tracker counts work in flight. Unlike a WaitGroup it may be waited for with a bound, while more is begun.
type tracker struct {
	mu   sync.Mutex
	n    int           // guarded by mu
	idle chan struct{} // guarded by mu; closed when n falls to 0; nil when nobody waits
}

func (t *tracker) begin() {
	t.mu.Lock()
	t.n++
	t.mu.Unlock()
}

func (t *tracker) end() {
	t.mu.Lock()
	t.n--
	if t.n == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
	t.mu.Unlock()
}

func (t *tracker) wait(ctx context.Context) error {
	t.mu.Lock()
	if t.n == 0 {
		t.mu.Unlock()
		return nil
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	idle, n := t.idle, t.n
	t.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%d tasks in flight: %w", n, ctx.Err())
	}
}
