package chaos

import (
	"context"
	"encoding/json"
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
	// The impatient wait for a send so long; then the client frees the room by a leave. All others wait until the end.
	impatience    = 2 * time.Second
	impatientOf   = 50 // one send in so many
	storedOf      = 20 // one send in so many waits until it is stored
	mostInABurst  = 6
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
	users []*user

	// Set by start.
	stop    context.CancelFunc // of beginning anything
	giveUp  context.CancelFunc // of waiting for what was begun
	sending sync.WaitGroup
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
	sizes := func(i int) []int {
		size := fewestMembers
		if cfg.Rooms > 1 {
			size += i * (min(mostMembers, cfg.Users) - fewestMembers) / (cfg.Rooms - 1)
		}
		return rng.Perm(cfg.Users)[:min(size, cfg.Users)]
	}
	rooms := cfg.Rooms
	if cfg.Scenario == ScenarioEdgeKilled {
		all := stormRoomsOf(cfg.Users)
		rooms, sizes = len(all), func(i int) []int { return all[i] }
	}
	for i := range rooms {
		id, members := contracts.RoomID(fmt.Sprintf("room-%d", i)), sizes(i)
		for _, m := range members {
			u := c.users[m]
			sum := 1 / float64(len(members))
			if n := len(u.often); n > 0 {
				sum += u.often[n-1]
			}
			u.rooms, u.often = append(u.rooms, id), append(u.often, sum)
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
	ctx, c.giveUp = context.WithCancel(context.WithoutCancel(ctx))
	begin, stop := context.WithCancel(ctx)
	c.stop = stop
	for i, u := range c.users {
		if len(u.rooms) == 0 {
			continue
		}
		c.sending.Go(func() { c.send(begin, ctx, u, rand.New(rand.NewPCG(seed, uint64(2*i)))) })
		c.sending.Go(func() { c.churn(begin, ctx, u, rand.New(rand.NewPCG(seed, uint64(2*i+1)))) })
		c.sending.Go(func() { c.browse(begin, ctx, u, rand.New(rand.NewPCG(seed, uint64(2*i+1)<<32))) })
	}
}

// quiet stops sending and returns once every send begun is answered and every room is joined again, at the latest
// after restWithin: what is not by then is a violation.
func (c *crowd) quiet() {
	c.stop()
	timer := time.AfterFunc(restWithin, c.giveUp)
	c.sending.Wait()
	timer.Stop()
	c.giveUp()
}

// send sends bursts at random times, about Rate/Users messages a second.
func (c *crowd) send(begin, ctx context.Context, u *user, rng *rand.Rand) {
	mean := (mostInABurst + 1) / 2.0
	pause := time.Duration(float64(time.Second) * mean * float64(len(c.users)) / c.cfg.Rate)
	var under sync.WaitGroup
	defer under.Wait()
	for n := 0; wait(begin, time.Duration(rng.ExpFloat64()*float64(pause))); {
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
			send := u.Send
			if rng.IntN(storedOf) == 0 {
				send = u.SendStored
			}
			sendCtx, cancel := ctx, func() {}
			if rng.IntN(impatientOf) == 0 {
				sendCtx, cancel = context.WithTimeout(ctx, impatience)
			}
			under.Go(func() {
				defer cancel()
				defer func() { <-u.slots }()
				_, err := send(sendCtx, room, text)
				c.judge(u, room, err)
			})
		}
	}
}

// judge counts how a send ended.
func (c *crowd) judge(u *user, room contracts.RoomID, err error) {
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded):
		c.tally.gaveUp.Add(1)
	case errors.Is(err, context.Canceled):
		c.tally.odd(fmt.Sprintf("%s: a send to %s had no answer %s after the last fault", u.name, room, restWithin))
	default:
		c.tally.odd(fmt.Sprintf("%s: a send to %s was refused for good: %v", u.name, room, err))
	}
}

