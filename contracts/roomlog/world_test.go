package roomlog_test

import (
	"encoding/binary"
	"fmt"
	"math"
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
	keyTimeAsItWas         // the first checkpoint of an epoch has the K of the last one of the epoch before
	checkpointKept         // the first checkpoint of an epoch has the C of the one before, not the log's start
	epochKept              // C goes back to the log's start, the epoch stays
	hashNotChecked         // the log is compared with the checkpoint by its bounds alone
	checkedOnce            // it is compared at the take-over, not again after the first read
	raisedAtOnce           // an epoch begins while writes of an earlier owner may still arrive
	holesLeft              // what lacks between rows above C stays so in the next epoch
	commitOfAnyEpoch       // D of an earlier epoch counts
	answersBelowD          // a dispatcher that has not yet come back to D tells heads to edges that reconnect
)

var wrongRules = map[rule]string{
	newestUnbounded: "newest-unbounded", keyUnbounded: "key-unbounded", keysByTime: "keys-by-time", stateAsOfC: "state-as-of-c",
	fromCAlone: "from-c-alone", roomsUnstored: "rooms-unstored", pastHole: "past-hole", noHeads: "no-heads",
	commitUnannounced: "commit-unannounced", boundByReader: "bound-by-reader", laggingReplica: "lagging-replica",
	readAheadKept: "read-ahead-kept", keyTimeAsItWas: "key-time-as-it-was", checkpointKept: "checkpoint-kept", epochKept: "epoch-kept",
	hashNotChecked: "hash-not-checked", checkedOnce: "checked-once", raisedAtOnce: "raised-at-once", holesLeft: "holes-left",
	commitOfAnyEpoch: "commit-of-any-epoch", answersBelowD: "answers-below-d",
}

const (
	rooms   = 3
	members = 2
)

var roomNames = [rooms]contracts.RoomID{"a", "b", "c"}

// place is a position: the epoch in the upper half, the offset in the lower.
type place int64

func at(epoch int, offset int64) place { return place(int64(epoch)<<32 | offset) }

func (p place) epoch() int { return int(p >> 32) }

func (p place) position() contracts.Position {
	return contracts.Position{Epoch: contracts.Epoch(p.epoch()), Offset: int64(p & (1<<32 - 1))}
}

func placeOf(p contracts.Position) place { return at(int(p.Epoch), p.Offset) }

// message is one client message: all its copies in the log have its identity.
type message struct {
	id    contracts.Identity
	room  int
	first place // of its entry, that is of its first copy; -1 while there is none
	seq   contracts.Seq

	stored row // place -1 while it is not
}

// row is one entry in the store.
type row struct {
	message int // -1 for a tombstone in place of an entry that was lost
	seq     contracts.Seq
	place   place
	at      int // the step of the insert
}

// entry is what a seq of a room stands for.
type entry struct {
	message int
	place   place
}

type fold [rooms][]entry // by seq-1

// record is one record of the log; no other one has its id.
type record struct{ message, id int }

type checkpoint struct {
	epoch int
	c, k  int64
	last  int // the id of the record at c-1; 0 where there is none
}

type commit struct {
	epoch int
	d     int64
}

