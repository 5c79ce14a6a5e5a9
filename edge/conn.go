package edge

import (
	"errors"
	"strconv"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/wire"
)

type connState uint8

const (
	stateHead       connState = iota // the HTTP head is not complete
	stateOpen                        // WebSocket, before connect
	stateConnecting                  // connect is being answered
	stateReady                       // connected
	stateClosing                     // a close frame is on its way; input is thrown away
	stateRefused                     // no WebSocket: an HTTP error is on its way; input is thrown away
	stateGone                        // closed
)

const (
	// maxPending is how many of a connection's requests may be unanswered; above it its input waits in the socket.
	maxPending = 256
	// heavy is for how many of them a join or a page of history counts: its answer may be large, and the answers to all
	// that was asked must find room while the client does not read.
	heavy = 8
	// connectBytes bounds what may follow an unanswered connect.
	connectBytes = 12 << 10
	// tokenReminder is how long before a token's end the client is reminded.
	tokenReminder = time.Minute
)

// conn is one client's connection. All of it is owned by its loop. A node may hold a million: what is needed only now and
// then is in busy, and others are named by their place where that will do.
type conn struct {
	// Static after construction.
	loop *loop
	id   uint64 // loop, seat and how often the seat was given up: never the same twice
	port *port  // the socket of the portable poller; nil on epoll

	place int32 // in loop.seats
	fd    int32 // on epoll

	state       connState
	slot        uint8 // of the wheel
	inWheel     bool
	queuedAgain bool // in loop.again
	stuck       bool // the socket took less than everything
	handshaking bool // its head has not come yet
	paused      bool // input waits until requests are answered, or their answers taken
	pinged      bool // a ping is out and nothing has been heard since
	reminded    bool // the token event was sent
	ended       bool // on epoll: the peer sends no more, so that reading ends with the end of input
	moving      moving

	due       uint32 // tick of the next timer
	heard     uint32 // tick of the last input
	began     uint32 // tick at which the incomplete message began; 0: none is
	wheelPrev int32  // places; 0: none
	wheelNext int32
	owed      int32 // 1 + place in loop.owed; 0: nothing is owed

	user    contracts.Person // its ID is empty until connect is answered; not changed then
	expires int64            // of the token, Unix milliseconds

	from  *address // that it counts for; nil: none
	sent  buckets  // what the limits per second count
	rooms []*local // the rooms it is in; see local.members
	busy  *busy    // nil while idle
}

// seat is a connection's place in its loop.
type seat struct {
	conn       *conn // nil: free
	generation int32 // how often it was given up
}

// busy is what a connection needs only while something goes on.
type busy struct {
	head     []byte // the HTTP head so far
	reader   wire.Reader
	stash    []byte   // input that waits because the connection is paused
	waiting  [][]byte // requests that wait for connect
	waitSize int
	sends    []*sends
	storing  []*storing
	pending  int     // requests that are not answered
	out      *output // see conn.output
}

func (b *busy) idle() bool {
	return len(b.head) == 0 && !b.reader.Partial() && len(b.stash) == 0 && len(b.waiting) == 0 && len(b.sends) == 0 && b.pending == 0 && b.out == nil && len(b.storing) == 0
}

func (c *conn) work() *busy {
	if c.busy == nil {
		c.busy = &busy{}
	}
	return c.busy
}

// rest gives back what is not needed while idle.
func (c *conn) rest() {
	b := c.busy
	if b == nil {
		return
	}
	if b.out != nil && !c.stuck && len(b.out.behind) == 0 {
		b.out = nil
	}
	if b.idle() {
		c.busy = nil
	}
}

// over reports whether nothing is sent any more.
func (c *conn) over() bool {
	return c.state == stateGone || c.state == stateClosing || c.state == stateRefused
}

// newConn makes a connection of the loop whose socket is attached next.
func (l *loop) newConn() *conn {
	if l.held == 0 {
		l.turn() // nobody wound the clock meanwhile
	}
	c := &conn{loop: l}
	l.seat(c)
	c.heard = l.ticks
	c.schedule(l.in(l.srv.cfg.HeadTime))
	return c
}

// Reading.

