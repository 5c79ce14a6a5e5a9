package loadtest

import (
	"bytes"
	"encoding/binary"
	"strconv"
)

// mark is what a message's text says about it: who sent it, into which room, the sender's own number for it and when it
// should have been sent. All receivers judge by it.
//
//	pl RUN ROOM SENDER N INTENDED ~~~~~
type mark struct {
	room     int32
	sender   int32
	n        uint32
	intended int64 // on the run's clock, nanoseconds
}

const markPrefix = "pl "

// appendMark appends the text, filled up to size bytes.
func appendMark(dst []byte, run string, m mark, size int) []byte {
	start := len(dst)
	dst = append(dst, markPrefix...)
	dst = append(dst, run...)
	for _, v := range [...]int64{int64(m.room), int64(m.sender), int64(m.n), m.intended} {
		dst = append(dst, ' ')
		dst = strconv.AppendInt(dst, v, 10)
	}
	dst = append(dst, ' ')
	for len(dst)-start < size {
		dst = append(dst, '~')
	}
	return dst
}

// parseMark reads a text; ok is false for what is no message of this run.
func parseMark(text []byte, run string) (m mark, ok bool) {
	rest, ok := bytes.CutPrefix(text, []byte(markPrefix))
	if !ok || len(rest) < len(run) || string(rest[:len(run)]) != run {
		return mark{}, false
	}
	rest = rest[len(run):]
	var v [4]uint64
	for i := range v {
		if len(rest) == 0 || rest[0] != ' ' {
			return mark{}, false
		}
		end := bytes.IndexByte(rest[1:], ' ')
		if end < 0 {
			return mark{}, false
		}
		if v[i], ok = parseUint(rest[1 : 1+end]); !ok {
			return mark{}, false
		}
		rest = rest[1+end:]
	}
	return mark{room: int32(v[0]), sender: int32(v[1]), n: uint32(v[2]), intended: int64(v[3])}, true
}

// appendKey appends the key of a sender's message n in its text form: a UUIDv7 whose time is ms and whose other bits
// follow from the run, the sender and n. It is the same at every attempt without being kept.
func appendKey(dst []byte, ms int64, seed int64, sender int, n uint32) []byte {
	var k [16]byte
	binary.BigEndian.PutUint64(k[:], uint64(ms)<<16)
	x := mix(uint64(seed)) ^ uint64(sender)<<32 ^ uint64(n)
	binary.BigEndian.PutUint64(k[8:], mix(x))
	binary.BigEndian.PutUint16(k[6:], uint16(mix(x+1)))
	k[6] = 0x70 | k[6]&0x0f
	k[8] = 0x80 | k[8]&0x3f
	const hex = "0123456789abcdef"
	for i, b := range k {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst = append(dst, '-')
		}
		dst = append(dst, hex[b>>4], hex[b&15])
	}
	return dst
}
