package chaos

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/proxy"
)

// The wire protocol of MongoDB: a message is a header of four int32 (its size, its number, the number that it answers, what
// it is), flags, and sections: one document, or a named sequence of some.
const (
	wireHeader   = 16
	wireBody     = wireHeader + 4 // where the sections begin
	wireMsg      = 2013
	wireMost     = 48 << 20
	wireDocument = 0
	wireSequence = 1

	wireDuplicate     = 11000
	wireWriteConflict = 112 // an error that a later try does not have
)

// bulks harms inserts of entries on their way to the database: the second document of one does not get there, and the answer
// says so, and that the first was there already, which is true by then. Who takes that for nothing but a duplicate loses the
// second.
type bulks struct {
	armed  atomic.Bool
	seen   atomic.Int64 // inserts of two entries or more while armed
	harmed atomic.Int64 // every second of them, so that a later try passes
}

// conversation is one connection to the database.
type conversation struct {
	b *bulks

	mu    sync.Mutex // guards what follows
	parts [2][]byte  // of the next message, each way
	alien [2]bool    // it is no such conversation
	owed  map[uint32]bool
}

func (b *bulks) editor() proxy.Editor { return &conversation{b: b, owed: make(map[uint32]bool)} }

// Edit implements proxy.Editor.
func (c *conversation) Edit(d proxy.Direction, piece []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.alien[d] {
		return piece
	}
	in := append(c.parts[d], piece...)
	var out []byte
	for len(in) >= wireHeader {
		size := int(binary.LittleEndian.Uint32(in))
		if size < wireHeader || size > wireMost {
			c.alien[d], c.parts[d] = true, nil
			return append(out, in...)
		}
		if size > len(in) {
			break
		}
		out = append(out, c.message(d, in[:size])...)
		in = in[size:]
	}
	c.parts[d] = bytes.Clone(in)
	return out
}

func (c *conversation) message(d proxy.Direction, m []byte) []byte {
	if len(m) < wireBody || binary.LittleEndian.Uint32(m[12:]) != wireMsg {
		return m
	}
	if d == proxy.Down {
		asked := binary.LittleEndian.Uint32(m[8:])
		if !c.owed[asked] {
			return m
		}
		delete(c.owed, asked)
		return answered(m)
	}
	if !c.b.armed.Load() {
		return m
	}
	less, ok := withoutSecond(m)
	if !ok || c.b.seen.Add(1)%2 == 0 {
		return m
	}
	c.b.harmed.Add(1)
	c.owed[binary.LittleEndian.Uint32(m[4:])] = true
	return less
}

// withoutSecond takes the second document out of an insert of entries; ok is false where m is no such insert, or has one
// document.
func withoutSecond(m []byte) (less []byte, ok bool) {
	entries := false
	var sequence, second, behind int // where they begin
	for at := wireBody; at+5 <= len(m); {
		kind, size := m[at], int(binary.LittleEndian.Uint32(m[at+1:]))
		if size < 4 || at+1+size > len(m) {
			return nil, false
		}
		switch section := m[at+1 : at+1+size]; kind {
		case wireDocument:
			into, err := bson.Raw(section).LookupErr("insert")
			if err != nil {
				return nil, false
			}
			name, _ := into.StringValueOK()
			entries = name == contracts.CollectionEntries
		case wireSequence:
			name := bytes.IndexByte(section[4:], 0)
			first := 4 + name + 1
			if name < 0 || first+4 > size {
				return nil, false
			}
			from := first + int(binary.LittleEndian.Uint32(section[first:]))
			if from+4 > size {
				return nil, false
			}
			to := from + int(binary.LittleEndian.Uint32(section[from:]))
			if to > size {
				return nil, false
			}
			sequence, second, behind = at+1, at+1+from, at+1+to
		}
		at += 1 + size
	}
	if !entries || sequence == 0 {
		return nil, false
	}
	less = slices.Concat(m[:second], m[behind:])
	gone := uint32(behind - second)
	for _, at := range []int{0, sequence} {
		binary.LittleEndian.PutUint32(less[at:], binary.LittleEndian.Uint32(less[at:])-gone)
	}
	return less, true
}

// answered makes the answer to what withoutSecond left the answer to all.
func answered(m []byte) []byte {
	if m[wireBody] != wireDocument {
		return m
	}
	var reply bson.D
	if err := bson.Unmarshal(m[wireBody+1:], &reply); err != nil {
		return m
	}
	type failure struct {
		Index int32  `bson:"index"`
		Code  int32  `bson:"code"`
		Text  string `bson:"errmsg"`
	}
	var was struct {
		Failures []failure `bson:"writeErrors"`
	}
	if err := bson.Unmarshal(m[wireBody+1:], &was); err != nil {
		return m
	}
	reply = slices.DeleteFunc(reply, func(e bson.E) bool { return e.Key == "writeErrors" })
	failures := []failure{{0, wireDuplicate, "E11000 duplicate key error: it was there"}, {1, wireWriteConflict, "WriteConflict: this document was not written"}}
	for _, f := range was.Failures {
		switch {
		case f.Index == 0:
			failures[0] = f
		default:
			f.Index++
			failures = append(failures, f)
		}
	}
	body, err := bson.Marshal(append(reply, bson.E{Key: "writeErrors", Value: failures}))
	if err != nil {
		return m
	}
	out := slices.Concat(m[:wireBody+1], body)
	binary.LittleEndian.PutUint32(out, uint32(len(out)))
	return out
}

// mongoBulk harms bulks for a while.
func mongoBulk(ctx context.Context, f *fault) error {
	b := &f.w.bulks
	before := b.harmed.Load()
	b.armed.Store(true)
	f.hold(ctx)
	b.armed.Store(false)
	if b.harmed.Load() == before {
		f.w.remark("%s: no bulk of two entries or more in %.1f s", f, f.length.Seconds())
		return errHarmless
	}
	return nil
}
