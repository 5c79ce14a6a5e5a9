package chaos

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"strconv"

	"github.com/gobwas/ws"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// tap is one connection, seen by the recorder.
type tap struct {
	net.Conn
	r     *recorder
	n     uint64
	calls map[uint64]wireCall
	rooms map[contracts.RoomID]*stream
	owed  map[identity]bool // the messages of which it was said that an event will follow, once they are stored
	code  int
	// dropped says that its user broke it off.
	dropped bool
	// reading says that a Read is under way: what it brings counts although the connection is being closed.
	reading, ended bool
	// in and out are the bytes that make no whole frame yet; upgraded says that the HTTP heads are over.
	in, out                 []byte
	upgradedIn, upgradedOut bool
}

// identity is a message of a connection's user.
type identity struct {
	room contracts.RoomID
	key  contracts.Key
}

// odd notes what a server that keeps its promises does not send.
func (t *tap) odd(format string, args ...any) {
	t.r.tally.odd(t.r.name + ": " + fmt.Sprintf(format, args...))
}

// Write records what is asked before it goes out.
func (t *tap) Write(b []byte) (int, error) {
	t.r.mu.Lock()
	t.out = append(t.out, b...)
	t.upgradedOut = t.upgradedOut || skipHead(&t.out)
	for t.upgradedOut {
		op, payload, rest, ok := nextFrame(t.out)
		if !ok {
			break
		}
		t.out = rest
		if op == ws.OpText {
			t.asks(payload)
		}
	}
	t.r.mu.Unlock()
	return t.Conn.Write(b)
}

// Read records what came before the client gets it.
func (t *tap) Read(b []byte) (int, error) {
	t.r.mu.Lock()
	t.reading = true
	t.r.mu.Unlock()
	n, err := t.Conn.Read(b)
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	t.reading = false
	t.in = append(t.in, b[:n]...)
	t.upgradedIn = t.upgradedIn || skipHead(&t.in)
	for t.upgradedIn {
		op, payload, rest, ok := nextFrame(t.in)
		if !ok {
			break
		}
		t.in = rest
		switch {
		case op == ws.OpText:
			t.hears(payload)
		case op == ws.OpClose && len(payload) >= 2:
			t.code = int(binary.BigEndian.Uint16(payload))
		}
	}
	if ne, ok := err.(net.Error); err != nil && !(ok && ne.Timeout()) {
		t.end()
	}
	return n, err
}

// Close records the end of the connection, unless a Read is about to.
func (t *tap) Close() error {
	t.r.mu.Lock()
	t.dropped = t.dropped || t.r.drops
	t.r.mu.Unlock()
	err := t.Conn.Close()
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	if !t.reading {
		t.end()
	}
	return err
}

func (t *tap) end() {
	if t.ended {
		return
	}
	t.ended = true
	e := history.Event{Kind: history.Closed}
	switch {
	case t.code != 0:
		e.Code = strconv.Itoa(t.code)
	case t.dropped:
		e.Code = history.Dropped
	}
	t.r.add(t.n, e)
	t.r.tally.closed.Add(1)
	for _, call := range t.calls {
		if call.op == string(contracts.OpSend) {
			t.answered(call, history.Unknown, "")
		}
	}
	t.calls = nil
}

// skipHead drops an HTTP head from b, if it is whole.
func skipHead(b *[]byte) bool {
	i := bytes.Index(*b, []byte("\r\n\r\n"))
	if i < 0 {
		return false
	}
	*b = (*b)[i+4:]
	return true
}

// nextFrame takes a whole frame of b, unmasked. Neither side fragments what it sends.
func nextFrame(b []byte) (op ws.OpCode, payload, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, b, false
	}
	size, n := 2, int(b[1]&0x7F)
	switch {
	case n == 126 && len(b) >= 4:
		size, n = 4, int(binary.BigEndian.Uint16(b[2:]))
	case n == 127 && len(b) >= 10:
		size, n = 10, int(binary.BigEndian.Uint64(b[2:])&(1<<31-1))
	case n >= 126:
		return 0, nil, b, false
	}
	masked := b[1]&0x80 != 0
	var mask [4]byte
	if masked {
		if len(b) < size+4 {
			return 0, nil, b, false
		}
		copy(mask[:], b[size:])
		size += 4
	}
	if len(b) < size+n {
		return 0, nil, b, false
	}
	payload = b[size : size+n]
	if masked {
		payload = bytes.Clone(payload)
		ws.Cipher(payload, mask, 0)
	}
	return ws.OpCode(b[0] & 0xF), payload, b[size+n:], true
}
