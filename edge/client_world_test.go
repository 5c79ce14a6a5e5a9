package edge_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// client is one connection to the edge.
type client struct {
	t  testing.TB
	nc net.Conn
	r  *bufio.Reader
}

func (w *world) dial() *client {
	w.t.Helper()
	nc, err := net.Dial("tcp", w.server.Addr())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(3 * patience)); err != nil {
		w.t.Fatal(err)
	}
	return &client{t: w.t, nc: nc, r: bufio.NewReader(nc)}
}

const upgradeHead = "GET /v1/ws HTTP/1.1\r\nHost: chat.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"

// open makes a WebSocket.
func (w *world) open() *client {
	w.t.Helper()
	c := w.dial()
	c.write([]byte(upgradeHead))
	c.switched()
	return c
}

// connected makes a WebSocket and connects.
func (w *world) connected() *client {
	w.t.Helper()
	c := w.open()
	c.say(`{"id":1,"op":"connect","guest":"Ada"}`)
	if m := c.reply(1); m.OK == nil {
		w.t.Fatalf("connect: %s", m.raw)
	}
	return c
}

func (c *client) switched() {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatalf("read the answer to the handshake: %v", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		c.t.Fatalf("the handshake was answered with %s", resp.Status)
	}
}

func (c *client) write(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// frame is one masked frame of a client.
func frame(first byte, payload []byte) []byte {
	out := []byte{first}
	switch n := len(payload); {
	case n <= 125:
		out = append(out, 0x80|byte(n))
	case n <= 0xFFFF:
		out = binary.BigEndian.AppendUint16(append(out, 0x80|126), uint16(n))
	default:
		out = binary.BigEndian.AppendUint64(append(out, 0x80|127), uint64(n))
	}
	mask := [4]byte{1, 2, 3, 4}
	out = append(out, mask[:]...)
	for i, b := range payload {
		out = append(out, b^mask[i%4])
	}
	return out
}

func text(format string, args ...any) []byte { return frame(0x81, fmt.Appendf(nil, format, args...)) }

// say sends one request.
func (c *client) say(format string, args ...any) {
	c.t.Helper()
	c.write(text(format, args...))
}

// message is what the server sent: a JSON object, or a control frame.
type message struct {
	op      byte
	raw     string
	ID      uint64
	OK      json.RawMessage
	Error   *contracts.Error
	Event   string
	Room    contracts.RoomID
	Seq     contracts.Seq
	Epoch   contracts.Epoch
	From    json.RawMessage
	To      contracts.Seq
	Head    contracts.Seq
	Code    contracts.Code
	closing contracts.CloseCode
}

func (m *message) from() (n contracts.Seq) {
	_ = json.Unmarshal(m.From, &n)
	return n
}

// next reads one frame; an error is the end of the stream.
func (c *client) next() (message, error) {
	var m message
	var head [2]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return m, err
	}
	size := uint64(head[1])
	if head[0]&0xF0 != 0x80 || head[1]&0x80 != 0 {
		return m, fmt.Errorf("a server's frame begins with % x", head)
	}
	var wide [8]byte
	switch size {
	case 126:
		if _, err := io.ReadFull(c.r, wide[6:]); err != nil {
			return m, err
		}
		size = binary.BigEndian.Uint64(wide[:])
	case 127:
		if _, err := io.ReadFull(c.r, wide[:]); err != nil {
			return m, err
		}
		size = binary.BigEndian.Uint64(wide[:])
	}
	if size > 16<<20 {
		return m, fmt.Errorf("a server's frame of %d bytes", size)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(c.r, payload); err != nil {
		return m, fmt.Errorf("inside a frame: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	m.op, m.raw = head[0]&0xF, string(payload)
	switch m.op {
	case 1:
		d := json.NewDecoder(bytes.NewReader(payload))
		if err := d.Decode(&m); err != nil {
			return m, fmt.Errorf("%w in %s", err, payload)
		}
		return m, nil
	case 8:
		if len(payload) >= 2 {
			m.closing = contracts.CloseCode(binary.BigEndian.Uint16(payload))
		}
		return m, nil
	case 9, 10:
		return m, nil
	}
	return m, fmt.Errorf("a server's frame with opcode %d", m.op)
}

// get is the next frame, which must come.
func (c *client) get() message {
	c.t.Helper()
	m, err := c.next()
	if err != nil {
		c.t.Fatalf("read a frame: %v", err)
	}
	return m
}

// reply is the next frame, which must be the reply to a request.
func (c *client) reply(id uint64) message {
	c.t.Helper()
	m := c.get()
	if m.ID != id {
		c.t.Fatalf("got %s instead of the reply to %d", m.raw, id)
	}
	return m
}

// entry is the next frame, which must be an entry.
func (c *client) entry(seq contracts.Seq) {
	c.t.Helper()
	if m := c.get(); m.Event != "message" || m.Seq != seq {
		c.t.Fatalf("got %s instead of entry %d", m.raw, seq)
	}
}

// fails is the next frame, which must be an error.
func (c *client) fails(id uint64, code contracts.Code) {
	c.t.Helper()
	m := c.get()
	if id == 0 && (m.Event != "error" || m.Code != code) || id != 0 && (m.ID != id || m.Error == nil || m.Error.Code != code) {
		c.t.Fatalf("got %s instead of error %s of %d", m.raw, code, id)
	}
}

// closes reads the close frame, answers it and waits for the end.
func (c *client) closes(code contracts.CloseCode) {
	c.t.Helper()
	m := c.get()
	if m.op != 8 || m.closing != code {
		c.t.Fatalf("got %d %q (close code %d) instead of close code %d", m.op, m.raw, m.closing, code)
	}
	_, _ = c.nc.Write(frame(0x88, []byte{byte(code >> 8), byte(code)}))
	if m, err := c.next(); err != io.EOF {
		c.t.Fatalf("after the close frame: %v %q", err, m.raw)
	}
	_ = c.nc.Close()
}

// quiet makes sure that nothing but the reply to a ping comes: all before it has been handled.
func (c *client) quiet() {
	c.t.Helper()
	c.say(`{"id":999,"op":"ping"}`)
	c.reply(999)
}

// joined joins a room, whose head is given.
func (c *client) joined(w *world, room contracts.RoomID, head contracts.Seq) {
	c.t.Helper()
	c.say(`{"id":5,"op":"join","room":"%s"}`, room)
	w.worker.next(c.t, contracts.OpJoin).joined(contracts.JoinComplete, 1, head)
	if m := c.reply(5); m.OK == nil {
		c.t.Fatalf("join: %s", m.raw)
	}
}

func contains(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// exchange connects and asks for its nonce; with cut it hangs up in the middle of it. It runs on any goroutine.
func (c *client) exchange(t *testing.T, nonce int, cut bool) {
	c.r = bufio.NewReader(c.nc)
	_ = c.nc.SetDeadline(time.Now().Add(3 * patience))
	all := append([]byte(upgradeHead), text(`{"id":1,"op":"connect","guest":"Ada"}`)...)
	all = append(all, text(`{"id":%d,"op":"history","room":"a","nonce":%d}`, nonce+1, nonce)...)
	if _, err := c.nc.Write(all); err != nil {
		t.Error(err)
		return
	}
	if cut {
		return
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("nonce %d: %v %v", nonce, resp, err)
		return
	}
	for _, id := range []uint64{1, uint64(nonce + 1)} {
		m, err := c.next()
		if err != nil || m.ID != id || id > 1 && !strings.Contains(string(m.OK), fmt.Sprintf(`"nonce":%d}`, nonce)) {
			t.Errorf("nonce %d: %v %s", nonce, err, m.raw)
			return
		}
	}
}
