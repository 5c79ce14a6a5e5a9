package wire

import (
	"encoding/binary"
	"strconv"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"github.com/parley-chat/parley/contracts"
)

// Op is what an Event is, or the opcode of a control frame to send (RFC 6455 section 5.2).
type Op uint8

// The ops. OpNone is no frame: a Reader needs more bytes.
const (
	OpNone  Op = 0
	OpText     = Op(ws.OpText)
	OpClose    = Op(ws.OpClose)
	OpPing     = Op(ws.OpPing)
	OpPong     = Op(ws.OpPong)
)

// closeAbsent stands for a close frame without a code (RFC 6455 section 7.1.5).
const closeAbsent = contracts.CloseCode(ws.StatusNoStatusRcvd)

// CloseError is why a connection must be closed, and what its close frame says.
type CloseError struct {
	Code   contracts.CloseCode
	Reason string
}

// Error returns "code reason".
func (e *CloseError) Error() string { return strconv.Itoa(int(e.Code)) + " " + e.Reason }

// FrameSize is the length of a server's frame with payloadLen bytes of payload.
func FrameSize(payloadLen int) int {
	switch {
	case payloadLen <= 125:
		return 2 + payloadLen
	case payloadLen <= 0xFFFF:
		return 4 + payloadLen
	}
	return 10 + payloadLen
}

// FrameLen is how long the frame at the beginning of frames, which are unmasked and whole, is.
func FrameLen(frames []byte) int {
	switch n := frames[1]; n {
	case 126:
		return 4 + int(binary.BigEndian.Uint16(frames[2:]))
	case 127:
		return 10 + int(binary.BigEndian.Uint64(frames[2:]))
	default:
		return 2 + int(n)
	}
}

// Frames counts frames, which are unmasked and whole.
func Frames(frames []byte) (n int) {
	for ; len(frames) > 0; n++ {
		frames = frames[FrameLen(frames):]
	}
	return n
}

// AppendText appends payload as one unmasked text frame.
func AppendText(dst, payload []byte) []byte {
	return append(appendHeader(dst, OpText, len(payload)), payload...)
}

// AppendTextHeader appends what stands in front of an unmasked text frame's payload, for who has the payload in place.
func AppendTextHeader(dst []byte, payloadLen int) []byte {
	return appendHeader(dst, OpText, payloadLen)
}

// AppendControl appends an unmasked control frame. More than 125 bytes of payload are cut off.
func AppendControl(dst []byte, op Op, payload []byte) []byte {
	payload = payload[:min(len(payload), ws.MaxControlFramePayloadSize)]
	return append(appendHeader(dst, op, len(payload)), payload...)
}

// AppendClose appends an unmasked close frame. The reason is cut between runes to 123 bytes. A code that may not be
// sent, as the 1005 of a close frame without one, gives a close frame without a code.
func AppendClose(dst []byte, code contracts.CloseCode, reason string) []byte {
	if !validCloseCode(code) {
		return appendHeader(dst, OpClose, 0)
	}
	if most := ws.MaxControlFramePayloadSize - 2; len(reason) > most {
		for most > 0 && !utf8.RuneStart(reason[most]) {
			most--
		}
		reason = reason[:most]
	}
	dst = appendHeader(dst, OpClose, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

func appendHeader(dst []byte, op Op, length int) []byte {
	const fin = 0x80
	dst = append(dst, fin|byte(op))
	switch {
	case length <= 125:
		return append(dst, byte(length))
	case length <= 0xFFFF:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(length))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(length))
}

// validCloseCode reports whether the code may stand in a close frame: those of RFC 6455 section 7.4.1, what IANA has
// registered since (1012 to 1014), and 3000 to 4999.
func validCloseCode(code contracts.CloseCode) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
		return true
	}
	return false
}
