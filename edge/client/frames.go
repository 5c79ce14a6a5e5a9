package client

import (
	"encoding/binary"
	"fmt"

	"github.com/gobwas/ws"

	"github.com/parley-chat/parley/contracts"
)

// inbox turns the bytes of a server into frames. It holds at most one message of maxMessage.
type inbox struct {
	buf     []byte // what was read and not yet taken
	taken   int    // how much of buf was
	message []byte // the fragments so far
	started bool
}

// maxMessage is the largest message that is taken from a server.
const maxMessage = contracts.MaxServerFrame

// space returns where to read to.
func (b *inbox) space() []byte {
	if b.taken > 0 {
		n := copy(b.buf, b.buf[b.taken:])
		b.buf, b.taken = b.buf[:n], 0
	}
	if len(b.buf) == cap(b.buf) {
		grown := make([]byte, len(b.buf), max(2*cap(b.buf), 4096))
		copy(grown, b.buf)
		b.buf = grown
	}
	return b.buf[len(b.buf):cap(b.buf)]
}

// add says how many bytes were read to space.
func (b *inbox) add(n int) { b.buf = b.buf[:len(b.buf)+n] }

// next returns the next message or control frame. ok is false where it is not complete. payload is valid until space.
func (b *inbox) next() (op ws.OpCode, payload []byte, ok bool, err error) {
	for {
		h, payload, ok, err := b.frame()
		if err != nil || !ok {
			return 0, nil, false, err
		}
		if h.OpCode.IsControl() {
			return h.OpCode, payload, true, nil
		}
		if h.OpCode == ws.OpBinary {
			return 0, nil, false, &CloseError{Code: contracts.CloseUnsupported, Reason: "the server sent a binary message"}
		}
		if h.Fin && !b.started {
			return ws.OpText, payload, true, nil
		}
		if len(b.message)+len(payload) > maxMessage {
			return 0, nil, false, errTooLarge
		}
		b.message = append(b.message, payload...)
		b.started = !h.Fin
		if h.Fin {
			payload = b.message
			b.message = nil
			return ws.OpText, payload, true, nil
		}
	}
}

var errTooLarge = &CloseError{Code: contracts.CloseTooBig, Reason: fmt.Sprintf("the server sent a message above %d bytes", maxMessage)}

func (b *inbox) frame() (h ws.Header, payload []byte, ok bool, err error) {
	p := b.buf[b.taken:]
	if len(p) < 2 {
		return h, nil, false, nil
	}
	h = ws.Header{Fin: p[0]&0x80 != 0, Rsv: p[0] >> 4 & 7, OpCode: ws.OpCode(p[0] & 0xF), Masked: p[1]&0x80 != 0, Length: int64(p[1] & 0x7F)}
	state := ws.StateClientSide
	if b.started {
		state = state.Set(ws.StateFragmented)
	}
	if err := ws.CheckHeader(h, state); err != nil {
		return h, nil, false, &CloseError{Code: contracts.CloseProtocol, Err: err}
	}
	size := 2
	switch {
	case h.Length == 126 && len(p) >= 4:
		size, h.Length = 4, int64(binary.BigEndian.Uint16(p[2:]))
	case h.Length == 127 && len(p) >= 10:
		size, h.Length = 10, int64(binary.BigEndian.Uint64(p[2:])&(1<<62-1))
	case h.Length >= 126:
		return h, nil, false, nil
	}
	if h.Length > maxMessage {
		return h, nil, false, errTooLarge
	}
	end := size + int(h.Length)
	if len(p) < end {
		return h, nil, false, nil
	}
	b.taken += end
	return h, p[size:end], true, nil
}

// appendMasked appends a client's frame.
func appendMasked(dst []byte, op ws.OpCode, payload []byte) []byte {
	dst = append(dst, 0x80|byte(op))
	switch n := len(payload); {
	case n <= 125:
		dst = append(dst, 0x80|byte(n))
	case n <= 0xFFFF:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	mask := ws.NewMask()
	dst = append(dst, mask[:]...)
	at := len(dst)
	dst = append(dst, payload...)
	ws.Cipher(dst[at:], mask, 0)
	return dst
}
