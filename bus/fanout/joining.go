package fanout

import (
	"context"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/parley-chat/parley/contracts"
)

// joining is one Subscribe call on one link: begin, wait, then keep or undo. Its fields are guarded by the link's mu.
type joining struct {
	link  *link
	lanes []contracts.Lane // those that were not kept before
	left  int              // lanes still to confirm
	over  bool             // done has its value
	lost  error            // the connection went before keep
	kept  bool
	done  chan error // 1
}

// begin asks for the lanes that the link does not have.
func (l *link) begin(lanes []contracts.Lane) (*joining, error) {
	l.ordering.Lock()
	defer l.ordering.Unlock()
	l.mu.Lock()
	j := &joining{link: l, done: make(chan error, 1)}
	for _, lane := range lanes {
		if st := l.lanes[lane]; st == nil || !st.kept {
			j.lanes = append(j.lanes, lane)
		}
	}
	switch {
	case l.closed:
		l.mu.Unlock()
		return nil, ErrClosed
	case l.down && len(j.lanes) > 0:
		l.mu.Unlock()
		return nil, ErrAway
	}
	var channels []string
	for _, lane := range j.lanes {
		st := l.lanes[lane]
		if st == nil {
			st = &laneState{}
			l.lanes[lane] = st
			if l.pubsub != nil {
				l.sent[lane]++
				channels = append(channels, l.names.LaneChannel(lane))
			}
		}
		st.joining = append(st.joining, j)
		if !st.live {
			j.left++
		}
	}
	if j.left == 0 {
		j.over = true
		j.done <- nil
	}
	ps := l.pubsub
	l.mu.Unlock()
	switch {
	case ps == nil:
		l.wake()
	case l.command(context.WithValue(l.ctx, noRedial{}, true), ps, channels...) != nil:
		_ = ps.Close() // the session ends and with it this call
	}
	return j, nil
}

// confirmed is called under the link's mu, once for each lane that j waits for.
func (j *joining) confirmed() {
	if j.over {
		return
	}
	if j.left--; j.left == 0 {
		j.over = true
		j.done <- nil
	}
}

// fail is called under the link's mu.
func (j *joining) fail(err error) {
	if j.lost == nil {
		j.lost = err
	}
	if !j.over {
		j.over = true
		j.done <- err
	}
}

func (j *joining) wait(ctx context.Context) error {
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keep makes the lanes come back by themselves from now on. It fails when the connection was lost since wait.
func (j *joining) keep() error {
	l := j.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if j.lost != nil {
		return j.lost
	}
	for _, lane := range j.lanes {
		st := l.lanes[lane]
		st.kept = true
		st.drop(j)
	}
	j.kept = true
	return nil
}

// undo gives the lanes up, apart from those that somebody else has asked for.
func (j *joining) undo() {
	l := j.link
	l.release(j.lanes, func(st *laneState) {
		st.drop(j)
		if j.kept {
			st.kept = false
		}
	})
}

// leave unsubscribes lanes.
func (l *link) leave(lanes []contracts.Lane) {
	l.release(lanes, func(st *laneState) { st.kept = false })
}

// release changes the lanes' states and unsubscribes those that nobody wants any more. It hangs up after the last one.
func (l *link) release(lanes []contracts.Lane, change func(*laneState)) {
	l.ordering.Lock()
	defer l.ordering.Unlock()
	l.mu.Lock()
	var channels []string
	for _, lane := range lanes {
		st := l.lanes[lane]
		if st == nil {
			continue
		}
		change(st)
		if !st.kept && len(st.joining) == 0 {
			delete(l.lanes, lane)
			channels = append(channels, l.names.LaneChannel(lane))
		}
	}
	ps, empty := l.pubsub, len(l.lanes) == 0
	if empty {
		l.pubsub = nil
	}
	l.mu.Unlock()
	switch {
	case empty && ps != nil:
		_ = ps.Close()
	case empty:
		l.wake() // out of a pause
	case ps != nil && len(channels) > 0:
		if l.uncommand(ps, channels) != nil {
			_ = ps.Close()
		}
	}
}

func (l *link) uncommand(ps *redis.PubSub, channels []string) error {
	ctx := context.WithValue(l.ctx, noRedial{}, true)
	if l.sharded {
		return ps.SUnsubscribe(ctx, channels...)
	}
	return ps.Unsubscribe(ctx, channels...)
}

// wake makes run look whether there is something to connect for.
func (l *link) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

func (st *laneState) drop(j *joining) {
	st.joining = slices.DeleteFunc(st.joining, func(other *joining) bool { return other == j })
}
