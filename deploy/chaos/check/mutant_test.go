package check_test

import (
	"math/rand/v2"
	"slices"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// mutant is a history to be broken.
type mutant struct {
	rnd    *rand.Rand
	events []history.Event
}

func (mu mutation) apply(seed uint64, events []history.Event) []history.Event {
	m := &mutant{rnd: rand.New(rand.NewPCG(seed, 5)), events: slices.Clone(events)}
	if broken := mu.spoil(m); broken != nil {
		return broken
	}
	return events
}

// any picks an event, -1 where none fits.
func (m *mutant) any(fits func(i int, e *history.Event) bool) int {
	var all []int
	for i := range m.events {
		if fits(i, &m.events[i]) {
			all = append(all, i)
		}
	}
	if len(all) == 0 {
		return -1
	}
	return all[m.rnd.IntN(len(all))]
}

func (m *mutant) kind(k history.Kind) int {
	return m.any(func(_ int, e *history.Event) bool { return e.Kind == k && e.Change == "" })
}

// page is one of history with at least three entries.
func (m *mutant) page() int {
	return m.any(func(_ int, e *history.Event) bool { return e.Kind == history.Page && len(e.Entries) > 2 })
}

func (m *mutant) drop(i int) []history.Event {
	if i < 0 {
		return nil
	}
	return slices.Delete(m.events, i, i+1)
}

func (m *mutant) change(i int, f func(e *history.Event)) []history.Event {
	if i < 0 {
		return nil
	}
	f(&m.events[i])
	return m.events
}

func (m *mutant) insert(i int, e history.Event) []history.Event {
	if i < 0 {
		return nil
	}
	e.Source = "mutant"
	return slices.Insert(m.events, i, e)
}

func (m *mutant) insertAll(events ...history.Event) { m.events = append(m.events, events...) }

// next returns the index of the first event behind i that fits, -1 for none.
func (m *mutant) next(i int, fits func(e *history.Event) bool) int {
	for j := i + 1; i >= 0 && j < len(m.events); j++ {
		if fits(&m.events[j]) {
			return j
		}
	}
	return -1
}

// row returns the index of the stored row of a message.
func (m *mutant) row(room contracts.RoomID, user contracts.UserID, key contracts.Key) int {
	return slices.IndexFunc(m.events, func(e history.Event) bool {
		return e.Kind == history.Row && e.Room == room && e.Sender == user && e.Key == key
	})
}

// acked picks the answer ok to a message that was attempted once.
func (m *mutant) acked() int {
	tries := make(map[contracts.Key]int)
	for _, e := range m.events {
		if e.Kind == history.Sent {
			tries[e.Key]++
		}
	}
	return m.any(func(_ int, e *history.Event) bool {
		return e.Kind == history.Answered && e.Outcome == history.OK && tries[e.Key] == 1
	})
}

// live picks a live entry behind which the same client gets another one of the room, before anything else of the room.
func (m *mutant) live(next history.Kind) int {
	return m.any(func(i int, e *history.Event) bool {
		if e.Kind != history.Received || !e.Live || e.Room == "room-3" {
			return false
		}
		j := m.next(i, m.same(e))
		return j >= 0 && m.events[j].Kind == next && (next != history.Received || m.events[j].Live)
	})
}

// same fits what the client of e sees of the room of e.
func (m *mutant) same(e *history.Event) func(*history.Event) bool {
	client, room := e.Client, e.Room
	return func(o *history.Event) bool {
		return o.Client == client && (o.Room == room && o.Kind != history.Sent && o.Kind != history.Answered || o.Kind == history.Closed)
	}
}

// removeMessage takes a message out of the store and of everybody's sight, and numbers what is behind it anew: only its record
// in the log, if that stays, and its ack tell of it.
func (m *mutant) removeMessage(room contracts.RoomID, seq contracts.Seq, record bool) []history.Event {
	var key contracts.Key
	for _, e := range m.events {
		if e.Kind == history.Row && e.Room == room && e.Seq == seq {
			key = e.Key
		}
	}
	gone := func(e history.Event) bool {
		switch e.Kind {
		case history.Row, history.Received:
			return e.Room == room && e.Seq == seq
		case history.Record:
			return record && e.Room == room && e.Key == key
		}
		return false
	}
	m.events = slices.DeleteFunc(m.events, gone)
	lower := func(s *contracts.Seq) {
		if *s >= seq {
			*s--
		}
	}
	for i := range m.events {
		e := &m.events[i]
		if e.Room != room {
			continue
		}
		switch e.Kind {
		case history.Row, history.Received:
			lower(&e.Seq)
		case history.Joined, history.Joining, history.Reset:
			lower(&e.Head)
			if e.Since != nil {
				since := *e.Since
				lower(&since.Seq)
				e.Since = &since
			}
			e.Entries = slices.DeleteFunc(slices.Clone(e.Entries), func(in history.Entry) bool { return in.Seq == seq })
			for j := range e.Entries {
				lower(&e.Entries[j].Seq)
			}
		case history.Gap:
			lower(&e.To)
		}
	}
	return m.events
}

func (m *mutant) final() int {
	return m.any(func(_ int, e *history.Event) bool { return e.Kind == history.Probe && e.Phase == history.Final })
}

func (m *mutant) attempts(k contracts.Key) (n int) {
	for _, e := range m.events {
		if e.Kind == history.Sent && e.Key == k {
			n++
		}
	}
	return n
}

func (m *mutant) epoch(partition int32) contracts.Epoch {
	for _, e := range m.events {
		if e.Kind == history.Range && e.Partition == partition {
			return e.Epoch
		}
	}
	return 0
}

func (m *mutant) rowAt(room contracts.RoomID, seq contracts.Seq) history.Event {
	for _, e := range m.events {
		if e.Kind == history.Row && e.Room == room && e.Seq == seq {
			return e
		}
	}
	return history.Event{}
}

// before reports whether the client of event i got the entry before it in the same stretch.
func (m *mutant) before(i int) bool {
	e := m.events[i]
	same := m.same(&e)
	for j := i - 1; j >= 0; j-- {
		if same(&m.events[j]) {
			return m.events[j].Kind == history.Received && m.events[j].Seq+1 == e.Seq
		}
	}
	return false
}
