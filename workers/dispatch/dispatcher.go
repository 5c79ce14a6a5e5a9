package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
)

const (
	commitTimeout = 500 * time.Millisecond // of the commits beside the polls
	restartAfter  = time.Second            // the shortest time between a take-over and the next of the same partition
	// graceful is for how long a dispatcher in the group without any partition counts as one that waits for its first,
	// and a partition that could not be taken over as one that will be tried again.
	graceful = 20 * time.Second
	// quietGroup is after how long without a word of the consumer group a dispatcher says so: before it falls silent, after
	// half of the session timeout, and before the group gives its partitions away.
	quietGroup = 3 * time.Second
)

var errNotRunning = errors.New("dispatcher is not running")

// Dispatcher numbers the partitions that it owns and tells the rooms. Run runs it, once; the other methods may be called
// at any time, from any goroutine.
type Dispatcher struct {
	// Static after construction.
	cfg       Config
	deps      Deps
	log       *slog.Logger
	metrics   *metrics
	inbox     chan func()   // the actor's work
	questions chan *ask     // the actor's too; full: overloaded
	running   chan struct{} // closed when the actor begins
	ended     chan struct{} // closed when the actor has ended
	consumer  atomic.Pointer[journal.Consumer]
	jobs      sync.WaitGroup // started by the actor
	commits   sync.WaitGroup // started by the poller, and waited for there

	// Owned by the actor.
	bg           context.Context // the jobs' context: partitions derive theirs from it
	tellers      []*teller
	redisAway    bool // the last publication failed
	commitFails  bool // the last commit did
	partitions   map[int32]*partition
	attempts     map[int32]attempt            // partitions that are not taken over yet
	adopted      map[int32][]contracts.RoomID // rooms that wait for a new epoch of their partition
	lost         map[int32]loss               // partitions that could not be read on
	restarts     []restart
	ring         ring
	waitingBytes int
	waitingRooms int
	pace         pace
	parked       map[*ask]struct{} // questions that wait for a room
	readers      int               // answers being written from the log or at length
	sweep        *time.Timer       // when the first of parked may run out
	sweepAt      time.Time         // zero: not set
	commitDue    bool
	committing   bool
	checking     bool      // the checkpoints are being read
	joined       time.Time // when the group first confirmed this member
	assigned     bool      // some partition was taken over
}

// attempt is why a partition is not taken over yet. One that is not tried again went to somebody else.
type attempt struct {
	err error
	at  time.Time
}

// restart is a partition that was let go and is to be taken over anew.
type restart struct {
	id   int32
	stop func() error // of its service
	due  time.Time
}

// New returns a Dispatcher that does nothing until Run.
func New(cfg Config, deps Deps) *Dispatcher {
	cfg = cfg.withDefaults()
	return &Dispatcher{
		cfg:        cfg,
		deps:       deps,
		log:        deps.Logger,
		metrics:    newMetrics(),
		inbox:      make(chan func(), 256),
		questions:  make(chan *ask, cfg.Questions),
		running:    make(chan struct{}),
		ended:      make(chan struct{}),
		partitions: make(map[int32]*partition),
		attempts:   make(map[int32]attempt),
		adopted:    make(map[int32][]contracts.RoomID),
		lost:       make(map[int32]loss),
		parked:     make(map[*ask]struct{}),
		pace:       newPace(),
	}
}

// Run dispatches until ctx ends; then it commits, hands its partitions over and returns nil. An error means that it could not go
// on. Outages of log, store, Redis and NATS are waited for.
func (d *Dispatcher) Run(ctx context.Context) error {
	if err := d.cfg.Validate(); err != nil {
		return err
	}
	undo, err := d.metrics.register(d.deps.Registerer)
	if err != nil {
		return err
	}
	defer undo()
	bg, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	d.bg = bg
	d.tellers = newTellers(d.deps.Publisher, d.cfg.Partitions)
	quit := make(chan struct{})
	go d.act(quit)
	err = d.consume(ctx)
	cancel()
	close(quit)
	<-d.ended
	d.jobs.Wait()
	return err
}

// act is the actor.
func (d *Dispatcher) act(quit <-chan struct{}) {
	defer close(d.ended)
	d.sweep = time.NewTimer(time.Hour)
	defer d.sweep.Stop()
	tick := time.NewTicker(d.cfg.HeadsEvery)
	defer tick.Stop()
	close(d.running)
	for {
		select {
		case f := <-d.inbox:
			f()
		case a := <-d.questions:
			d.ask(a)
		case <-tick.C:
			d.tick()
		case <-d.sweep.C:
			d.expire()
		case <-quit:
			for _, p := range d.partitions {
				d.remove(p)
			}
			for len(d.questions) > 0 {
				d.refuse(<-d.questions, resultUnavailable)
			}
			return
		}
		d.tell()
	}
}

