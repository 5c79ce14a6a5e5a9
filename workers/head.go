package workers

import (
	"context"
	"sync"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// head is what a dispatcher says of a room.
type head struct {
	contracts.Head
	epoch     contracts.Epoch
	certain   bool
	unsettled bool // it says nothing yet; only in answers to questions that rooms share
}

type asker func(partition int32, q contracts.Question, timeout time.Duration, done func(contracts.Reply, error))

const (
	knownRooms  = 50_000      // rooms that were answered for
	knownFor    = time.Minute // since they were; the dispatcher may forget them later
	headsAtOnce = 256         // rooms in one question
)

// heads asks dispatchers for rooms' heads. An answer counts only for callers that were there before it was asked for (a
// message may have been announced in between), so whoever comes while a question is outstanding shares the next one.
//
// Rooms of a partition that the dispatcher has answered for lately share questions, one of which is out at a time: a
// storm of joins in thousands of rooms is a few hundred questions. Others are kept apart, each with a question of its
// own: one whose head must be looked up in a slow store holds up nobody else. So are those of a question that failed, and
// those of which the dispatcher says that it does not know the head right now, as any room's records may wait for the store.
type heads struct {
	ask   asker
	known *cache[contracts.RoomID, time.Time]

	mu  sync.Mutex
	out map[headLine]*headQuestion // guarded by mu; the outstanding questions
}

// headLine is what has one question out at a time: a room, or with none all known rooms of a partition.
type headLine struct {
	partition int32
	room      contracts.RoomID
}

// headQuestion is an outstanding question.
type headQuestion struct {
	next *headAnswer // guarded by heads.mu; for those who have come meanwhile, nil where nobody has
}

// headAnswer is what one question brings.
type headAnswer struct {
	// Guarded by heads.mu until it is asked for.
	rooms []contracts.RoomID
	at    map[contracts.RoomID]int

	// Written before done is closed and read after.
	heads []head
	err   error
	done  chan struct{}
}

func newHeads(ask asker) *heads {
	return &heads{
		ask: ask, known: newCache[contracts.RoomID, time.Time](knownRooms), out: make(map[headLine]*headQuestion),
	}
}

// of returns the room's head, asked for after the call began. It does not try again.
func (h *heads) of(ctx context.Context, partition int32, room contracts.RoomID) (head, error) {
	if last, known := h.known.get(room); known && time.Since(last) < knownFor {
		if got, err := h.wait(ctx, headLine{partition: partition}, room); err != nil || !got.unsettled {
			return got, err
		}
	}
	return h.wait(ctx, headLine{partition: partition, room: room}, room)
}

// wait is of in one line.
func (h *heads) wait(ctx context.Context, line headLine, room contracts.RoomID) (head, error) {
	h.mu.Lock()
	q := h.out[line]
	if q != nil && q.next != nil && len(q.next.rooms) >= headsAtOnce {
		line.room = room
		q = h.out[line]
	}
	var a *headAnswer
	first := q == nil
	switch {
	case first:
		a = newHeadAnswer()
		h.out[line] = &headQuestion{}
	case q.next == nil:
		q.next = newHeadAnswer()
		fallthrough
	default:
		a = q.next
	}
	at := a.add(room)
	h.mu.Unlock()
	if first {
		h.put(line, a)
	}
	select {
	case <-a.done:
		if a.err != nil {
			return head{}, a.err
		}
		return a.heads[at], nil
	case <-ctx.Done():
		return head{}, ctx.Err()
	}
}

func newHeadAnswer() *headAnswer {
	return &headAnswer{at: make(map[contracts.RoomID]int, 1), done: make(chan struct{})}
}

// add needs heads.mu. It returns where the room's head will be.
func (a *headAnswer) add(room contracts.RoomID) int {
	at, ok := a.at[room]
	if !ok {
		at = len(a.rooms)
		a.rooms = append(a.rooms, room)
		a.at[room] = at
	}
	return at
}

// put asks for a, and then for those who came meanwhile.
func (h *heads) put(line headLine, a *headAnswer) {
	q := contracts.Question{Heads: a.rooms, Partly: line.room == ""}
	h.ask(line.partition, q, questionTimeout, func(reply contracts.Reply, err error) {
		a.err = err
		for _, one := range reply.Heads {
			a.heads = append(a.heads, head{Head: one, epoch: reply.Epoch, certain: reply.Certain})
		}
		for _, room := range reply.Unsettled {
			if at, ok := a.at[room]; ok && err == nil {
				a.heads[at].unsettled = true
			}
		}
		now := time.Now()
		for at, room := range a.rooms {
			if err == nil && !a.heads[at].unsettled {
				h.known.put(room, now)
			} else {
				h.known.remove(room)
			}
		}
		close(a.done)
		h.mu.Lock()
		q := h.out[line]
		next := q.next
		q.next = nil
		if next == nil {
			delete(h.out, line)
		}
		h.mu.Unlock()
		if next != nil {
			h.put(line, next)
		}
	})
}
