package sim

import (
	"context"
	"slices"
	"time"

	"github.com/parley-chat/parley/bus/journal"
)

// Session is after how long without heartbeats a group takes a member for dead.
const Session = 10 * time.Second

// fetchMost is how many records of a partition one Poll returns.
const fetchMost = 50

// group is a consumer group. The log's mu guards it.
type group struct {
	commits map[int32]journal.Commit
	members []*Member
	holders map[int32]*Member
}

// Member is a journal.Consumer.
type Member struct {
	log   *Log
	proc  *Proc
	owner journal.Owner

	// Guarded by the log's mu.
	group  *group
	alive  time.Time
	frozen bool // no heartbeats reach the group
	out    bool // the group has gone on without it
	orders []order
	wake   chan struct{} // closed and replaced when there is an order

	claims map[int32]*claim // owned by the poller, apart from what their Assign reports
	closed bool             // owned by the poller
}

// order is what the group wants of a member: to take a partition, or to give it up.
type order struct {
	partition int32
	take      bool
}

// claim is a partition that a member owns, or is about to.
type claim struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when Assign has returned for the last time
	start  int64         // set before done is closed
	ok     bool
	held   bool // the owner may hold something of it from before a Restart
	next   int64
	begun  bool
	part   *part // that is read since begun; Kafka's client notices when a log takes the place of another
}

// Consumer joins a group on behalf of an owner. It must be closed.
func (l *Log) Consumer(p *Proc, name string, owner journal.Owner) *Member {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[name]
	if g == nil {
		g = &group{commits: make(map[int32]journal.Commit), holders: make(map[int32]*Member)}
		l.groups[name] = g
	}
	m := &Member{log: l, proc: p, owner: owner, group: g, wake: make(chan struct{}), claims: make(map[int32]*claim)}
	m.join()
	return m
}

// join makes m a member. The caller holds the log's mu.
func (m *Member) join() {
	m.alive, m.out, m.orders = time.Now(), false, nil
	m.group.members = append(m.group.members, m)
}

// Freeze stops the member's heartbeats from reaching the group, or lets them through again: a process that hangs, or is
// cut off, and believes itself to be well.
func (m *Member) Freeze(frozen bool) {
	m.log.mu.Lock()
	defer m.log.mu.Unlock()
	m.frozen = frozen
}

