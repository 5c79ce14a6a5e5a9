// Package sink is the persister: it reads the log, numbers it as the dispatcher does and fills the store.
//
// One goroutine, Run's, polls the consumer group and hands each partition's records to that partition's own goroutine;
// a second one, the keeper, compares log and store each minute and trims the log; a third one, where messages are not kept
// for ever, walks the store for old ones (retain.go).
//
//	            Poll                inbox
//	log ───────────────► Run ─────────────────► partition ──┬─► look-up   one of each at a time, each on a
//	 │                    │  owner.go            backlog.go │             goroutine that reports back
//	 │                    └─► group commit        (roomlog)  ├─► bulk      tries until the store takes it
//	 └────────────────────────────────────────────────────────┴─► re-read
//
// A partition's goroutine alone touches its backlog, the records of [C, next). A bulk is always the decided front of
// the backlog, never a piece behind something undecided: C then moves by whole bulks and cannot pass a hole, and what a
// look-up waits for is the same store that the bulk would wait for.
//
// Nothing queues without bound. When a backlog is full, because the store is away or slow, its goroutine stops taking
// records; Run then waits a moment, drops what it polled, and goes on, so that the group's membership lives and other
// partitions move. The partition reads what was dropped from the log again when there is room.
//
// A partition ends in one of four ways: it is taken away; another persister moved its checkpoint, then everything held
// is forgotten and it starts again from the store's checkpoint; the log lost records or was replaced, then it begins a
// new epoch after a while (raise.go); or something is wrong that only a person can mend, then it stands still. In the last
// two it says so: an error in the log, a metric, and Ready.
package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

