package sim

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/contracts"
)

// keepRecent is how many entries of a room the cache holds.
const keepRecent = 100

// lossEvery is the pause between two moments in which a subscriber hears nothing.
const lossEvery = 3 * time.Second

// Redis carries the lanes and keeps recent entries and the roster. Its Mood's losses are moments, of less than half a second,
// in which a subscriber hears nothing: two heads messages at different seconds are not both lost, which is what the delivery
// contract builds on. Besides, messages arrive twice, and publications are taken and answered with an error.
type Redis struct {
	Mood
	dice *Dice

	mu      sync.Mutex // guards what follows
	deaf    time.Time  // until then nobody hears anything
	subs    []*subscriber
	streams map[stream][]contracts.NumberedJSON
	people  map[contracts.RoomID]map[contracts.UserID]map[contracts.NodeID]contracts.Person
	changes uint64 // of people, so far
}

type stream struct {
	room  contracts.RoomID
	epoch contracts.Epoch
}

// NewRedis returns an empty one.
func NewRedis(dice *Dice) *Redis {
	r := &Redis{dice: dice}
	r.Flush()
	return r
}

// Flush forgets everything that is kept.
func (r *Redis) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams = make(map[stream][]contracts.NumberedJSON)
	r.people = make(map[contracts.RoomID]map[contracts.UserID]map[contracts.NodeID]contracts.Person)
}

// Deafen keeps all subscribers from hearing anything for a moment.
func (r *Redis) Deafen(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deaf = time.Now().Add(d)
}

// Away makes Redis unreachable, or reachable again; subscribers are told.
func (r *Redis) Away(away bool) {
	_, lose, late := r.get()
	r.Set(away, lose, late.Seconds())
	r.mu.Lock()
	subs := slices.Clone(r.subs)
	r.mu.Unlock()
	for _, s := range subs {
		s.put(func() {
			for g := range contracts.LaneGroups {
				if away {
					s.receiver.Down(g)
				} else {
					s.receiver.Up(g)
				}
			}
		})
	}
}

// For returns Redis as p uses it.
func (r *Redis) For(p *Proc) *RedisClient { return &RedisClient{r, p} }

// RedisClient is a fanout.Publisher, a recent.Cache and a fanout.Roster.
type RedisClient struct {
	redis *Redis
	proc  *Proc
}

// reach waits as Redis does, and fails where it cannot be reached.
func (c *RedisClient) reach(ctx context.Context) error {
	_, _, late := c.redis.get()
	if late > 0 {
		sleep(c.redis.dice.Time(late), ctx.Done())
	}
	if away, _, _ := c.redis.get(); away || c.proc.Dead() {
		return ErrAway
	}
	return ctx.Err()
}

// Publish implements fanout.Publisher.
func (c *RedisClient) Publish(ctx context.Context, messages []fanout.Message) error {
	if err := c.reach(ctx); err != nil {
		return err
	}
	r := c.redis
	_, lose, _ := r.get()
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, m := range messages {
		for _, s := range r.subs {
			if !s.hears(m.Lane) || s.loses(now, lose) || now.Before(r.deaf) {
				continue
			}
			for range 1 + map[bool]int{true: 1}[r.dice.Hit(lose/2)] {
				body := slices.Clone(m.Body)
				s.put(func() { s.receiver.Receive(m.Lane, body) })
			}
		}
	}
	if r.dice.Hit(lose / 4) {
		return ErrAway
	}
	return nil
}

// Append implements recent.Cache.
func (c *RedisClient) Append(ctx context.Context, entries []recent.Entry) error {
	if err := c.reach(ctx); err != nil {
		return err
	}
	r := c.redis
	_, lose, _ := r.get()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		at := stream{e.Room, e.Epoch}
		have := r.streams[at]
		if len(have) > 0 && e.Seq <= have[len(have)-1].Seq {
			continue
		}
		if r.dice.Hit(lose / 4) {
			return ErrAway // some were taken
		}
		have = append(have, contracts.NumberedJSON{Seq: e.Seq, JSON: slices.Clone(e.JSON)})
		r.streams[at] = have[max(0, len(have)-keepRecent):]
	}
	return nil
}

// Read implements recent.Cache.
func (c *RedisClient) Read(ctx context.Context, queries []recent.Query) ([][]contracts.NumberedJSON, error) {
	if err := c.reach(ctx); err != nil {
		return nil, err
	}
	c.redis.mu.Lock()
	defer c.redis.mu.Unlock()
	all := make([][]contracts.NumberedJSON, len(queries))
	for i, q := range queries {
		if q.From > q.To {
			all[i] = []contracts.NumberedJSON{}
			continue
		}
		var found []contracts.NumberedJSON
		for _, e := range c.redis.streams[stream{q.Room, q.Epoch}] {
			if q.From <= e.Seq && e.Seq <= q.To {
				found = append(found, e)
			}
		}
		if contracts.Seq(len(found)) == q.To-q.From+1 {
			all[i] = found
		}
	}
	return all, nil
}

