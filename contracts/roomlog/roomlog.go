// Package roomlog numbers a partition of the log: a pure function from the records, in offset order, to each room's
// 1, 2, 3 …. Dispatcher and persister run it side by side and get the same numbers; no clock and no counter outside
// the log takes part.
//
// A Sequencer that started at offset S holds the keys of the records in [R, p), where R starts at S, and for each
// room that it has met the last seq. Whatever it does not hold it asks of the store, and the bounds of the questions
// are what makes the answers right however far the store is ahead or behind:
//
//	key held                       → a duplicate of that seq
//	key time > K                   → new: an earlier copy would have the same key time, and then K would be at least that
//	else a row of this identity at a position below the record's own → a duplicate of that row; none → new
//	room not held                  → its newest row at a position below the record's own
//
// While an answer is outstanding only that room waits.
//
// Why an answer may be used later than it was read: a row below a bound stays one for ever. That there is none can only
// become wrong through an earlier copy that waited in the same room's queue when the question was asked, got its number
// since, was stored, and was then forgotten. Before the first of a queue there is no such copy, so its answer always
// holds; an answer that was read ahead holds until something is forgotten.
//
// When the log lost records or was replaced, its offsets begin anew in the next epoch, at the log's start. All rows of
// earlier epochs are below every bound of the new one, so that what comes again is found and seqs go on from the newest
// rows. For that K must cover the keys of all these rows, also of rows at or above the old C, which a persister stored that
// died before it moved C; and none may be added once the new epoch has begun.
package roomlog

import (
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/planted"
)

// Version names these rules in checkpoints. A release that numbers differently must use another.
const Version = 1

// KeepKeys is for how long keys are held beyond what the store makes safe to forget: retries come soon, and a held
// key saves a question.
const KeepKeys = 5 * time.Minute

// MaxQuestions is how many questions are good to ask in one Lookup.
const MaxQuestions = 2048

// readAhead bounds the key questions asked at once for one waiting room.
const readAhead = 512

// EntryQuery asks for the row with an identity at a position below Before.
type EntryQuery struct {
	Identity contracts.Identity
	Before   contracts.Position
}

// HeadQuery asks for a room's newest row at a position below Before.
type HeadQuery struct {
	Room   contracts.RoomID
	Before contracts.Position
}

// Found answers an EntryQuery or a HeadQuery. Seq 0 means that there is no such row.
type Found struct {
	Seq      contracts.Seq
	Position contracts.Position
}

// Outcome is what became of one record.
type Outcome struct {
	Offset    int64
	Seq       contracts.Seq
	Duplicate bool // Seq is the first copy's
}

// Lookup is a batch of questions to the store, to be read from its primary.
type Lookup struct {
	Entries []EntryQuery
	Heads   []HeadQuery

	generation uint64
	asked      []asked // parallel to the rooms that the questions are about
}

// asked is one room's share of a Lookup: its key questions, and a head question where it was not held.
type asked struct {
	room    *room
	entries int
	head    bool
}

// Limits bounds what a Sequencer holds. Zero values mean the defaults.
type Limits struct {
	// Rooms is how many rooms are held; the longest unused go first. Defaults to 200,000.
	Rooms int
	// Keys is how many keys are held; above it they are forgotten sooner than after KeepKeys. Defaults to 2,000,000.
	Keys int
}

// Sequencer numbers one partition in one epoch. It is not safe for concurrent use.
type Sequencer struct {
	epoch  contracts.Epoch
	limits Limits

	next    int64                   // the offset behind the last one pushed
	keyTime int64                   // K
	highest int64                   // the largest key time pushed, or K at the start
	keys    map[contracts.Key]int64 // the place of the last message with that key, which may be another room's or sender's
	order   []numbered              // what is held, in the order of numbering; order[0] has place base
	base    int64
	first   int // order[:first] is forgotten
	rooms   map[contracts.RoomID]*room
	used    room    // the rooms as a ring, from the longest unused (used.after) to the last used (used.before)
	waiting []*room // the rooms with a queue
	out     []Outcome

	// generation counts the forgettings: what was read ahead before one is not used after it.
	generation uint64
	marks      []mark
}

