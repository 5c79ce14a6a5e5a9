package edge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/parley-chat/parley/contracts/planted"
)

// Events are edge-triggered and registered once: reading until a short read and writing until EAGAIN need no further
// epoll_ctl. The event data carry the connection's seat and its generation, so that an event for a descriptor
// that was closed and given out again meets nobody.
const connEvents = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff

// placeListen stands in the event data for the listening descriptor.
const placeListen = -1

// acceptBatch is how many connections are accepted before others get their turn.
const acceptBatch = 128

type epoll struct {
	parker
	loop    *loop
	listen  int // -1: none
	pausing time.Time
}

func newPoller(l *loop) (poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create an epoll instance: %w", err)
	}
	p := &epoll{loop: l, listen: -1}
	if err := p.init(fd, 256); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *epoll) close() {
	p.unlisten()
	p.parker.close()
}

func (p *epoll) wait(d time.Duration) {
	if !p.pausing.IsZero() {
		if left := time.Until(p.pausing); left <= 0 {
			p.pausing = time.Time{}
			p.watchListener(unix.EPOLLIN)
		} else {
			d = min(d, left)
		}
	}
	events := p.parker.wait(d)
	for i := range events {
		ev := &events[i]
		switch ev.Fd {
		case placeListen:
			p.accept()
		default:
			s := &p.loop.seats[ev.Fd]
			if s.conn == nil || s.generation != ev.Pad {
				continue
			}
			p.ready(s.conn, ev.Events)
		}
	}
}

func (p *epoll) ready(c *conn, events uint32) {
	if events&unix.EPOLLOUT != 0 {
		c.writable()
	}
	if c.state == stateGone {
		return
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.ended = true
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.readable()
	}
}

// listenOn makes the loop accept from a listening descriptor, which it owns from now on.
func (p *epoll) listenOn(fd int) error {
	p.listen = fd
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: placeListen})
}

func (p *epoll) watchListener(events uint32) {
	if p.listen >= 0 {
		_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, p.listen, &unix.EpollEvent{Events: events, Fd: placeListen})
	}
}

func (p *epoll) unlisten() {
	if p.listen >= 0 {
		_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, p.listen, nil)
		_ = unix.Close(p.listen)
		p.listen = -1
	}
}

func (p *epoll) accept() {
	srv := p.loop.srv
	for range acceptBatch {
		fd, err := rawAccept(p.listen)
		if err != 0 {
			switch err {
			case unix.EAGAIN:
			case unix.EINTR, unix.ECONNABORTED:
				continue
			default:
				// No descriptors or no memory: more attempts would only burn the processor.
				srv.metrics.unaccepted.Inc()
				srv.log.Warn("accepting pauses", "err", err)
				p.watchListener(0)
				p.pausing = time.Now().Add(100 * time.Millisecond)
			}
			return
		}
		srv.metrics.accepted.Inc()
		srv.deal(p.loop, fd, nil)
	}
}

// adopt registers a descriptor as c's.
func (p *epoll) adopt(c *conn, fd int) error {
	c.fd = int32(fd)
	ev := unix.EpollEvent{Events: connEvents, Fd: c.place, Pad: p.loop.seats[c.place].generation}
	if err := rawControl(p.fd, unix.EPOLL_CTL_ADD, fd, &ev); err != 0 {
		return fmt.Errorf("watch a connection: %w", err)
	}
	return nil
}

// release stops watching c's descriptor, which belongs to the caller from now on.
func (p *epoll) release(c *conn) { _ = rawControl(p.fd, unix.EPOLL_CTL_DEL, int(c.fd), nil) }

// errAgain: the socket takes or gives nothing at the moment.
var errAgain = errors.New("socket not ready")

func (c *conn) sysRead(b []byte) (int, error) {
	for {
		n, err := rawReceive(int(c.fd), b)
		switch err {
		case 0:
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, errAgain
		default:
			return 0, err
		}
	}
}

func (c *conn) sysWrite(b []byte) (int, error) {
	for {
		n, err := rawSend(int(c.fd), b)
		switch err {
		case 0:
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, errAgain
		default:
			return 0, err
		}
	}
}

// sysClose stops watching the descriptor before it closes it.
func (c *conn) sysClose() {
	c.loop.poll.(*epoll).release(c)
	_ = unix.Close(int(c.fd))
	if fd := int(c.fd); planted.On(planted.DescriptorReuse) {
		time.AfterFunc(50*time.Millisecond, func() { _ = unix.Close(fd) })
	}
}

// sysShut ends the sending half.
func (c *conn) sysShut() { _ = unix.Shutdown(int(c.fd), unix.SHUT_WR) }

// sysDetach takes the descriptor out of the loop as a net.Conn.
func (c *conn) sysDetach() (net.Conn, error) {
	c.loop.poll.(*epoll).release(c)
	f := os.NewFile(uintptr(c.fd), "socket")
	defer func() { _ = f.Close() }()
	return net.FileConn(f)
}

// sysRelease takes the descriptor out of the loop.
func (c *conn) sysRelease() int {
	c.loop.poll.(*epoll).release(c)
	return int(c.fd)
}

// sysPeer is the address of the other end.
func (c *conn) sysPeer() netip.Addr {
	sa, err := unix.Getpeername(int(c.fd))
	if err != nil {
		return netip.Addr{}
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr).Unmap()
	}
	return netip.Addr{}
}

// duplicate returns a descriptor of its own for a socket, which may then be closed.
func duplicate(sock syscall.Conn) (fd int, err error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return -1, err
	}
	ctl := raw.Control(func(of uintptr) {
		fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0)
	})
	if ctl != nil {
		return -1, ctl
	}
	return fd, err
}

// listenRaw accepts from a listener on the first loop, which deals to all.
func (s *Server) listenRaw(ln net.Listener) error {
	sock, ok := ln.(syscall.Conn)
	if !ok {
		return fmt.Errorf("listen on %s: no socket", ln.Addr())
	}
	fd, err := duplicate(sock)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", ln.Addr(), err)
	}
	if ln.Addr().Network() == "tcp" {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // sockets that are accepted inherit it
	}
	if s.cfg.SendBuffer > 0 { // what is accepted inherits it
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, s.cfg.SendBuffer); err != nil {
			_ = unix.Close(fd)
			return fmt.Errorf("bound the send buffer on %s: %w", ln.Addr(), err)
		}
	}
	l := s.loops[0]
	done := make(chan error, 1)
	if !l.call(func() { done <- l.poll.(*epoll).listenOn(fd) }) {
		_ = unix.Close(fd)
		return errStopping
	}
	return <-done
}

func stopListening(l *loop) { l.poll.(*epoll).unlisten() }

func (l *loop) adoptRaw(c *conn, fd int) error { return l.poll.(*epoll).adopt(c, fd) }

// adoptSocket returns a descriptor of its own for a socket.
func (s *Server) adoptSocket(nc net.Conn) (int, error) {
	sock, ok := nc.(syscall.Conn)
	if !ok {
		return -1, errors.New("no socket")
	}
	return duplicate(sock)
}

func closeRaw(fd int) { _ = unix.Close(fd) }

const onlyPortable = false

func descriptorLimit() int {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil || lim.Cur > 1<<30 {
		return 1 << 20
	}
	return int(lim.Cur)
}
