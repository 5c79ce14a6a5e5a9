package loadtest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/gobwas/ws"

	"github.com/parley-chat/parley/contracts"
)

// This file: how a connection comes, goes and comes back.

// opened asks for the upgrade.
func (l *loop) opened(c *conn) {
	c.state = upgrading
	b := appendUpgrade(l.buf[:0], l.plan.Targets[l.targetOf(c)], l.nonce(c))
	if err := l.net.write(c, b); err != nil {
		l.broken(c, err)
	}
}

// nonce is a connection's Sec-WebSocket-Key, which can be made again for the check.
func (l *loop) nonce(c *conn) [24]byte {
	return nonceOf(mix(uint64(l.plan.Seed)) ^ uint64(l.global(c))<<20 ^ uint64(c.gen))
}

// received takes bytes off the network.
func (l *loop) received(c *conn, p []byte) {
	l.now = l.clock.now()
	c.heard, c.probing = l.now, false
	l.tally.counts[nBytes] += int64(len(p))
	l.tally.counts[nReads]++
	data := p
	if len(c.in) > 0 {
		c.in = append(c.in, p...)
		data = c.in
	}
	gen := c.gen
	used := l.consume(c, data)
	if c.gen != gen {
		return
	}
	rest := data[used:]
	switch {
	case len(rest) == 0:
		if c.in != nil {
			l.putBuf(c.in)
			c.in = nil
		}
	case len(c.in) > 0:
		c.in = c.in[:copy(c.in, rest)]
	default:
		c.in = append(l.takeBuf(), rest...)
	}
}

func (l *loop) takeBuf() []byte {
	if n := len(l.bufs); n > 0 {
		b := l.bufs[n-1]
		l.bufs = l.bufs[:n-1]
		return b
	}
	return nil
}

func (l *loop) putBuf(b []byte) {
	if len(l.bufs) < 64 && cap(b) <= 64<<10 {
		l.bufs = append(l.bufs, b[:0])
	}
}

// consume handles whatever is whole in data and returns how much that was.
func (l *loop) consume(c *conn, data []byte) (used int) {
	gen := c.gen
	if c.state == upgrading {
		n, err := checkUpgrade(data, l.nonce(c))
		if err != nil {
			var later *laterError
			if errors.As(err, &later) {
				c.tries = max(c.tries, 1)
			}
			l.broken(c, err)
			return 0
		}
		if n == 0 {
			return 0
		}
		used = n
		l.greet(c)
	}
	for c.gen == gen {
		op, payload, n, err := cutFrame(data[used:])
		if err != nil {
			l.tally.counts[nMalformed]++
			l.broken(c, err)
			return used
		}
		if n == 0 {
			break
		}
		used += n
		l.frame(c, op, payload)
	}
	return used
}

func (l *loop) frame(c *conn, op ws.OpCode, payload []byte) {
	switch op {
	case ws.OpText:
		l.text(c, payload)
	case ws.OpPing:
		l.writeFrame(c, ws.OpPong, payload)
	case ws.OpPong:
	case ws.OpClose:
		l.farewell(c, payload)
	default:
		l.tally.counts[nMalformed]++
		l.broken(c, errFrameForm)
	}
}

// farewell handles the server's close frame.
func (l *loop) farewell(c *conn, payload []byte) {
	code := 1005
	if len(payload) >= 2 {
		code = int(payload[0])<<8 | int(payload[1])
	}
	if code != 1005 {
		l.writeFrame(c, ws.OpClose, payload[:2])
	}
	if c.fd < 0 {
		return // the write met the end of the connection
	}
	l.net.drop(c, false)
	l.closed(c, closeError{code: code, reason: string(payload[min(2, len(payload)):])})
}

// closeError is a close frame from the server.
type closeError struct {
	code   int
	reason string
}

// Error names the code.
func (e closeError) Error() string {
	if e.reason == "" {
		return "closed by the server with " + strconv.Itoa(e.code)
	}
	return "closed by the server with " + strconv.Itoa(e.code) + " " + e.reason
}

// final reports whether a client stops for good at this code.
func (e closeError) final() bool {
	switch contracts.CloseCode(e.code) {
	case contracts.CloseProtocol, contracts.CloseUnsupported, contracts.CloseInvalidUTF8, contracts.ClosePolicy, contracts.CloseTooBig,
		contracts.CloseBadRequests, contracts.CloseUnauthorized, contracts.CloseBanned, contracts.CloseReplaced:
		return true
	}
	return e.code >= 4500 && e.code < 4550
}

// broken ends a connection because of an error of its own.
func (l *loop) broken(c *conn, err error) {
	l.net.drop(c, false)
	l.closed(c, err)
}

func (l *loop) giveUp(c *conn, cause string) {
	l.net.drop(c, true)
	l.closed(c, errors.New(cause))
}

