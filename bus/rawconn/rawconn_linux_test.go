package rawconn_test

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"
)

// A descriptor that somebody made one that blocks holds up nobody: a copy of it, for another process, shares that.
func TestBlockingDescriptor(t *testing.T) {
	c, _ := pair(t)
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var blocks error
	if err := errors.Join(raw.Control(func(fd uintptr) { blocks = syscall.SetNonblock(int(fd), false) }), blocks); err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
	if n, err := c.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || n == 64<<20 {
		t.Errorf("Write: %d bytes, %v", n, err)
	}
}
