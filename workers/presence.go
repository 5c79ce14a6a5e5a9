package workers

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

const (
	crowd         = 100             // people in a room above which presence is told as a number only
	crowdPause    = 5 * time.Second // between two such numbers
	maxCrowds     = 10_000          // rooms that wait for their next number
	rosterTimeout = time.Second     // for a join's entry in the roster
	listed        = crowd           // people in the reply to presence
	eventTimeout  = 2 * time.Second // for publishing an ephemeral event
)

// presence lists who listens to a room.
func (w *Worker) presence(ctx context.Context, r *request) (contracts.Answer, error) {
	if _, err := r.body(); err != nil {
		return contracts.Answer{}, err
	}
	count, people, err := w.deps.Roster.List(ctx, r.Room, listed)
	if err != nil {
		return contracts.Answer{}, errUnavailable
	}
	if people == nil {
		people = []contracts.Person{}
	}
	return ok(contracts.PresenceOK{Count: count, Users: people})
}

// enter puts the joiner on the room's roster and returns how many people are on it. The event follows behind the
// answer. Without a roster there is the joiner, at least: presence is not promised, and a join does not depend on it.
func (w *Worker) enter(ctx context.Context, r *request) (online int) {
	ctx, cancel := context.WithTimeout(ctx, rosterTimeout)
	defer cancel()
	who := []contracts.Presence{{Room: r.Room, User: r.user}}
	changes, err := w.deps.Roster.Enter(ctx, r.Node, who)
	if err != nil || len(changes) != 1 {
		return 1
	}
	if changes[0].Changed {
		r.after = func(ctx context.Context) { w.tellPresence(ctx, who, changes, true) }
	}
	return max(1, changes[0].Count)
}

// depart takes people off rosters and tells the rooms, beside an error those where it is done.
func (w *Worker) depart(ctx context.Context, node contracts.NodeID, who []contracts.Presence) {
	changes, _ := w.deps.Roster.Leave(ctx, node, who) // whom that did not take off, the end of the lease does
	if len(changes) != len(who) {
		return
	}
	ctx, cancel := context.WithTimeout(w.background, eventTimeout) // the roster may have taken all the time
	defer cancel()
	w.tellPresence(ctx, who, changes, false)
}

// tellPresence publishes what changed: who it was in small rooms, how many there are in large ones.
func (w *Worker) tellPresence(ctx context.Context, who []contracts.Presence, changes []fanout.Change, joined bool) {
	events := make(map[contracts.RoomID]*presenceEvent)
	var order []*presenceEvent
	for i, p := range who {
		if !changes[i].Changed {
			continue
		}
		e := events[p.Room]
		if e == nil {
			fresh := newPresenceEvent(p.Room)
			e = &fresh
			events[p.Room] = e
			order = append(order, e)
		}
		if joined {
			e.Joined = append(e.Joined, p.User)
		} else {
			e.Left = append(e.Left, p.User)
		}
		e.count(changes[i].Count, changes[i].Order)
	}
	var small []*presenceEvent
	for _, e := range order {
		if e.large() {
			w.crowds.tell(ctx, e.Room)
		} else {
			small = append(small, e)
		}
	}
	w.news.tell(ctx, small)
}

// event is an ephemeral event on its way to a room.
type event struct {
	kind   contracts.EnvelopeKind // Defaults to contracts.EnvelopeEvent.
	room   contracts.RoomID
	except contracts.Conn
	user   contracts.UserID // of an EnvelopeLeft
	body   any
}

// publish puts ephemeral events on the rooms' lanes, at most once.
func (w *Worker) publish(ctx context.Context, events ...event) {
	messages := make([]fanout.Message, 0, len(events))
	for i := range events {
		e := &events[i]
		body, err := contracts.Marshal(e.body)
		if err != nil {
			w.log.Error("event could not be encoded", "room", e.room, "err", err)
			continue
		}
		if e.kind == 0 {
			e.kind = contracts.EnvelopeEvent
		}
		messages = append(messages, fanout.Message{
			Lane: contracts.LaneOf(e.room),
			Body: contracts.AppendEnvelope(nil, &contracts.Envelope{
				Kind: e.kind, Room: e.room, Except: e.except, User: e.user, Body: body,
			}),
		})
	}
	if len(messages) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	lost, _ := w.outbox.Send(ctx, messages)
	w.metrics.eventsLost.Add(float64(lost))
}

// crowds tells the numbers of large rooms: at most one in crowdPause, over all workers, and always a last one after
// the last change.
type crowds struct {
	w *Worker

	mu     sync.Mutex
	closed bool                             // guarded by mu
	later  map[contracts.RoomID]*time.Timer // guarded by mu; rooms that have a number to come
}

func newCrowds(w *Worker) *crowds {
	return &crowds{w: w, later: make(map[contracts.RoomID]*time.Timer)}
}

// tell tells a room's number now, or later if it is not yet time.
func (c *crowds) tell(ctx context.Context, room contracts.RoomID) {
	c.mu.Lock()
	_, waits := c.later[room]
	c.mu.Unlock()
	if !waits && !c.now(ctx, room) {
		c.wait(room)
	}
}

// now tells the room's number if it may. Where the roster is away there is nothing to tell, now or later.
func (c *crowds) now(ctx context.Context, room contracts.RoomID) (done bool) {
	turn, err := c.w.deps.Roster.Turn(ctx, room)
	if err != nil {
		return true
	}
	if !turn {
		return false
	}
	count, _, err := c.w.deps.Roster.List(ctx, room, 0)
	if err == nil {
		e := newPresenceEvent(room)
		e.Count = count
		c.w.telling.turn(count)
		c.w.publish(ctx, event{room: room, body: &e})
	}
	return true
}

// wait tells the room's number after the pause, later if the budget is spent, and a little more so that workers take
// turns.
func (c *crowds) wait(room contracts.RoomID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, waits := c.later[room]; waits || c.closed || len(c.later) >= maxCrowds {
		return
	}
	c.later[room] = time.AfterFunc(crowdPause+rand.N(crowdPause/10)+c.w.telling.debt(), func() {
		c.mu.Lock()
		delete(c.later, room)
		if c.closed {
			c.mu.Unlock()
			return
		}
		c.w.running.begin()
		c.mu.Unlock()
		defer c.w.running.end()
		ctx, cancel := context.WithTimeout(c.w.background, eventTimeout)
		defer cancel()
		if !c.now(ctx, room) {
			c.wait(room)
		}
	})
}

// close drops what is to come.
func (c *crowds) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, t := range c.later {
		t.Stop()
	}
	clear(c.later)
}