// churn leaves a room and comes back, or drops the connection, every now and then.
func (c *crowd) churn(begin, ctx context.Context, u *user, rng *rand.Rand) {
	for wait(begin, c.cfg.Churn/2+rand64(rng, c.cfg.Churn)) {
		if rng.IntN(3) == 0 {
			u.rec.drop(u.Drop)
			continue
		}
		room := u.rooms[rng.IntN(len(u.rooms))]
		u.set(room, true)
		var since *contracts.Since
		if at, ok := u.rec.position(room); ok && rng.IntN(2) == 0 {
			since = &contracts.Since{Epoch: at.Epoch, Seq: at.Seq}
		}
		err := u.Leave(ctx, room)
		if err == nil {
			wait(begin, rand64(rng, 2*time.Second))
			_, err = u.Join(ctx, room, since)
		}
		u.set(room, false)
		if err != nil {
			c.tally.odd(fmt.Sprintf("%s: left %s and could not come back: %v", u.name, room, err))
		}
	}
}

// browse reads the newest page of a room's history and the one before it, every now and then.
func (c *crowd) browse(begin, ctx context.Context, u *user, rng *rand.Rand) {
	for wait(begin, c.cfg.Churn/2+rand64(rng, c.cfg.Churn)) {
		room := u.rooms[rng.IntN(len(u.rooms))]
		first, err := c.page(ctx, u, room, 0, 1+rng.IntN(50))
		if err == nil && first > 1 {
			_, err = c.page(ctx, u, room, first, 1+rng.IntN(50))
		}
		var refused *contracts.Error
		switch {
		case err == nil, errors.Is(err, client.ErrDisconnected):
		case errors.Is(err, context.Canceled):
			c.tally.odd(fmt.Sprintf("%s: no history of %s %s after the last fault", u.name, room, restWithin))
		case errors.As(err, &refused) && refused.Retry:
		default:
			c.tally.odd(fmt.Sprintf("%s: the history of %s: %v", u.name, room, err))
		}
	}
}

// page reads the page of history before a seq, the newest where that is 0, and returns its first seq, 0 where it is empty.
func (c *crowd) page(ctx context.Context, u *user, room contracts.RoomID, before contracts.Seq, limit int) (first contracts.Seq, err error) {
	fields := map[string]any{"room": room, "limit": limit}
	if before > 0 {
		fields["before"] = before
	}
	raw, err := u.Request(ctx, contracts.OpHistory, fields)
	if err != nil {
		return 0, err
	}
	var ok struct {
		Head    contracts.Seq `json:"head"`
		More    bool          `json:"more"`
		Entries []wireEvent   `json:"entries"`
	}
	if err := json.Unmarshal(raw, &ok); err != nil {
		return 0, fmt.Errorf("read a page: %w", err)
	}
	e := history.Event{Kind: history.Page, Room: room, Before: before, Head: ok.Head, More: ok.More}
	for i := range ok.Entries {
		e.Entries = append(e.Entries, ok.Entries[i].entry())
	}
	u.rec.page(e)
	if len(e.Entries) == 0 {
		return 0, nil
	}
	return e.Entries[0].Seq, nil
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

// caughtUp waits until every user listens to every room and has it up to its head, and says who does not, and what is missing.
func (c *crowd) caughtUp(ctx context.Context, heads map[contracts.RoomID]contracts.Seq) []string {
	for {
		var behind []string
		for _, u := range c.users {
			if n := u.rec.unstored(); n > 0 {
				behind = append(behind, fmt.Sprintf("%s waits to be told that %d messages are stored", u.name, n))
			}
			for _, room := range u.rooms {
				at, _ := u.rec.position(room)
				switch {
				case at.Seq < heads[room]:
					behind = append(behind, fmt.Sprintf("%s stands at %d in %s, whose head is %d", u.name, at.Seq, room, heads[room]))
				case !u.rec.listens(room): // it may have been away since before the last entry
					behind = append(behind, fmt.Sprintf("%s does not listen to %s", u.name, room))
				}
			}
		}
		if len(behind) == 0 || !wait(ctx, 200*time.Millisecond) {
			return behind
		}
	}
}

// end writes who still listens to what.
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