// readable reads what there is, for one turn.
func (c *conn) readable() {
	if c.paused {
		return // resume reads on
	}
	l := c.loop
	n, err := c.sysRead(l.buf)
	if n > 0 {
		c.received(l.buf[:n])
		if c.state == stateGone {
			return
		}
		if n == len(l.buf) || c.ended {
			c.readAgain()
		}
		return
	}
	if err != nil && errors.Is(err, errAgain) {
		return
	}
	c.close() // the peer is gone: end of input, or an error
}

// received takes bytes of the client, in which it may write.
func (c *conn) received(data []byte) {
	l := c.loop
	c.heard, c.pinged = l.ticks, false
	l.srv.metrics.bytesIn.Add(float64(len(data)))
	switch c.state {
	case stateHead:
		c.readHead(data)
	case stateClosing, stateRefused:
		// Whatever comes now is not looked at; the end of input closes.
	default:
		c.readFrames(data)
	}
}

// readFrames takes all frames of data.
func (c *conn) readFrames(data []byte) {
	var r wire.Reader
	if c.busy != nil {
		r, c.busy.reader = c.busy.reader, r
	}
	for {
		lim := &c.loop.lim
		if c.state != stateReady {
			lim = &c.loop.early
		}
		ev, rest, bad := r.Next(data, lim)
		if bad != nil {
			c.shut(bad.Code, bad.Reason)
			return
		}
		data = rest
		switch ev.Op {
		case wire.OpNone:
			c.noteBegun(&r)
			return
		case wire.OpText:
			c.began = 0
			c.request(ev.Payload)
		case wire.OpPong:
			c.admitControl(len(ev.Payload))
		case wire.OpPing:
			if !c.admitControl(len(ev.Payload)) {
				break
			}
			c.write(wire.AppendControl(c.loop.out[:0], wire.OpPong, ev.Payload), false)
		case wire.OpClose:
			c.answerClose(ev.Code)
			return
		}
		if c.over() {
			return
		}
		if c.paused {
			c.work().stash = append(c.work().stash, data...)
			return
		}
	}
}

// noteBegun starts the clock of a message that has begun and is not complete.
func (c *conn) noteBegun(r *wire.Reader) {
	if !r.Partial() {
		c.began = 0
		c.rest()
		return
	}
	c.work().reader = *r
	if c.began == 0 {
		c.began = max(c.loop.ticks, 1)
		c.sooner(c.loop.in(c.loop.srv.cfg.FrameTime))
	}
}

// resume takes the input that waited.
func (c *conn) resume() {
	if !c.paused || c.moving != 0 {
		return
	}
	if b := c.busy; b != nil && b.pending > 0 && (b.pending >= maxPending/2 || c.loop.srv.asker.crowded.Load()) {
		return
	}
	if c.stuck && c.busy.out.size > c.loop.srv.cfg.OutboundBytes/resumeShare {
		return
	}
	c.paused = false
	if c.began != 0 { // the rest may have waited here
		c.began = max(c.loop.ticks, 1)
		c.sooner(c.loop.in(c.loop.srv.cfg.FrameTime))
	}
	if b := c.busy; b != nil && len(b.stash) > 0 {
		data := b.stash
		b.stash = nil
		c.readFrames(data)
	}
	if !c.over() && !c.paused {
		c.readOn()
	}
}

// readOn looks for input that came while the connection was paused.
func (c *conn) readOn() {
	switch {
	case c.port != nil:
		c.port.proceed()
	default:
		c.readAgain()
	}
}

// readAgain makes the loop read on in its next round: an edge-triggered poller does not tell of it once more.
func (c *conn) readAgain() {
	if !c.queuedAgain {
		c.queuedAgain = true
		c.loop.again = append(c.loop.again, c)
	}
}

// Writing.

func (c *conn) reply(req *request, ok []byte) {
	switch {
	case len(ok) == 0:
		c.fail(req, errUnreadable)
		return
	case req.id == 0:
		return
	}
	out := c.loop.frameStart()
	out = append(out, `{"id":`...)
	out = strconv.AppendUint(out, req.id, 10)
	out = append(out, `,"ok":`...)
	out = append(out, ok...)
	out = append(out, '}')
	c.send(out)
}

