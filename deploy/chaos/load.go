package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
	"github.com/parley-chat/parley/edge/client"
)

const (
	// mostUnderWay is how many sends of one user may wait for their answer.
	mostUnderWay = 48
	// patience is how long a caller waits for a send; the impatient give up early, which frees the room by a leave.
	patience      = 2 * time.Minute
	impatience    = 2 * time.Second
	impatientOf   = 50 // one send in so many
	mostInABurst  = 6
	joinPatience  = 2 * time.Minute
	dialPatience  = time.Minute
	dialsAtOnce   = 20
	fewestMembers = 2
	mostMembers   = 60
)

// crowd is the load: users who listen, send, leave, come back and lose their connections.
type crowd struct {
	// Static after newCrowd.
	cfg   Config
	tally *tally
	edges []string // addresses of the proxies in front of them
	rooms []roomPlan
	users []*user

	stop    context.CancelFunc // of the sending
	sending sync.WaitGroup
}

// roomPlan is a room and how often it is chosen, against the others.
type roomPlan struct {
	id      contracts.RoomID
	members []int
}

// user is one person with one client.
type user struct {
	*client.Client
	rec   *recorder
	name  string
	rooms []contracts.RoomID
	often []float64 // of the same rooms: running sums
	turn  atomic.Uint64
	slots chan struct{} // sends under way

	mu  sync.Mutex // guards out
	out map[contracts.RoomID]bool
}

// newCrowd plans rooms of 2 to 60 members, all sizes alike. Small rooms are sent to more often, so that most messages
// go to few and every size sees some.
func newCrowd(cfg Config, rng *rand.Rand, t *tally, edges []string, out []*history.Writer) *crowd {
	c := &crowd{cfg: cfg, tally: t, edges: edges}
	for i := range cfg.Users {
		u := &user{name: fmt.Sprintf("user-%d", i), slots: make(chan struct{}, mostUnderWay), out: make(map[contracts.RoomID]bool)}
		u.turn.Store(uint64(i))
		u.rec = newRecorder(u.name, out[i%len(out)], t, c.dialer(u))
		c.users = append(c.users, u)
	}
	for i := range cfg.Rooms {
		size := fewestMembers
		if cfg.Rooms > 1 {
			size += i * (min(mostMembers, cfg.Users) - fewestMembers) / (cfg.Rooms - 1)
		}
		r := roomPlan{id: contracts.RoomID(fmt.Sprintf("room-%d", i)), members: rng.Perm(cfg.Users)[:min(size, cfg.Users)]}
		c.rooms = append(c.rooms, r)
		for _, m := range r.members {
			u := c.users[m]
			sum := 1 / float64(size)
			if n := len(u.often); n > 0 {
				sum += u.often[n-1]
			}
			u.rooms, u.often = append(u.rooms, r.id), append(u.often, sum)
		}
	}
	return c
}

// dialer connects to the edges in turn, whatever address is asked for: a user who lost one edge tries the other next.
func (c *crowd) dialer(u *user) func(context.Context, string, string) (net.Conn, error) {
	var d net.Dialer
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return d.DialContext(ctx, network, c.edges[u.turn.Add(1)%uint64(len(c.edges))])
	}
}

