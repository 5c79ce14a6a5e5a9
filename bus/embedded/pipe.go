//go:build !lean

package embedded

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// pipeBytes is how much of one direction of a pipe may wait to be read before a Write waits.
const pipeBytes = 1 << 20

// errUnread ends a connection whose other end lets too much wait.
var errUnread = errors.New("the client does not read")

// newPipe returns the two ends of a connection within this process. What one end writes waits in memory until the other
// reads it: no system call, where a loopback connection needs three for each message, and no meeting of the two, as in
// net.Pipe. most is what may wait for the client; above it the server's end, whose Write never waits, is closed. With 0 the server's
// Write waits like the client's.
func newPipe(most int) (client, server net.Conn) {
	up, down := newHalf(0), newHalf(most)
	return &pipeEnd{in: down, out: up}, &pipeEnd{in: up, out: down}
}

// pipeEnd is one end.
type pipeEnd struct{ in, out *half }

// half is one direction.
type half struct {
	most int // 0: a Write waits

	mu     sync.Mutex // guards what follows
	bytes  []byte     // bytes[from:] waits to be read
	from   int
	closed bool // by the writer: the reader gets the rest, then io.EOF
	broken bool // by the reader: nobody reads any more
	reader side
	writer side
}

// side is who waits at one end of a half.
type side struct {
	wake  *sync.Cond
	until time.Time   // the deadline; zero: none
	timer *time.Timer // wakes at a deadline; one that comes for nothing does no harm
}

func newHalf(most int) *half {
	h := &half{most: most}
	h.reader.wake, h.writer.wake = sync.NewCond(&h.mu), sync.NewCond(&h.mu)
	return h
}

// late reports whether the deadline is over.
func (s *side) late() bool { return !s.until.IsZero() && !time.Now().Before(s.until) }

// wait returns when something may have changed, or the deadline is over.
func (s *side) wait() {
	switch {
	case s.until.IsZero():
	case s.timer == nil:
		s.timer = time.AfterFunc(time.Until(s.until), func() {
			s.wake.L.Lock()
			s.wake.Broadcast()
			s.wake.L.Unlock()
		})
	default:
		s.timer.Reset(time.Until(s.until))
	}
	s.wake.Wait()
}

// end wakes everybody.
func (h *half) end() {
	h.reader.wake.Broadcast()
	h.writer.wake.Broadcast()
}

// Read implements net.Conn.
func (p *pipeEnd) Read(b []byte) (int, error) {
	h := p.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.broken:
			return 0, opError("read", net.ErrClosed)
		case h.reader.late():
			return 0, opError("read", os.ErrDeadlineExceeded)
		case len(h.bytes) > h.from:
			return h.take(b), nil
		case len(b) == 0:
			return 0, nil
		case h.closed:
			return 0, io.EOF
		}
		h.reader.wait()
	}
}

// take moves what waits into b, as far as it fits.
func (h *half) take(b []byte) int {
	full := len(h.bytes)-h.from >= pipeBytes
	n := copy(b, h.bytes[h.from:])
	if h.from += n; h.from == len(h.bytes) {
		h.bytes, h.from = h.bytes[:0], 0
		if cap(h.bytes) > pipeBytes {
			h.bytes = nil
		}
	}
	if full && len(h.bytes)-h.from < pipeBytes {
		h.writer.wake.Broadcast()
	}
	return n
}

// Write implements net.Conn. It takes all of b at once, when its turn has come.
func (p *pipeEnd) Write(b []byte) (int, error) {
	h := p.out
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch waiting := len(h.bytes) - h.from; {
		case h.closed:
			return 0, opError("write", net.ErrClosed)
		case h.broken:
			return 0, opError("write", os.NewSyscallError("write", syscall.EPIPE))
		case h.writer.late():
			return 0, opError("write", os.ErrDeadlineExceeded)
		case h.most > 0 && waiting+len(b) > h.most:
			h.bytes, h.from, h.closed = nil, 0, true
			h.end()
			return 0, opError("write", errUnread)
		case h.most > 0 || waiting < pipeBytes:
			h.put(b)
			return len(b), nil
		}
		h.writer.wait()
	}
}

// put appends b to what waits.
func (h *half) put(b []byte) {
	if h.from > 0 && len(h.bytes)+len(b) > cap(h.bytes) {
		h.bytes, h.from = h.bytes[:copy(h.bytes, h.bytes[h.from:])], 0
	}
	empty := len(h.bytes) == 0
	h.bytes = append(h.bytes, b...)
	if empty {
		h.reader.wake.Broadcast()
	}
}

// Close implements net.Conn.
func (p *pipeEnd) Close() error {
	p.out.mu.Lock()
	p.out.closed = true
	p.out.end()
	p.out.mu.Unlock()
	p.in.mu.Lock()
	p.in.broken, p.in.bytes, p.in.from = true, nil, 0
	p.in.end()
	p.in.mu.Unlock()
	return nil
}

// SetDeadline implements net.Conn.
func (p *pipeEnd) SetDeadline(t time.Time) error {
	p.in.deadline(&p.in.reader, t)
	p.out.deadline(&p.out.writer, t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (p *pipeEnd) SetReadDeadline(t time.Time) error {
	p.in.deadline(&p.in.reader, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (p *pipeEnd) SetWriteDeadline(t time.Time) error {
	p.out.deadline(&p.out.writer, t)
	return nil
}

func (h *half) deadline(s *side, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.until = t
	s.wake.Broadcast()
}

// LocalAddr implements net.Conn.
func (p *pipeEnd) LocalAddr() net.Addr { return pipeAddr{} }

// RemoteAddr implements net.Conn.
func (p *pipeEnd) RemoteAddr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "in-process" }

// opError is what a connection of package net would give: clients look into it to see whether to connect again.
func opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "pipe", Source: pipeAddr{}, Addr: pipeAddr{}, Err: err}
}
