package edge

import (
	"bytes"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/wire"
)

// gatherBytes is the most that is copied together for one write of what waited, gatherBelow the size from which a piece
// is written by itself.
const (
	gatherBytes = 64 << 10
	gatherBelow = 8 << 10
)

// pieceCost is what a waiting piece costs beside its frames.
const pieceCost = 64

type pieceKind uint8

const (
	pieceKeep    pieceKind = iota // replies, control frames and events that are never dropped
	pieceEntries                  // the entries first … last of room
	pieceGap                      // the gap event for first … last of room
	pieceEvent                    // ephemeral events
)

// piece is some whole frames that wait for a socket.
type piece struct {
	frames      []byte
	held        *held  // what frames is a part of; nil: nothing else, it is this piece's own
	room        *local // pieceEntries, pieceGap: the connection listens there
	first, last contracts.Seq
	kind        pieceKind
}

// held is memory that several waiting pieces of one loop share: it counts once.
type held struct {
	bytes  int
	pieces int
}

// output is what a connection has while its socket is stuck, or while it is behind in a room.
type output struct {
	queue  []piece
	off    int      // so much of queue[0] was written
	size   int      // bytes in queue that were not written, with pieceCost each
	took   uint32   // tick at which the socket last took something
	place  int      // in loop.stuck
	behind []*local // the rooms whose live entries this connection does not get; see member.behind
}

// outbound is what waits in all connections of an edge, as bytes of memory.
type outbound struct {
	bytes atomic.Int64
	limit int64
}

func (o *outbound) full() bool { return o.bytes.Load() >= o.limit }

// tight says that the slowest must give something up.
func (o *outbound) tight() bool { return o.bytes.Load() > o.limit/10*8 }

func (c *conn) output() *output {
	b := c.work()
	if b.out == nil {
		b.out = &output{}
	}
	return b.out
}

// write sends a frame that is never dropped. shared says that b is never changed; otherwise b is the caller's again on return.
func (c *conn) write(b []byte, shared bool) {
	n, done := c.try(b)
	if done {
		return
	}
	if !shared {
		b = bytes.Clone(b)
	}
	c.enqueue(piece{frames: b}, n)
}

// try writes what the socket takes. done says that the rest must not be held: there is none, or the connection has ended
// or closes, as nothing follows a close frame.
func (c *conn) try(b []byte) (n int, done bool) {
	switch {
	case c.over():
		return 0, true
	case c.stuck:
		return 0, false
	case c.owed != 0:
		return c.tryBehind(b)
	}
	n, err := c.put(b)
	if n == len(b) {
		return n, true
	}
	return n, c.refused(err)
}

// stick notes that output waits.
func (c *conn) stick() {
	l, o := c.loop, c.output()
	c.stuck = true
	o.took = l.ticks
	o.place = len(l.stuck)
	l.stuck = append(l.stuck, c)
	l.srv.metrics.stuck.Inc()
}

// enqueue queues a piece of a stuck connection, of which a part was written. What does not fit is dropped if it is
// ephemeral, told as a gap later if it is entries, and else ends the connection.
func (c *conn) enqueue(p piece, written int) {
	s, o := c.loop.srv, c.busy.out
	size := len(p.frames) + pieceCost
	// What is written in part must be finished, and one piece may always wait.
	waits := len(o.queue) == 0
	switch p.kind {
	case pieceEvent:
		if written == 0 && (o.size+size > s.cfg.OutboundBytes/eventShare || s.outbound.tight()) {
			s.metrics.droppedEvents.Add(float64(wire.Frames(p.frames)))
			return
		}
	case pieceEntries, pieceGap:
		if !waits && !c.fits(size, s.cfg.OutboundBytes/4*3) || o.isBehind(p.room) {
			c.fallBehind(p.room, p.first)
			return
		}
	default:
		if !waits && !c.fits(size, s.cfg.OutboundBytes) {
			c.tooSlow()
			return
		}
	}
	o.queue = append(o.queue, p)
	o.off += written
	o.size += size - written
	c.loop.account(&p, 1)
	if o.size > s.cfg.OutboundBytes/pauseShare {
		c.paused = true // the answers to what it asks would only add to it
	}
}

// account adds a piece to the memory that waits, or takes it off with by = -1.
func (l *loop) account(p *piece, by int) {
	n := pieceCost
	switch h := p.held; {
	case h == nil:
		n += len(p.frames)
	case by > 0:
		if h.pieces == 0 {
			n += h.bytes
		}
		h.pieces++
	default:
		h.pieces--
		if h.pieces == 0 {
			n += h.bytes
		}
	}
	l.srv.outbound.bytes.Add(int64(n * by))
}

