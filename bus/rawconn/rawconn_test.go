package rawconn_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/rawconn"
)

// pair is two ends of a TCP connection, of which the first is wrapped.
func pair(t *testing.T) (wrapped, other net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if other, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close(); _ = other.Close() })
	return rawconn.Wrap(nc), other
}

// What is more than the socket's buffers arrives whole, while both ends write and read.
func TestCarriesMuch(t *testing.T) {
	c, other := pair(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	for _, way := range []struct{ from, to net.Conn }{{c, other}, {other, c}} {
		wrote := make(chan error, 1)
		go func() {
			n, err := way.from.Write(data)
			if err == nil && n != len(data) {
				err = io.ErrShortWrite
			}
			wrote <- err
		}()
		got := make([]byte, len(data))
		if _, err := io.ReadFull(way.to, got); err != nil {
			t.Fatal(err)
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, data) {
			t.Error("other bytes arrived than were written")
		}
	}
}

func TestDeadlines(t *testing.T) {
	c, _ := pair(t)
	if err := c.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("Read behind the deadline: %v", err)
	}
	n, err := c.Write(make([]byte, 64<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 64<<20 {
		t.Errorf("Write behind the deadline: %d bytes, %v", n, err)
	}
}

func TestEnds(t *testing.T) {
	c, other := pair(t)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read at the end: %d, %v", n, err)
	}
	if n, err := c.Read(nil); n != 0 || err != nil {
		t.Errorf("Read of nothing: %d, %v", n, err)
	}
	for err := error(nil); ; _, err = c.Write([]byte("x")) {
		if err == nil {
			continue
		}
		if op := (*net.OpError)(nil); !errors.As(err, &op) {
			t.Errorf("Write to nobody: %T %v", err, err)
		}
		break
	}
	c, _ = pair(t)
	ended := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); ended <- err }()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read of a closed connection: %v", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write to a closed connection: %v", err)
	}
}

// What is no TCP connection stays what it is.
func TestWrapsTCPOnly(t *testing.T) {
	a, b := net.Pipe()
	defer func() { _ = a.Close(); _ = b.Close() }()
	if rawconn.Wrap(a) != a {
		t.Error("a pipe was wrapped")
	}
}