// closed books the end of a connection and plans its return.
func (l *loop) closed(c *conn, err error) {
	l.afterwards(c)
	if l.ending {
		return
	}
	l.tally.fail(causeOf(err))
	var closed closeError
	switch {
	case errors.As(err, &closed) && closed.final(), isFinal(err):
		c.state = dead
		return
	case errors.As(err, &closed) && closed.code == int(contracts.CloseRateLimited):
		l.after(5*time.Second+backoff(l.rng, c.tries), c, timerDial, 0)
	default:
		l.after(backoff(l.rng, c.tries), c, timerDial, 0)
	}
	c.tries = min(c.tries+1, 16)
}

// afterwards puts a connection that has ended into the state from which it can return.
func (l *loop) afterwards(c *conn) {
	if l.partOld(c) || c.state == connected {
		l.tally.counts[nCut]++
		if c.lost == 0 {
			c.lost = l.now
		}
		if l.now-c.since > int64(time.Minute) {
			c.tries = 0
		}
	}
	l.absent(c)
}

// absent takes a connection out of everything that it was in.
func (l *loop) absent(c *conn) {
	l.entered(c)
	c.state, c.reading, c.probing = idle, false, false
	for i := range c.rooms {
		c.rooms[i].state, c.rooms[i].live, c.rooms[i].again = absent, false, false
	}
	if len(c.rooms) > 1 {
		l.abandon(c, 1)
	}
	if c.box != nil {
		c.box.disconnected()
	}
}

// replace ends a connection politely and opens a new one after d.
func (l *loop) replace(c *conn, d time.Duration) {
	if c.state != connected {
		return
	}
	l.writeFrame(c, ws.OpClose, []byte{0x03, 0xe8})
	if c.state != connected {
		return
	}
	l.net.drop(c, false)
	l.afterwards(c)
	l.after(d, c, timerDial, 0)
}

// cut ends every connection as if the network had gone, and lets them return as the protocol says.
func (l *loop) cut() {
	for i := range l.conns {
		c := &l.conns[i]
		if c.state != connected {
			continue
		}
		l.net.drop(c, true)
		l.afterwards(c)
		l.after(backoff(l.rng, 0), c, timerDial, 0)
	}
}

// bye says goodbye everywhere; what the servers answer no longer counts.
func (l *loop) bye() {
	l.ending, l.ramping = true, false
	l.schedule.stop()
	for i := range l.conns {
		c := &l.conns[i]
		if c.state == connected {
			l.writeFrame(c, ws.OpClose, []byte{0x03, 0xe8})
		}
		l.partOld(c)
		if c.fd >= 0 {
			l.net.drop(c, false)
		}
		c.state = idle
	}
}

// causeOf names an error for the table of errors: short, and the same for the same cause.
func causeOf(err error) string {
	var call *os.SyscallError
	switch {
	case errors.As(err, &call):
		return call.Syscall + ": " + call.Err.Error()
	case errors.Is(err, io.EOF):
		return "the server ended the connection without a close frame"
	}
	return err.Error()
}

// greet logs in.
func (l *loop) greet(c *conn) {
	c.state = greeting
	b := l.begin(c, 0, askConnect)
	b = append(b, `"op":"connect"`...)
	token := l.plan.Token
	if token == "" {
		token = c.token
	}
	if token != "" {
		b = append(b, `,"token":"`...)
		b = append(b, token...)
	} else {
		b = append(b, `,"guest":"load `...)
		b = strconv.AppendInt(b, int64(l.global(c)), 10)
	}
	l.finish(c, append(b, `"}`...))
}

// greeted handles the answer to connect.
func (l *loop) greeted(c *conn, e *event) {
	if c.state != greeting {
		l.tally.counts[nMalformed]++
		return
	}
	if e.ok == nil {
		f := parseRefusal(e.err)
		l.tally.fail("connect: " + f.code)
		if f.retry {
			l.after(max(time.Duration(f.afterMS)*time.Millisecond, backoff(l.rng, c.tries)), c, timerGreet, 0)
			c.tries = min(c.tries+1, 16)
			c.asked = l.now
		}
		return // otherwise the server closes
	}
	c.state, c.since = connected, l.now
	l.tally.counts[nOpened]++
	l.tally.time(tConnect, l.now-c.asked)
	for w := object(e.ok); ; {
		name, value, ok := w.member()
		if !ok {
			break
		}
		switch string(name) {
		case "token":
			if c.token == "" && l.plan.Token == "" && !bytes.ContainsRune(value, '\\') {
				c.token = string(unquoted(value))
			}
		case "ping":
			if s, ok := parseUint(value); ok && s > 0 {
				l.pingMS = int64(s) * 1000
			}
		}
	}
	if c.rooms == nil {
		c.rooms = []membership{{room: int32(l.plan.room(l.global(c)))}}
	}
	for slot := range c.rooms {
		if c.state == connected {
			l.join(c, slot)
		}
	}
}
