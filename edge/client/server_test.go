package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/client"
	"github.com/parley-chat/parley/edge/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a server that does what the test says, over in-memory pipes, and a client of it. It lives in a synctest
// bubble, so that waits take no time.
type script struct {
	*testing.T
	dialled chan net.Conn
	cfg     client.Config

	mu     sync.Mutex // guards the rest
	down   int        // dials to refuse
	dials  int
	events []client.Event
	states []client.State
}

// run runs f in a bubble.
func run(t *testing.T, f func(s *script)) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{T: t, dialled: make(chan net.Conn, 16)}
		s.cfg = client.Config{
			URL: "ws://edge.test/v1/ws", Guest: "Ada", Log: slog.New(slog.NewTextHandler(bustest.Output(t), &slog.HandlerOptions{Level: slog.LevelDebug})),
			NetDial: s.dial,
			OnEvent: func(ev client.Event) {
				s.mu.Lock()
				defer s.mu.Unlock()
				ev.Raw = append(json.RawMessage(nil), ev.Raw...)
				s.events = append(s.events, ev)
			},
			OnState: func(st client.State) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.states = append(s.states, st)
			},
		}
		f(s)
	})
}

func (s *script) dial(context.Context, string, string) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dials++
	if s.down > 0 {
		s.down--
		return nil, errors.New("refused by the test")
	}
	ours, theirs := net.Pipe()
	s.dialled <- ours
	return theirs, nil
}

// told returns what OnEvent got, in brief, and forgets it.
func (s *script) told() string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	var b []string
	for _, ev := range s.events {
		switch {
		case ev.Entry():
			b = append(b, fmt.Sprintf("%s/%d.%d", ev.Room, ev.Epoch, ev.Seq))
		case ev.Kind == client.EventGap:
			b = append(b, fmt.Sprintf("gap %s/%d-%d", ev.Room, ev.First, ev.Last))
		case ev.Err != nil:
			b = append(b, ev.Kind+" "+string(ev.Err.Code))
		default:
			b = append(b, ev.Kind+" "+string(ev.Room))
		}
	}
	s.events = nil
	return strings.Join(b, ", ")
}

// peer is the server's end of one connection.
type peer struct {
	*script
	conn   net.Conn
	buf    []byte
	reader wire.Reader
	target string // what was asked for
}

type request struct {
	ID    uint64
	Op    string
	Room  string
	Key   string
	Text  string
	Ack   string
	Token string
	Guest string
	Since *contracts.Since
	Limit *int
}

// accept takes the next connection and upgrades it.
func (s *script) accept() *peer {
	s.Helper()
	p := &peer{script: s, conn: <-s.dialled}
	for {
		req, n, err := wire.ParseRequest(p.buf)
		if err != nil {
			s.Fatal(err)
		}
		if n > 0 {
			if err := req.CheckUpgrade(nil); err != nil {
				s.Fatal(err)
			}
			p.target = req.Host + req.Target
			p.buf = p.buf[n:]
			p.write(wire.AppendSwitching(nil, &req))
			return p
		}
		p.read()
	}
}

// connect is accept and the reply to connect.
func (s *script) connect() *peer {
	s.Helper()
	p := s.accept()
	p.ok(p.expect("connect"), hello(`"token":"guest-1"`))
	return p
}

func hello(more string) string {
	return `{"user":{"id":"u1","name":"Ada"},"ping":25,"time":946684800000,` + more + `}`
}

func (p *peer) read() {
	p.Helper()
	b := make([]byte, 4096)
	n, err := p.conn.Read(b)
	if err != nil {
		p.Fatalf("the client's bytes: %v", err)
	}
	p.buf = append(p.buf, b[:n]...)
}

func (p *peer) write(b []byte) {
	p.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.Fatalf("write to the client: %v", err)
	}
}

// event returns the next frame of the client.
func (p *peer) event() wire.Event {
	p.Helper()
	for {
		ev, rest, err := p.reader.Next(p.buf, nil)
		if err != nil {
			p.Fatal(err)
		}
		p.buf = rest
		if ev.Op != wire.OpNone {
			return ev
		}
		p.read()
	}
}

// expect returns the next request, which must be of the op.
func (p *peer) expect(op string) request {
	p.Helper()
	ev := p.event()
	if ev.Op != wire.OpText {
		p.Fatalf("frame %d %q, want op %s", ev.Op, ev.Payload, op)
	}
	if _, err := contracts.ParseObject(ev.Payload); err != nil {
		p.Fatalf("%s: %v", ev.Payload, err)
	}
	var r request
	if err := json.Unmarshal(ev.Payload, &r); err != nil {
		p.Fatal(err)
	}
	if r.Op != op || r.ID == 0 {
		p.Fatalf("%s, want op %s", ev.Payload, op)
	}
	return r
}