type numbered struct {
	id     contracts.Identity
	offset int64
	seq    contracts.Seq
	older  int64 // the place of an older message with the same key, -1 for none; forgotten where it is below the first
}

type mark struct {
	at   time.Time
	next int64
}

type room struct {
	id    contracts.RoomID
	held  bool
	asked bool // a Lookup with this room's questions is under way
	seq   contracts.Seq
	last  int64 // offset of the last entry; -1 where there is none in this epoch
	queue []queued
	place int // in Sequencer.waiting, while there is a queue

	before, after *room // in Sequencer.used
}

type queued struct {
	id         contracts.Identity
	offset     int64
	want       bool // only wants the room to be held
	answered   bool
	generation uint64
	found      Found
}

// New returns a Sequencer for the records from offset start on. keyTime is K at start: at least the largest key time
// of all records below it.
func New(epoch contracts.Epoch, start, keyTime int64, limits Limits) *Sequencer {
	if limits.Rooms == 0 {
		limits.Rooms = 200_000
	}
	if limits.Keys == 0 {
		limits.Keys = 2_000_000
	}
	s := &Sequencer{
		epoch:   epoch,
		limits:  limits,
		next:    start,
		keyTime: keyTime,
		highest: keyTime,
		keys:    make(map[contracts.Key]int64),
		rooms:   make(map[contracts.RoomID]*room),
	}
	s.used.before, s.used.after = &s.used, &s.used
	return s
}

// Push takes the next record. Offsets must rise from call to call.
func (s *Sequencer) Push(offset int64, id contracts.Identity) {
	s.next = offset + 1
	s.highest = max(s.highest, id.Key.Time())
	r := s.room(id.Room)
	id.Room = r.id // one copy of the room's name for all its keys
	q := queued{id: id, offset: offset}
	if len(r.queue) == 0 && s.decide(r, &q) {
		return
	}
	s.wait(r, q)
}

// Skip takes the next record where it is one that gets no number, such as a dead letter.
func (s *Sequencer) Skip(offset int64) { s.next = offset + 1 }

// Want sees to it that the room is held, as if a record of it came next: Head answers after the next Lookup at the
// latest.
func (s *Sequencer) Want(id contracts.RoomID) {
	r := s.room(id)
	if r.held || len(r.queue) > 0 {
		return // a room that is not held and has a queue has a question for its head in the next Lookup
	}
	s.wait(r, queued{offset: s.next, want: true})
}

// Head returns the last seq given in a room that is held. Later records of the room may still be waiting; none below
// Low is.
func (s *Sequencer) Head(id contracts.RoomID) (seq contracts.Seq, held bool) {
	r := s.rooms[id]
	if r == nil || !r.held {
		return 0, false
	}
	return r.seq, true
}

// Find returns the seq of a message whose key is held.
func (s *Sequencer) Find(id contracts.Identity) (seq contracts.Seq, held bool) {
	place, ok := s.keys[id.Key]
	if !ok {
		return 0, false
	}
	for at := place - s.base; at >= int64(s.first); at = s.order[at].older - s.base {
		if n := &s.order[at]; n.id == id {
			return n.seq, true
		}
	}
	return 0, false
}

// Take returns what was decided since the last Take: each room's records in offset order. The slice is valid until
// the next call of any method.
func (s *Sequencer) Take() []Outcome {
	out := s.out
	s.out = s.out[:0]
	return out
}

// Next is the offset behind the last record pushed.
func (s *Sequencer) Next() int64 { return s.next }

// Low is the offset of the first record that is not decided, Next where all are.
func (s *Sequencer) Low() int64 {
	low := s.next
	for _, r := range s.waiting {
		for i := range r.queue {
			if r.queue[i].want {
				continue
			}
			low = min(low, r.queue[i].offset)
			break
		}
	}
	return low
}

// KeyTime returns a K for a checkpoint at or below Next: the largest key time of all records below Next.
func (s *Sequencer) KeyTime() int64 { return s.highest }

