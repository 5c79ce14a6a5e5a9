package floor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"github.com/parley-chat/parley/contracts"
)

// Config says how to broadcast.
type Config struct {
	// Listen is the IPv4 address and port; port 0 is a free one. Required.
	Listen string
	// Batched writes once per connection what one round of the loop has for it, instead of once per message.
	Batched bool
	// First is the address of the first floor where this is the second of two, which share their rooms. Defaults to none.
	First string
}

type server struct {
	cfg    Config
	epoll  int
	listen int
	conns  []*conn // by descriptor
	rooms  map[string]*room
	dirty  []*room // rooms with something in batch
	link   *conn   // to the other floor; nil: there is none
	// passing is what this round has for the other floor.
	passing []byte
	buf     []byte
}

type conn struct {
	fd       int
	upgraded bool
	in, out  []byte
	rooms    []*room
}

type room struct {
	name    string
	seq     int
	members []*conn
	batch   []byte // frames of this round
}

// Serve broadcasts until ctx ends. ready is called with the address once connections are taken.
func Serve(ctx context.Context, cfg Config, ready func(addr string)) error {
	s := &server{cfg: cfg, rooms: map[string]*room{}, buf: make([]byte, 256<<10)}
	addr, err := s.open()
	if err != nil {
		return fmt.Errorf("listen on %s: %w", cfg.Listen, err)
	}
	defer s.close()
	if cfg.First != "" {
		if err := s.dial(ctx); err != nil {
			return err
		}
	}
	ready(addr)
	events := make([]unix.EpollEvent, 512)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(s.epoll, events, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("epoll_wait", err)
		}
		for _, e := range events[:max(n, 0)] {
			s.serve(int(e.Fd), e.Events)
		}
		s.flush()
		if cfg.First != "" && s.link == nil {
			return errLink
		}
	}
	return nil
}

func (s *server) open() (addr string, err error) {
	at, err := net.ResolveTCPAddr("tcp4", s.cfg.Listen)
	if err != nil {
		return "", err
	}
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return "", os.NewSyscallError("epoll_create", err)
	}
	if s.listen, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return "", os.NewSyscallError("socket", err)
	}
	_ = unix.SetsockoptInt(s.listen, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	to := &unix.SockaddrInet4{Port: at.Port}
	copy(to.Addr[:], at.IP.To4())
	if err := unix.Bind(s.listen, to); err != nil {
		return "", os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(s.listen, 4096); err != nil {
		return "", os.NewSyscallError("listen", err)
	}
	bound, err := unix.Getsockname(s.listen)
	if err != nil {
		return "", os.NewSyscallError("getsockname", err)
	}
	addr = net.JoinHostPort(at.IP.String(), strconv.Itoa(bound.(*unix.SockaddrInet4).Port))
	return addr, s.watch(unix.EPOLL_CTL_ADD, s.listen, unix.EPOLLIN)
}

func (s *server) watch(how, fd int, events uint32) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(s.epoll, how, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
}

func (s *server) close() {
	for _, c := range s.conns {
		if c != nil {
			unix.Close(c.fd)
		}
	}
	unix.Close(s.listen)
	unix.Close(s.epoll)
}

func (s *server) serve(fd int, events uint32) {
	if fd == s.listen {
		s.accept()
		return
	}
	c := s.conns[fd]
	if c == nil {
		return
	}
	if events&unix.EPOLLOUT != 0 && !s.send(c, nil) {
		return
	}
	if events&^uint32(unix.EPOLLOUT) != 0 {
		s.read(c)
	}
}

func (s *server) accept() {
	for range 256 {
		fd, _, err := unix.Accept4(s.listen, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		s.add(fd)
	}
}

func (s *server) add(fd int) *conn {
	for len(s.conns) <= fd {
		s.conns = append(s.conns, nil)
	}
	c := &conn{fd: fd}
	s.conns[fd] = c
	if s.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN) != nil {
		s.drop(c)
	}
	return c
}

func (s *server) drop(c *conn) {
	for _, r := range c.rooms {
		for i, m := range r.members {
			if m == c {
				r.members = append(r.members[:i], r.members[i+1:]...)
				break
			}
		}
	}
	if c == s.link {
		s.link = nil
	}
	s.conns[c.fd] = nil
	unix.Close(c.fd)
	c.fd = -1
}

func (s *server) read(c *conn) {
	n, err := unix.Read(c.fd, s.buf)
	if n <= 0 {
		if !errors.Is(err, unix.EAGAIN) {
			s.drop(c)
		}
		return
	}
	data := s.buf[:n]
	if len(c.in) > 0 {
		c.in = append(c.in, data...)
		data = c.in
	}
	used := s.consume(c, data)
	if c.fd < 0 {
		return
	}
	c.in = append(c.in[:0], data[used:]...)
	if len(c.in) == 0 {
		c.in = nil
	}
}

// consume takes the upgrade and whole frames off data.
func (s *server) consume(c *conn, data []byte) (used int) {
	if !c.upgraded {
		end := bytes.Index(data, []byte("\r\n\r\n"))
		if end < 0 {
			return 0
		}
		used = end + 4
		var answer bytes.Buffer
		_, err := ws.Upgrader{Protocol: func(p []byte) bool { return string(p) == contracts.Subprotocol }}.
			Upgrade(struct {
				io.Reader
				io.Writer
			}{bytes.NewReader(data[:used]), &answer})
		c.upgraded = true
		if !s.send(c, answer.Bytes()) || err != nil {
			if c.fd >= 0 {
				s.drop(c)
			}
			return used
		}
	}
	for c.fd >= 0 {
		in := bytes.NewReader(data[used:])
		h, err := ws.ReadHeader(in)
		start := len(data) - in.Len()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), err == nil && int64(in.Len()) < h.Length && h.Length <= 64<<10:
			return used
		case err != nil, h.Length > 64<<10, h.OpCode == ws.OpClose:
			s.drop(c)
			return used
		}
		payload := data[start : start+int(h.Length)]
		used = start + len(payload)
		ws.Cipher(payload, h.Mask, 0)
		switch {
		case h.OpCode == ws.OpText:
			s.request(c, payload)
		case h.OpCode == ws.OpBinary && c == s.link:
			s.passed(payload)
		}
	}
	return used
}

