package fanout

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// rosterTime bounds one run of the script: presence is not worth more of anybody's time.
const rosterTime = time.Second

// rosterQueue gathers what many callers change. There is no goroutine and no pause: a caller whose turn it is changes
// what waits by then in one run of the script, while what comes meanwhile gathers for the next one. An idle roster serves a
// caller at once, a busy one many for the price of one.
type rosterQueue struct {
	turn chan struct{} // 1: held by the caller who runs the script

	mu      sync.Mutex
	waiting []*rosterCall // guarded by mu
}

// rosterCall is what one caller changes through one queue.
type rosterCall struct {
	steps []step        // what they changed is written before done is closed and read after
	err   error         // likewise: of the first room that failed
	done  chan struct{} // closed when the steps are done
}

func newRosterQueues(n int) (queues []*rosterQueue) {
	for range n {
		queues = append(queues, &rosterQueue{turn: make(chan struct{}, 1)})
	}
	return queues
}

// change changes rosters for one node, each room's in the order of who. One queue that fails keeps no other one back.
func (r *RedisRoster) change(ctx context.Context, node contracts.NodeID, who []contracts.Presence, enter bool) ([]Change, error) {
	if len(who) == 0 {
		return nil, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if enter {
		if err := r.lease(ctx, node); err != nil {
			return nil, err
		}
	}
	byQueue := make(map[int][]step, 1)
	for i, p := range who {
		s := step{room: p.Room, node: node, user: p.User.ID, at: i}
		if enter {
			s.person = encodePresent(p.User)
		}
		q := contracts.LaneOf(p.Room).Group() % len(r.queues)
		byQueue[q] = append(byQueue[q], s)
	}
	changes, errs := make([]Change, len(who)), make([]error, len(r.queues))
	var all sync.WaitGroup
	for q, steps := range byQueue {
		do := func() { errs[q] = r.queues[q].through(ctx, r, steps, changes) }
		if len(byQueue) == 1 {
			do()
		} else {
			all.Go(do)
		}
	}
	all.Wait()
	return changes, errors.Join(errs...)
}

// through does steps in their order, as many as it can, and writes down what they changed.
func (q *rosterQueue) through(ctx context.Context, r *RedisRoster, steps []step, changes []Change) error {
	var errs []error
	for some := range runs(steps) {
		c := &rosterCall{steps: some, done: make(chan struct{})}
		if err := q.do(ctx, r, c); err != nil {
			return errors.Join(append(errs, err)...)
		}
		for i := range some {
			changes[some[i].at] = some[i].change
		}
		errs = append(errs, c.err)
	}
	return errors.Join(errs...)
}

// runs cuts steps into pieces, of which each is short enough for one run of the script.
func runs(steps []step) iter.Seq[[]step] {
	return func(yield func([]step) bool) {
		rooms := make(map[contracts.RoomID]struct{})
		from := 0
		for i := range steps {
			rooms[steps[i].room] = struct{}{}
			if i-from < scriptPeople && len(rooms) <= scriptRooms {
				continue
			}
			if !yield(steps[from:i]) {
				return
			}
			from = i
			clear(rooms)
			rooms[steps[i].room] = struct{}{}
		}
		yield(steps[from:])
	}
}

// do returns when c is done, by this caller or by another one, or fails when ctx ends: c may be under way then.
func (q *rosterQueue) do(ctx context.Context, r *RedisRoster, c *rosterCall) error {
	q.mu.Lock()
	q.waiting = append(q.waiting, c)
	q.mu.Unlock()
	for {
		select {
		case <-c.done:
			return nil
		case q.turn <- struct{}{}:
			q.serve(ctx, r)
			<-q.turn
		case <-ctx.Done():
			q.mu.Lock()
			q.waiting = slices.DeleteFunc(q.waiting, func(other *rosterCall) bool { return other == c })
			q.mu.Unlock()
			select {
			case <-c.done:
				return nil
			default:
				return ctx.Err()
			}
		}
	}
}

// serve does what waits longest. The turn is held. It is done for others too, so the caller's end does not end it.
func (q *rosterQueue) serve(ctx context.Context, r *RedisRoster) {
	calls := q.take()
	if len(calls) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.runTime)
	defer cancel()
	byRoom := make(map[contracts.RoomID]*visit)
	var visits []*visit
	of := make(map[*step]*visit)
	for _, c := range calls {
		for i := range c.steps {
			s := &c.steps[i]
			v := byRoom[s.room]
			if v == nil {
				v = &visit{room: s.room}
				byRoom[s.room] = v
				visits = append(visits, v)
			}
			v.steps = append(v.steps, s)
			of[s] = v
		}
	}
	r.visit(ctx, visits)
	for _, c := range calls {
		for i := range c.steps {
			s := &c.steps[i]
			if err := of[s].err; err == nil {
				s.change.Order = r.order.Add(1)
			} else if c.err == nil {
				c.err = err
			}
		}
		close(c.done)
	}
}

// take takes the calls of one run out of the queue; each one alone is short enough.
func (q *rosterQueue) take() []*rosterCall {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, people := 0, 0
	rooms := make(map[contracts.RoomID]struct{})
	for ; n < len(q.waiting); n++ {
		steps := q.waiting[n].steps
		people += len(steps)
		for i := range steps {
			rooms[steps[i].room] = struct{}{}
		}
		if n > 0 && (people > scriptPeople || len(rooms) > scriptRooms) {
			break
		}
	}
	calls := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	if len(q.waiting) == 0 {
		q.waiting = nil
	}
	return calls
}