func (c *conn) fail(req *request, e *contracts.Error) {
	l := c.loop
	l.srv.metrics.errors.WithLabelValues(string(e.Code)).Inc()
	out := l.frameStart()
	if req.id != 0 {
		out = append(out, `{"id":`...)
		out = strconv.AppendUint(out, req.id, 10)
		out = append(out, `,"error":{`...)
		out = appendError(out, e)
		out = append(out, "}}"...)
	} else {
		out = append(out, `{"event":"error",`...)
		out = appendError(out, e)
		if req.op != "" {
			out = append(out, `,"op":`...)
			out = contracts.AppendString(out, string(req.op))
		}
		out = append(out, '}')
	}
	c.send(out)
}

func appendError(dst []byte, e *contracts.Error) []byte {
	dst = append(dst, `"code":"`...)
	dst = append(dst, e.Code...)
	dst = append(dst, `","message":`...)
	dst = contracts.AppendString(dst, e.Message)
	if e.Field != "" {
		dst = append(dst, `,"field":`...)
		dst = contracts.AppendString(dst, e.Field)
	}
	if e.Retry {
		dst = append(dst, `,"retry":true`...)
	}
	if e.RetryAfterMS > 0 {
		dst = append(dst, `,"retry_after_ms":`...)
		dst = strconv.AppendInt(dst, e.RetryAfterMS, 10)
	}
	return dst
}

// headroom is left free in front of a payload for its frame header.
const headroom = 10

// frameStart returns the loop's scratch for one payload, behind room for the frame header.
func (l *loop) frameStart() []byte {
	if cap(l.out) < headroom {
		l.out = make([]byte, 0, 4096)
	}
	return l.out[:headroom]
}

// send frames a payload that began with frameStart and writes it at the end of the round.
func (c *conn) send(out []byte) {
	c.owe(c.loop.frameEnd(out))
}

// frameEnd frames a payload that began with frameStart. The frame is valid until the next frameStart.
func (l *loop) frameEnd(out []byte) []byte {
	if cap(out) <= 256<<10 {
		l.out = out[:0]
	}
	payload := len(out) - headroom
	start := headroom - (wire.FrameSize(payload) - payload)
	wire.AppendTextHeader(out[start:start], payload)
	return out[start:]
}

// Closing.

// shut sends a close frame and waits for the peer's, for a while.
func (c *conn) shut(code contracts.CloseCode, reason string) {
	if c.over() {
		return
	}
	c.write(wire.AppendClose(nil, code, reason), true)
	if c.over() {
		return // the write itself ended it
	}
	c.countClosed(code)
	c.startClosing()
}

// answerClose ends what the peer wants to end (RFC 6455 section 5.5.1).
func (c *conn) answerClose(code contracts.CloseCode) {
	answer := code
	if code == 1005 {
		answer = contracts.CloseNormal
	}
	c.write(wire.AppendClose(nil, answer, ""), true)
	if c.over() {
		return
	}
	if code > 1015 {
		code = otherClose
	}
	c.countClosed(code)
	c.startClosing()
}

// otherClose stands for the codes of clients' own, so that the metric has few labels.
const otherClose contracts.CloseCode = 1

// countClosed counts a connection's end; code 0 is one without a close frame.
func (c *conn) countClosed(code contracts.CloseCode) {
	label := "other"
	if code != otherClose {
		label = strconv.Itoa(int(code))
	}
	c.loop.srv.metrics.closed.WithLabelValues(label).Inc()
}

// startClosing leaves all rooms; what is left is to get the close frame across. The sending half is closed behind it, the
// socket once the peer has closed its half too: closing it with input unread, as what a peer sends behind its own close frame would be,
// would reset the connection and could destroy the close frame on its way.
func (c *conn) startClosing() {
	if c.over() {
		return
	}
	c.state = stateClosing
	c.loop.srv.admission.leave(c)
	c.releaseAll()
	c.leaveAll()
	c.began = 0
	if b := c.busy; b != nil {
		b.reader = wire.Reader{}
		b.stash, b.waiting, b.sends = nil, nil, nil
	}
	c.schedule(c.loop.in(c.loop.srv.cfg.CloseTime))
	if !c.stuck {
		c.halfClose()
	}
	if c.paused {
		c.paused = false
		c.readOn()
	}
}

