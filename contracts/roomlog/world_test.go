package roomlog_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
)

// A world is one partition of the log and whatever reads it, small enough that everything meets everything: a store,
// persisters, dispatchers and members. What happens next is drawn from a seed.

// rule is the rule of the delivery contract that a world breaks.
type rule int

const (
	right             rule = iota
	newestUnbounded        // a room goes on from its newest stored row, also from one above the record
	keyUnbounded           // a stored key is a duplicate, also one stored above the record
	keysByTime             // keys are forgotten by age, stored or not
	stateAsOfC             // a dispatcher replays from D with the heads as of C
	fromCAlone             // a dispatcher starts at C although D is below
	roomsUnstored          // a room is forgotten before its last entry is stored
	pastHole               // C passes a row that a partial bulk did not write
	noHeads                // entries are published, heads are not
	commitUnannounced      // D passes entries that no heads message told
	boundByReader          // a waiting record's look-up is bounded by where the reader is, not by the record
	laggingReplica         // look-ups read a replica that lags
	readAheadKept          // what was read ahead counts after a forgetting
	answersBelowD          // a dispatcher that has not yet come back to D tells heads to edges that reconnect
)

var wrongRules = map[rule]string{
	newestUnbounded: "newest-unbounded", keyUnbounded: "key-unbounded", keysByTime: "keys-by-time", stateAsOfC: "state-as-of-c",
	fromCAlone: "from-c-alone", roomsUnstored: "rooms-unstored", pastHole: "past-hole", noHeads: "no-heads",
	commitUnannounced: "commit-unannounced", boundByReader: "bound-by-reader", laggingReplica: "lagging-replica",
	readAheadKept: "read-ahead-kept", answersBelowD: "answers-below-d",
}

const (
	rooms   = 3
	members = 2
)

var roomNames = [rooms]contracts.RoomID{"a", "b", "c"}

// message is one client message: all its copies in the log have its identity.
type message struct {
	id    contracts.Identity
	room  int
	first int64 // offset of the first copy; -1 while there is none
	seq   contracts.Seq

	stored row // offset -1 while it is not
}

// row is one entry in the store.
type row struct {
	message int
	seq     contracts.Seq
	offset  int64
	at      int // the step of the insert
}

type checkpoint struct{ c, k int64 }

type world struct {
	rand *rand.Rand
	rule rule
	step int

	// Habits of this world.
	rooms int // in use
	skew  int // of the clocks that make keys, in steps
	speed int // of look-ups: the chance that an answer arrives, in percent
	loss  int // of live entries on their way to a member, in percent

	messages []message
	log      []int          // by offset: the message, -1 for a dead letter
	fold     [rooms][]int64 // by seq-1: the offset that got it. The reference that everything is compared with.

	rows       [rooms][]row // by seq-1; offset -1 where there is none
	checkpoint checkpoint
	committed  int64 // D

	storeAway, redisDown bool

	persisters  []*persister
	dispatchers []*dispatcher // one of them may own the partition, the others do not know yet that they lost it
	members     [members]*member

	broken string // what went wrong first
}

func (w *world) fail(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf("step %d: ", w.step) + fmt.Sprintf(format, args...)
	}
}

func (w *world) chance(percent int) bool { return w.rand.IntN(100) < percent }

func (w *world) end() int64 { return int64(len(w.log)) }

// write appends a record: a new message, one whose client was away since long ago, a retry, or a late copy.
func (w *world) write() {
	kind := w.rand.IntN(100)
	switch n := len(w.messages); {
	case kind < 4:
		w.log = append(w.log, -1)
		return
	case kind < 40 || n == 0:
		w.create(int64(1000 + w.step + w.rand.IntN(2*w.skew+1) - w.skew))
		w.append(len(w.messages) - 1)
	case kind < 55:
		w.create(int64(1000 + w.rand.IntN(w.step+1)))
		w.append(len(w.messages) - 1)
	case kind < 88:
		w.append(n - 1 - w.rand.IntN(min(n, 4)))
	default:
		w.append(w.rand.IntN(n))
	}
}

