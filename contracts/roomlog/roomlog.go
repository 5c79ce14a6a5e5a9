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
package roomlog

import (
	"time"

	"github.com/parley-chat/parley/contracts"
)

// Version names these rules in checkpoints. A release that numbers differently must use another.
const Version = 1

// KeepKeys is for how long keys are held beyond what the store makes safe to forget: retries come soon, and a held
// key saves a question.
const KeepKeys = 5 * time.Minute

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
	rooms      []*room
}

// Limits bounds what a Sequencer holds. Zero values mean the defaults.
type Limits struct {
	Rooms int // Defaults to 200,000.
	Keys  int // Defaults to 2,000,000; above it keys are forgotten down to the checkpoint.
}

// Sequencer numbers one partition in one epoch. It is not safe for concurrent use.
type Sequencer struct {
	epoch  contracts.Epoch
	limits Limits

	next    int64 // the offset behind the last one pushed
	keyTime int64 // K
	highest int64 // the largest key time pushed, or K at the start
	keys    map[contracts.Identity]numbered
	order   []numberedKey // keys in the order of numbering
	rooms   map[contracts.RoomID]*room
	waiting map[*room]struct{}
	out     []Outcome

	// generation counts the forgettings: an answer about keys that was asked for before one is worth nothing after it.
	generation uint64
	marks      []mark
}

type numbered struct {
	offset int64
	seq    contracts.Seq
}

type numberedKey struct {
	id     contracts.Identity
	offset int64
}

type mark struct {
	at   time.Time
	next int64
}

type room struct {
	id    contracts.RoomID
	held  bool
	seq   contracts.Seq
	last  int64 // offset of the last entry; -1 where there is none in this epoch
	queue []queued
	asked bool // a Lookup with this room's questions is under way
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
	return &Sequencer{
		epoch:   epoch,
		limits:  limits,
		next:    start,
		keyTime: keyTime,
		highest: keyTime,
		keys:    make(map[contracts.Identity]numbered),
		rooms:   make(map[contracts.RoomID]*room),
		waiting: make(map[*room]struct{}),
	}
}

// Push takes the next record. Offsets must rise from call to call.
func (s *Sequencer) Push(offset int64, id contracts.Identity) {
	s.next = offset + 1
	s.highest = max(s.highest, id.Key.Time())
	r := s.room(id.Room)
	q := queued{id: id, offset: offset}
	if len(r.queue) == 0 && s.decide(r, &q) {
		return
	}
	r.queue = append(r.queue, q)
	s.waiting[r] = struct{}{}
}

// Skip takes the next record where it is one that gets no number, such as a dead letter.
func (s *Sequencer) Skip(offset int64) { s.next = offset + 1 }

// Want sees to it that the room is held, as if a record of it came next: Head answers once nothing of the room waits.
func (s *Sequencer) Want(id contracts.RoomID) {
	r := s.room(id)
	if r.held {
		return
	}
	if n := len(r.queue); n > 0 {
		return // whatever waits there already will hold the room
	}
	r.queue = append(r.queue, queued{offset: s.next, want: true})
	s.waiting[r] = struct{}{}
}

// Head returns the last seq of a room that is held.
func (s *Sequencer) Head(id contracts.RoomID) (seq contracts.Seq, held bool) {
	r := s.rooms[id]
	if r == nil || !r.held {
		return 0, false
	}
	return r.seq, true
}

