package floor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
)

// Two floors share their rooms over one connection, a WebSocket like any other. The first numbers: the second sends it
// what its clients say, and gets back, in order, every frame that the first broadcasts. Both kinds are binary messages:
//
//	second → first   len(room) room len(key) key text
//	first → second   len(room) room frame

// errLink is the end of the second floor: without the first nobody numbers.
var errLink = errors.New("the connection to the first floor has ended")

// dial connects the second floor to the first.
func (s *server) dial(ctx context.Context) error {
	sock, _, _, err := ws.Dialer{}.Dial(ctx, "ws://"+s.cfg.First)
	if err != nil {
		return fmt.Errorf("connect to the first floor: %w", err)
	}
	file, err := sock.(*net.TCPConn).File()
	_ = sock.Close() // file is a duplicate
	if err != nil {
		return fmt.Errorf("connect to the first floor: %w", err)
	}
	defer func() { _ = file.Close() }()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("connect to the first floor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("connect to the first floor: %w", err)
	}
	s.link = s.add(fd)
	s.link.upgraded = true
	s.send(s.link, frame(`{"op":"link"}`))
	return nil
}

// pass sends a message to the other floor, batched: with the others of this round.
func (s *server) pass(parts ...[]byte) {
	f := ws.MustCompileFrame(ws.NewBinaryFrame(bytes.Join(parts, nil)))
	if s.cfg.Batched {
		s.passing = append(s.passing, f...)
		return
	}
	s.send(s.link, f)
}

// passed takes a message from the other floor.
func (s *server) passed(b []byte) {
	name, rest := cutSized(b)
	r := s.room(string(name))
	if s.cfg.First == "" {
		key, text := cutSized(rest)
		s.broadcast(r, key, text)
		return
	}
	r.seq++ // every frame of every room passes here
	s.tell(r, rest)
}

func sized(b []byte) []byte { return append([]byte{byte(len(b))}, b...) }

func cutSized(b []byte) (head, rest []byte) { return b[1 : 1+b[0]], b[1+b[0]:] }
