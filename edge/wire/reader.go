package wire

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"github.com/parley-chat/parley/contracts"
)

// Limits bounds the messages of a client.
type Limits struct {
	// MessageBytes is the size of the largest message, over all its fragments. Defaults to 64 KiB; 1 GiB at most.
	MessageBytes int
	// Fragments is how many frames a message may come in, empty ones counted. Defaults to 64.
	Fragments int
}

func (l *Limits) messageBytes() int64 {
	if l == nil || l.MessageBytes == 0 {
		return 64 << 10
	}
	return min(int64(l.MessageBytes), 1<<30)
}

func (l *Limits) fragments() uint32 {
	if l == nil || l.Fragments == 0 {
		return 64
	}
	return uint32(min(l.Fragments, 1<<30))
}

// Event is what a client's bytes came to: a whole text message or a control frame.
type Event struct {
	Op Op
	// Payload is the message, the payload of a ping or pong, or the reason of a close, unmasked and, but for pings and pongs,
	// UTF-8. It is valid until the next call of Next: it lies in that call's data or in the reader's buffer.
	Payload []byte
	Code    contracts.CloseCode // of OpClose; 1005 where the frame had none
}

// Reader turns the bytes of one client into events, whatever pieces they come in. The zero Reader is ready for the
// first byte behind the handshake. It holds a buffer only while a frame or a message is incomplete. It is not safe for concurrent use.
type Reader struct {
	// buf holds the fragments of the message so far, unmasked and without their headers, and behind them the bytes of an
	// incomplete frame as they came.
	buf       []byte
	message   uint32              // how many bytes of buf belong to the message
	fragments uint32              // frames of the message so far; 0: none has begun
	end       contracts.CloseCode // what ended the stream: the code of an error, closed, or 0
}

// closed is the end of a stream by the client's close frame.
const closed contracts.CloseCode = 1

// maxHeader is the longest header of a client's frame, the mask included.
const maxHeader = 14

// Next reads from data, in which it unmasks in place, and returns the first complete event and the bytes behind it.
// With OpNone rest is empty, and what was incomplete is kept. After an error, and after OpClose, the stream has ended: what follows is
// the same error, or nothing. lim may differ from call to call; nil means the defaults.
func (r *Reader) Next(data []byte, lim *Limits) (ev Event, rest []byte, err *CloseError) {
	switch r.end {
	case 0:
	case closed:
		return Event{}, nil, nil
	default:
		return Event{}, nil, &CloseError{Code: r.end, Reason: "the connection has failed before"}
	}
	for {
		h, payload, behind, kept, err := r.frame(data, lim)
		if err == nil && h.OpCode == opIncomplete {
			return Event{}, nil, nil
		}
		var ev Event
		if err == nil {
			ev, err = r.take(h, payload, kept)
		}
		if err != nil {
			*r = Reader{end: err.Code}
			return Event{}, nil, err
		}
		if ev.Op == OpClose {
			*r = Reader{end: closed}
			return ev, nil, nil
		}
		if ev.Op != OpNone {
			return ev, behind, nil
		}
		data = behind
	}
}

// Partial reports whether a frame or a message has begun and is not complete.
func (r *Reader) Partial() bool { return r.fragments > 0 || len(r.buf) > 0 }

// Buffered is how many bytes are kept of what is incomplete.
func (r *Reader) Buffered() int { return len(r.buf) }

// opIncomplete is the opcode of no frame: of one that is not complete.
const opIncomplete ws.OpCode = 0xFF

// frame returns the next whole frame, unmasked, and the bytes behind it. kept says that the payload is the end of buf.
// Where data holds less than a frame all of it goes to buf and the opcode is opIncomplete.
func (r *Reader) frame(data []byte, lim *Limits) (h ws.Header, payload, behind []byte, kept bool, err *CloseError) {
	begin := int(r.message)
	incomplete := ws.Header{OpCode: opIncomplete}
	if len(r.buf) == begin {
		h, size, err := r.header(data, lim)
		if err != nil {
			return h, nil, nil, false, err
		}
		if size > len(data) {
			r.keep(data, begin+maxHeader)
			return incomplete, nil, nil, false, nil
		}
		end := size + int(h.Length)
		if end > len(data) {
			r.keep(data, begin+end)
			return incomplete, nil, nil, false, nil
		}
		payload = data[size:end:end]
		ws.Cipher(payload, h.Mask, 0)
		return h, payload, data[end:], false, nil
	}
	for {
		h, size, err := r.header(r.buf[begin:], lim)
		if err != nil {
			return h, nil, nil, false, err
		}
		have := len(r.buf) - begin
		want, most := size, begin+maxHeader
		if size <= have {
			want = size + int(h.Length)
			most = begin + want
		}
		n := min(want-have, len(data))
		r.keep(data[:n], most)
		data = data[n:]
		if have+n < want {
			return incomplete, nil, nil, false, nil
		}
		if size <= have {
			payload = r.buf[begin+size:]
			ws.Cipher(payload, h.Mask, 0)
			return h, payload, data, true, nil
		}
	}
}