// request answers as little as the protocol allows.
func (s *server) request(c *conn, payload []byte) {
	q, err := contracts.ParseObject(payload)
	if err != nil {
		s.drop(c)
		return
	}
	id, _ := q.Raw("id")
	op, _, _ := q.String("op")
	name, _, _ := q.String("room")
	switch op {
	case "connect":
		s.reply(c, id, `{"user":{"id":"u","name":"u"},"ping":0,"limits":{},"durability":"none","server":{"name":"floor","version":"1","node":"floor"}}`)
	case "join":
		r := s.room(name)
		// What waits for the room's members is written before there is one more: it was not meant for that one.
		s.flush()
		r.members = append(r.members, c)
		c.rooms = append(c.rooms, r)
		s.reply(c, id, `{"room":"`+name+`","state":"complete","epoch":1,"head":`+strconv.Itoa(r.seq)+`,"first":1,"entries":[],"online":1}`)
	case "send":
		if r := s.rooms[name]; r != nil {
			key, _ := q.Raw("key")
			text, _ := q.Raw("text")
			s.reply(c, id, `{"key":`+string(key)+`,"time":0}`)
			if s.cfg.First != "" {
				s.pass(sized([]byte(name)), sized(key), text)
			} else {
				s.broadcast(r, key, text)
			}
		}
	case "link":
		s.link = c
	default:
		s.reply(c, id, `{}`)
	}
}

func (s *server) room(name string) *room {
	r := s.rooms[name]
	if r == nil {
		r = &room{name: name}
		s.rooms[name] = r
	}
	return r
}

func (s *server) reply(c *conn, id []byte, ok string) {
	if c.fd >= 0 && len(id) > 0 {
		s.send(c, frame(`{"id":`+string(id)+`,"ok":`+ok+`}`))
	}
}

func frame(text string) []byte { return ws.MustCompileFrame(ws.NewTextFrame([]byte(text))) }

// broadcast gives a message its number and sends it to all members, here and there.
func (s *server) broadcast(r *room, key, text []byte) {
	r.seq++
	f := frame(`{"event":"message","room":"` + r.name + `","seq":` + strconv.Itoa(r.seq) + `,"epoch":1,"time":0,"from":{"id":"u","name":"u"},"key":` + string(key) + `,"text":` + string(text) + `}`)
	s.tell(r, f)
	if s.link != nil {
		s.pass(sized([]byte(r.name)), f)
	}
}

// tell sends a frame to the members here, batched: with the others of this round.
func (s *server) tell(r *room, f []byte) {
	if s.cfg.Batched {
		if len(r.batch) == 0 {
			s.dirty = append(s.dirty, r)
		}
		r.batch = append(r.batch, f...)
		return
	}
	s.sendAll(r, f)
}

// flush writes what a round has gathered.
func (s *server) flush() {
	for _, r := range s.dirty {
		s.sendAll(r, r.batch)
		r.batch = r.batch[:0]
	}
	s.dirty = s.dirty[:0]
	if len(s.passing) > 0 && s.link != nil {
		s.send(s.link, s.passing)
	}
	s.passing = s.passing[:0]
}

func (s *server) sendAll(r *room, b []byte) {
	for i := len(r.members) - 1; i >= 0; i-- { // backwards: one that fails removes itself
		s.send(r.members[i], b)
	}
}

// maxOut is how much may wait for a connection before it is dropped.
const maxOut = 4 << 20

// send writes b, or keeps what the socket does not take. It reports whether the connection still stands.
func (s *server) send(c *conn, b []byte) bool {
	if len(c.out) > 0 {
		c.out = append(c.out, b...)
		b = c.out
	}
	n, err := unix.SendmsgN(c.fd, b, nil, nil, unix.MSG_NOSIGNAL)
	if err != nil && !errors.Is(err, unix.EAGAIN) || len(b)-max(n, 0) > maxOut {
		s.drop(c)
		return false
	}
	waited := len(c.out) > 0
	c.out = append(c.out[:0], b[max(n, 0):]...)
	switch {
	case len(c.out) > 0 && !waited:
		return s.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN|unix.EPOLLOUT) == nil
	case len(c.out) == 0 && waited:
		c.out = nil
		return s.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN) == nil
	}
	return true
}