// Lookup returns questions that nobody asks yet, about most of them, or nil where there are none. It must be given back
// once, to Answer or Failed; several may be out at once. There may be more questions than one Lookup takes: ask until it is nil.
func (s *Sequencer) Lookup(most int) *Lookup {
	var l *Lookup
	for _, r := range s.waiting {
		if r.asked {
			continue
		}
		if l == nil {
			l = &Lookup{generation: s.generation}
		}
		left := most - len(l.Entries) - len(l.Heads)
		if left <= 0 && len(l.asked) > 0 {
			break
		}
		r.asked = true
		a := asked{room: r, head: !r.held, entries: -len(l.Entries)}
		if a.head {
			before := s.position(r.queue[0].offset)
			if planted.On(planted.NewestUnbounded) {
				before.Epoch++
			}
			l.Heads = append(l.Heads, HeadQuery{Room: r.id, Before: before})
		}
		for i := range r.queue[:min(len(r.queue), readAhead, max(left, 1))] {
			if q := &r.queue[i]; s.mustAsk(q) {
				before := s.position(q.offset)
				if planted.On(planted.DuplicateOK) {
					before.Epoch++
				}
				l.Entries = append(l.Entries, EntryQuery{Identity: q.id, Before: before})
			}
		}
		a.entries += len(l.Entries)
		l.asked = append(l.asked, a)
	}
	return l
}

// Answer takes the store's answers to l, in the order of its questions.
func (s *Sequencer) Answer(l *Lookup, entries, heads []Found) {
	queries := l.Entries
	for _, a := range l.asked {
		r := a.room
		r.asked = false
		if a.head {
			// While a Lookup is out nothing else decides about its rooms: the room is not held and its queue has only
			// grown at the end.
			s.hold(r, heads[0])
			heads = heads[1:]
		}
		s.keep(r, queries[:a.entries], entries[:a.entries], l.generation)
		queries, entries = queries[a.entries:], entries[a.entries:]
		s.drain(r)
	}
}

// Failed says that l was not answered; its questions come again with the next Lookup.
func (s *Sequencer) Failed(l *Lookup) {
	for _, a := range l.asked {
		a.room.asked = false
	}
}

// Forget drops what the store makes safe to drop. checkpoint is C, or less: every record below it is stored. now only
// decides how much more than necessary is kept. Call it about once a second.
func (s *Sequencer) Forget(checkpoint int64, now time.Time) {
	below := s.aged(now)
	if held := len(s.order) - s.first; held > s.limits.Keys {
		excess := held - s.limits.Keys*3/4
		below = max(below, s.order[s.first+min(excess, held-1)].offset)
	}
	s.forgetKeys(min(below, checkpoint, s.Low()))
	s.forgetRooms(checkpoint)
}

// aged returns the offset below which everything was pushed at least KeepKeys ago.
func (s *Sequencer) aged(now time.Time) int64 {
	if n := len(s.marks); n == 0 || now.Sub(s.marks[n-1].at) >= time.Second {
		s.marks = append(s.marks, mark{at: now, next: s.next})
	}
	var below int64
	for len(s.marks) > 1 && now.Sub(s.marks[0].at) >= KeepKeys {
		below = s.marks[0].next
		if now.Sub(s.marks[1].at) < KeepKeys {
			break
		}
		s.marks = s.marks[1:]
	}
	return below
}

// forgetKeys drops held keys of offsets below the given one, in the order of numbering: a room that waited long may keep
// some of them longer.
func (s *Sequencer) forgetKeys(below int64) {
	from := s.first
	for s.first < len(s.order) && s.order[s.first].offset < below {
		key := s.order[s.first].id.Key
		s.keyTime = max(s.keyTime, key.Time())
		if s.keys[key] == s.base+int64(s.first) {
			delete(s.keys, key)
		}
		s.first++
	}
	if s.first == from {
		return
	}
	s.generation++
	clear(s.order[from:s.first])
	if s.first > len(s.order)/2 {
		n := copy(s.order, s.order[s.first:])
		clear(s.order[n:])
		s.order, s.base, s.first = s.order[:n], s.base+int64(s.first), 0
		if cap(s.order) > 4096 && n < cap(s.order)/8 {
			s.order = append(make([]numbered, 0, 2*n), s.order...)
		}
	}
}

