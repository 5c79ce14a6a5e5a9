package contracts

import (
	"encoding/json"
	"strconv"
	"sync"
	"unicode/utf8"
)

// record is what a reader reads an object into. take gets a field's name, with r at the value, which it must read. It is
// false for whatever is not of the common kinds, which encoding/json reads then: null, other names, other types.
type record interface {
	take(r *reader, name []byte) bool
}

// reader reads objects into records in one pass and without reflection, as strictly as an Object. Names may stand twice, as they
// may for encoding/json: a record that would not merge them as that does refuses them.
type reader struct {
	jsonParser
	depth int
	room  [32]field // for what is not looked into
}

// readers lends readers: one would be most of what an answer to a message costs.
var readers = sync.Pool{New: func() any { return new(reader) }}

// readInto reads data, which must hold nothing else, into a record. Where it is false, that is in no defined state.
func readInto(to record, data []byte) bool {
	r := readers.Get().(*reader)
	r.jsonParser = jsonParser{data: data, fields: r.room[:0]}
	r.depth = 0
	ok := utf8.Valid(data)
	if ok {
		r.space()
		ok = r.object(to)
		r.space()
		ok = ok && r.pos == len(data)
	}
	r.jsonParser = jsonParser{}
	clear(r.room[:])
	readers.Put(r)
	return ok
}

// at reports whether c comes next.
func (r *reader) at(c byte) bool { return r.pos < len(r.data) && r.data[r.pos] == c }

// past reports whether c comes next, and skips it and the white space around it.
func (r *reader) past(c byte) bool {
	r.space()
	if !r.at(c) {
		return false
	}
	r.pos++
	r.space()
	return true
}

// object reads an object into a record.
func (r *reader) object(to record) bool {
	if !r.at('{') || r.depth == MaxDepth {
		return false
	}
	r.depth++
	r.past('{')
	for first := true; first || r.past(','); first = false {
		if first && r.at('}') {
			break
		}
		start := r.pos
		if r.str() != nil {
			return false
		}
		if name := r.data[start+1 : r.pos-1]; !r.past(':') || !to.take(r, name) {
			return false
		}
	}
	r.space()
	r.depth--
	if !r.at('}') {
		return false
	}
	r.pos++
	return true
}

// raw reads any value and returns it as it stands.
func (r *reader) raw() ([]byte, bool) {
	start := r.pos
	err := r.value(r.depth)
	r.fields = r.fields[:0]
	return r.data[start:r.pos], err == nil
}

func (r *reader) rawInto(to *json.RawMessage) (ok bool) {
	*to, ok = r.raw()
	return ok
}

// list reads an array of any values.
func (r *reader) list() (elements []json.RawMessage, ok bool) {
	elements = make([]json.RawMessage, 0, 4)
	ok = r.array(func() bool {
		value, ok := r.raw()
		elements = append(elements, value)
		return ok
	})
	return elements, ok
}

// array reads an array, whose elements take must read.
func (r *reader) array(take func() bool) bool {
	if !r.at('[') {
		return false
	}
	r.past('[')
	for first := true; first || r.past(','); first = false {
		if first && r.at(']') {
			break
		}
		if !take() {
			return false
		}
	}
	r.space()
	if !r.at(']') {
		return false
	}
	r.pos++
	return true
}

func (r *reader) boolInto(to *bool) bool {
	*to = r.at('t')
	return r.word(strconv.FormatBool(*to)) == nil
}

func readString[T ~string](r *reader, to *T) bool {
	start := r.pos
	if r.str() != nil {
		return false
	}
	s, ok := unquote(r.data[start:r.pos])
	*to = T(s)
	return ok
}

// numeral reads a number and returns it as it stands, and nothing where there is none.
func (r *reader) numeral() []byte {
	start := r.pos
	if r.pos == len(r.data) || r.number() != nil {
		return nil
	}
	return r.data[start:r.pos]
}

func readUint[T ~uint32 | ~uint64](r *reader, to *T) bool {
	n, err := strconv.ParseUint(string(r.numeral()), 10, 64)
	*to = T(n)
	return err == nil && uint64(*to) == n
}