type world struct {
	rand *rand.Rand
	rule rule
	step int

	// Habits of this world.
	rooms int  // in use
	skew  int  // of the clocks that make keys, in steps
	speed int  // of look-ups: the chance that an answer arrives, in percent
	loss  int  // of live entries on their way to a member, in percent
	lossy bool // the log loses records

	messages   []message
	log        []record // from start on; message -1 for a dead letter
	start      int64
	ids        int    // of records, so far
	generation int    // of the log: how often it lost records
	folded     int    // the generation that the fold is of
	fold       fold   // the reference that everything is compared with
	past       []fold // of the epochs before

	rows       [rooms][]row // by seq-1; place -1 where there is none
	checkpoint checkpoint
	committed  commit // D

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

func (w *world) end() int64 { return w.start + int64(len(w.log)) }

// write appends a record: a new message, one whose client was away since long ago, a retry, or a late copy.
func (w *world) write() {
	kind := w.rand.IntN(100)
	switch n := len(w.messages); {
	case kind < 4:
		w.record(-1)
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
	w.messages = append(w.messages, message{id: id, room: room, first: -1, stored: row{place: -1}})
}

func (w *world) record(index int) {
	w.ids++
	w.log = append(w.log, record{message: index, id: w.ids})
}

// append adds a copy of the message to the log, and to the fold if that is of this log.
func (w *world) append(index int) {
	if w.folded == w.generation {
		w.number(index, w.end())
	}
	w.record(index)
}

func (w *world) number(index int, offset int64) {
	m := &w.messages[index]
	if m.first >= 0 {
		return
	}
	m.first = at(w.checkpoint.epoch, offset)
	w.fold[m.room] = append(w.fold[m.room], entry{message: index, place: m.first})
	m.seq = contracts.Seq(len(w.fold[m.room]))
}

// push gives the next record to a reader, whose client notices when the log is not the one that it began to read.
func (w *world) push(r *reader) {
	if r.generation < 0 {
		r.generation = w.generation
	}
	offset := r.Next()
	r.out = r.out || r.generation != w.generation || offset < w.start || offset > w.end()
	if r.out || offset == w.end() {
		return
	}
	rec := w.log[offset-w.start]
	r.read[offset] = rec
	if rec.message >= 0 {
		r.Push(offset, w.messages[rec.message].id)
	} else {
		r.Skip(offset)
	}
}

// current reports whether a reader reads the log that the fold is of.
func (w *world) current(r *reader) bool {
	return r.epoch == w.checkpoint.epoch && (r.generation < 0 || r.generation == w.folded)
}

// check compares an outcome with the fold and returns the message.
func (w *world) check(r *reader, o roomlog.Outcome) (index int, good bool) {
	index = r.read[o.Offset].message
	m := &w.messages[index]
	if w.current(r) && (o.Seq != m.seq || o.Duplicate != (at(r.epoch, o.Offset) != m.first)) {
		w.fail("%s: offset %d of room %s is %d (duplicate: %v), want %d (first at %v)", r.name, o.Offset, roomNames[m.room], o.Seq, o.Duplicate, m.seq, m.first.position())
		return index, false
	}
	return index, true
}

// insert writes one row, with the unique keys as tripwires.
func (w *world) insert(r row) {
	m := &w.messages[r.message]
	for len(w.rows[m.room]) < int(r.seq) {
		w.rows[m.room] = append(w.rows[m.room], row{place: -1})
	}
	there := &w.rows[m.room][r.seq-1]
	r.at = w.step
	switch {
	case there.place < 0 && m.stored.place < 0:
		*there, m.stored = r, r
	case there.place != r.place || there.message != r.message || m.stored.seq != r.seq:
		w.fail("the row of room %s, %d is message %d of %v, and message %d of %v comes", roomNames[m.room], r.seq, there.message, there.place.position(), r.message, r.place.position())
	}
}

// lookup is one batch of questions on its way to the store and back.
type lookup struct {
	*roomlog.Lookup
	reader         place // where the reader was when it asked
	asOf           place // the C from which the reader started
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
		before := placeOf(q.Before)
		switch w.rule {
		case keyUnbounded:
			before = math.MaxInt64
		case boundByReader:
			before = l.reader
		}
		var found roomlog.Found
		index := binary.BigEndian.Uint32(q.Identity.Key[12:])
		if r := w.messages[index].stored; r.place >= 0 && r.place < before && r.at <= until {
			found = r.found()
		}
		l.entries = append(l.entries, found)
	}
	for _, q := range l.Heads {
		before := placeOf(q.Before)
		switch w.rule {
		case newestUnbounded:
			before = math.MaxInt64
		case boundByReader:
			before = l.reader
		case stateAsOfC:
			before = max(before, l.asOf)
		}
		var found roomlog.Found
		rows := w.rows[q.Room[0]-'a']
		for i := len(rows) - 1; i >= 0; i-- {
			if r := rows[i]; r.place >= 0 && r.place < before && r.at <= until {
				found = r.found()
				break
			}
		}
		l.heads = append(l.heads, found)
	}
	l.read = true
}

func (r row) found() roomlog.Found {
	return roomlog.Found{Seq: r.seq, Position: r.place.position()}
}