// post hands f to the actor, and reports false when that has ended.
func (d *Dispatcher) post(f func()) bool {
	select {
	case d.inbox <- f:
		return true
	case <-d.ended:
		return false
	}
}

// call runs f on the actor and waits for it; false as for post.
func (d *Dispatcher) call(f func()) bool {
	done := make(chan struct{})
	if !d.post(func() { f(); close(done) }) {
		return false
	}
	select {
	case <-done:
		return true
	case <-d.ended:
		return false
	}
}

// job runs f beside the actor and then what it returns on the actor, unless the partition is gone by then.
func (d *Dispatcher) job(p *partition, f func(ctx context.Context) (report func())) {
	d.jobs.Go(func() {
		report := f(p.ctx)
		d.post(func() {
			if !p.gone {
				report()
			}
		})
	})
}

// consume polls until ctx ends or the consumer is of no use.
func (d *Dispatcher) consume(ctx context.Context) error {
	for {
		c, err := d.join(ctx)
		if err != nil {
			return nil // ctx has ended
		}
		d.consumer.Store(&c)
		err = d.poll(ctx, c)
		d.commits.Wait()
		if cerr := c.Close(); cerr != nil {
			d.log.Warn("leaving the dispatchers' group failed", "err", cerr)
		}
		if !errors.Is(err, journal.ErrReplaced) || pause(ctx, time.Second) != nil {
			return err
		}
	}
}

// join makes the consumer. The only error is ctx's.
func (d *Dispatcher) join(ctx context.Context) (journal.Consumer, error) {
	for first := true; ; first = false {
		c, err := d.deps.Consume(owner{d})
		if err == nil {
			return c, nil
		}
		if first {
			d.log.Error("joining the dispatchers' group failed, trying on", "err", err)
		}
		if err := pause(ctx, time.Second); err != nil {
			return nil, err
		}
	}
}

// poll is the poller.
func (d *Dispatcher) poll(ctx context.Context, c journal.Consumer) error {
	for ctx.Err() == nil {
		batches, err := c.Poll(ctx, d.cfg.PollWait)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, journal.ErrClosed), errors.Is(err, journal.ErrReplaced):
			return fmt.Errorf("poll the log: %w", err)
		case err != nil:
			d.log.Warn("poll of the log failed, trying on", "err", err)
			if pause(ctx, 100*time.Millisecond) != nil {
				return nil
			}
			continue
		}
		now := time.Now()
		read := make([]readBatch, len(batches))
		for i := range batches {
			read[i] = d.decode(&batches[i], now)
		}
		var t turn
		d.call(func() { t = d.turn(read) })
		stops := make([]func() error, len(t.restarts))
		for i, r := range t.restarts {
			stops[i] = r.stop
		}
		d.stop(stops...)
		for _, r := range t.restarts {
			c.Restart(r.id)
		}
		d.commit(ctx, c, t.commits)
	}
	return nil
}

// turn is what the poller has to do after a poll.
type turn struct {
	commits  map[int32]journal.Commit
	restarts []restart
}

// turn takes what was polled.
func (d *Dispatcher) turn(read []readBatch) (t turn) {
	for i := range read {
		if p := d.partitions[read[i].partition]; p != nil {
			d.take(p, &read[i])
		}
	}
	for _, p := range d.partitions {
		d.advance(p)
	}
	now := time.Now()
	d.restarts = slices.DeleteFunc(d.restarts, func(r restart) bool {
		due := !r.due.After(now)
		if due {
			t.restarts = append(t.restarts, r)
		}
		return due
	})
	if d.commitDue && !d.committing && d.alive() {
		d.commitDue = false
		t.commits = make(map[int32]journal.Commit)
		for _, p := range d.partitions {
			if offset := p.told(); offset > p.committed && p.epochDue == 0 {
				p.committed = offset
				t.commits[p.id] = journal.Commit{Offset: offset, Epoch: p.epoch}
			}
		}
		for id, l := range d.lost {
			if l.told {
				t.commits[id] = journal.Commit{Offset: lostOffset, Epoch: l.epoch}
			}
		}
		d.committing = len(t.commits) > 0
	}
	return t
}