// Enter implements fanout.Roster.
func (c *RedisClient) Enter(ctx context.Context, node contracts.NodeID, who []contracts.Presence) ([]fanout.Change, error) {
	return c.change(ctx, who, func(nodes map[contracts.NodeID]contracts.Person, p contracts.Person) { nodes[node] = p })
}

// Leave implements fanout.Roster.
func (c *RedisClient) Leave(ctx context.Context, node contracts.NodeID, who []contracts.Presence) ([]fanout.Change, error) {
	return c.change(ctx, who, func(nodes map[contracts.NodeID]contracts.Person, _ contracts.Person) { delete(nodes, node) })
}

func (c *RedisClient) change(ctx context.Context, who []contracts.Presence, do func(map[contracts.NodeID]contracts.Person, contracts.Person)) ([]fanout.Change, error) {
	if err := c.reach(ctx); err != nil {
		return nil, err
	}
	c.redis.mu.Lock()
	defer c.redis.mu.Unlock()
	var out []fanout.Change
	for _, p := range who {
		room := c.redis.people[p.Room]
		if room == nil {
			room = make(map[contracts.UserID]map[contracts.NodeID]contracts.Person)
			c.redis.people[p.Room] = room
		}
		nodes := room[p.User.ID]
		before := len(nodes) > 0
		if nodes == nil {
			nodes = make(map[contracts.NodeID]contracts.Person)
			room[p.User.ID] = nodes
		}
		do(nodes, p.User)
		c.redis.changes++
		if len(nodes) == 0 {
			delete(room, p.User.ID)
		}
		out = append(out, fanout.Change{Changed: before != (len(nodes) > 0), Count: len(room), Order: c.redis.changes})
	}
	return out, nil
}

// List implements fanout.Roster.
func (c *RedisClient) List(ctx context.Context, id contracts.RoomID, limit int) (int, []contracts.Person, error) {
	if err := c.reach(ctx); err != nil {
		return 0, nil, err
	}
	c.redis.mu.Lock()
	defer c.redis.mu.Unlock()
	room := c.redis.people[id]
	var people []contracts.Person
	for _, nodes := range room {
		for _, p := range nodes {
			people = append(people, p)
			break
		}
	}
	slices.SortFunc(people, func(a, b contracts.Person) int { return cmp.Compare(a.ID, b.ID) })
	return len(room), people[:min(limit, len(people))], nil
}

// Renew implements fanout.Roster.
func (c *RedisClient) Renew(ctx context.Context, _ contracts.NodeID) error { return c.reach(ctx) }

// Turn implements fanout.Roster.
func (c *RedisClient) Turn(ctx context.Context, _ contracts.RoomID) (bool, error) {
	return true, c.reach(ctx)
}

// Subscriber returns what p hears with. It must be closed.
func (r *Redis) Subscriber(p *Proc, receiver fanout.Receiver) fanout.Subscriber {
	s := &subscriber{redis: r, proc: p, receiver: receiver, lanes: make(map[contracts.Lane]bool), phase: r.dice.Time(lossEvery), queue: make(chan func(), 1<<14), ended: make(chan struct{})}
	r.mu.Lock()
	r.subs = append(r.subs, s)
	r.mu.Unlock()
	go func() {
		defer close(s.ended)
		for f := range s.queue {
			_, _, late := r.get()
			if late > 0 {
				sleep(r.dice.Time(late), nil)
			}
			f()
		}
	}()
	return s
}

type subscriber struct {
	redis    *Redis
	proc     *Proc
	receiver fanout.Receiver
	phase    time.Duration // when its losses come
	queue    chan func()
	ended    chan struct{}

	mu     sync.Mutex // guards what follows
	lanes  map[contracts.Lane]bool
	closed bool
}

// put hands f to the receiver's goroutine; what does not fit is lost, as Redis drops a reader that does not keep up.
func (s *subscriber) put(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.proc.Dead() {
		return
	}
	select {
	case s.queue <- f:
	default:
	}
}

// loses reports whether what is published now gets lost on its way.
func (s *subscriber) loses(now time.Time, share float64) bool {
	at := time.Duration(now.UnixNano()-int64(s.phase)) % lossEvery
	return at < time.Duration(min(1.2*share, 0.45)*float64(time.Second))
}

func (s *subscriber) hears(l contracts.Lane) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lanes[l]
}

func (s *subscriber) Subscribe(ctx context.Context, lanes ...contracts.Lane) error {
	if away, _, _ := s.redis.get(); away || s.proc.Dead() {
		return ErrAway
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range lanes {
		s.lanes[l] = true
	}
	return ctx.Err()
}

func (s *subscriber) Unsubscribe(ctx context.Context, lanes ...contracts.Lane) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range lanes {
		delete(s.lanes, l)
	}
	return ctx.Err()
}

func (s *subscriber) Healthy() bool {
	away, _, _ := s.redis.get()
	return !away
}

func (s *subscriber) Close() error {
	s.redis.mu.Lock()
	s.redis.subs = slices.DeleteFunc(s.redis.subs, func(o *subscriber) bool { return o == s })
	s.redis.mu.Unlock()
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.queue)
	}
	s.mu.Unlock()
	<-s.ended
	return nil
}
