package edge_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// patience bounds every wait for something that must come.
const patience = 10 * time.Second

// transports runs a test on both kinds of sockets.
func transports(t *testing.T, test func(t *testing.T, portable bool)) {
	t.Helper()
	for name, portable := range map[string]bool{"epoll": false, "portable": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, portable)
		})
	}
}

// world is an edge with everything around it under the test's control.
type world struct {
	t        testing.TB
	worker   *worker
	ear      *ear
	registry *prometheus.Registry
	server   *edge.Server
}

// newWorld starts an edge; change may alter its configuration.
func newWorld(t testing.TB, portable bool, change ...func(*edge.Config, *edge.Deps)) *world {
	t.Helper()
	w := build(t, "n1", portable, change...)
	w.start()
	return w
}

// build makes an edge that is not started yet.
func build(t testing.TB, node contracts.NodeID, portable bool, change ...func(*edge.Config, *edge.Deps)) *world {
	t.Helper()
	w := &world{t: t, worker: newWorker(), ear: &ear{lanes: make(map[contracts.Lane]bool)}, registry: prometheus.NewRegistry()}
	cfg := edge.Config{Node: node, Partitions: 8, Listen: "127.0.0.1:0", Loops: 2, Portable: portable}
	deps := edge.Deps{
		Ask: w.worker,
		Hear: func(r fanout.Receiver) fanout.Subscriber {
			w.ear.receiver = r
			return w.ear
		},
		Log:     slog.New(slog.DiscardHandler),
		Metrics: w.registry,
	}
	for _, f := range change {
		f(&cfg, &deps)
	}
	server, err := edge.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	w.server = server
	return w
}

func (w *world) start() {
	w.t.Helper()
	if err := w.server.Start(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		w.worker.releaseAll()
		if err := w.server.Shutdown(ctx); err != nil {
			w.t.Errorf("shut down: %v", err)
		}
	})
}

// metric returns the sum of a metric over its labels.
func (w *world) metric(name string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "parley_edge_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// until waits for a condition that nothing tells of.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not in time", what)
		}
	}
}

// say publishes an entry on its room's lane, as the dispatcher does.
func (w *world) say(room contracts.RoomID, seq contracts.Seq) { w.ear.publish(entryOf(room, 1, seq)) }

func entryOf(room contracts.RoomID, epoch contracts.Epoch, seq contracts.Seq) contracts.Envelope {
	return contracts.Envelope{Kind: contracts.EnvelopeEntry, Room: room, Epoch: epoch, Seq: seq, Body: entryJSON(room, epoch, seq)}
}

func entryJSON(room contracts.RoomID, epoch contracts.Epoch, seq contracts.Seq) []byte {
	return fmt.Appendf(nil, `{"event":"message","room":"%s","seq":%d,"epoch":%d,"text":"entry %d"}`, room, seq, epoch, seq)
}

func headOf(room contracts.RoomID, epoch contracts.Epoch, seq contracts.Seq) contracts.Envelope {
	return contracts.Envelope{Kind: contracts.EnvelopeHead, Room: room, Epoch: epoch, Seq: seq}
}

// ear is the subscriber that a test speaks into.
type ear struct {
	receiver fanout.Receiver

	mu     sync.Mutex // guards the rest
	lanes  map[contracts.Lane]bool
	before func() error // runs in Subscribe before the lanes are heard
	closed bool
}

// gate makes Subscribe call before, and fail with its error.
func (e *ear) gate(before func() error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.before = before
}

func (e *ear) publish(envelopes ...contracts.Envelope) {
	for i := range envelopes {
		e.raw(contracts.LaneOf(envelopes[i].Room), contracts.AppendEnvelope(nil, &envelopes[i]))
	}
}

// raw is a message on a lane; it is lost unless the lane is heard.
func (e *ear) raw(lane contracts.Lane, body []byte) {
	e.mu.Lock()
	heard := e.lanes[lane] && !e.closed
	e.mu.Unlock()
	if heard {
		e.receiver.Receive(lane, body)
	}
}

func (e *ear) Subscribe(ctx context.Context, lanes ...contracts.Lane) error {
	e.mu.Lock()
	before := e.before
	e.mu.Unlock()
	if before != nil {
		if err := before(); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range lanes {
		e.lanes[l] = true
	}
	return ctx.Err()
}

func (e *ear) Unsubscribe(_ context.Context, lanes ...contracts.Lane) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range lanes {
		delete(e.lanes, l)
	}
	return nil
}

func (e *ear) hears(room contracts.RoomID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lanes[contracts.LaneOf(room)]
}

func (e *ear) Healthy() bool { return true }