// Tick is the coordinator: heartbeats, time-outs, assignments. Call it every few hundred milliseconds.
func (l *Log) Tick() {
	away, _, _ := l.get()
	if away {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, g := range l.groups {
		for _, m := range g.members {
			if !m.frozen && !m.proc.Dead() {
				m.alive = now
			}
		}
		g.members = slices.DeleteFunc(g.members, func(m *Member) bool {
			if now.Sub(m.alive) < Session {
				return false
			}
			g.drop(m)
			return true
		})
		l.assign(g)
	}
}

// drop lets the group go on without m. The caller holds the log's mu.
func (g *group) drop(m *Member) {
	m.out = true
	for id, holder := range g.holders {
		if holder == m {
			delete(g.holders, id)
		}
	}
	m.wakeUp()
}

// assign spreads the partitions over the members. The caller holds mu.
func (l *Log) assign(g *group) {
	if len(g.members) == 0 {
		return
	}
	for i := range l.parts {
		id, target := int32(i), g.members[i%len(g.members)]
		switch holder := g.holders[id]; {
		case holder == target:
		case holder == nil:
			g.holders[id] = target
			target.order(order{partition: id, take: true})
		default:
			holder.order(order{partition: id})
		}
	}
}

func (m *Member) order(o order) {
	if slices.Contains(m.orders, o) {
		return
	}
	m.orders = append(m.orders, o)
	m.wakeUp()
}

func (m *Member) wakeUp() {
	close(m.wake)
	m.wake = make(chan struct{})
}

// Poll implements journal.Consumer.
func (m *Member) Poll(ctx context.Context, wait time.Duration) ([]journal.Batch, error) {
	if m.closed {
		return nil, journal.ErrClosed
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		m.log.mu.Lock()
		orders, out, wake := m.orders, m.out, m.wake
		m.orders = nil
		if out && !m.frozen && !m.proc.Dead() {
			m.join()
		}
		m.log.mu.Unlock()
		if out && !m.frozen {
			m.lose()
		}
		for _, o := range orders {
			if o.take {
				m.take(o.partition)
			} else {
				m.give(ctx, o.partition)
			}
		}
		batches, changed, records := m.fetch()
		if records {
			return batches, nil
		}
		select {
		case <-timer.C:
			return batches, nil
		case <-changed:
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take asks the owner where to start, on a goroutine of its own, until it says so.
func (m *Member) take(id int32) {
	if m.claims[id] != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &claim{cancel: cancel, done: make(chan struct{})}
	m.claims[id] = c
	go func() {
		defer close(c.done)
		for ctx.Err() == nil {
			m.log.mu.Lock()
			var committed *journal.Commit
			if k, ok := m.group.commits[id]; ok {
				committed = &k
			}
			m.log.mu.Unlock()
			start, err := m.owner.Assign(ctx, id, committed)
			if err == nil {
				c.start, c.ok = start, true
				break
			}
			sleep(100*time.Millisecond, ctx.Done())
		}
		m.log.mu.Lock()
		m.wakeUp()
		m.log.mu.Unlock()
	}()
}

// drop ends a claim, and reports whether the owner knows of it.
func (m *Member) drop(id int32) bool {
	c := m.claims[id]
	if c == nil {
		return false
	}
	delete(m.claims, id)
	c.cancel()
	<-c.done
	return c.ok || c.held
}

// give hands a partition back.
func (m *Member) give(ctx context.Context, id int32) {
	if m.drop(id) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		m.owner.Revoke(ctx, []int32{id})
		cancel()
	}
	m.log.mu.Lock()
	defer m.log.mu.Unlock()
	if m.group.holders[id] == m {
		delete(m.group.holders, id)
	}
}

// lose tells the owner that all is lost.
func (m *Member) lose() {
	var lost []int32
	for id := range m.claims {
		if m.drop(id) {
			lost = append(lost, id)
		}
	}
	if len(lost) > 0 {
		m.owner.Lose(lost)
	}
}

func (m *Member) fetch() (batches []journal.Batch, changed <-chan struct{}, any bool) {
	away, _, _ := m.log.get()
	m.log.mu.Lock()
	defer m.log.mu.Unlock()
	changed = m.log.changed
	if away || m.proc.Dead() {
		return nil, m.log.Mood.change(), false
	}
	for id, c := range m.claims {
		select {
		case <-c.done:
		default:
			continue
		}
		if !c.ok {
			continue
		}
		if !c.begun {
			c.begun, c.next, c.part = true, c.start, m.log.parts[id]
		}
		records, err := m.log.read(id, c.next, fetchMost)
		if c.part != m.log.parts[id] {
			records, err = nil, journal.ErrOutOfRange
		}
		c.next += int64(len(records))
		any = any || len(records) > 0
		batches = append(batches, journal.Batch{Partition: id, Records: records, End: m.log.parts[id].end(), Err: err})
	}
	return batches, changed, any
}

// Restart implements journal.Consumer.
func (m *Member) Restart(id int32) {
	if m.claims[id] == nil {
		return
	}
	held := m.drop(id)
	m.take(id)
	m.claims[id].held = held
}

// Commit implements journal.Consumer.
func (m *Member) Commit(_ context.Context, commits map[int32]journal.Commit) error {
	if away, _, _ := m.log.get(); away || m.proc.Dead() {
		return ErrAway
	}
	m.log.mu.Lock()
	defer m.log.mu.Unlock()
	for id := range commits {
		if m.group.holders[id] != m {
			return journal.ErrNotOwner
		}
	}
	for id, c := range commits {
		m.group.commits[id] = c
	}
	return nil
}

// Alive implements journal.Consumer.
func (m *Member) Alive() time.Time {
	m.log.mu.Lock()
	defer m.log.mu.Unlock()
	return m.alive
}

// Close implements journal.Consumer. A dead process leaves no word.
func (m *Member) Close() error {
	if m.closed {
		return nil
	}
	m.closed = true
	ids := make([]int32, 0, len(m.claims))
	for id := range m.claims {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if m.proc.Dead() {
		m.lose()
		return nil
	}
	for _, id := range ids {
		m.give(context.Background(), id)
	}
	m.log.mu.Lock()
	defer m.log.mu.Unlock()
	m.group.members = slices.DeleteFunc(m.group.members, func(o *Member) bool { return o == m })
	m.group.drop(m)
	return nil
}
