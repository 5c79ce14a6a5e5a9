package loadtest

import (
	"bytes"
	"hash/maphash"
)

// eventKind is what a frame from the server is.
type eventKind uint8

const (
	other   eventKind = iota
	reply             // it has an id
	message           // an entry of kind message
	entry             // an entry of another kind
	gap
	reset
	reconnect
	failure
	roomNews // an event of a room that is no entry: typing, presence
)

// event is what the load tester wants to know of a frame.
type event struct {
	kind  eventKind
	room  int32 // −1: not of this run
	epoch uint32
	ours  bool // mark is valid
	mark  mark
	seq   uint64
	id    uint64
	from  uint64
	to    uint64
	after uint64 // milliseconds
	// Slices of the frame.
	ok, err, code []byte
}

// reader understands frames. Entries come to every member of a room as the same bytes: those seen lately are compared
// rather than parsed again.
type reader struct {
	plan *plan
	seed maphash.Seed
	seen [512]sighting
}

type sighting struct {
	frame []byte
	event event
}

func newReader(p *plan) *reader { return &reader{plan: p, seed: maphash.MakeSeed()} }

// read understands one frame. The event is valid until the next call.
func (r *reader) read(frame []byte) (*event, bool) {
	s := &r.seen[maphash.Bytes(r.seed, frame)%uint64(len(r.seen))]
	if len(frame) > 0 && bytes.Equal(s.frame, frame) {
		return &s.event, true
	}
	s.frame = s.frame[:0]
	if !r.parse(frame, &s.event) {
		return nil, false
	}
	if len(frame) <= 4096 && (s.event.kind == message || s.event.kind == entry) {
		s.frame = append(s.frame, frame...)
	}
	return &s.event, true
}

func (r *reader) parse(frame []byte, e *event) bool {
	*e = event{room: -1}
	named, numbered := false, 0
	for w := object(frame); ; {
		name, value, ok := w.member()
		if !ok {
			if w.err != nil {
				return false
			}
			break
		}
		switch string(name) {
		case "event":
			named, e.kind = true, kindOf(unquoted(value))
		case "id":
			if e.id, ok = parseUint(value); ok {
				e.kind = reply
			}
		case "room":
			e.room = int32(r.plan.roomIndex(unquoted(value)))
		case "seq":
			if e.seq, ok = parseUint(value); ok {
				numbered++
			}
		case "epoch":
			n, ok := parseUint(value)
			if ok {
				numbered++
			}
			e.epoch = uint32(n)
		case "text":
			e.mark, e.ours = parseMark(unquoted(value), r.plan.Run)
		case "from":
			e.from, _ = parseUint(value)
		case "to":
			e.to, _ = parseUint(value)
		case "after_ms":
			e.after, _ = parseUint(value)
		case "ok":
			e.ok = value
		case "error":
			e.err = value
		case "code":
			e.code = unquoted(value)
		}
	}
	if numbered == 2 && e.kind != message && e.kind != reply && e.kind != reset {
		e.kind = entry
	}
	return named || e.kind == reply
}

func kindOf(name []byte) eventKind {
	switch string(name) {
	case "message":
		return message
	case "gap":
		return gap
	case "reset":
		return reset
	case "reconnect":
		return reconnect
	case "error":
		return failure
	case "typing", "presence":
		return roomNews
	}
	return other
}

// refusal is an error as the server words it.
type refusal struct {
	code    string
	message string
	retry   bool
	afterMS uint64
}

func parseRefusal(raw []byte) refusal {
	var f refusal
	for w := object(raw); ; {
		name, value, ok := w.member()
		if !ok {
			return f
		}
		switch string(name) {
		case "code":
			f.code = string(unquoted(value))
		case "message":
			f.message = string(unquoted(value))
		case "retry":
			f.retry = string(value) == "true"
		case "retry_after_ms":
			f.afterMS, _ = parseUint(value)
		}
	}
}

// joined is the answer to a join.
type joined struct {
	state   string
	epoch   uint32
	head    uint64
	entries []byte
}

func parseJoined(raw []byte) (j joined, ok bool) {
	for w := object(raw); ; {
		name, value, more := w.member()
		if !more {
			return j, w.err == nil && j.state != ""
		}
		switch string(name) {
		case "state":
			switch s := string(unquoted(value)); s {
			case "complete", "more", "reset":
				j.state = s
			}
		case "epoch":
			n, _ := parseUint(value)
			j.epoch = uint32(n)
		case "head":
			j.head, _ = parseUint(value)
		case "entries":
			j.entries = value
		}
	}
}
