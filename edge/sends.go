package edge

import (
	"bytes"
	"slices"
	"time"

	"github.com/parley-chat/parley/contracts"
)

const (
	// batchSends and batchBytes bound one batch of a connection's messages to one room.
	batchSends = 64
	batchBytes = 256 << 10
)

// sends are one connection's messages to one room: one batch is on its way, the rest queues behind it, so that they
// enter the log in the order in which they were sent. What queues is bounded by maxPending. A batch starts when the
// round's input has been read: what a client wrote at once is one question, one append and one delivery.
type sends struct {
	room  contracts.RoomID
	due   bool // in loop.due
	asked []request
	queue []request

	// stopped is set after a retryable answer to a message with a key: whatever comes next would overtake that one, so it
	// gets the same answer until that key comes again or the connection leaves the room.
	stopped *contracts.Error
	key     contracts.Key
}

func (q *sends) idle() bool { return len(q.asked) == 0 && len(q.queue) == 0 && q.stopped == nil }

// sendsTo returns the messages to a request's room; where there is no room for them it answers itself.
func (c *conn) sendsTo(req *request) *sends {
	b := c.work()
	at := slices.IndexFunc(b.sends, func(q *sends) bool { return q.room == req.room })
	if at < 0 && len(b.sends) >= c.loop.srv.cfg.MaxRooms {
		c.fail(req, contracts.NewError(contracts.CodeTooManyRooms, "messages to too many rooms are waiting"))
		return nil
	}
	if at < 0 {
		at = len(b.sends)
		b.sends = append(b.sends, &sends{room: req.room})
	}
	return b.sends[at]
}

// refuseSend answers a send that this edge does not take at the moment. Those before it are on their way and go on; those
// behind it get the same answer.
func (c *conn) refuseSend(req *request, bad *contracts.Error) {
	q := c.sendsTo(req)
	if q == nil {
		return
	}
	if q.stopped != nil && req.key != q.key {
		bad = q.stopped
	} else {
		q.stop(req, bad)
	}
	c.fail(req, bad)
	c.forgetIdle(q)
	c.rest()
}

// post takes a send.
func (c *conn) post(req *request) {
	q := c.sendsTo(req)
	if q == nil {
		return
	}
	if q.stopped != nil {
		if req.key.IsZero() || req.key != q.key {
			c.fail(req, q.stopped)
			return
		}
		q.stopped = nil
	}
	if bad := c.hold(req); bad != nil {
		q.stop(req, bad)
		c.fail(req, bad)
		c.forgetIdle(q)
		c.rest()
		return
	}
	r := *req
	r.body = bytes.Clone(req.body)
	q.queue = append(q.queue, r)
	c.begin(1)
	c.pumpSoon(q)
}

// stop notes the answer to a message if what follows it must get the same, and reports whether it must.
func (q *sends) stop(req *request, bad *contracts.Error) bool {
	if !bad.Code.Retryable() || req.key.IsZero() {
		return false
	}
	q.stopped, q.key = bad, req.key
	return true
}

// forgetIdle gives up what is kept of a room where nothing waits.
func (c *conn) forgetIdle(q *sends) {
	if c.busy != nil && q.idle() {
		c.busy.sends = slices.DeleteFunc(c.busy.sends, func(o *sends) bool { return o == q })
	}
}

// posting is a connection's messages to a room that are to be pumped.
type posting struct {
	conn  *conn
	sends *sends
}

// pumpSoon has the next batch sent once this round's input has been read, if none is on its way.
func (c *conn) pumpSoon(q *sends) {
	if q.due || len(q.asked) > 0 || len(q.queue) == 0 {
		return
	}
	q.due = true
	c.loop.due = append(c.loop.due, posting{c, q})
}

// pumpAll sends the batches that are due, also those of connections that have ended meanwhile: their messages came before.
func (l *loop) pumpAll() {
	for i := range l.due {
		p := l.due[i]
		p.sends.due = false
		p.conn.pump(p.sends)
	}
	clear(l.due)
	l.due = l.due[:0]
}

// pump sends the next batch if none is on its way.
func (c *conn) pump(q *sends) {
	if len(q.asked) > 0 || len(q.queue) == 0 {
		return
	}
	n, size := 0, 0
	for n < len(q.queue) && n < batchSends && (n == 0 || size+len(q.queue[n].body) <= batchBytes) {
		size += len(q.queue[n].body)
		n++
	}
	batch := q.queue[:n:n]
	q.asked = batch
	q.queue = q.queue[n:]
	if len(q.queue) == 0 {
		q.queue = nil
	}
	s, l := c.loop.srv, c.loop
	conn, user, room := c.id, &c.user, q.room
	l.ask(question{
		subject:  s.subject(contracts.OpSend, room),
		deadline: time.Now().Add(s.cfg.AskTime),
		body: func(dst []byte, left time.Duration) []byte {
			cmd := s.command(dst, contracts.OpSend, conn, left, user, room)
			if len(batch) == 1 {
				cmd = append(cmd, `,"body":`...)
				cmd = append(cmd, batch[0].body...)
				return append(cmd, '}')
			}
			cmd = append(cmd, `,"batch":[`...)
			for i := range batch {
				if i > 0 {
					cmd = append(cmd, ',')
				}
				cmd = append(cmd, batch[i].body...)
			}
			return append(cmd, "]}"...)
		},
		done: func(a *contracts.Answer, bad *contracts.Error) {
			l.call(func() { c.posted(q, a, bad) })
		},
	})
}

// posted takes the answer to the batch that was on its way.
func (c *conn) posted(q *sends, a *contracts.Answer, bad *contracts.Error) {
	batch := q.asked
	q.asked = nil
	if c.state == stateGone {
		return
	}
	if bad == nil && len(batch) > 1 && len(a.Batch) != len(batch) {
		bad = errUnreadable
	}
	stopped := false // by this batch: a message behind it may have been refused meanwhile, which stops less
	for i := range batch {
		one, oneBad := a, bad
		if bad == nil && len(batch) > 1 {
			one, oneBad = &a.Batch[i], a.Batch[i].Err
		}
		if oneBad == nil && len(one.OK) == 0 {
			oneBad = errUnreadable
		}
		if oneBad != nil {
			stopped = stopped || q.stop(&batch[i], oneBad)
			c.answer(&batch[i], nil, oneBad)
		} else if batch[i].safe != nil {
			c.logged(batch[i].safe, one.OK)
		} else {
			c.answer(&batch[i], one.OK, nil)
		}
	}
	finished := len(batch)
	if stopped {
		for i := range q.queue {
			c.answer(&q.queue[i], nil, q.stopped)
		}
		finished += len(q.queue)
		q.queue = nil
	}
	c.pumpSoon(q)
	c.forgetIdle(q)
	c.finish(finished)
}

func (c *conn) answer(req *request, ok []byte, bad *contracts.Error) {
	switch {
	case c.state == stateGone || c.state == stateClosing:
	case bad != nil:
		c.release(req.safe)
		c.fail(req, bad)
	default:
		c.reply(req, ok)
	}
}

// goOn lifts the stop of a room that the connection leaves.
func (c *conn) goOn(room contracts.RoomID) {
	if c.busy == nil {
		return
	}
	for _, q := range c.busy.sends {
		if q.room == room {
			q.stopped = nil
		}
	}
	c.busy.sends = slices.DeleteFunc(c.busy.sends, (*sends).idle)
	c.rest()
}
