package workers

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/parley-chat/parley/contracts"
)

const (
	newsPause  = 250 * time.Millisecond // between two presence events of a small room, of one worker, at least
	personNews = 25 * time.Millisecond  // and for each person there, as each is one who is told
	maxNews    = 50_000                 // rooms in their pause; further ones have none
	toldEvents = 20_000                 // presence events a second to all who are told, of one worker: above it, pauses are longer
	lateNews   = 30 * time.Second       // behind a change, at most, however much is to be told before
)

// telling is the budget of presence events, counted by who is told. A storm of joins in many rooms would otherwise cost
// the edges more than the joins themselves, as each is told to everybody in its room.
type telling struct{ budget *rate.Limiter }

func newTelling() telling { return telling{rate.NewLimiter(toldEvents, toldEvents)} }

// turn takes what telling so many people costs, and says after how long they may be told. Where that would be too late
// it costs nothing: all who wait so long are told at the end of it, of what came by then.
func (t telling) turn(people int) time.Duration {
	if t.debt() >= lateNews {
		return lateNews
	}
	return t.budget.ReserveN(time.Now(), min(max(people, 1), toldEvents)).Delay()
}

// debt is how long the budget is spent in advance.
func (t telling) debt() time.Duration {
	return time.Duration(max(0, -t.budget.Tokens()) / toldEvents * float64(time.Second))
}

// pauseOf is the pause behind an event in a room of so many people.
func pauseOf(people int) time.Duration { return max(newsPause, time.Duration(people)*personNews) }

// news tells small rooms who came and went: the first change at once if the budget allows, those in the pause behind it
// together. When a hundred people come into a room at the same time, a hundred others would otherwise hear of each one
// by one.
type news struct {
	w *Worker

	mu     sync.Mutex
	closed bool                           // guarded by mu
	rooms  map[contracts.RoomID]*bulletin // guarded by mu; rooms in their pause
}

// bulletin is what happened in a room since its last event.
type bulletin struct {
	event presenceEvent
	turn  bool // the event is paid for: the room is told when the timer ends
	told  time.Time
	timer *time.Timer
}

func newNews(w *Worker) *news { return &news{w: w, rooms: make(map[contracts.RoomID]*bulletin)} }

// tell takes what changed in some rooms, one event for each.
func (n *news) tell(ctx context.Context, changed []*presenceEvent) {
	var now []event
	n.mu.Lock()
	for _, e := range changed {
		b := n.rooms[e.Room]
		switch {
		case b != nil:
			b.event.add(e)
			continue
		case !n.closed && len(n.rooms) < maxNews:
			delay := n.w.telling.turn(e.Count)
			b = &bulletin{event: newPresenceEvent(e.Room), turn: delay > 0}
			b.event.count(e.Count, e.order)
			n.rooms[e.Room] = b
			if b.turn {
				b.event.add(e)
				b.timer = time.AfterFunc(delay, func() { n.pauseEnds(e.Room) })
				continue
			}
			b.told = time.Now()
			b.timer = time.AfterFunc(pauseOf(e.Count), func() { n.pauseEnds(e.Room) })
		}
		now = append(now, event{room: e.Room, body: e})
	}
	n.mu.Unlock()
	n.w.publish(ctx, now...)
}

// pauseEnds tells what came in the pause, and begins another one; if nothing came the room may speak at once again.
func (n *news) pauseEnds(room contracts.RoomID) {
	n.mu.Lock()
	b := n.rooms[room]
	if n.closed || b == nil {
		n.mu.Unlock()
		return
	}
	e := b.event
	if len(e.Joined) == 0 && len(e.Left) == 0 {
		delete(n.rooms, room)
		n.mu.Unlock()
		return
	}
	if !b.turn {
		// In a room that fills up more are to be told now than the pause was made for.
		if left := pauseOf(e.Count) - time.Since(b.told); left > 0 {
			b.timer.Reset(left)
			n.mu.Unlock()
			return
		}
		if delay := n.w.telling.turn(e.Count); delay > 0 {
			b.turn = true
			b.timer.Reset(delay)
			n.mu.Unlock()
			return
		}
	}
	b.event, b.turn, b.told = newPresenceEvent(room), false, time.Now()
	b.event.count(e.Count, e.order) // what was before it may come behind it
	b.timer.Reset(pauseOf(e.Count))
	n.w.running.begin()
	n.mu.Unlock()
	defer n.w.running.end()
	ctx, cancel := context.WithTimeout(n.w.background, eventTimeout)
	defer cancel()
	if e.large() {
		n.w.crowds.tell(ctx, room)
		return
	}
	n.w.publish(ctx, event{room: room, body: &e})
}

// close drops what is to come.
func (n *news) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for _, b := range n.rooms {
		b.timer.Stop()
	}
	clear(n.rooms)
}

// presenceEvent is the event that tells who came and went.
type presenceEvent struct {
	Event  string             `json:"event"`
	Room   contracts.RoomID   `json:"room"`
	Joined []contracts.Person `json:"joined"`
	Left   []contracts.Person `json:"left"`
	Count  int                `json:"count"`
	order  uint64             // of the change that Count is of
}

func newPresenceEvent(room contracts.RoomID) presenceEvent {
	return presenceEvent{Event: "presence", Room: room, Joined: []contracts.Person{}, Left: []contracts.Person{}}
}

// large reports whether the event is one of too many people to name them.
func (e *presenceEvent) large() bool { return e.Count > crowd || len(e.Joined)+len(e.Left) > crowd }

// add takes what happened after e. Who came and went in between, or the other way round, is not told of.
func (e *presenceEvent) add(later *presenceEvent) {
	e.Joined, e.Left = meet(e.Joined, e.Left, later.Joined)
	e.Left, e.Joined = meet(e.Left, e.Joined, later.Left)
	e.count(later.Count, later.order)
}

// count takes the number of people after a change, unless that of a later one is known: who changed the roster first may
// come second to tell it.
func (e *presenceEvent) count(people int, order uint64) {
	if order >= e.order {
		e.Count, e.order = people, order
	}
}

// meet moves people into one list, or out of the opposite one where they are there.
func meet(into, opposite, who []contracts.Person) (newInto, newOpposite []contracts.Person) {
	for _, p := range who {
		same := func(q contracts.Person) bool { return q.ID == p.ID }
		if slices.ContainsFunc(opposite, same) {
			opposite = slices.DeleteFunc(opposite, same)
		} else if !slices.ContainsFunc(into, same) {
			into = append(into, p)
		}
	}
	return into, opposite
}
