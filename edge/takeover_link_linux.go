package edge

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxRights is the most descriptors in one message (SCM_MAX_FD).
	maxRights = 253
	// maxMessage bounds what a message claims to measure.
	maxMessage = 512 << 20
)

// link is a Unix socket between two edges. A message is 4 bytes of length, its kind, and JSON; descriptors go with the head.
type link struct {
	conn *net.UnixConn
}

// newLink checks that the peer runs as the same user, or as root.
func newLink(conn *net.UnixConn) (*link, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	ctl := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(ctl, err); err != nil {
		return nil, fmt.Errorf("ask who the peer is: %w", err)
	}
	if uid := uint32(os.Geteuid()); cred.Uid != uid && cred.Uid != 0 {
		return nil, fmt.Errorf("the peer runs as user %d, not as %d", cred.Uid, uid)
	}
	return &link{conn: conn}, nil
}

func (l *link) close() { _ = l.conn.Close() }

func (l *link) send(kind byte, v any, fds ...int) error {
	body := []byte("{}")
	if v != nil {
		var err error
		if body, err = json.Marshal(v); err != nil {
			return fmt.Errorf("write message %q: %w", kind, err)
		}
	}
	return l.sendRaw(kind, body, fds)
}

func (l *link) sendRaw(kind byte, body []byte, fds []int) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(stepTime)); err != nil {
		return err
	}
	head := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), kind)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	n, _, err := l.conn.WriteMsgUnix(head, rights, nil)
	if err == nil && n < len(head) {
		err = io.ErrShortWrite
	}
	if err == nil {
		_, err = l.conn.Write(body)
	}
	if err != nil {
		return fmt.Errorf("send message %q: %w", kind, err)
	}
	return nil
}

// receive returns the next message and the descriptors that came with it, which are the caller's.
func (l *link) receive(within time.Duration) (kind byte, body []byte, fds []int, err error) {
	defer func() {
		if err != nil {
			closeAllRaw(fds)
			fds = nil
		}
	}()
	if err = l.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return
	}
	var head [5]byte
	oob := make([]byte, unix.CmsgSpace(4*maxRights))
	n, oobn, flags, _, err := l.conn.ReadMsgUnix(head[:], oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return 0, nil, nil, err
	}
	if oobn > 0 {
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return 0, nil, nil, fmt.Errorf("read the descriptors: %w", err)
		}
		for i := range messages {
			more, err := unix.ParseUnixRights(&messages[i])
			if err != nil {
				return 0, nil, fds, fmt.Errorf("read the descriptors: %w", err)
			}
			fds = append(fds, more...)
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return 0, nil, fds, errors.New("descriptors were lost on the way (is the descriptor limit too low?)")
	}
	if _, err = io.ReadFull(l.conn, head[n:]); err != nil {
		return 0, nil, fds, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxMessage {
		return 0, nil, fds, fmt.Errorf("a message of %d bytes", size)
	}
	body = make([]byte, size)
	if _, err = io.ReadFull(l.conn, body); err != nil {
		return 0, nil, fds, fmt.Errorf("read message %q: %w", head[4], err)
	}
	return head[4], body, fds, nil
}

// pauseAccepting leaves new connections in the listening socket's queue, for a successor or for acceptAgain.
func (l *loop) pauseAccepting() {
	p := l.poll.(*epoll)
	if p.listen >= 0 {
		_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, p.listen, nil)
	}
}

func (l *loop) acceptAgain() {
	p := l.poll.(*epoll)
	if p.listen >= 0 {
		_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, p.listen, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: placeListen})
	}
}

// mute takes the connection's descriptor out of epoll, where it would stay for as long as the successor has it open; its
// place is kept. hear puts it back.
func (c *conn) mute() {
	_ = unix.EpollCtl(c.loop.poll.(*epoll).fd, unix.EPOLL_CTL_DEL, int(c.fd), nil)
}

func (c *conn) hear() error {
	p := c.loop.poll.(*epoll)
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, int(c.fd), &unix.EpollEvent{Events: connEvents, Fd: c.place, Pad: c.loop.seats[c.place].generation})
}

// listenerOf makes a listener of a descriptor, which it closes.
func listenerOf(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	defer func() { _ = f.Close() }()
	return net.FileListener(f)
}
