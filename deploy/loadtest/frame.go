package loadtest

import (
	"encoding/binary"
	"errors"

	"github.com/gobwas/ws"
)

// maxFrame is the longest frame that is taken from a server; the protocol allows 256 KiB.
const maxFrame = 1 << 20

var (
	errFrameBig    = errors.New("frame above 1 MiB")
	errFrameForm   = errors.New("malformed frame")
	errFrameMasked = errors.New("masked frame from a server")
	errFramePieces = errors.New("fragmented frame, which the protocol does not use")
)

// cutFrame takes the first whole frame off b. n is 0 as long as it is not whole.
func cutFrame(b []byte) (op ws.OpCode, payload []byte, n int, err error) {
	if len(b) < 2 {
		return 0, nil, 0, nil
	}
	op = ws.OpCode(b[0] & 0x0f)
	switch {
	case b[0]&0x70 != 0:
		return 0, nil, 0, errFrameForm
	case b[1]&0x80 != 0:
		return 0, nil, 0, errFrameMasked
	case b[0]&0x80 == 0 || op == ws.OpContinuation:
		return 0, nil, 0, errFramePieces
	}
	length, head := int64(b[1]), 2
	switch length {
	case 126:
		if len(b) < 4 {
			return 0, nil, 0, nil
		}
		length, head = int64(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		if len(b) < 10 {
			return 0, nil, 0, nil
		}
		length, head = int64(binary.BigEndian.Uint64(b[2:])), 10
	}
	if length < 0 || length > maxFrame {
		return 0, nil, 0, errFrameBig
	}
	if int64(len(b)-head) < length {
		return 0, nil, 0, nil
	}
	n = head + int(length)
	return op, b[head:n], n, nil
}

// headRoom is what a client's frame header may need: 2 bytes, a long length and the mask.
const headRoom = 14

// sealFrame turns buf, whose payload begins at headRoom, into a masked frame and returns the bytes to send.
func sealFrame(buf []byte, op ws.OpCode, mask uint32) []byte {
	payload := buf[headRoom:]
	var key [4]byte
	binary.LittleEndian.PutUint32(key[:], mask)
	ws.Cipher(payload, key, 0)
	start := headRoom - 4
	copy(buf[start:], key[:])
	switch n := len(payload); {
	case n < 126:
		start--
		buf[start] = byte(n) | 0x80
	case n < 1<<16:
		start -= 3
		buf[start] = 126 | 0x80
		binary.BigEndian.PutUint16(buf[start+1:], uint16(n))
	default:
		start -= 9
		buf[start] = 127 | 0x80
		binary.BigEndian.PutUint64(buf[start+1:], uint64(n))
	}
	start--
	buf[start] = byte(op) | 0x80
	return buf[start:]
}