func (w *world) create(keyTime int64) {
	room := w.rand.IntN(w.rooms)
	id := identity(string(roomNames[room]), keyTime, uint64(len(w.messages)))
	w.messages = append(w.messages, message{id: id, room: room, first: -1, stored: row{offset: -1}})
}

// append adds a copy of the message to the log and to the fold.
func (w *world) append(index int) {
	m := &w.messages[index]
	if m.first < 0 {
		m.first = w.end()
		w.fold[m.room] = append(w.fold[m.room], m.first)
		m.seq = contracts.Seq(len(w.fold[m.room]))
	}
	w.log = append(w.log, index)
}

// push gives the next record to a sequencer.
func (w *world) push(s *roomlog.Sequencer) {
	offset := s.Next()
	if offset >= w.end() {
		return
	}
	if index := w.log[offset]; index >= 0 {
		s.Push(offset, w.messages[index].id)
	} else {
		s.Skip(offset)
	}
}

// check compares an outcome with the fold and returns the message.
func (w *world) check(who string, o roomlog.Outcome) (index int, good bool) {
	index = w.log[o.Offset]
	m := &w.messages[index]
	if o.Seq != m.seq || o.Duplicate != (o.Offset != m.first) {
		w.fail("%s: offset %d of room %s is %d (duplicate: %v), want %d (first at %d)", who, o.Offset, roomNames[m.room], o.Seq, o.Duplicate, m.seq, m.first)
		return index, false
	}
	return index, true
}

// insert writes one row, with the unique keys as tripwires.
func (w *world) insert(r row) {
	m := &w.messages[r.message]
	for len(w.rows[m.room]) < int(r.seq) {
		w.rows[m.room] = append(w.rows[m.room], row{offset: -1})
	}
	there := &w.rows[m.room][r.seq-1]
	r.at = w.step
	switch {
	case there.offset < 0 && m.stored.offset < 0:
		*there, m.stored = r, r
	case there.offset != r.offset || there.message != r.message || m.stored.seq != r.seq:
		w.fail("the row of room %s, %d is message %d of offset %d, and message %d of offset %d comes", roomNames[m.room], r.seq, there.message, there.offset, r.message, r.offset)
	}
}

// lookup is one batch of questions on its way to the store and back.
type lookup struct {
	*roomlog.Lookup
	reader         int64 // where the reader was when it asked
	asOf           int64 // the C from which the reader started
	read           bool
	entries, heads []roomlog.Found
}

// answer reads the store.
func (w *world) answer(l *lookup) {
	until := w.step
	if w.rule == laggingReplica {
		until -= w.rand.IntN(40)
	}
	for _, q := range l.Entries {
		before := q.Before.Offset
		switch w.rule {
		case keyUnbounded:
			before = w.end()
		case boundByReader:
			before = l.reader
		}
		var found roomlog.Found
		index := binary.BigEndian.Uint32(q.Identity.Key[12:])
		if r := w.messages[index].stored; r.offset >= 0 && r.offset < before && r.at <= until {
			found = r.found()
		}
		l.entries = append(l.entries, found)
	}
	for _, q := range l.Heads {
		before := q.Before.Offset
		switch w.rule {
		case newestUnbounded:
			before = w.end()
		case boundByReader:
			before = l.reader
		case stateAsOfC:
			before = max(before, l.asOf)
		}
		var found roomlog.Found
		rows := w.rows[q.Room[0]-'a']
		for i := len(rows) - 1; i >= 0; i-- {
			if r := rows[i]; r.offset >= 0 && r.offset < before && r.at <= until {
				found = r.found()
				break
			}
		}
		l.heads = append(l.heads, found)
	}
	l.read = true
}

func (r row) found() roomlog.Found {
	return roomlog.Found{Seq: r.seq, Position: contracts.Position{Epoch: 1, Offset: r.offset}}
}