func readInt[T ~int | ~int64](r *reader, to *T) bool {
	n, err := strconv.ParseInt(string(r.numeral()), 10, 64)
	*to = T(n)
	return err == nil && int64(*to) == n
}

func (r *reader) floatInto(to *float64) bool {
	n, err := strconv.ParseFloat(string(r.numeral()), 64)
	*to = n
	return err == nil
}

// DecodeCommand is json.Unmarshal into c, which must be zero, faster for what most commands hold. The bodies refer to data.
func DecodeCommand(data []byte, c *Command) error {
	if readInto(c, data) {
		return nil
	}
	*c = Command{}
	return json.Unmarshal(data, c)
}

func (c *Command) take(r *reader, name []byte) (ok bool) {
	switch string(name) {
	case "op":
		return readString(r, &c.Op)
	case "node":
		return readString(r, &c.Node)
	case "token":
		return readString(r, &c.Token)
	case "room":
		return readString(r, &c.Room)
	case "conn":
		return readUint(r, &c.Conn)
	case "left_ms":
		return readInt(r, &c.LeftMS)
	case "user":
		if c.User == nil {
			c.User = new(Person)
			return r.object(c.User)
		}
	case "body":
		return r.rawInto(&c.Body)
	case "passed":
		if c.Passed == nil {
			c.Passed = new(RoomHead)
			return r.object(c.Passed)
		}
	case "batch":
		if c.Batch == nil {
			c.Batch, ok = r.list()
			return ok
		}
	}
	return false
}

func (p *Person) take(r *reader, name []byte) bool {
	switch string(name) {
	case "id":
		return readString(r, &p.ID)
	case "name":
		return readString(r, &p.Name)
	case "guest":
		return r.boolInto(&p.Guest)
	}
	return false
}

// DecodeAnswer is json.Unmarshal into a, which must be zero, faster for what most answers hold. The results refer to data.
func DecodeAnswer(data []byte, a *Answer) error {
	if readInto(a, data) {
		return nil
	}
	*a = Answer{}
	return json.Unmarshal(data, a)
}

// take reads results, who connected and how joins ended, and on top of all a batch of results.
func (a *Answer) take(r *reader, name []byte) bool {
	switch string(name) {
	case "ok":
		return r.rawInto(&a.OK)
	case "joined":
		if a.Joined == nil {
			a.Joined = new(Joined)
			return r.object(a.Joined)
		}
	case "connected":
		if a.Connected == nil {
			a.Connected = new(Connected)
			return r.object(a.Connected)
		}
	case "batch":
		return a.Batch == nil && r.depth == 1 && a.takeBatch(r)
	}
	return false
}

func (a *Answer) takeBatch(r *reader) bool {
	a.Batch = make([]Answer, 0, 4)
	return r.array(func() bool {
		a.Batch = append(a.Batch, Answer{})
		return r.object(&a.Batch[len(a.Batch)-1])
	})
}

func (j *Joined) take(r *reader, name []byte) bool {
	switch string(name) {
	case "state":
		return readString(r, &j.State)
	case "epoch":
		return readUint(r, &j.Epoch)
	case "head":
		return readUint(r, &j.Head)
	}
	return false
}

func (h *RoomHead) take(r *reader, name []byte) bool {
	switch string(name) {
	case "room":
		return readString(r, &h.Room)
	case "epoch":
		return readUint(r, &h.Epoch)
	case "seq":
		return readUint(r, &h.Seq)
	}
	return false
}

// AppendAnswers appends answers, which hold results alone, as the JSON of an Answer's Batch in an Answer. It is false,
// and has appended nothing, where one of them holds something else.
func AppendAnswers(dst []byte, answers []Answer) ([]byte, bool) {
	start := len(dst)
	dst = append(dst, `{"batch":[`...)
	for i := range answers {
		a := &answers[i]
		if len(a.OK) == 0 || a.Err != nil || a.Batch != nil || a.Connected != nil || a.Joined != nil || a.Entries != nil {
			return dst[:start], false
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"ok":`...)
		dst = append(dst, a.OK...)
		dst = append(dst, '}')
	}
	return append(dst, "]}"...), true
}
