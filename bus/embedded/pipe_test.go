//go:build !lean

package embedded_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley/bus/embedded"
)

// each runs a test on both ends as the writer, in virtual time.
func each(t *testing.T, most int, test func(t *testing.T, writer, reader net.Conn)) {
	for _, name := range []string{"client writes", "server writes"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := embedded.NewPipe(most)
				if name == "client writes" {
					test(t, client, server)
				} else {
					test(t, server, client)
				}
			})
		})
	}
}

func mustWrite(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if n, err := c.Write(b); n != len(b) || err != nil {
		t.Fatalf("Write of %d bytes: %d, %v", len(b), n, err)
	}
}

func mustRead(t *testing.T, c net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, %v; want %d as they were written", n, err, len(want))
	}
}

// TestPipeOrder passes much more than may wait, in pieces of all sizes.
func TestPipeOrder(t *testing.T) {
	each(t, 0, func(t *testing.T, writer, reader net.Conn) {
		want := make([]byte, 5<<20)
		for i := range want {
			want[i] = byte(i * 7 / 3)
		}
		go func() {
			for rest, n := want, 1; len(rest) > 0; n = n*3 + 1 {
				n = min(n%(3<<20), len(rest))
				if _, err := writer.Write(rest[:n]); err != nil {
					t.Error(err)
				}
				rest = rest[n:]
			}
			if err := writer.Close(); err != nil {
				t.Error(err)
			}
		}()
		got, err := io.ReadAll(reader)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, %v; want %d as they were written", len(got), err, len(want))
		}
	})
}

// TestPipeWaits: a writer waits for one who does not read, with its deadline, and goes on when there is room.
func TestPipeWaits(t *testing.T) {
	each(t, 0, func(t *testing.T, writer, reader net.Conn) {
		much := bytes.Repeat([]byte("x"), 2<<20)
		mustWrite(t, writer, much)
		began := time.Now()
		_ = writer.SetWriteDeadline(began.Add(time.Minute))
		if n, err := writer.Write([]byte("y")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
			t.Fatalf("Write with a deadline in a minute: %d, %v after %v", n, err, time.Since(began))
		}
		_ = writer.SetWriteDeadline(time.Time{})
		written := make(chan error)
		go func() {
			_, err := writer.Write([]byte("z"))
			written <- err
		}()
		synctest.Wait()
		mustRead(t, reader, much)
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		mustRead(t, reader, []byte("z"))
	})
}

// TestPipeReadDeadline: it may be set before a Read, or moved while it waits, and is over for later ones too.
func TestPipeReadDeadline(t *testing.T) {
	each(t, 0, func(t *testing.T, writer, reader net.Conn) {
		began := time.Now()
		_ = reader.SetReadDeadline(began.Add(time.Hour))
		time.AfterFunc(time.Second, func() { _ = reader.SetReadDeadline(began.Add(time.Minute)) })
		b := make([]byte, 1)
		n, err := reader.Read(b)
		if timeout := net.Error(nil); n != 0 || !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(began) != time.Minute {
			t.Fatalf("Read: %d, %v after %v, want a timeout after a minute", n, err, time.Since(began))
		}
		mustWrite(t, writer, []byte("x"))
		if n, err := reader.Read(b); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Read after the deadline: %d, %v", n, err)
		}
		_ = reader.SetDeadline(time.Time{})
		mustRead(t, reader, []byte("x"))
	})
}

// TestPipeClose: the other end gets what was written before, and whoever waits is woken.
func TestPipeClose(t *testing.T) {
	each(t, 0, func(t *testing.T, writer, reader net.Conn) {
		mustWrite(t, writer, []byte("last"))
		own := make(chan error, 1)
		go func() {
			_, err := writer.Read(make([]byte, 1))
			own <- err
		}()
		synctest.Wait()
		_ = writer.Close()
		if err := <-own; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read of who closed: %v", err)
		}
		if _, err := writer.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write of who closed: %v", err)
		}
		if got, err := io.ReadAll(reader); string(got) != "last" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		if _, err := reader.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write to who closed: %v", err)
		}
	})
}

// TestPipeUnread: a server's Write does not wait where so is wished; a client that leaves too much is cut off.
func TestPipeUnread(t *testing.T) {
	client, server := embedded.NewPipe(4 << 20)
	for range 4 {
		mustWrite(t, server, make([]byte, 1<<20))
	}
	if _, err := server.Write([]byte("x")); err == nil {
		t.Fatal("more was taken than may wait")
	}
	if n, err := io.Copy(io.Discard, client); err != nil || n > 4<<20 {
		t.Errorf("the client read %d bytes, %v", n, err)
	}
}
