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
	epoch   contracts.Epoch
	certain bool
}

type asker func(partition int32, q contracts.Question, timeout time.Duration, done func(contracts.Reply, error))

// heads asks dispatchers for rooms' heads, one question per room at a time. An answer counts only for callers that
// were there before it was asked for (a message may have been announced in between), so whoever comes while a question
// is outstanding shares the next one. Rooms are kept apart: one whose head must be looked up in a slow store holds up
// nobody else.
type heads struct {
	ask asker

	mu    sync.Mutex
	rooms map[contracts.RoomID]*headQuestion // guarded by mu; rooms with an outstanding question
}

// headQuestion is a room's outstanding question, and who waits for the next.
type headQuestion struct {
	next *headAnswer // guarded by heads.mu
}

// headAnswer is written before done is closed and read after.
type headAnswer struct {
	done chan struct{}
	head head
	err  error
}

func newHeads(ask asker) *heads {
	return &heads{ask: ask, rooms: make(map[contracts.RoomID]*headQuestion)}
}

// of returns the room's head, asked for after the call began. It does not try again.
func (h *heads) of(ctx context.Context, partition int32, room contracts.RoomID) (head, error) {
	h.mu.Lock()
	q, outstanding := h.rooms[room]
	var a *headAnswer
	if outstanding {
		if q.next == nil {
			q.next = &headAnswer{done: make(chan struct{})}
		}
		a = q.next
	} else {
		q = &headQuestion{}
		a = &headAnswer{done: make(chan struct{})}
		h.rooms[room] = q
	}
	h.mu.Unlock()
	if !outstanding {
		h.put(partition, room, q, a)
	}
	select {
	case <-a.done:
		return a.head, a.err
	case <-ctx.Done():
		return head{}, ctx.Err()
	}
}

// put asks for a, and then for those who came meanwhile.
func (h *heads) put(partition int32, room contracts.RoomID, q *headQuestion, a *headAnswer) {
	h.ask(partition, contracts.Question{Heads: []contracts.RoomID{room}}, questionTimeout, func(reply contracts.Reply, err error) {
		a.err = err
		if err == nil {
			a.head = head{Head: reply.Heads[0], epoch: reply.Epoch, certain: reply.Certain}
		}
		close(a.done)
		h.mu.Lock()
		next := q.next
		q.next = nil
		if next == nil {
			delete(h.rooms, room)
		}
		h.mu.Unlock()
		if next != nil {
			h.put(partition, room, q, next)
		}
	})
}