// close ends the connection, once, without a word.
func (c *conn) close() {
	if c.pay(); c.state == stateGone {
		return // it was already, or paying met its end
	}
	if c.state == stateOpen || c.state == stateConnecting || c.state == stateReady {
		c.countClosed(0)
	}
	c.forget()
	c.hangUp()
}

// forget takes the connection out of everything but its socket.
func (c *conn) forget() {
	l := c.loop
	c.headDone()
	switch c.state {
	case stateHead:
	case stateRefused:
		l.srv.admission.lingering.Add(-1)
	default:
		l.srv.metrics.connections.Dec()
		l.srv.open.Add(-1)
		l.srv.admission.leave(c)
		l.srv.admission.release(c.from)
	}
	c.releaseAll()
	c.giveBack()
	c.leaveAll()
	if c.owed != 0 {
		l.giveScrap(c.unowe())
	}
	c.state = stateGone
	c.unschedule()
	l.unseat(c)
	c.busy = nil // closures may hold c for a while
}

// Timers.

// sooner moves the timer forward, never back.
func (c *conn) sooner(due uint32) {
	if !c.inWheel || due < c.due {
		c.schedule(due)
	}
}

// timeout runs when the tick that schedule was given has come.
func (c *conn) timeout() {
	l := c.loop
	cfg := &l.srv.cfg
	switch c.state {
	case stateHead:
		c.refuse(&wire.HTTPError{Status: 408, Message: "the request did not arrive in time"})
		return
	case stateOpen:
		c.shut(contracts.CloseNoConnect, "no connect in time")
		return
	case stateClosing, stateRefused:
		c.close()
		return
	}
	if c.began != 0 && !c.paused && l.ticks-c.began >= uint32(cfg.FrameTime/tick) {
		c.shut(contracts.ClosePolicy, "a message did not arrive in time")
		return
	}
	silent := time.Duration(l.ticks-c.heard) * tick
	switch {
	case c.stuck:
		// A ping would wait behind the rest: taking something is the sign of life.
		if time.Duration(l.ticks-c.busy.out.took)*tick >= cfg.Stall {
			c.tooSlow()
			return
		}
	case c.pinged && silent >= cfg.Ping+cfg.Pong:
		c.close()
		return
	case !c.pinged && silent >= cfg.Ping && !c.paused:
		c.pinged = true
		c.write(pingFrame, true)
		if c.over() {
			return
		}
	}
	if !c.checkToken() || !c.checkStoring() {
		return
	}
	c.nextTimer()
}

var pingFrame = wire.AppendControl(nil, wire.OpPing, nil)

// checkToken reminds of a token's end and ends the connection with it.
func (c *conn) checkToken() bool {
	if c.state != stateReady {
		return true
	}
	left := time.Until(time.UnixMilli(c.expires))
	if left <= 0 {
		c.shut(contracts.CloseUnauthorized, "the token has expired")
		return false
	}
	if left <= tokenReminder && !c.reminded {
		c.reminded = true
		out := append(c.loop.frameStart(), `{"event":"token","expires_in_ms":`...)
		out = strconv.AppendInt(out, left.Milliseconds(), 10)
		c.send(append(out, '}'))
	}
	return c.state == stateReady
}

// nextTimer schedules what comes next for a connection that is open.
func (c *conn) nextTimer() {
	l := c.loop
	cfg := &l.srv.cfg
	wait := cfg.Ping
	if c.pinged {
		wait += cfg.Pong
	}
	due := c.heard + uint32((wait+tick-1)/tick)
	if c.stuck {
		due = c.busy.out.took + uint32((cfg.Stall+tick-1)/tick)
	}
	if c.began != 0 && !c.paused {
		due = min(due, c.began+uint32(cfg.FrameTime/tick))
	}
	if c.state == stateReady {
		left := time.Until(time.UnixMilli(c.expires))
		if !c.reminded {
			left -= tokenReminder
		}
		if left < time.Hour {
			due = min(due, l.in(max(left, 0)))
		}
		due = min(due, c.nextStoring())
	}
	c.schedule(due)
}
