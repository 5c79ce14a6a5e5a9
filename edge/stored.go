package edge

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// maxStoring is how many messages of one connection may wait to be stored.
const maxStoring = 256

// storing is a message whose sender wants to know when it is stored. From the time at which it is sent the room's lane
// is heard, where the persister tells, at most once. Of what was not heard in time a worker is asked.
type storing struct {
	id   uint64 // of the request; 0: the client wants no reply
	room contracts.RoomID
	key  contracts.Key // zero until the answer of the worker that makes it

	ok   json.RawMessage // the worker's answer, nil before it
	seq  contracts.Seq   // stored was told before the answer came
	told bool            // the reply said "logged": an event follows
	due  uint32          // tick at which to reply, or to ask
	was  uint64          // the connection's id in the predecessor that sent it; 0: this edge did
}

// hold begins to wait for a send that asks for it. It refuses where too many wait.
func (c *conn) hold(req *request) *contracts.Error {
	st := req.safe
	if st == nil {
		return nil
	}
	b := c.work()
	if len(b.storing) >= maxStoring {
		return errOverloaded
	}
	st.id, st.room, st.key, st.due = req.id, req.room, req.key, math.MaxUint32
	b.storing = append(b.storing, st)
	lane := contracts.LaneOf(st.room)
	lanes := &c.loop.srv.hub.lanes
	lanes.want(lane)
	lanes.heard(lane, func(error) {}) // unheard, a worker is asked
	return nil
}

// release ends the waiting for a message.
func (c *conn) release(st *storing) {
	if st == nil || c.busy == nil {
		return
	}
	at := slices.Index(c.busy.storing, st)
	if at < 0 {
		return
	}
	c.busy.storing = slices.Delete(c.busy.storing, at, at+1)
	if st.was != 0 && !slices.ContainsFunc(c.busy.storing, func(other *storing) bool { return other.was == st.was }) {
		c.loop.srv.former.Delete(st.was)
	}
	c.loop.srv.hub.lanes.release(contracts.LaneOf(st.room))
}

func (c *conn) releaseAll() {
	for c.busy != nil && len(c.busy.storing) > 0 {
		c.release(c.busy.storing[len(c.busy.storing)-1])
	}
}

// logged takes the worker's answer to a message that is to be stored.
func (c *conn) logged(st *storing, ok json.RawMessage) {
	if c.state != stateReady {
		return
	}
	st.ok = bytes.Clone(ok) // it may have come with many others
	if st.key.IsZero() {
		var made contracts.SendOK
		if json.Unmarshal(ok, &made) == nil {
			st.key = made.Key
		}
	}
	if st.seq != 0 {
		c.isStored(st, st.seq)
		return
	}
	st.due = c.loop.in(c.loop.srv.cfg.StoredTime)
	c.sooner(st.due)
}

// isStored tells the client and ends the waiting.
func (c *conn) isStored(st *storing, seq contracts.Seq) {
	if st.ok == nil {
		st.seq = seq
		return
	}
	c.release(st)
	if !st.told {
		c.replyState(st, "stored", seq)
		return
	}
	out := append(c.loop.frameStart(), `{"event":"stored","room":"`...)
	out = append(out, st.room...)
	out = append(out, `","key":"`...)
	out = append(out, st.key.String()...)
	out = append(out, `","seq":`...)
	out = strconv.AppendUint(out, uint64(seq), 10)
	c.send(append(out, '}'))
}

// replyState is the worker's answer with what became of the message since.
func (c *conn) replyState(st *storing, state string, seq contracts.Seq) {
	body := make([]byte, 0, len(st.ok)+48)
	body = append(body, st.ok[:len(st.ok)-1]...)
	body = append(body, `,"state":"`...)
	body = append(body, state...)
	body = append(body, '"')
	if seq != 0 {
		body = append(body, `,"seq":`...)
		body = strconv.AppendUint(body, uint64(seq), 10)
	}
	c.reply(&request{id: st.id}, append(body, '}'))
}

// stored takes from a lane that a message is stored.
func (s *Server) stored(e *contracts.Envelope) {
	if e.Except.Node != s.cfg.Node {
		return
	}
	id, room, key, seq := e.Except.ID, e.Room, e.Key, e.Seq
	if now, ok := s.former.Load(id); ok {
		id = now.(uint64)
	}
	at := loopOf(id)
	if at >= len(s.loops) {
		return
	}
	l := s.loops[at]
	l.call(func() {
		if c := l.byID(id); c != nil {
			c.storedKey(room, key, seq)
		}
	})
}

// storedKey takes that a message is stored; each attempt to send it gets its answer.
func (c *conn) storedKey(room contracts.RoomID, key contracts.Key, seq contracts.Seq) {
	if c.busy == nil {
		return
	}
	for _, st := range slices.Clone(c.busy.storing) {
		if st.room == room && st.key == key && c.state == stateReady {
			c.isStored(st, seq)
		}
	}
	c.rest()
}

// checkStoring replies to what has waited long enough, and asks for it. It reports whether the connection goes on.
func (c *conn) checkStoring() bool {
	if c.busy == nil || len(c.busy.storing) == 0 {
		return c.state == stateReady || c.state == stateConnecting || c.state == stateOpen
	}
	for _, st := range slices.Clone(c.busy.storing) {
		if st.due > c.loop.ticks {
			continue
		}
		st.due = c.loop.in(c.loop.srv.cfg.StoredTime)
		if !st.told {
			st.told = true
			c.replyState(st, "logged", 0)
		}
		if c.state != stateReady {
			return false
		}
		c.askStored(st)
	}
	return true
}

// nextStoring is the tick at which checkStoring has something to do.
func (c *conn) nextStoring() uint32 {
	due := uint32(math.MaxUint32)
	if c.busy != nil {
		for _, st := range c.busy.storing {
			due = min(due, st.due)
		}
	}
	return due
}

// askStored asks a worker what became of a message.
func (c *conn) askStored(st *storing) {
	s, l := c.loop.srv, c.loop
	conn, user := c.id, &c.user
	l.ask(question{
		subject:  s.subject(contracts.OpStatus, st.room),
		deadline: time.Now().Add(s.cfg.AskTime),
		body: func(dst []byte, left time.Duration) []byte {
			cmd := s.command(dst, contracts.OpStatus, conn, left, user, st.room)
			cmd = append(cmd, `,"body":{"op":"status","key":"`...)
			cmd = append(cmd, st.key.String()...)
			return append(cmd, `"}}`...)
		},
		done: func(a *contracts.Answer, bad *contracts.Error) {
			var is contracts.StatusOK
			if bad != nil || json.Unmarshal(a.OK, &is) != nil || is.State != "stored" {
				return // it is asked again
			}
			l.call(func() {
				if c.busy != nil && c.state == stateReady && slices.Contains(c.busy.storing, st) {
					c.isStored(st, is.Seq)
					c.rest()
				}
			})
		},
	})
}
