package proxy_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/parley-chat/parley/deploy/chaos/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long tests wait for what must come. It is long because nobody who passes waits for it.
const patience = time.Minute

// world is a server behind a proxy.
type world struct {
	*testing.T
	ln net.Listener
	*proxy.Proxy
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ln := listen(t)
	p, err := proxy.Listen("127.0.0.1:0", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return &world{T: t, ln: ln, Proxy: p}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func (w *world) dial() *net.TCPConn {
	w.Helper()
	c, err := net.DialTimeout("tcp", w.Addr(), patience)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// pair is a connection through the proxy, both ends.
func (w *world) pair() (client, server *net.TCPConn) {
	w.Helper()
	client = w.dial()
	return client, w.take(w.ln)
}

func (w *world) take(ln net.Listener) *net.TCPConn {
	w.Helper()
	if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		w.Fatal(err)
	}
	c, err := ln.Accept()
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

func (w *world) say(from, to *net.TCPConn, text string) {
	w.Helper()
	w.write(from, text)
	w.read(to, text)
}

func (w *world) write(c *net.TCPConn, text string) {
	w.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		w.Fatal(err)
	}
}

func (w *world) read(c *net.TCPConn, want string) {
	w.Helper()
	buf := make([]byte, len(want))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != want {
		w.Fatalf("read %q, %v, want %q", buf, err, want)
	}
}

// silent fails the test if anything comes within a moment.
func (w *world) silent(c *net.TCPConn) {
	w.Helper()
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	defer c.SetReadDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		w.Fatalf("read %d, %v from what should be silent", n, err)
	}
}

// isReset fails the test unless the connection was reset.
func (w *world) isReset(c *net.TCPConn) {
	w.Helper()
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, syscall.ECONNRESET) {
		w.Errorf("read %d, %v, want a reset", n, err)
	}
}

func TestPasses(t *testing.T) {
	w := newWorld(t)
	client, server := w.pair()
	w.say(client, server, "up")
	w.say(server, client, "down!")
	client.CloseWrite()
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the server read %v, want the end", err)
	}
	w.say(server, client, "still open")
	server.Close()
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the client read %v, want the end", err)
	}
}

func TestHolds(t *testing.T) {
	for _, tt := range []struct {
		name     string
		fault    proxy.Fault
		up, down bool
	}{
		{"up", proxy.Fault{HoldUp: true}, true, false},
		{"down", proxy.Fault{HoldDown: true}, false, true},
		{"both", proxy.Fault{HoldUp: true, HoldDown: true}, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			client, server := w.pair()
			w.say(client, server, "before")
			w.Set(tt.fault)
			w.write(client, "one way")
			w.write(server, "the other")
			if tt.up {
				w.silent(server)
			} else {
				w.read(server, "one way")
			}
			if tt.down {
				w.silent(client)
			} else {
				w.read(client, "the other")
			}
			w.Set(proxy.Fault{})
			if tt.up {
				w.read(server, "one way")
			}
			if tt.down {
				w.read(client, "the other")
			}
			w.say(client, server, "after")
		})
	}
}

// TestHoldKeepsTheEnd closes during a partition: the other end learns of it behind the bytes.
func TestHoldKeepsTheEnd(t *testing.T) {
	w := newWorld(t)
	client, server := w.pair()
	w.Set(proxy.Fault{HoldUp: true, HoldDown: true})
	w.write(client, "last")
	client.CloseWrite()
	w.silent(server)
	w.Set(proxy.Fault{})
	w.read(server, "last")
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want the end", err)
	}
}

func TestReset(t *testing.T) {
	w := newWorld(t)
	client, server := w.pair()
	w.say(client, server, "x")
	if n := w.Reset(); n != 1 {
		t.Errorf("reset %d", n)
	}
	w.isReset(client)
	w.isReset(server)
	client, server = w.pair()
	w.say(client, server, "again")
}

func TestHalfClose(t *testing.T) {
	w := newWorld(t)
	client, server := w.pair()
	w.say(client, server, "x")
	w.HalfClose(proxy.Down)
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the client read %v, want the end", err)
	}
	w.say(client, server, "the other way goes on")
}

func TestHang(t *testing.T) {
	w := newWorld(t)
	before, server := w.pair()
	w.Set(proxy.Fault{Hang: true})
	hung := w.dial()
	w.write(hung, "anybody?")
	w.silent(hung)
	w.say(before, server, "goes on")
	w.Set(proxy.Fault{})
	w.isReset(hung)
}

func TestRefuse(t *testing.T) {
	w := newWorld(t)
	w.Set(proxy.Fault{Refuse: true})
	w.refused()
}

// refused dials what resets at once: before the dial is over, or behind it.
func (w *world) refused() {
	w.Helper()
	c, err := net.DialTimeout("tcp", w.Addr(), patience)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		w.isReset(c.(*net.TCPConn))
	}
}

func TestSlow(t *testing.T) {
	for name, f := range map[string]proxy.Fault{
		"latency": {Latency: 60 * time.Millisecond},
		"rate":    {Rate: 100}, // 6 bytes take 60 ms
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			client, server := w.pair()
			w.Set(f)
			begin := time.Now()
			w.say(client, server, "slowly")
			if took := time.Since(begin); took < 60*time.Millisecond {
				t.Errorf("took %v", took)
			}
		})
	}
}

// TestSlowEndsEarly lifts a latency of an hour.
func TestSlowEndsEarly(t *testing.T) {
	w := newWorld(t)
	client, server := w.pair()
	w.Set(proxy.Fault{Latency: time.Hour})
	w.write(client, "x")
	w.silent(server)
	w.Set(proxy.Fault{})
	w.read(server, "x")
}

func TestTrip(t *testing.T) {
	w := newWorld(t)
	client, server := w.pair()
	w.Trip(func(piece []byte) bool { return string(piece) == "trip" })
	w.say(client, server, "fine")
	w.say(server, client, "trip") // the other way
	w.write(client, "trip")
	w.isReset(client)
	w.isReset(server)
	w.Trip(nil)
	client, server = w.pair()
	w.say(client, server, "trip")
}

func TestRetarget(t *testing.T) {
	w := newWorld(t)
	client, server := w.pair()
	w.say(client, server, "x")
	other := listen(t)
	w.Retarget(other.Addr().String())
	w.isReset(client)
	client = w.dial()
	server = w.take(other)
	w.say(client, server, "to the other")
}

// TestNobodyThere resets a connection whose target is gone.
func TestNobodyThere(t *testing.T) {
	w := newWorld(t)
	w.ln.Close()
	w.refused()
}