// Store is what the persister needs of a store; see store.Entries.
type Store interface {
	Checkpoint(ctx context.Context, partition int32) (c contracts.Checkpoint, found bool, err error)
	Append(ctx context.Context, entries []store.Entry, prev, next contracts.Checkpoint) error
	Lookup(ctx context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (foundEntries, foundHeads []roomlog.Found, err error)
	Above(ctx context.Context, partition int32, from contracts.Position) ([]store.Entry, error)
	Bury(ctx context.Context, d store.DeadLetter) error
	Blank(ctx context.Context, old store.Old, from string, most int) (store.Swept, error)
}

// KeepRecords is the default of Config.KeepRecords.
const KeepRecords = 10_000

// LeastRetain is the least Config.Retain: for so long a message may be sent again.
const LeastRetain = 24 * time.Hour

// Config bounds the persister's work.
type Config struct {
	// Names builds the names of the groups. Defaults to those under "parley".
	Names contracts.Names
	// Partitions is the log's partition count. Defaults to contracts.DefaultPartitions.
	Partitions int
	// Group is the consumer group of Deps.Consume; it shows in the log. Defaults to Names.PersistGroup().
	Group string
	// BulkEntries, BulkBytes and BulkDelay bound one write to the store: it is made when so many entries or bytes of
	// records are decided, or the first of them has waited so long. They default to 500, 1 MiB and 50 ms.
	BulkEntries int
	BulkBytes   int
	BulkDelay   time.Duration
	// BacklogBytes bounds the records that one partition holds, with an allowance for each. Defaults to 4 MiB.
	BacklogBytes int
	// KeepRecords is how many records the log keeps below what store and dispatcher still need. Defaults to KeepRecords.
	KeepRecords int64
	// KeepEvery is the pause between two comparisons of log and store, after which the log is trimmed; one that grows fast
	// is in between, too. Defaults to a minute.
	KeepEvery time.Duration
	// Retain is how old messages become, by their time, before what they say is deleted (store.Entry.Blank). At least
	// LeastRetain. Defaults to 0: they are kept.
	Retain time.Duration
	// SweepEvery is the pause between two walks that look for such messages. Defaults to an hour.
	SweepEvery time.Duration
	// FlushTimeout bounds how long a partition that is given up may still write. Defaults to 3 s.
	FlushTimeout time.Duration
	// SessionTimeout is the consumer group's: nothing is written where it did not confirm this persister for so long.
	// Defaults to 10 s.
	SessionTimeout time.Duration
	// CallTimeout bounds one call of store or log; what fails is tried again. Defaults to 15 s.
	CallTimeout time.Duration
	// RaiseAfter is the time between finding that the log lost records and beginning a new epoch. It must be longer than
	// a write of an earlier owner can take to arrive: SessionTimeout and CallTimeout. Defaults to those and a fifth more.
	RaiseAfter time.Duration
	// AcceptLoss begins a new epoch also where somebody deleted records of the log that were not stored. Defaults to
	// false: a person looks first.
	AcceptLoss bool
}

func (c Config) withDefaults() Config {
	or := func(value *int, fallback int) {
		if *value == 0 {
			*value = fallback
		}
	}
	orTime := func(value *time.Duration, fallback time.Duration) {
		if *value == 0 {
			*value = fallback
		}
	}
	or(&c.Partitions, contracts.DefaultPartitions)
	or(&c.BulkEntries, 500)
	or(&c.BulkBytes, 1<<20)
	orTime(&c.BulkDelay, 50*time.Millisecond)
	or(&c.BacklogBytes, 4<<20)
	if c.KeepRecords == 0 {
		c.KeepRecords = KeepRecords
	}
	orTime(&c.KeepEvery, time.Minute)
	orTime(&c.SweepEvery, time.Hour)
	orTime(&c.FlushTimeout, 3*time.Second)
	orTime(&c.SessionTimeout, 10*time.Second)
	orTime(&c.CallTimeout, 15*time.Second)
	orTime(&c.RaiseAfter, (c.SessionTimeout+c.CallTimeout)*6/5)
	if c.Group == "" {
		c.Group = c.Names.PersistGroup()
	}
	return c
}

// Validate reports the first setting that cannot work.
func (c Config) Validate() error {
	switch {
	case c.Partitions != 0 && !contracts.ValidPartitions(c.Partitions):
		return fmt.Errorf("persister: %d partitions: want a power of two of at most %d", c.Partitions, contracts.Lanes)
	case c.BulkEntries < 0, c.BulkBytes < 0, c.BulkDelay < 0, c.BacklogBytes < 0, c.KeepRecords < 0, c.KeepEvery < 0, c.SweepEvery < 0, c.FlushTimeout < 0,
		c.SessionTimeout < 0, c.CallTimeout < 0, c.RaiseAfter < 0:
		return errors.New("persister: a limit below zero")
	case c.Retain != 0 && c.Retain < LeastRetain:
		return fmt.Errorf("persister: messages are to be kept for %v: at least %v, or 0 for always", c.Retain, LeastRetain)
	}
	if full := c.withDefaults(); full.RaiseAfter <= full.SessionTimeout+full.CallTimeout {
		return fmt.Errorf("persister: RaiseAfter %v is not longer than the session timeout %v and the calls' %v", full.RaiseAfter, full.SessionTimeout, full.CallTimeout)
	}
	return nil
}

// Deps is what the persister works with.
type Deps struct {
	Log journal.Log
	// Consume joins the consumer group Config.Group on behalf of an owner.
	Consume func(journal.Owner) (journal.Consumer, error)
	Store   Store
	// Publisher tells connections that wait for it what is stored; nil where nobody is told.
	Publisher fanout.Publisher
	Logger    *slog.Logger
	// Registerer takes the metrics while Run runs; nil for none.
	Registerer prometheus.Registerer
}

// Pauses of the polling goroutine.
const (
	pollWait = time.Second // one Poll
	// pollPause is from one Poll to the next, for more to gather behind it: each costs the broker, the client and all partitions
	// some work, however few records it brings. One that brought pollFull is followed at once.
	pollPause    = 20 * time.Millisecond
	pollFull     = 1000
	deliverWait  = time.Second     // for all full inboxes after one Poll
	commitEvery  = 5 * time.Second // of the group's offsets, which only lag metrics read
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
)

// Sink is a persister. Run runs it, once; the other methods are safe for concurrent use.
type Sink struct {
	// Static after construction.
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	outage  outage
	teller  *teller

	mu       sync.Mutex // guards what follows
	owned    map[int32]*partition
	attempts map[int32]attempt
	restarts []int32 // partitions to be taken over anew
	assigned bool    // a partition was assigned at least once
	joined   time.Time
	consumer journal.Consumer
}

// New returns a persister that does nothing until Run.
func New(cfg Config, deps Deps) *Sink {
	s := &Sink{cfg: cfg.withDefaults(), deps: deps, log: deps.Logger, owned: make(map[int32]*partition), attempts: make(map[int32]attempt)}
	s.metrics = newMetrics(s)
	s.outage = outage{log: s.log}
	s.teller = newTeller(s)
	return s
}

// Run persists until ctx ends; then it writes what is decided, within Config.FlushTimeout, commits and leaves the group.
// It returns an error only where it cannot begin.
func (s *Sink) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	unregister, err := s.metrics.register(s.deps.Registerer)
	if err != nil {
		return err
	}
	defer unregister()
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() { s.keep(ctx) })
	beside.Go(func() { s.teller.run(ctx) })
	if s.cfg.Retain > 0 {
		beside.Go(func() { s.retain(ctx) })
	}
	for {
		consumer, err := s.join(ctx)
		if err != nil || consumer == nil {
			return err
		}
		s.poll(ctx, consumer)
		err = consumer.Close() // revokes, which flushes and commits
		s.Lose(s.partitions()) // whatever the consumer did not mention
		if err != nil {
			s.log.Warn("consumer group left badly", "group", s.cfg.Group, "err", err)
		}
		if !pause(ctx, time.Second) { // else the log was made anew
			return nil
		}
	}
}

