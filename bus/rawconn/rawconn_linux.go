package rawconn

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendMost bounds what one call hands to the kernel: it copies that while the scheduler does not know.
const sendMost = 64 << 10

type conn struct {
	net.Conn
	raw         syscall.RawConn
	read, write transfer
}

// transfer is one direction. What is called with the descriptor is made once, as it would be allocated each time.
type transfer struct {
	call func(fd uintptr) (done bool)

	mu    sync.Mutex // held during a Read or Write; guards what follows
	buf   []byte
	n     int
	errno unix.Errno
}

func wrap(nc net.Conn) net.Conn {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nc
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nc
	}
	c := &conn{Conn: nc, raw: raw}
	c.read.call, c.write.call = c.receive, c.send
	return c
}

// SyscallConn implements syscall.Conn.
func (c *conn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	t := &c.read
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf, t.n, t.errno = b, 0, 0
	err := c.raw.Read(t.call)
	t.buf = nil
	switch {
	case err != nil:
		return 0, named("read", err)
	case t.errno != 0:
		return 0, c.failed("read", "recvfrom", t.errno)
	case t.n == 0:
		return 0, io.EOF
	}
	return t.n, nil
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	t := &c.write
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf, t.n, t.errno = b, 0, 0
	err := c.raw.Write(t.call)
	t.buf = nil
	switch {
	case err != nil:
		return t.n, named("write", err)
	case t.errno != 0:
		return t.n, c.failed("write", "sendto", t.errno)
	}
	return t.n, nil
}

// named makes an error of a syscall.RawConn one of the operation that it was for.
func named(op string, err error) error {
	var of *net.OpError
	if errors.As(err, &of) {
		of.Op = op
	}
	return err
}

func (c *conn) failed(op, call string, errno unix.Errno) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(call, errno)}
}

func (c *conn) receive(fd uintptr) (done bool) {
	t := &c.read
	n, errno := transferRaw(unix.SYS_RECVFROM, fd, t.buf, unix.MSG_DONTWAIT)
	if errno == unix.EAGAIN {
		return false
	}
	t.n, t.errno = n, errno
	return true
}

func (c *conn) send(fd uintptr) (done bool) {
	t := &c.write
	for t.n < len(t.buf) {
		n, errno := transferRaw(unix.SYS_SENDTO, fd, t.buf[t.n:min(t.n+sendMost, len(t.buf))], unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		if errno == unix.EAGAIN {
			return false
		}
		if errno != 0 {
			t.errno = errno
			return true
		}
		t.n += n
	}
	return true
}

// transferRaw receives or sends. It must not block, also where somebody made a copy of the descriptor one that does: they
// share that.
func transferRaw(call, fd uintptr, b []byte, flags uintptr) (n int, errno unix.Errno) {
	for {
		r, _, errno := unix.RawSyscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
		switch errno {
		case 0:
			return int(r), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
