package edge

import (
	"bytes"
	"errors"
	"slices"
)

// Replies and events for one connection are put together during a round and written at its end, with what its rooms
// have for it by then: the answer to a message and the message itself share a system call, and so do the answers to a
// batch. Nobody waits for more to come, only for the rooms that stand in line already, and for those not long.

const (
	// owedBytes is the most that is put together for a connection; owedKept how much of the memory for it is kept.
	owedBytes = 16 << 10
	owedKept  = 256
	// owedRounds is for how many rounds replies wait for the rooms in line.
	owedRounds = 4
)

// owing is what one connection is to get. It is at most once in loop.owed.
type owing struct {
	conn  *conn // nil: it has been written
	bytes []byte
	round uint32
}

// owe writes a frame, which is the caller's again on return, at the end of the round. Nothing that is written later overtakes it.
func (c *conn) owe(b []byte) {
	switch {
	case c.over():
		return
	case c.stuck || len(b) >= owedBytes:
		c.write(b, false)
		return
	}
	l := c.loop
	if c.owed == 0 {
		o := owing{conn: c, round: l.round}
		if n := len(l.scrap); n > 0 {
			o.bytes, l.scrap[n-1] = l.scrap[n-1], nil
			l.scrap = l.scrap[:n-1]
		}
		l.owed = append(l.owed, o)
		c.owed = int32(len(l.owed))
	}
	o := &l.owed[c.owed-1]
	if o.bytes = append(o.bytes, b...); len(o.bytes) >= owedBytes {
		c.pay()
	}
}

// pay writes what c is owed.
func (c *conn) pay() {
	if c.owed != 0 {
		c.tryBehind(nil)
	}
}

// unowe takes what c is owed off the loop's list; it is to be given back.
func (c *conn) unowe() []byte {
	o := &c.loop.owed[c.owed-1]
	b := o.bytes
	*o = owing{}
	c.owed = 0
	return b
}

// giveScrap takes the memory of what was owed back.
func (l *loop) giveScrap(b []byte) {
	if cap(b) <= owedBytes/4 && len(l.scrap) < owedKept {
		l.scrap = append(l.scrap, b[:0])
	}
}

// tryBehind is try for a connection that is owed something, which goes first.
func (c *conn) tryBehind(b []byte) (n int, done bool) {
	l := c.loop
	owed := c.unowe()
	if len(b) >= owedBytes {
		n, err := c.put(owed)
		if n < len(owed) {
			if done = c.refused(err); !done {
				c.enqueue(piece{frames: bytes.Clone(owed)}, n)
			}
			l.giveScrap(owed)
			return 0, done
		}
		l.giveScrap(owed)
		return c.try(b)
	}
	all := append(owed, b...)
	n, err := c.put(all)
	if n == len(all) {
		done = true
	} else if done = c.refused(err); !done && n < len(owed) {
		c.enqueue(piece{frames: bytes.Clone(owed)}, n)
	}
	l.giveScrap(all)
	return max(n-len(owed), 0), done
}

// refused notes that the socket takes no more, and reports whether the connection has ended with that.
func (c *conn) refused(err error) (ended bool) {
	if err != nil && !errors.Is(err, errAgain) {
		c.close()
		return true
	}
	c.stick()
	c.sooner(c.loop.in(c.loop.srv.cfg.Stall))
	return false
}

// payAll ends a round: it writes what connections are owed, unless there are rooms in line that may have something for
// them too.
func (l *loop) payAll() {
	n := 0
	for ; n < len(l.owed); n++ {
		o := &l.owed[n]
		if o.conn == nil {
			continue
		}
		if len(l.dirty) > 0 && l.round-o.round < owedRounds {
			break
		}
		o.conn.pay()
	}
	l.round++
	l.srv.metrics.puts.Add(float64(l.puts))
	l.puts = 0
	if n == 0 {
		return
	}
	l.owed = slices.Delete(l.owed, 0, n)
	for i := range l.owed {
		if c := l.owed[i].conn; c != nil {
			c.owed = int32(i + 1)
		}
	}
	if cap(l.owed) > 64<<10 && len(l.owed) == 0 {
		l.owed = nil
	}
}
