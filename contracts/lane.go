package contracts

import (
	"encoding/binary"
	"errors"
)

// EnvelopeKind says what an Envelope carries.
type EnvelopeKind byte

// The kinds of envelopes on a lane. A reader skips kinds that it does not know.
const (
	// EnvelopeEntry carries one entry: Epoch, Seq and its client encoding.
	EnvelopeEntry EnvelopeKind = 1
	// EnvelopeHead tells a room's head: Epoch and Seq.
	EnvelopeHead EnvelopeKind = 2
	// EnvelopeEvent carries an ephemeral event (typing, presence), at most once: Except and its client encoding.
	EnvelopeEvent EnvelopeKind = 3
	// EnvelopeLeft ends a person's listening to the room, on all connections that get it: User and the left event.
	EnvelopeLeft EnvelopeKind = 4
	// EnvelopeStored tells one connection that a message is stored: Except, Key and Seq. It has no Body.
	EnvelopeStored EnvelopeKind = 5
	// EnvelopeEpoch tells that the log of the lane's partition is in a new epoch: Epoch. It is about every room of the lane
	// and names none.
	EnvelopeEpoch EnvelopeKind = 6
)

// Envelope is what travels on a lane from a dispatcher or a worker to the edges. One lane message holds one or more.
type Envelope struct {
	Kind  EnvelopeKind
	Room  RoomID
	Epoch Epoch
	Seq   Seq
	// Except is the connection that must not get an ephemeral event, or that the person has left on; the zero value is
	// none. Of an EnvelopeStored it is the one connection that gets it.
	Except Conn
	// User is whom an EnvelopeLeft is about; other kinds have none.
	User UserID
	// Key is the message that an EnvelopeStored is about; other kinds have none.
	Key Key
	// Body is the client's frame in JSON.
	Body []byte
}

// Conn names one connection in the whole installation.
type Conn struct {
	Node NodeID `json:"node"`
	ID   uint64 `json:"conn"`
}

// ErrEnvelope marks a lane message that cannot be read.
var ErrEnvelope = errors.New("malformed lane message")

// AppendEnvelope appends e in its binary form: the kind, then a length and that many bytes. Room, User and Except.Node
// must be valid ids or empty.
func AppendEnvelope(dst []byte, e *Envelope) []byte {
	var inner [3*MaxIDLen + 48]byte
	b := inner[:0]
	b = append(b, byte(len(e.Room)))
	b = append(b, e.Room...)
	b = binary.AppendUvarint(b, uint64(e.Epoch))
	b = binary.AppendUvarint(b, uint64(e.Seq))
	b = append(b, byte(len(e.Except.Node)))
	b = append(b, e.Except.Node...)
	b = binary.AppendUvarint(b, e.Except.ID)
	if e.Kind == EnvelopeLeft {
		b = append(b, byte(len(e.User)))
		b = append(b, e.User...)
	}
	if e.Kind == EnvelopeStored {
		b = append(b, e.Key[:]...)
	}
	dst = append(dst, byte(e.Kind))
	dst = binary.AppendUvarint(dst, uint64(len(b)+len(e.Body)))
	dst = append(dst, b...)
	return append(dst, e.Body...)
}

// NextEnvelope reads the first envelope of message and returns what is behind it. Body refers to message. Envelopes
// of unknown kinds are returned like any other. The error is ErrEnvelope; nothing behind it can be read then.
func NextEnvelope(message []byte) (e Envelope, rest []byte, err error) {
	if len(message) < 2 {
		return e, nil, ErrEnvelope
	}
	e.Kind = EnvelopeKind(message[0])
	size, n := binary.Uvarint(message[1:])
	if n <= 0 || size > uint64(len(message)-1-n) {
		return e, nil, ErrEnvelope
	}
	b := message[1+n : 1+n+int(size)]
	rest = message[1+n+int(size):]
	room, b, ok := takeID(b)
	if !ok || (room == "") != (e.Kind == EnvelopeEpoch) {
		return e, nil, ErrEnvelope
	}
	epoch, n := binary.Uvarint(b)
	if n <= 0 || epoch > 1<<32-1 {
		return e, nil, ErrEnvelope
	}
	b = b[n:]
	seq, n := binary.Uvarint(b)
	if n <= 0 || seq > MaxInt {
		return e, nil, ErrEnvelope
	}
	b = b[n:]
	node, b, ok := takeID(b)
	if !ok {
		return e, nil, ErrEnvelope
	}
	conn, n := binary.Uvarint(b)
	if n <= 0 {
		return e, nil, ErrEnvelope
	}
	e.Room, e.Epoch, e.Seq = RoomID(room), Epoch(epoch), Seq(seq)
	e.Except = Conn{Node: NodeID(node), ID: conn}
	b = b[n:]
	if e.Kind == EnvelopeLeft {
		user, behind, ok := takeID(b)
		if !ok || user == "" {
			return e, nil, ErrEnvelope
		}
		e.User, b = UserID(user), behind
	}
	if e.Kind == EnvelopeStored {
		if len(b) < len(e.Key) {
			return e, nil, ErrEnvelope
		}
		e.Key, b = Key(b[:len(e.Key)]), b[len(e.Key):]
	}
	e.Body = b
	return e, rest, nil
}

// takeID reads a length byte and a valid id, or an empty one.
func takeID(b []byte) (id string, rest []byte, ok bool) {
	if len(b) == 0 || int(b[0]) > len(b)-1 {
		return "", nil, false
	}
	id, rest = string(b[1:1+int(b[0])]), b[1+int(b[0]):]
	return id, rest, id == "" || ValidID(id)
}
