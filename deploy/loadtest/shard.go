package loadtest

import (
	"errors"
	"sync"
	"time"
)

// verb is what a shard is told to do.
type verb string

const (
	verbRamp    verb = "ramp"    // open the connections
	verbWindow  verb = "window"  // measure what is intended from From to To
	verbSpeak   verb = "speak"   // start the schedule at At
	verbHush    verb = "hush"    // stop the schedule
	verbCut     verb = "cut"     // end every connection at once
	verbCollect verb = "collect" // hand over what was counted
	verbHeads   verb = "heads"   // say the highest seqs seen
	verbBehind  verb = "behind"  // say how many memberships have not reached Heads
	verbJudge   verb = "judge"   // close the books at Heads
	verbBye     verb = "bye"     // end every connection politely
)

// order is one instruction to a shard.
type order struct {
	Verb     verb
	At       int64    `json:",omitempty"`
	From, To int64    `json:",omitempty"`
	Heads    []uint64 `json:",omitempty"`
}

// result is what a shard answers. Only what belongs to the verb is set.
type result struct {
	tally  *tally // until it is collected again
	heads  []uint64
	behind int
	gaps   []Gap
	usage  usage
}

// shard drives a share of the connections. Orders are given one at a time.
type shard interface {
	do(order) (result, error)
	// close ends the shard. It does not say goodbye to the servers.
	close() error
}

// local is the shard inside this process: a few loops.
type local struct {
	plan  *plan
	loops []*loop
	sum   *tally // what was handed over last
	wg    sync.WaitGroup

	// Guarded by mu.
	mu  sync.Mutex
	err error
}

// newLocal starts the loops of one shard.
func newLocal(p *plan, number int) (*local, error) {
	s := &local{plan: p, sum: newTally()}
	for i := range p.Loops {
		l, err := newLoop(p, number*p.Loops+i)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.loops = append(s.loops, l)
		s.wg.Go(func() {
			if err := l.run(); err != nil {
				s.mu.Lock()
				s.err = errors.Join(s.err, err)
				s.mu.Unlock()
				l.serveTasks()
			}
		})
	}
	return s, nil
}

// serveTasks goes on answering after a loop has broken, so that nobody waits for it in vain.
func (l *loop) serveTasks() {
	for !l.quit {
		(<-l.tasks)()
	}
}

func (s *local) do(o order) (result, error) {
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	if err != nil {
		return result{}, err
	}
	r := result{usage: ownUsage()}
	switch o.Verb {
	case verbCollect:
		s.sum.reset()
		r.tally = s.sum
	case verbHeads:
		r.heads = make([]uint64, s.plan.Rooms)
	}
	for _, l := range s.loops {
		l.do(func() { l.obey(o, &r) })
	}
	return r, nil
}

// obey carries out an order on the loop's goroutine.
func (l *loop) obey(o order, r *result) {
	switch o.Verb {
	case verbRamp:
		l.startRamp()
	case verbWindow:
		l.from, l.to = o.From, o.To
	case verbSpeak:
		l.speakFrom(o.At)
	case verbHush:
		l.schedule.stop()
	case verbCut:
		l.now = l.clock.now()
		l.cut()
	case verbCollect:
		r.tally.add(l.takeTally())
	case verbHeads:
		l.raise(r.heads)
	case verbBehind:
		r.behind += l.behind(o.Heads)
	case verbJudge:
		l.judgeAll(o.Heads)
		r.gaps = append(r.gaps, l.gaps...)
	case verbBye:
		l.bye()
	}
}

func (s *local) close() error {
	for _, l := range s.loops {
		l.do(func() { l.quit = true })
	}
	s.wg.Wait()
	return s.err
}

// fleet gives orders to all shards of a run at once.
type fleet struct {
	shards []shard
}

// do tells every shard and adds up the answers.
func (f *fleet) do(o order) (result, error) {
	results := make([]result, len(f.shards))
	errs := make([]error, len(f.shards))
	var wg sync.WaitGroup
	for i, s := range f.shards {
		wg.Go(func() { results[i], errs[i] = s.do(o) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return result{}, err
	}
	sum := results[0]
	for _, r := range results[1:] {
		if r.tally != nil {
			sum.tally.add(r.tally)
		}
		for i, h := range r.heads {
			sum.heads[i] = max(sum.heads[i], h)
		}
		sum.behind += r.behind
		sum.gaps = append(sum.gaps, r.gaps...)
		sum.usage = sum.usage.plus(r.usage)
	}
	return sum, nil
}

func (f *fleet) close() error {
	var errs []error
	for _, s := range f.shards {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// usage is what processes consume.
type usage struct {
	CPU    time.Duration // since their start
	Memory int64         // resident bytes
}

func (u usage) plus(v usage) usage { return usage{CPU: u.CPU + v.CPU, Memory: u.Memory + v.Memory} }