func (e *ear) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	return nil
}

// asked is one question to the worker, or to a dispatcher.
type asked struct {
	contracts.Command
	heads  []contracts.RoomID // of a question to a dispatcher
	answer func(any)          // with an Answer, a Reply or an error, once
}

func (q *asked) ok(body string) { q.answer(contracts.Answer{OK: json.RawMessage(body)}) }

func (q *asked) err(code contracts.Code) {
	q.answer(contracts.Answer{Err: contracts.NewError(code, "refused by the test")})
}

func (q *asked) joined(state contracts.JoinState, epoch contracts.Epoch, head contracts.Seq) {
	q.answer(joinAnswer(state, epoch, head))
}

func joinAnswer(state contracts.JoinState, epoch contracts.Epoch, head contracts.Seq) contracts.Answer {
	return contracts.Answer{
		OK:     fmt.Appendf(nil, `{"state":"%s","epoch":%d,"head":%d}`, state, epoch, head),
		Joined: &contracts.Joined{State: state, Epoch: epoch, Head: head},
	}
}

// worker is the rpc.Client that a test scripts. What no script takes waits in its op's channel for the test.
type worker struct {
	mu      sync.Mutex // guards the rest
	scripts map[contracts.Op]func(*asked)
	waiting map[contracts.Op]chan *asked
	release []func()
	closed  bool
}

// opHeads stands for the questions to dispatchers.
const opHeads contracts.Op = "heads"

func newWorker() *worker {
	w := &worker{scripts: make(map[contracts.Op]func(*asked)), waiting: make(map[contracts.Op]chan *asked)}
	w.script(contracts.OpConnect, func(q *asked) { q.answer(connectAnswer("u1", time.Hour)) })
	w.script(contracts.OpGone, func(q *asked) { q.ok(`{}`) })
	w.script(opHeads, func(q *asked) { q.answer(rpc.ErrNoServer) })
	return w
}

func connectAnswer(user contracts.UserID, lifetime time.Duration) contracts.Answer {
	expires := time.Now().Add(lifetime).UnixMilli()
	person := contracts.Person{ID: user, Name: "Ada"}
	return contracts.Answer{Connected: &contracts.Connected{User: person, Expires: expires, OK: &contracts.ConnectOK{User: person, Expires: expires}}}
}

// script answers an op from now on; nil leaves it to next.
func (w *worker) script(op contracts.Op, f func(*asked)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.scripts[op] = f
}

func (w *worker) questions(op contracts.Op) chan *asked {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting[op] == nil {
		w.waiting[op] = make(chan *asked, 4096)
	}
	return w.waiting[op]
}

// next is the next question of an op without a script.
func (w *worker) next(t testing.TB, op contracts.Op) *asked {
	t.Helper()
	select {
	case q := <-w.questions(op):
		return q
	case <-time.After(patience):
		t.Fatalf("nobody asked for %s", op)
		return nil
	}
}

func (w *worker) Ask(_ string, body []byte, timeout time.Duration, done func([]byte, error)) {
	var once sync.Once
	q := &asked{}
	timer := time.AfterFunc(timeout, func() { once.Do(func() { done(nil, rpc.ErrTimeout) }) })
	q.answer = func(a any) {
		once.Do(func() {
			timer.Stop()
			switch a := a.(type) {
			case error:
				done(nil, a)
			case string:
				done([]byte(a), nil)
			default:
				reply, err := json.Marshal(a)
				done(reply, err)
			}
		})
	}
	op := opHeads
	if err := json.Unmarshal(body, &q.Command); err != nil {
		panic(fmt.Sprintf("a question that is no JSON: %v: %s", err, body))
	}
	if op = q.Op; op == "" {
		var question contracts.Question
		if err := json.Unmarshal(body, &question); err != nil {
			panic(err)
		}
		op, q.heads = opHeads, question.Heads
	}
	w.mu.Lock()
	script := w.scripts[op]
	w.release = append(w.release, func() { q.answer(rpc.ErrDown) })
	closed := w.closed
	w.mu.Unlock()
	switch {
	case closed:
		q.answer(rpc.ErrDown)
	case script != nil:
		script(q)
	default:
		w.questions(op) <- q
	}
}

// releaseAll fails whatever waits and all that follows.
func (w *worker) releaseAll() {
	w.mu.Lock()
	all := w.release
	w.release, w.closed = nil, true
	w.mu.Unlock()
	for _, f := range all {
		f()
	}
}

func (w *worker) MaxPayload() int { return 1 << 20 }
func (w *worker) Up() bool        { return true }
func (w *worker) Close() error    { return nil }

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