// writable sends what waited.
func (c *conn) writable() {
	if !c.stuck {
		return
	}
	l, o := c.loop, c.busy.out
	for len(o.queue) > 0 {
		b := o.queue[0].frames[o.off:]
		if len(b) < gatherBelow && len(o.queue) > 1 {
			b = l.gather(o)
		}
		n, err := c.put(b)
		if n > 0 {
			o.took = l.ticks
			l.advance(o, n)
		}
		if n < len(b) {
			if err != nil && !errors.Is(err, errAgain) {
				c.close()
				return
			}
			c.resume()
			return
		}
	}
	c.unstick()
	c.heard, c.pinged = l.ticks, false // what it may answer has only now gone out
	if c.state == stateClosing {
		c.halfClose()
	}
	c.tellGaps()
	if c.state != stateGone {
		c.resume()
		c.rest()
	}
}

// gather copies the pieces that come first together, into scratch that is valid until the next call.
func (l *loop) gather(o *output) []byte {
	if l.gathered == nil {
		l.gathered = make([]byte, 0, gatherBytes)
	}
	b := append(l.gathered[:0], o.queue[0].frames[o.off:]...)
	for i := 1; i < len(o.queue) && len(b)+len(o.queue[i].frames) <= gatherBytes; i++ {
		b = append(b, o.queue[i].frames...)
	}
	return b
}

// advance takes n written bytes off the queue.
func (l *loop) advance(o *output, n int) {
	o.size -= n
	o.off += n
	for len(o.queue) > 0 && o.off >= len(o.queue[0].frames) {
		o.off -= len(o.queue[0].frames)
		l.pop(o)
	}
}

// pop takes the first piece, which was written, off the queue.
func (l *loop) pop(o *output) {
	l.account(&o.queue[0], -1)
	o.size -= pieceCost
	o.queue[0] = piece{}
	o.queue = o.queue[1:]
	if len(o.queue) == 0 {
		o.queue = nil
	}
}

// unstick notes that nothing waits any more.
func (c *conn) unstick() {
	l, o := c.loop, c.busy.out
	last := len(l.stuck) - 1
	l.stuck[o.place] = l.stuck[last]
	l.stuck[o.place].busy.out.place = o.place
	l.stuck[last] = nil
	l.stuck = l.stuck[:last]
	c.stuck = false
	l.srv.metrics.stuck.Dec()
}

// cutBegun cuts the queue behind the frame that was written in part, if one was; it is never dropped. It returns how many
// pieces that is: 0 or 1.
func (c *conn) cutBegun() int {
	l, o := c.loop, c.busy.out
	if o.off == 0 {
		return 0
	}
	p := &o.queue[0]
	if p.kind != pieceEntries {
		*p = piece{frames: p.frames, held: p.held}
		return 1
	}
	start, end, n := 0, 0, contracts.Seq(0)
	for end < o.off {
		start = end
		end += wire.FrameLen(p.frames[start:])
		n++
	}
	whole := *p
	l.account(&whole, -1)
	o.queue[0] = piece{frames: bytes.Clone(whole.frames[start:end])} // so that it does not hold all the others
	l.account(&o.queue[0], 1)
	o.off -= start
	if end < len(whole.frames) {
		whole.frames = whole.frames[end:]
		whole.first += n
		o.queue = slices.Insert(o.queue, 1, whole)
		l.account(&whole, 1)
		o.size += pieceCost
	}
	if o.off == end-start {
		o.off = 0
		l.pop(o)
		return 0
	}
	return 1
}

// discard empties the queue, but for so many pieces that come first.
func (c *conn) discard(but int) {
	o := c.busy.out
	for i := but; i < len(o.queue); i++ {
		c.loop.account(&o.queue[i], -1)
		o.size -= len(o.queue[i].frames) + pieceCost
	}
	clear(o.queue[but:])
	o.queue = o.queue[:but]
}

// tooSlow ends a stuck connection: what waits is given up, as it would not arrive either.
func (c *conn) tooSlow() {
	if c.over() {
		return
	}
	c.countClosed(contracts.CloseTooSlow)
	c.discard(c.cutBegun())
	p := piece{frames: wire.AppendClose(nil, contracts.CloseTooSlow, "too slow")}
	o := c.busy.out
	o.queue = append(o.queue, p)
	o.size += len(p.frames) + pieceCost
	c.loop.account(&p, 1)
	c.startClosing()
}

// giveBack throws away what waits for a connection that is gone.
func (c *conn) giveBack() {
	if c.stuck {
		c.discard(0)
		c.unstick()
	}
}