func (p *peer) text(format string, args ...any) {
	p.Helper()
	p.write(wire.AppendText(nil, fmt.Appendf(nil, format, args...)))
}

func (p *peer) ok(r request, ok string) {
	p.Helper()
	p.text(`{"id":%d,"ok":%s}`, r.ID, ok)
}

func (p *peer) fail(r request, code contracts.Code, afterMS int) {
	p.Helper()
	p.text(`{"id":%d,"error":{"code":%q,"message":"m","retry":%v,"retry_after_ms":%d}}`, r.ID, code, code.Retryable(), afterMS)
}

func entry(room string, epoch, seq int) string {
	return fmt.Sprintf(`{"event":"message","room":%q,"seq":%d,"epoch":%d,"time":5,"from":{"id":"u2","name":"Bo"},"key":"01890a5d-ac96-774b-bcce-b302099a8057","text":"t%d"}`,
		room, seq, epoch, seq)
}

// join replies to a join with the entries from first to last, of which there are none if first is above last.
func (p *peer) join(r request, state string, epoch, head, first, last int) {
	p.Helper()
	var list []string
	for seq := first; seq <= last; seq++ {
		list = append(list, entry(r.Room, epoch, seq))
	}
	p.ok(r, fmt.Sprintf(`{"room":%q,"state":%q,"epoch":%d,"head":%d,"first":1,"entries":[%s],"online":1}`, r.Room, state, epoch, head, strings.Join(list, ",")))
}

// since requires the position that a join resumes from; epoch 0 means none.
func (p *peer) since(r request, epoch, seq int) request {
	p.Helper()
	want := contracts.Since{Epoch: contracts.Epoch(epoch), Seq: contracts.Seq(seq)}
	switch {
	case epoch == 0 && r.Since != nil:
		p.Fatalf("join with since %+v, want none", *r.Since)
	case epoch != 0 && (r.Since == nil || *r.Since != want):
		p.Fatalf("join with since %+v, want %+v", r.Since, want)
	}
	return r
}

// close sends a close frame, reads the client's and closes.
func (p *peer) close(code contracts.CloseCode) {
	p.Helper()
	p.write(wire.AppendClose(nil, code, "by the test"))
	if ev := p.event(); ev.Op != wire.OpClose || ev.Code != code {
		p.Fatalf("answer %d %d %q to close %d", ev.Op, ev.Code, ev.Payload, code)
	}
	p.conn.Close()
}

// start dials, and accepts with connect.
func (s *script) start() (*client.Client, *peer) {
	s.Helper()
	type result struct {
		c   *client.Client
		err error
	}
	done := make(chan result, 1)
	go func() {
		c, err := client.Dial(s.Context(), s.cfg)
		done <- result{c, err}
	}()
	p := s.connect()
	r := <-done
	if r.err != nil {
		s.Fatal(r.err)
	}
	return r.c, p
}

// stop closes the client; the peer takes part.
func (p *peer) stop(c *client.Client) {
	p.Helper()
	closed := make(chan struct{})
	go func() {
		c.Close()
		close(closed)
	}()
	if ev := p.event(); ev.Op != wire.OpClose || ev.Code != contracts.CloseNormal {
		p.Fatalf("frame %d %q instead of close", ev.Op, ev.Payload)
	}
	p.write(wire.AppendClose(nil, contracts.CloseNormal, ""))
	<-closed
	p.conn.Close()
	if err := c.Err(); !errors.Is(err, client.ErrClosed) {
		p.Errorf("a closed client says %v", err)
	}
}

// background runs f and returns a function that waits for what it returns.
func background[T any](f func() (T, error)) func() (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	return func() (T, error) {
		r := <-done
		return r.v, r.err
	}
}

// joined is a client that listens to lobby up to the head.
func (s *script) joined(head int) (*client.Client, *peer) {
	s.Helper()
	c, p := s.start()
	wait := background(func() (contracts.JoinOK, error) { return c.Join(s.Context(), "lobby", nil) })
	p.join(p.since(p.expect("join"), 0, 0), "complete", 1, head, head, head)
	if _, err := wait(); err != nil {
		s.Fatal(err)
	}
	s.told()
	return c, p
}

func (s *script) check(what, want string) {
	s.Helper()
	if got := s.told(); got != want {
		s.Errorf("%s: told %q, want %q", what, got, want)
	}
}