// Find returns the seq of a message whose key is held.
func (s *Sequencer) Find(id contracts.Identity) (seq contracts.Seq, held bool) {
	n, ok := s.keys[id]
	return n.seq, ok
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
	for r := range s.waiting {
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

// Lookup returns the questions that nobody asks yet, or nil. It must be given back through Answer or Failed.
func (s *Sequencer) Lookup() *Lookup {
	var l *Lookup
	for r := range s.waiting {
		if r.asked {
			continue
		}
		if l == nil {
			l = &Lookup{generation: s.generation}
		}
		r.asked = true
		l.rooms = append(l.rooms, r)
		if !r.held {
			l.Heads = append(l.Heads, HeadQuery{Room: r.id, Before: s.position(r.queue[0].offset)})
		}
		for i := range r.queue[:min(len(r.queue), readAhead)] {
			if q := &r.queue[i]; s.mustAsk(q) {
				l.Entries = append(l.Entries, EntryQuery{Identity: q.id, Before: s.position(q.offset)})
			}
		}
	}
	return l
}

// Answer takes the store's answers to l, in the order of its questions.
func (s *Sequencer) Answer(l *Lookup, entries, heads []Found) {
	for i, q := range l.Heads {
		r := s.rooms[q.Room]
		if r == nil || r.held {
			continue
		}
		r.held, r.seq, r.last = true, heads[i].Seq, -1
		if heads[i].Seq != 0 && heads[i].Position.Epoch == s.epoch {
			r.last = heads[i].Position.Offset
		}
	}
	if l.generation == s.generation {
		for i, e := range l.Entries {
			r := s.rooms[e.Identity.Room]
			for j := range r.queue {
				if q := &r.queue[j]; q.offset == e.Before.Offset && !q.want {
					q.answered, q.generation, q.found = true, s.generation, entries[i]
					break
				}
			}
		}
	}
	for _, r := range l.rooms {
		r.asked = false
		s.drain(r)
	}
}

// Failed says that l was not answered; its questions come again with the next Lookup.
func (s *Sequencer) Failed(l *Lookup) {
	for _, r := range l.rooms {
		r.asked = false
	}
}

// Forget drops what the store makes safe to drop. checkpoint is C, or less: every record below it is stored. now only
// decides how much more than necessary is kept.
func (s *Sequencer) Forget(checkpoint int64, now time.Time) {
	keysBelow := min(s.aged(now), checkpoint, s.Low())
	if len(s.keys) > s.limits.Keys {
		keysBelow = min(checkpoint, s.Low())
	}
	s.forgetKeys(keysBelow)
	if len(s.rooms) > s.limits.Rooms {
		for id, r := range s.rooms {
			if len(r.queue) == 0 && !r.asked && r.last < checkpoint {
				delete(s.rooms, id)
			}
			if len(s.rooms) <= s.limits.Rooms*9/10 {
				break
			}
		}
	}
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

func (s *Sequencer) forgetKeys(below int64) {
	n := 0
	for n < len(s.order) && s.order[n].offset < below {
		id := s.order[n].id
		s.keyTime = max(s.keyTime, id.Key.Time())
		delete(s.keys, id)
		n++
	}
	if n == 0 {
		return
	}
	s.generation++
	s.order = s.order[n:]
	if cap(s.order) > 1024 && len(s.order) < cap(s.order)/4 {
		s.order = append([]numberedKey(nil), s.order...)
	}
}

func (s *Sequencer) position(offset int64) contracts.Position {
	return contracts.Position{Epoch: s.epoch, Offset: offset}
}

func (s *Sequencer) room(id contracts.RoomID) *room {
	r := s.rooms[id]
	if r == nil {
		r = &room{id: id, last: -1}
		s.rooms[id] = r
	}
	return r
}

// mustAsk reports whether only the store can tell if q is a duplicate.
func (s *Sequencer) mustAsk(q *queued) bool {
	if q.want || q.answered && q.generation == s.generation {
		return false
	}
	if _, held := s.keys[q.id]; held {
		return false
	}
	return q.id.Key.Time() <= s.keyTime
}

// decide numbers q, or reports that it has to wait.
func (s *Sequencer) decide(r *room, q *queued) bool {
	if q.want {
		return r.held
	}
	if n, held := s.keys[q.id]; held {
		s.out = append(s.out, Outcome{Offset: q.offset, Seq: n.seq, Duplicate: true})
		return true
	}
	if s.mustAsk(q) {
		return false
	}
	if q.answered && q.generation == s.generation && q.found.Seq != 0 {
		s.out = append(s.out, Outcome{Offset: q.offset, Seq: q.found.Seq, Duplicate: true})
		return true
	}
	if !r.held {
		return false
	}
	r.seq++
	r.last = q.offset
	s.keys[q.id] = numbered{offset: q.offset, seq: r.seq}
	s.order = append(s.order, numberedKey{id: q.id, offset: q.offset})
	s.out = append(s.out, Outcome{Offset: q.offset, Seq: r.seq})
	return true
}

func (s *Sequencer) drain(r *room) {
	n := 0
	for n < len(r.queue) && s.decide(r, &r.queue[n]) {
		n++
	}
	r.queue = r.queue[n:]
	if len(r.queue) == 0 {
		r.queue = nil
		delete(s.waiting, r)
	}
}