// commit tells the group what was announced, beside the poller: Kafka may take longer for it than records may wait. What
// fails is committed with the next.
func (d *Dispatcher) commit(ctx context.Context, c journal.Consumer, commits map[int32]journal.Commit) {
	if len(commits) == 0 {
		return
	}
	d.commits.Go(func() {
		call, cancel := context.WithTimeout(ctx, commitTimeout)
		defer cancel()
		err := c.Commit(call, commits)
		d.post(func() {
			d.committing = false
			if err == nil {
				d.commitFails = false
				return
			}
			d.metrics.commitErrors.Inc()
			if !d.commitFails && ctx.Err() == nil {
				d.commitFails = true
				d.log.Warn("commit failed, trying on", "err", err)
			}
			for id := range commits {
				if p := d.partitions[id]; p != nil {
					p.committed = p.publishFrom - 1
				}
			}
		})
	})
}

// tick does what is due once a second.
func (d *Dispatcher) tick() {
	now := time.Now()
	if c := d.consumer.Load(); d.joined.IsZero() && c != nil && !(*c).Alive().IsZero() {
		d.joined = now
	}
	d.commitDue = true
	unstored := int64(0)
	for _, p := range d.partitions {
		p.headsDue = true
		d.advance(p)
		unstored += max(p.seq.Next()-p.checkpoint, 0)
	}
	d.check()
	d.metrics.partitions.Set(float64(len(d.partitions)))
	d.metrics.waitingRooms.Set(float64(d.waitingRooms))
	d.metrics.waitingBytes.Set(float64(d.waitingBytes))
	d.metrics.ringBytes.Set(float64(d.ring.bytes))
	d.metrics.unstored.Set(float64(unstored))
}

// check reads the checkpoints and forgets what they make safe to forget.
func (d *Dispatcher) check() {
	if d.checking || len(d.partitions) == 0 {
		return
	}
	d.checking = true
	began := time.Now()
	ctx, cancel := context.WithTimeout(d.bg, d.cfg.StoreTimeout)
	d.jobs.Go(func() {
		defer cancel()
		all, err := d.deps.Store.Checkpoints(ctx)
		d.post(func() {
			d.checking = false
			if err != nil {
				d.log.Debug("reading the checkpoints failed", "err", err)
				return
			}
			for _, c := range all {
				p := d.partitions[c.Partition]
				switch {
				case p == nil || p.began.After(began):
				case c.Epoch != p.epoch:
					d.takeAnew(p, alarmEpoch, fmt.Errorf("the store's epoch is %d, not %d", c.Epoch, p.epoch))
				default:
					d.stored(p, c.Offset)
				}
			}
		})
	})
}

// alive reports whether the group surely counts this member as one, and nobody else owns its partitions.
func (d *Dispatcher) alive() bool {
	c := d.consumer.Load()
	return c != nil && time.Since((*c).Alive()) < d.cfg.SessionTimeout/2
}

// Ready is nil when every owned partition has numbered the log up to where it ended at the take-over and nothing waits
// for the store. The error names what lacks. Whoever needs the whole log numbered also counts Owned: partitions come
// one by one.
func (d *Dispatcher) Ready() error {
	err := errNotRunning
	d.look(func() { err = d.ready() })
	return err
}

// Owned returns the partitions that are taken over, ascending.
func (d *Dispatcher) Owned() []int32 {
	var ids []int32
	d.look(func() {
		for id := range d.partitions {
			ids = append(ids, id)
		}
	})
	slices.Sort(ids)
	return ids
}

// look is call for those who may come before or after Run.
func (d *Dispatcher) look(f func()) {
	select {
	case <-d.running:
		d.call(f)
	default:
	}
}

func (d *Dispatcher) ready() error {
	var lacks []error
	for id, a := range d.attempts {
		if time.Since(a.at) < graceful {
			lacks = append(lacks, fmt.Errorf("partition %d: %w", id, a.err))
		}
	}
	if c := d.consumer.Load(); c != nil && !(*c).Alive().IsZero() {
		if quiet := time.Since((*c).Alive()); quiet > quietGroup {
			lacks = append(lacks, fmt.Errorf("the log's group has been silent for %.1f s", quiet.Seconds()))
		}
	}
	if !d.assigned && len(lacks) == 0 && (d.joined.IsZero() || time.Since(d.joined) < graceful) {
		return errors.New("dispatcher has no partitions yet")
	}
	for _, p := range d.partitions {
		switch low := p.seq.Low(); {
		case p.halted != nil:
			lacks = append(lacks, fmt.Errorf("partition %d stopped: %w", p.id, p.halted))
		case low < p.goal:
			lacks = append(lacks, fmt.Errorf("partition %d: at %d of %d", p.id, low, p.goal))
		case len(p.pending) > 0 || p.behind:
			lacks = append(lacks, fmt.Errorf("partition %d: %d records wait for the store", p.id, len(p.pending)))
		}
	}
	return errors.Join(lacks...)
}

// pause waits for t or until ctx ends, whose error it then returns.
func pause(ctx context.Context, t time.Duration) error {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
