//go:build linux

package edge_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// maxHeapPerConn is what an idle connection, logged in and in a room of a hundred, may hold of the heap, in bytes. It is a
// budget: who needs more says why, and whoever makes it less lowers it.
const maxHeapPerConn = 384

// yes is an rpc.Client that lets everybody in at once and remembers nothing.
type yes struct{ mute }

func (yes) Ask(_ string, body []byte, _ time.Duration, done func([]byte, error)) {
	var cmd contracts.Command
	if err := contracts.DecodeCommand(body, &cmd); err != nil {
		done(nil, err)
		return
	}
	if cmd.Op == contracts.OpJoin {
		done(fmt.Appendf(nil, `{"ok":{"room":"%s","state":"reset","epoch":1,"head":0,"first":1,"entries":[],"online":1},"joined":{"state":"reset","epoch":1,"head":0}}`, cmd.Room), nil)
		return
	}
	user, expires := contracts.Person{ID: "g-1", Name: "Guest", Guest: true}, time.Now().Add(time.Hour).UnixMilli()
	done(contracts.Marshal(&contracts.Answer{Connected: &contracts.Connected{User: user, Expires: expires, OK: &contracts.ConnectOK{
		Session: "s", User: user, Expires: expires, ExpiresInMS: time.Hour.Milliseconds(), Time: time.Now().UnixMilli(), Durability: "none",
	}}}))
}

// everywhere is a fanout.Subscriber that takes any lane and hears nothing.
type everywhere struct{}

func (everywhere) Subscribe(context.Context, ...contracts.Lane) error   { return nil }
func (everywhere) Unsubscribe(context.Context, ...contracts.Lane) error { return nil }
func (everywhere) Healthy() bool                                        { return true }
func (everywhere) Close() error                                         { return nil }

// TestConnectionMemory opens connections over the real loops and divides the growth of the heap. The clients are bare
// descriptors, so that all of it is the edge's.
func TestConnectionMemory(t *testing.T) {
	s, err := edge.New(edge.Config{Node: "n1", Partitions: 8, Listen: "127.0.0.1:0", Loops: 2}, edge.Deps{
		Ask: yes{}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Hear: func(fanout.Receiver) fanout.Subscriber { return everywhere{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	addr, err := net.ResolveTCPAddr("tcp4", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	const warm, n = 300, 2000
	c := &bareClients{t: t, to: &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte{127, 0, 0, 1}}, fds: make([]int, 0, warm+n), buf: make([]byte, 16<<10)}
	t.Cleanup(c.close)
	c.open(warm) // what is made once is made
	before := liveHeap()
	c.open(n)
	per := (int64(liveHeap()) - int64(before)) / n
	t.Logf("%d bytes of the heap per connection", per)
	if per > maxHeapPerConn || per < 64 {
		t.Errorf("%d bytes of the heap per connection, the budget is %d", per, maxHeapPerConn)
	}
}

// liveHeap is what is left after two collections: the first frees what finalizers held.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// bareClients are connections without a Go object each.
type bareClients struct {
	t   *testing.T
	to  *unix.SockaddrInet4
	fds []int
	buf []byte
}

func (c *bareClients) close() {
	for _, fd := range c.fds {
		_ = unix.Close(fd)
	}
}

func (c *bareClients) open(n int) {
	c.t.Helper()
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			c.t.Fatal(err)
		}
		c.fds = append(c.fds, fd)
		limit := unix.NsecToTimeval(patience.Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
			c.t.Fatal(err)
		}
		if err := unix.Connect(fd, c.to); err != nil {
			c.t.Fatal(err)
		}
		c.say(fd, []byte("GET /v1/ws HTTP/1.1\r\nHost: edge\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: "+
			contracts.Subprotocol+"\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"), "\r\n\r\n")
		c.say(fd, masked(`{"id":1,"op":"connect","guest":"Guest"}`), `"id":1`)
		c.say(fd, masked(fmt.Sprintf(`{"id":2,"op":"join","room":"room-%d"}`, len(c.fds)/100)), `"id":2`)
	}
}

// say writes and reads until the answer is there.
func (c *bareClients) say(fd int, b []byte, answer string) {
	c.t.Helper()
	if _, err := writeAgain(fd, b); err != nil {
		c.t.Fatal(err)
	}
	for got := 0; !bytes.Contains(c.buf[:got], []byte(answer)); {
		n, err := readAgain(fd, c.buf[got:])
		if err != nil || n == 0 {
			c.t.Fatalf("wait for %q: %d bytes, %v; so far %q", answer, n, err, c.buf[:got])
		}
		got += n
	}
}

func masked(s string) []byte { return ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte(s)))) }

// readAgain is unix.Read through interruptions: a socket with a time limit is not restarted after a signal (signal(7)),
// and the runtime sends itself many.
func readAgain(fd int, b []byte) (n int, err error) {
	for {
		if n, err = unix.Read(fd, b); err != unix.EINTR {
			return n, err
		}
	}
}

func writeAgain(fd int, b []byte) (n int, err error) {
	for {
		if n, err = unix.Write(fd, b); err != unix.EINTR {
			return n, err
		}
	}
}
