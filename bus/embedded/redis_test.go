//go:build !lean

package embedded_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/embedded"
)

// redisConn is a client that speaks the protocol by hand.
type redisConn struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dialRedis(t *testing.T, r *embedded.Redis) *redisConn {
	t.Helper()
	nc, err := net.Dial("tcp", strings.TrimPrefix(r.URL(), "redis://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	c := &redisConn{t: t, Conn: nc, r: bufio.NewReader(nc)}
	c.patient()
	return c
}

// patient gives what comes next its time.
func (c *redisConn) patient() {
	c.t.Helper()
	if err := c.SetDeadline(time.Now().Add(bustest.Patience)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *redisConn) send(args ...string) {
	c.t.Helper()
	c.patient()
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(c, b.String()); err != nil {
		c.t.Fatalf("send %s: %v", args[0], err)
	}
}

// want reads what must come next.
func (c *redisConn) want(reply string) {
	c.t.Helper()
	c.patient()
	got := make([]byte, len(reply))
	if _, err := io.ReadFull(c.r, got); err != nil {
		c.t.Fatalf("read: %v; want %q", err, reply)
	}
	if string(got) != reply {
		c.t.Fatalf("got %q, want %q", got, reply)
	}
}

func startRedis(t *testing.T) *embedded.Redis {
	t.Helper()
	r, err := embedded.StartRedis()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestRedisChannels(t *testing.T) {
	r := startRedis(t)
	sub, other, pub := dialRedis(t, r), dialRedis(t, r), dialRedis(t, r)
	sub.send("SUBSCRIBE", "a", "b")
	sub.want("*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n")
	other.send("SUBSCRIBE", "a")
	other.want("*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
	pub.send("PUBLISH", "a", "one")
	pub.want(":2\r\n")
	sub.want("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$3\r\none\r\n")
	other.want("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$3\r\none\r\n")
	sub.send("UNSUBSCRIBE", "a")
	sub.want("*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n")
	pub.send("PUBLISH", "a", "two")
	pub.want(":1\r\n")
	pub.send("PUBLISH", "b", "three")
	pub.want(":1\r\n")
	sub.want("*3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$5\r\nthree\r\n")
	pub.send("PUBLISH", "c", "nobody")
	pub.want(":0\r\n")
	// Keys are still the server's.
	pub.send("SET", "k", "v")
	pub.want("+OK\r\n")
	pub.send("GET", "k")
	pub.want("$1\r\nv\r\n")
}

// A subscriber that reads nothing holds up neither publishers nor others, and is disconnected in the end.
func TestRedisSlowSubscriber(t *testing.T) {
	r := startRedis(t)
	slow, quick, pub := dialRedis(t, r), dialRedis(t, r), dialRedis(t, r)
	for _, c := range []*redisConn{slow, quick} {
		c.send("SUBSCRIBE", "a")
		c.want("*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")
	}
	body := strings.Repeat("x", 1<<20)
	message := "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1048576\r\n" + body + "\r\n"
	for range 128 {
		pub.send("PUBLISH", "a", body)
		if _, err := pub.r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		quick.want(message)
	}
	pub.send("PUBLISH", "a", "last")
	pub.want(":1\r\n")
	quick.want("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$4\r\nlast\r\n")
	slow.patient()
	if n, err := io.Copy(io.Discard, slow.r); n >= 128<<20 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the slow subscriber got %d bytes (%v), want the connection's end before", n, err)
	}
}

func TestRedisOutage(t *testing.T) {
	r := startRedis(t)
	c := dialRedis(t, r)
	c.send("SET", "k", "v")
	c.want("+OK\r\n")
	r.Interrupt()
	if _, err := c.r.ReadByte(); err == nil {
		t.Error("the connection outlived the server")
	}
	if nc, err := net.Dial("tcp", strings.TrimPrefix(r.URL(), "redis://")); err == nil {
		_ = nc.Close()
		t.Error("an interrupted server accepts")
	}
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	c = dialRedis(t, r)
	c.send("GET", "k")
	c.want("$1\r\nv\r\n")
}
