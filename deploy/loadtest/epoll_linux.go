package loadtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// epoll is the network on Linux: one descriptor and no goroutine per connection, one read buffer for all of them.
type epoll struct {
	fd     int
	conns  []conn
	buf    []byte
	events []unix.EpollEvent
	addrs  map[string]net.IP // of the hosts
	noWait bool              // epoll_pwait2 is missing (Linux before 5.11): waits are rounded up to milliseconds
}

// canBindLoopback says that all of 127.0.0.0/8 is this machine's.
const canBindLoopback = true

// readBuffer is the size of the buffer that all connections of a loop are read into.
const readBuffer = 256 << 10

func newNetwork(p *plan, conns []conn) (network, error) {
	for _, t := range p.Targets {
		if t.TLS || p.Goroutines || p.dial != nil {
			return newPumps(p, conns), nil
		}
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	return &epoll{fd: fd, conns: conns, buf: make([]byte, readBuffer), events: make([]unix.EpollEvent, 256), addrs: map[string]net.IP{}}, nil
}

const (
	wantIn  = unix.EPOLLIN | unix.EPOLLRDHUP
	wantOut = wantIn | unix.EPOLLOUT
)

func (e *epoll) dial(c *conn, to target, source [2]byte) error {
	addr, port, err := e.resolve(to.Host)
	if err != nil {
		return err
	}
	family := unix.AF_INET
	if addr.To4() == nil {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // only a matter of speed
	if err := e.connect(fd, addr, port, source); err != nil {
		unix.Close(fd)
		return err
	}
	c.fd = int32(fd)
	c.gen++
	if err := unix.EpollCtl(e.fd, unix.EPOLL_CTL_ADD, fd, e.event(c, wantOut)); err != nil {
		unix.Close(fd)
		c.fd = -1
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

func (e *epoll) connect(fd int, addr net.IP, port int, source [2]byte) error {
	var to unix.Sockaddr
	if ip4 := addr.To4(); ip4 != nil {
		to = &unix.SockaddrInet4{Port: port, Addr: [4]byte(ip4)}
		if ip4.IsLoopback() {
			from := &unix.SockaddrInet4{Addr: [4]byte{127, 0, source[0], source[1]}}
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			if err := unix.Bind(fd, from); err != nil {
				return os.NewSyscallError("bind", err)
			}
		}
	} else {
		to = &unix.SockaddrInet6{Port: port, Addr: [16]byte(addr.To16())}
	}
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return os.NewSyscallError("connect", err)
	}
	return nil
}

// resolve looks a host up once.
func (e *epoll) resolve(hostport string) (net.IP, int, error) {
	host, service, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, 0, err
	}
	port, err := net.LookupPort("tcp", service)
	if err != nil {
		return nil, 0, err
	}
	if ip, ok := e.addrs[host]; ok {
		return ip, port, nil
	}
	ips, err := net.LookupIP(host)
	if err != nil {
		return nil, 0, err
	}
	ip := ips[0]
	for _, other := range ips {
		if other.To4() != nil {
			ip = other
			break
		}
	}
	e.addrs[host] = ip
	return ip, port, nil
}

// event carries the connection's index and its generation: an event of an earlier descriptor is thereby recognized.
func (e *epoll) event(c *conn, want uint32) *unix.EpollEvent {
	return &unix.EpollEvent{Events: want, Fd: c.index, Pad: int32(c.gen)}
}

func (e *epoll) write(c *conn, p []byte) error {
	if len(c.out) > 0 {
		c.out = append(c.out, p...)
		return nil
	}
	n, err := writeSome(int(c.fd), p)
	if err != nil || n == len(p) {
		return err
	}
	c.out = append(c.out, p[n:]...)
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(e.fd, unix.EPOLL_CTL_MOD, int(c.fd), e.event(c, wantOut)))
}

func writeSome(fd int, p []byte) (n int, err error) {
	for n < len(p) {
		m, err := unix.SendmsgN(fd, p[n:], nil, nil, unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			n += m
		case errors.Is(err, unix.EAGAIN):
			return n, nil
		case errors.Is(err, unix.EINTR):
		default:
			return n, os.NewSyscallError("write", err)
		}
	}
	return n, nil
}

func (e *epoll) drop(c *conn, hard bool) {
	if c.fd < 0 {
		return
	}
	if hard {
		_ = unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	unix.Close(int(c.fd)) // leaves the epoll with its last descriptor
	c.fd = -1
	c.gen++
	c.in, c.out = nil, nil
}

func (e *epoll) part(c *conn) (end func(last []byte)) {
	fd, whole := int(c.fd), len(c.out) == 0
	_ = unix.EpollCtl(e.fd, unix.EPOLL_CTL_DEL, fd, nil) // else its events are recognized as an earlier descriptor's
	c.fd = -1
	c.gen++
	c.in, c.out = nil, nil
	return func(last []byte) {
		if whole {
			_, _ = writeSome(fd, last) // it may have ended
		}
		unix.Close(fd)
	}
}

func (e *epoll) wait(d time.Duration, h handler) error {
	n, err := e.poll(d)
	if err != nil {
		if errors.Is(err, unix.EINTR) {
			return nil
		}
		return os.NewSyscallError("epoll_wait", err)
	}
	for i := range e.events[:n] {
		ev := &e.events[i]
		if c := &e.conns[ev.Fd]; c.fd >= 0 && int32(c.gen) == ev.Pad {
			e.serve(c, ev.Events, h)
		}
	}
	return nil
}

// poll waits with the precision of nanoseconds, which epoll_wait does not have: a message may be due in 200 µs.
func (e *epoll) poll(d time.Duration) (int, error) {
	d = max(d, 0)
	if !e.noWait {
		t := unix.NsecToTimespec(int64(d))
		n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(e.fd), uintptr(unsafe.Pointer(&e.events[0])),
			uintptr(len(e.events)), uintptr(unsafe.Pointer(&t)), 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.ENOSYS && errno != unix.EPERM {
			return 0, errno
		}
		e.noWait = true
	}
	return unix.EpollWait(e.fd, e.events, int((d+time.Millisecond-1)/time.Millisecond))
}

// serve handles one connection's events.
func (e *epoll) serve(c *conn, events uint32, h handler) {
	if c.state == dialling {
		code, err := unix.GetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = os.NewSyscallError("connect", unix.Errno(code))
		}
		if err == nil {
			err = os.NewSyscallError("epoll_ctl", unix.EpollCtl(e.fd, unix.EPOLL_CTL_MOD, int(c.fd), e.event(c, wantIn)))
		}
		if err != nil {
			e.drop(c, false)
			h.closed(c, err)
			return
		}
		h.opened(c)
		return
	}
	if events&unix.EPOLLOUT != 0 && !e.flush(c, h) {
		return
	}
	if events&^uint32(unix.EPOLLOUT) != 0 {
		e.read(c, h)
	}
}

// flush sends what waited. It reports whether the connection still stands.
func (e *epoll) flush(c *conn, h handler) bool {
	n, err := writeSome(int(c.fd), c.out)
	if err == nil && n == len(c.out) {
		c.out = nil
		err = os.NewSyscallError("epoll_ctl", unix.EpollCtl(e.fd, unix.EPOLL_CTL_MOD, int(c.fd), e.event(c, wantIn)))
	} else if err == nil {
		c.out = c.out[n:]
	}
	if err != nil {
		e.drop(c, false)
		h.closed(c, err)
		return false
	}
	return true
}

func (e *epoll) read(c *conn, h handler) {
	n, err := unix.Read(int(c.fd), e.buf)
	switch {
	case n > 0:
		h.received(c, e.buf[:n])
		return
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return
	case err == nil:
		err = io.EOF
	default:
		err = os.NewSyscallError("read", err)
	}
	e.drop(c, false)
	h.closed(c, err)
}

func (e *epoll) close() { unix.Close(e.fd) }