// forgetRooms drops rooms, the longest unused first, whose last entry is stored.
func (s *Sequencer) forgetRooms(checkpoint int64) {
	if len(s.rooms) <= s.limits.Rooms {
		return
	}
	for r := s.used.after; r != &s.used && len(s.rooms) > s.limits.Rooms*9/10; {
		after := r.after
		if len(r.queue) == 0 && r.last < checkpoint {
			r.before.after, r.after.before = r.after, r.before
			delete(s.rooms, r.id)
		}
		r = after
	}
}

func (s *Sequencer) position(offset int64) contracts.Position {
	return contracts.Position{Epoch: s.epoch, Offset: offset}
}

// room returns the room and makes it the last used.
func (s *Sequencer) room(id contracts.RoomID) *room {
	r := s.rooms[id]
	if r == nil {
		r = &room{id: id, last: -1}
		s.rooms[id] = r
	} else if r == s.used.before {
		return r
	} else {
		r.before.after, r.after.before = r.after, r.before
	}
	r.before, r.after = s.used.before, &s.used
	r.before.after, s.used.before = r, r
	return r
}

// hold takes the answer to a head question.
func (s *Sequencer) hold(r *room, newest Found) {
	r.held, r.seq, r.last = true, newest.Seq, -1
	if newest.Seq != 0 && newest.Position.Epoch == s.epoch {
		r.last = newest.Position.Offset
	}
}

// keep notes the answers that still hold beside the records that wait for them.
func (s *Sequencer) keep(r *room, queries []EntryQuery, answers []Found, generation uint64) {
	at := 0
	for i, e := range queries {
		for r.queue[at].offset != e.Before.Offset || r.queue[at].want {
			at++
		}
		if at == 0 || answers[i].Seq != 0 || generation == s.generation {
			q := &r.queue[at]
			q.answered, q.generation, q.found = true, s.generation, answers[i]
		}
	}
}

func (s *Sequencer) wait(r *room, q queued) {
	if len(r.queue) == 0 {
		r.place = len(s.waiting)
		s.waiting = append(s.waiting, r)
	}
	r.queue = append(r.queue, q)
}

// settled reports whether q has an answer that still holds.
func (s *Sequencer) settled(q *queued) bool {
	return q.answered && (q.found.Seq != 0 || q.generation == s.generation)
}

// mustAsk reports whether only the store can tell if q is a duplicate.
func (s *Sequencer) mustAsk(q *queued) bool {
	if q.want || q.id.Key.Time() > s.keyTime || s.settled(q) {
		return false
	}
	_, held := s.Find(q.id)
	return !held
}

// decide numbers q, or reports that it has to wait.
func (s *Sequencer) decide(r *room, q *queued) bool {
	if q.want {
		return r.held
	}
	if seq, held := s.Find(q.id); held {
		s.out = append(s.out, Outcome{Offset: q.offset, Seq: seq, Duplicate: true})
		return true
	}
	if q.id.Key.Time() <= s.keyTime {
		if !s.settled(q) {
			return false
		}
		if q.found.Seq != 0 {
			s.out = append(s.out, Outcome{Offset: q.offset, Seq: q.found.Seq, Duplicate: true})
			return true
		}
	}
	if !r.held {
		return false
	}
	r.seq++
	r.last = q.offset
	s.number(q, r.seq)
	s.out = append(s.out, Outcome{Offset: q.offset, Seq: r.seq})
	return true
}

// number holds the key of a message that just got its seq.
func (s *Sequencer) number(q *queued, seq contracts.Seq) {
	older, ok := s.keys[q.id.Key]
	if !ok {
		older = -1
	}
	s.keys[q.id.Key] = s.base + int64(len(s.order))
	s.order = append(s.order, numbered{id: q.id, offset: q.offset, seq: seq, older: older})
}

// drain decides what can be decided from the front of the room's queue.
func (s *Sequencer) drain(r *room) {
	n := 0
	for n < len(r.queue) && s.decide(r, &r.queue[n]) {
		n++
	}
	if n < len(r.queue) {
		r.queue = r.queue[n:]
		return
	}
	r.queue = nil
	end := len(s.waiting) - 1
	moved := s.waiting[end]
	s.waiting[r.place], moved.place = moved, r.place
	s.waiting[end] = nil
	s.waiting = s.waiting[:end]
}