// join makes the consumer, trying until ctx ends; it is nil then.
func (s *Sink) join(ctx context.Context) (journal.Consumer, error) {
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		consumer, err := s.deps.Consume(s)
		if err == nil {
			s.mu.Lock()
			s.consumer, s.joined = consumer, time.Now()
			s.mu.Unlock()
			return consumer, nil
		}
		s.log.Warn("cannot join the consumer group", "group", s.cfg.Group, "err", err, "again_in", wait)
		if !pause(ctx, wait) {
			return nil, nil
		}
	}
}

// poll hands out what the consumer reads until ctx ends or the consumer is of no use.
func (s *Sink) poll(ctx context.Context, consumer journal.Consumer) {
	lastCommit := time.Now()
	committed := make(map[int32]journal.Commit)
	for failing := false; ctx.Err() == nil; {
		batches, err := consumer.Poll(ctx, pollWait)
		if ctx.Err() != nil || errors.Is(err, journal.ErrReplaced) {
			return
		}
		if err != nil {
			if !failing {
				s.log.Warn("cannot read the log", "err", err)
			}
			failing = true
			pause(ctx, firstBackoff)
		} else if failing {
			failing = false
			s.log.Info("the log can be read again")
		}
		s.deliver(ctx, batches)
		for _, id := range s.takeRestarts() {
			consumer.Restart(id)
		}
		if time.Since(lastCommit) >= commitEvery {
			lastCommit = time.Now()
			s.commit(ctx, consumer, committed)
		}
		if n := records(batches); n > 0 && n < pollFull {
			pause(ctx, pollPause)
		}
	}
}

// records counts those of batches.
func records(batches []journal.Batch) (n int) {
	for i := range batches {
		n += len(batches[i].Records)
	}
	return n
}

// deliver puts batches into their partitions' inboxes. All that are full together are waited for once; then what does
// not fit is dropped and its partition told so.
func (s *Sink) deliver(ctx context.Context, batches []journal.Batch) {
	patience := time.NewTimer(deliverWait)
	defer patience.Stop()
	impatient := false
	for _, b := range batches {
		p := s.partition(b.Partition)
		if p == nil {
			continue
		}
		p.sawEnd(b.End)
		if len(b.Records) == 0 && b.Err == nil || p.ended() {
			continue
		}
		if !impatient {
			select {
			case p.inbox <- b:
				continue
			case <-p.done:
				continue
			case <-patience.C:
				impatient = true
			case <-ctx.Done():
				return
			}
		}
		select {
		case p.inbox <- b:
		default:
			s.metrics.dropped.Inc()
			p.missed()
		}
	}
}

// commit tells the group how far the store is, where that has changed since the last time.
func (s *Sink) commit(ctx context.Context, consumer journal.Consumer, last map[int32]journal.Commit) {
	commits := make(map[int32]journal.Commit)
	for _, p := range s.snapshot() {
		c := p.status().commit()
		if c.Offset > 0 && last[p.id] != c {
			commits[p.id] = c
		}
	}
	if len(commits) == 0 {
		return
	}
	if err := consumer.Commit(ctx, commits); err != nil {
		s.log.Debug("group commit failed", "err", err)
		return
	}
	for id, c := range commits {
		last[id] = c
	}
}

// pause waits and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
