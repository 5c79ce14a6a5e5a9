package contracts

import (
	"encoding/json"
	"strconv"
	"sync"
)

// decoding lends the room for the fields of what is decoded: it would be most of what an answer to a message costs.
var decoding = sync.Pool{New: func() any { return new([32]field) }}

// giveBack ends a loan of decoding. It must not hold on to what was decoded.
func giveBack(fields *[32]field) {
	clear(fields[:])
	decoding.Put(fields)
}

// DecodeCommand is json.Unmarshal into c, which must be zero, faster for what most commands hold. The bodies refer to data.
func DecodeCommand(data []byte, c *Command) error {
	if c.decode(data) {
		return nil
	}
	*c = Command{}
	return json.Unmarshal(data, c)
}

// decode reads a command of the common kinds; where it is false, c is in no defined state.
func (c *Command) decode(data []byte) (ok bool) {
	fields := decoding.Get().(*[32]field)
	defer giveBack(fields)
	o, err := parseObject(data, fields[:0:12]) // behind them are those of what is in the command
	if err != nil {
		return false
	}
	inner := fields[12:12:32]
	for _, f := range o.fields {
		switch string(f.name) {
		case "op":
			ok = stringInto(&c.Op, f.raw)
		case "node":
			ok = stringInto(&c.Node, f.raw)
		case "token":
			ok = stringInto(&c.Token, f.raw)
		case "room":
			ok = stringInto(&c.Room, f.raw)
		case "conn":
			ok = numberInto(&c.Conn, f.raw)
		case "left_ms":
			c.LeftMS, err = strconv.ParseInt(string(f.raw), 10, 64)
			ok = err == nil
		case "user":
			c.User = new(Person)
			ok = c.User.decode(f.raw, inner)
		case "body":
			c.Body, ok = f.raw, true
		case "passed":
			c.Passed = new(RoomHead)
			ok = c.Passed.decode(f.raw, inner)
		case "batch":
			var elements [][]byte
			elements, ok = elementsOf(f.raw, inner)
			c.Batch = make([]json.RawMessage, len(elements))
			for i := range elements {
				c.Batch[i] = elements[i]
			}
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	return true
}

func (p *Person) decode(data []byte, fields []field) (ok bool) {
	if data[0] != '{' {
		return false
	}
	o, err := parseObject(data, fields)
	if err != nil {
		return false
	}
	for _, f := range o.fields {
		switch string(f.name) {
		case "id":
			ok = stringInto(&p.ID, f.raw)
		case "name":
			ok = stringInto(&p.Name, f.raw)
		case "guest":
			p.Guest = f.raw[0] == 't'
			ok = p.Guest || f.raw[0] == 'f'
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	return true
}

// DecodeAnswer is json.Unmarshal into a, which must be zero, faster for what most answers hold. The results refer to data.
func DecodeAnswer(data []byte, a *Answer) error {
	fields := decoding.Get().(*[32]field)
	ok := a.decode(data, fields[:0], true)
	giveBack(fields)
	if ok {
		return nil
	}
	*a = Answer{}
	return json.Unmarshal(data, a)
}

// decode reads an answer, or with top a batch of them, that holds results, who connected and how joins ended.
func (a *Answer) decode(data []byte, fields []field, top bool) (ok bool) {
	o, err := parseObject(data, fields)
	if err != nil || len(o.fields) == 0 || len(o.fields) > 3 {
		return false
	}
	inner := o.fields[len(o.fields):]
	for _, f := range o.fields {
		switch string(f.name) {
		case "ok":
			a.OK, ok = f.raw, true
		case "joined":
			a.Joined = new(Joined)
			ok = a.Joined.decode(f.raw, inner)
		case "connected":
			a.Connected = new(Connected)
			ok = a.Connected.decode(f.raw, inner)
		case "batch":
			ok = top && a.decodeBatch(f.raw, inner)
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	return true
}

func (a *Answer) decodeBatch(data []byte, fields []field) bool {
	elements, ok := elementsOf(data, fields)
	if !ok {
		return false
	}
	a.Batch = make([]Answer, len(elements))
	for i := range elements {
		if !a.Batch[i].decode(elements[i], fields, false) {
			return false
		}
	}
	return true
}

func (j *Joined) decode(data []byte, fields []field) (ok bool) {
	if data[0] != '{' {
		return false
	}
	o, err := parseObject(data, fields)
	if err != nil {
		return false
	}
	for _, f := range o.fields {
		switch string(f.name) {
		case "state":
			ok = stringInto(&j.State, f.raw)
		case "epoch":
			ok = numberInto(&j.Epoch, f.raw)
		case "head":
			ok = numberInto(&j.Head, f.raw)
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	return true
}

func (h *RoomHead) decode(data []byte, fields []field) bool {
	return decodeFields(data, fields, func(f *field, _ []field) bool {
		switch string(f.name) {
		case "room":
			return stringInto(&h.Room, f.raw)
		case "epoch":
			return numberInto(&h.Epoch, f.raw)
		case "seq":
			return numberInto(&h.Seq, f.raw)
		}
		return false
	})
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

func stringInto[T ~string](to *T, raw []byte) bool {
	if raw[0] != '"' {
		return false
	}
	s, ok := unquote(raw)
	*to = T(s)
	return ok
}

func numberInto[T ~uint32 | ~uint64](to *T, raw []byte) bool {
	n, err := strconv.ParseUint(string(raw), 10, 64)
	*to = T(n)
	return err == nil && uint64(*to) == n
}

// elementsOf returns the elements of an array that stood in an Object.
func elementsOf(raw []byte, fields []field) (elements [][]byte, ok bool) {
	if raw[0] != '[' {
		return nil, false
	}
	p := jsonParser{data: raw, pos: 1, fields: fields}
	elements = make([][]byte, 0, 4)
	for p.space(); p.data[p.pos] != ']'; p.space() {
		start := p.pos
		if p.value(1) != nil {
			return nil, false
		}
		elements = append(elements, raw[start:p.pos])
		if p.space(); p.data[p.pos] == ',' {
			p.pos++
		}
	}
	return elements, true
}