// connect connects everybody and joins all rooms from their beginning.
func (c *crowd) connect(ctx context.Context) error {
	gate := make(chan struct{}, dialsAtOnce)
	errs := make(chan error, len(c.users))
	var wg sync.WaitGroup
	for _, u := range c.users {
		wg.Go(func() {
			gate <- struct{}{}
			defer func() { <-gate }()
			errs <- c.welcome(ctx, u)
		})
	}
	wg.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

func (c *crowd) welcome(ctx context.Context, u *user) error {
	dialCtx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	var err error
	u.Client, err = client.Dial(dialCtx, client.Config{
		URL: "ws://" + c.edges[0] + "/v1/ws", Guest: u.name, NetDial: u.rec.Dial, OnState: func(s client.State) {
			if s.Phase == client.Stopped && !errors.Is(s.Err, client.ErrClosed) {
				c.tally.odd(fmt.Sprintf("%s was told to stop: %v", u.name, s.Err))
			}
		},
		OnEvent: func(e client.Event) {
			if e.Kind == client.EventJoinFailed || e.Kind == client.EventLeft {
				c.tally.odd(fmt.Sprintf("%s lost room %s: %s %v", u.name, e.Room, e.Kind, e.Err))
			}
		},
	})
	if err != nil {
		return fmt.Errorf("connect %s: %w", u.name, err)
	}
	for _, room := range u.rooms {
		if _, err := u.Join(dialCtx, room, &contracts.Since{}); err != nil {
			return fmt.Errorf("join %s to %s: %w", u.name, room, err)
		}
	}
	return nil
}

// start begins to send and to churn, until quiet.
func (c *crowd) start(ctx context.Context, seed uint64) {
	ctx, c.stop = context.WithCancel(ctx)
	for i, u := range c.users {
		if len(u.rooms) == 0 {
			continue
		}
		c.sending.Go(func() { c.send(ctx, u, rand.New(rand.NewPCG(seed, uint64(2*i)))) })
		c.sending.Go(func() { c.churn(ctx, u, rand.New(rand.NewPCG(seed, uint64(2*i+1)))) })
	}
}

// quiet stops sending and returns once every send begun is answered or given up, and every room is joined again.
func (c *crowd) quiet() {
	c.stop()
	c.sending.Wait()
}

// send sends bursts at random times, about Rate/Users messages a second.
func (c *crowd) send(ctx context.Context, u *user, rng *rand.Rand) {
	mean := (mostInABurst + 1) / 2.0
	pause := time.Duration(float64(time.Second) * mean * float64(len(c.users)) / c.cfg.Rate)
	var under sync.WaitGroup
	defer under.Wait()
	for n := 0; wait(ctx, time.Duration(rng.ExpFloat64()*float64(pause))); {
		room := u.pick(rng)
		if !u.in(room) {
			continue
		}
		for range 1 + rng.IntN(mostInABurst) {
			select {
			case u.slots <- struct{}{}:
			default:
				c.tally.late.Add(1)
				continue
			}
			n++
			text := fmt.Sprintf("%s %d %x", u.name, n, rng.Uint64())
			limit := patience
			if rng.IntN(impatientOf) == 0 {
				limit = impatience
			}
			under.Go(func() {
				defer func() { <-u.slots }()
				c.sendOne(ctx, u, room, text, limit)
			})
		}
	}
}

func (c *crowd) sendOne(ctx context.Context, u *user, room contracts.RoomID, text string, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	_, err := u.Send(ctx, room, text)
	switch {
	case err == nil, errors.Is(err, client.ErrClosed):
	case errors.Is(err, context.DeadlineExceeded):
		c.tally.gaveUp.Add(1)
		if limit == patience {
			c.tally.odd(fmt.Sprintf("%s: a send to %s had no answer for %s", u.name, room, limit))
		}
	default:
		c.tally.odd(fmt.Sprintf("%s: a send to %s was refused for good: %v", u.name, room, err))
	}
}

// churn leaves a room and comes back, or drops the connection, every now and then.
func (c *crowd) churn(ctx context.Context, u *user, rng *rand.Rand) {
	for wait(ctx, c.cfg.Churn/2+rand.N(c.cfg.Churn)) {
		if rng.IntN(3) == 0 {
			u.Drop()
			continue
		}
		room := u.rooms[rng.IntN(len(u.rooms))]
		u.set(room, true)
		var since *contracts.Since
		if at, ok := u.rec.position(room); ok && rng.IntN(2) == 0 {
			since = &contracts.Since{Epoch: at.Epoch, Seq: at.Seq}
		}
		lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), joinPatience)
		err := u.Leave(lctx, room)
		if err == nil {
			wait(ctx, rand.N(2*time.Second))
			_, err = u.Join(lctx, room, since)
		}
		cancel()
		u.set(room, false)
		if err != nil && !errors.Is(err, client.ErrClosed) {
			c.tally.odd(fmt.Sprintf("%s: left %s and could not come back within %s: %v", u.name, room, joinPatience, err))
		}
	}
}

// pick chooses a room.
func (u *user) pick(rng *rand.Rand) contracts.RoomID {
	x := rng.Float64() * u.often[len(u.often)-1]
	for i, sum := range u.often {
		if x < sum {
			return u.rooms[i]
		}
	}
	return u.rooms[len(u.rooms)-1]
}

// in reports whether the user listens to the room, as far as it is up to the user.
func (u *user) in(room contracts.RoomID) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.out[room]
}

func (u *user) set(room contracts.RoomID, out bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.out[room] = out
}

// caughtUp waits until every user has every room up to its head and says who has not, and what is missing.
func (c *crowd) caughtUp(ctx context.Context, heads map[contracts.RoomID]contracts.Seq) []string {
	for {
		var behind []string
		for _, u := range c.users {
			for _, room := range u.rooms {
				if at, _ := u.rec.position(room); at.Seq < heads[room] {
					behind = append(behind, fmt.Sprintf("%s stands at %d in %s, whose head is %d", u.name, at.Seq, room, heads[room]))
				}
			}
		}
		if len(behind) == 0 || !wait(ctx, 200*time.Millisecond) {
			return behind
		}
	}
}

// end writes who still listens to what, and closes all connections.
func (c *crowd) end() {
	for _, u := range c.users {
		if u.Client != nil {
			u.rec.end(u.rooms)
		}
	}
}

func (c *crowd) close() {
	var wg sync.WaitGroup
	for _, u := range c.users {
		if u.Client != nil {
			wg.Go(u.Close)
		}
	}
	wg.Wait()
}

// wait returns true after d, or false as soon as ctx has ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