// header reads the header that b begins with and checks it against the state of the message and the limits, as far as
// b goes. size is the header's length; above len(b) it is how many bytes the next step needs, and h is not to be used.
func (r *Reader) header(b []byte, lim *Limits) (h ws.Header, size int, err *CloseError) {
	if len(b) < 2 {
		return h, 2, nil
	}
	h.Fin = b[0]&0x80 != 0
	h.Rsv = b[0] >> 4 & 7
	h.OpCode = ws.OpCode(b[0] & 0x0F)
	h.Masked = b[1]&0x80 != 0
	h.Length = int64(b[1] & 0x7F)
	state := ws.StateServerSide
	if r.fragments > 0 {
		state = state.Set(ws.StateFragmented)
	}
	if err := ws.CheckHeader(h, state); err != nil {
		return h, 0, &CloseError{Code: contracts.CloseProtocol, Reason: err.Error()}
	}
	if h.OpCode == ws.OpBinary {
		return h, 0, &CloseError{Code: contracts.CloseUnsupported, Reason: "binary messages are not spoken here"}
	}
	size = 2
	switch h.Length {
	case 126:
		if len(b) < 4 {
			return h, 4, nil
		}
		h.Length, size = int64(binary.BigEndian.Uint16(b[2:])), 4
		if h.Length <= 125 {
			return h, 0, errLongLength
		}
	case 127:
		if len(b) < 10 {
			return h, 10, nil
		}
		length := binary.BigEndian.Uint64(b[2:])
		if length <= 0xFFFF || length>>63 != 0 {
			return h, 0, errLongLength
		}
		h.Length, size = int64(length), 10
	}
	if h.OpCode.IsData() {
		if h.Length > lim.messageBytes()-int64(r.message) {
			return h, 0, &CloseError{Code: contracts.CloseTooBig, Reason: "the message is too large"}
		}
		if r.fragments >= lim.fragments() {
			return h, 0, &CloseError{Code: contracts.ClosePolicy, Reason: "the message has too many fragments"}
		}
	}
	if len(b) < size+4 {
		return h, size + 4, nil
	}
	copy(h.Mask[:], b[size:])
	return h, size + 4, nil
}

var errLongLength = &CloseError{Code: contracts.CloseProtocol, Reason: "a frame's length is not in its shortest form"}

// take makes an event of a whole frame, or keeps it where its message goes on (OpNone).
func (r *Reader) take(h ws.Header, payload []byte, kept bool) (Event, *CloseError) {
	if h.OpCode.IsControl() {
		if kept {
			r.cut()
		}
		if h.OpCode == ws.OpClose {
			return closeEvent(payload)
		}
		return Event{Op: Op(h.OpCode), Payload: payload}, nil
	}
	if !h.Fin || r.fragments > 0 {
		if kept {
			r.buf = append(r.buf[:r.message], payload...) // moves it over its header
		} else {
			r.keep(payload, 0)
		}
		r.message = uint32(len(r.buf))
		r.fragments++
		if !h.Fin {
			return Event{}, nil
		}
		payload = r.buf
	}
	r.buf, r.message, r.fragments = nil, 0, 0
	if !utf8.Valid(payload) {
		return Event{}, &CloseError{Code: contracts.CloseInvalidUTF8, Reason: "the message is not UTF-8"}
	}
	return Event{Op: OpText, Payload: payload}, nil
}

func closeEvent(payload []byte) (Event, *CloseError) {
	if len(payload) == 0 {
		return Event{Op: OpClose, Code: closeAbsent}, nil
	}
	if len(payload) == 1 {
		return Event{}, &CloseError{Code: contracts.CloseProtocol, Reason: "a close code has two bytes"}
	}
	code, reason := contracts.CloseCode(binary.BigEndian.Uint16(payload)), payload[2:]
	if !validCloseCode(code) {
		return Event{}, &CloseError{Code: contracts.CloseProtocol, Reason: "this close code may not be sent"}
	}
	if !utf8.Valid(reason) {
		return Event{}, &CloseError{Code: contracts.CloseInvalidUTF8, Reason: "the close reason is not UTF-8"}
	}
	return Event{Op: OpClose, Code: code, Payload: reason}, nil
}

// cut takes an incomplete frame's bytes off buf, and buf away if the message has none. Who holds a part of it keeps it.
func (r *Reader) cut() {
	r.buf = r.buf[:r.message]
	if r.message == 0 {
		r.buf = nil
	}
}

// keep appends p to buf. buf at least doubles when it grows, so that bytes that come one by one are copied a constant number
// of times, but to no more than most bytes where most is enough.
func (r *Reader) keep(p []byte, most int) {
	need := len(r.buf) + len(p)
	if need > cap(r.buf) {
		grown := max(need, 2*cap(r.buf), 64)
		if most >= need {
			grown = min(grown, most)
		}
		buf := make([]byte, len(r.buf), grown)
		copy(buf, r.buf)
		r.buf = buf
	}
	r.buf = append(r.buf, p...)
}
