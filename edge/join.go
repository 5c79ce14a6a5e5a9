package edge

import (
	"bytes"
	"strconv"
	"time"

	"github.com/parley-chat/parley/contracts"
)

const (
	// maxJoins bounds a connection's joins of one room that wait for an earlier one.
	maxJoins = 16
	// maxTries bounds how often one join is asked when its answers cannot be joined with the live entries.
	maxTries = 5
)

// joining is one join under way.
//
// The order is what makes it hole-free: the lane is heard first; from then on the loop keeps the room's entries; only
// then is the worker asked, with the last entry that this node has passed on. The answer reaches to the room's head
// or to that entry, whichever is higher, so that it overlaps with what was kept; what is kept above it follows.
type joining struct {
	req       request
	lc        *local
	after     []request // joins of the same room by the same connection, to be answered after this one
	passed    contracts.RoomHead
	known     bool // passed is the room's; otherwise this node has passed on nothing yet
	tries     int
	deadline  time.Time
	cancelled bool // the connection has left the room meanwhile: answer, but do not listen
}

// join takes a request to join.
func (c *conn) join(req *request) {
	l := c.loop
	r := *req
	r.body = bytes.Clone(req.body)
	lc := l.locals[r.room]
	at := -1
	if lc != nil {
		at = lc.find(c)
	}
	switch {
	case at < 0 && len(c.rooms) >= l.srv.cfg.MaxRooms:
		c.fail(req, contracts.NewError(contracts.CodeTooManyRooms, "this connection is in "+strconv.Itoa(len(c.rooms))+" rooms, which is the most"))
		return
	case at < 0:
		lc = c.enter(r.room)
	case lc.members[at].join != nil:
		j := lc.members[at].join
		if len(j.after) >= maxJoins {
			c.fail(req, errOverloaded)
			return
		}
		j.after = append(j.after, r)
		c.begin(heavy)
		return
	}
	c.begin(heavy)
	c.startJoin(lc, &joining{req: r, lc: lc, deadline: time.Now().Add(l.srv.cfg.AskTime)})
}

func (c *conn) startJoin(lc *local, j *joining) {
	// What was delivered before is written first: live pauses behind it.
	lc.flush()
	if c.state != stateReady {
		return
	}
	at := lc.find(c)
	if at < 0 {
		return
	}
	lc.members[at].join = j
	lc.joining++
	l := c.loop
	l.srv.hub.heard(lc.room, func(err error) {
		l.call(func() {
			switch {
			case c.state == stateGone:
			case err != nil:
				c.joinFailed(j, errUnavailable)
			default:
				c.askJoin(j)
			}
		})
	})
}

// askJoin asks the worker, with what this node has passed on by now.
func (c *conn) askJoin(j *joining) {
	s, l := c.loop.srv, c.loop
	j.tries++
	j.passed, j.known = s.hub.passed(j.lc.room)
	conn, user, passed, known, req := c.id, &c.user, j.passed, j.known, &j.req
	l.ask(question{
		subject:  s.subject(contracts.OpJoin, req.room),
		deadline: j.deadline,
		body: func(dst []byte, left time.Duration) []byte {
			cmd := s.command(dst, contracts.OpJoin, conn, left, user, req.room)
			if known {
				cmd = append(cmd, `,"passed":{"epoch":`...)
				cmd = strconv.AppendUint(cmd, uint64(passed.Epoch), 10)
				cmd = append(cmd, `,"seq":`...)
				cmd = strconv.AppendUint(cmd, uint64(passed.Seq), 10)
				cmd = append(cmd, '}')
			}
			cmd = append(cmd, `,"body":`...)
			cmd = append(cmd, req.body...)
			return append(cmd, '}')
		},
		done: func(a *contracts.Answer, bad *contracts.Error) {
			l.call(func() {
				if j.cancelled {
					// The worker may have noted the person as listening behind the news of the leaving.
					s.gone.add(contracts.Presence{Room: req.room, User: *user})
				}
				switch {
				case c.state == stateGone:
				case bad != nil:
					c.joinFailed(j, bad)
				case a.Joined == nil || len(a.OK) == 0:
					c.joinFailed(j, errUnreadable)
				default:
					c.joinAnswered(j, a)
				}
			})
		},
	})
}

// joinAnswered takes the answer if it can be joined with the live entries, and asks anew if not.
func (c *conn) joinAnswered(j *joining, a *contracts.Answer) {
	lc, to := j.lc, a.Joined
	if j.cancelled || c.state != stateReady {
		c.joinDone(j, a.OK, nil)
		return
	}
	if to.State == contracts.JoinMore {
		// The client comes again for the rest; who was listening goes on only then.
		if at := lc.find(c); at >= 0 {
			c.abreast(lc, &lc.members[at])
			c.pin(lc)
			lc.members[at].listening = false
		}
		c.joinDone(j, a.OK, nil)
		return
	}
	now := c.loop.srv.hub.settle(lc.room, contracts.RoomHead{Epoch: to.Epoch, Seq: to.Head})
	// The loop was handed what the node passed on after the question, so the answer must reach to where that began: to
	// passed, or, where the node had not begun then, to where it has begun since.
	begin := now
	if j.known && j.passed.Epoch == to.Epoch {
		begin = j.passed
	}
	fits := now.Epoch == to.Epoch && begin.Seq <= to.Head && (lc.lostEpoch < to.Epoch || lc.lost <= to.Head)
	if !fits {
		if j.tries >= maxTries {
			c.joinFailed(j, errUnavailable)
			return
		}
		c.askJoin(j)
		return
	}
	at := lc.find(c)
	c.abreast(lc, &lc.members[at]) // the answer takes the place of what was not sent
	c.pin(lc)
	lc.members[at].listening = true
	lc.members[at].epoch, lc.members[at].next = to.Epoch, to.Head+1
	c.joinDone(j, a.OK, nil)
}

func (c *conn) joinFailed(j *joining, bad *contracts.Error) { c.joinDone(j, nil, bad) }

// joinDone answers, goes live where the connection listens, and starts the next join that waited for this one.
func (c *conn) joinDone(j *joining, ok []byte, bad *contracts.Error) {
	lc := j.lc
	finished := heavy
	defer func() { c.finish(finished) }()
	c.answer(&j.req, ok, bad)
	if j.cancelled || c.state != stateReady {
		for i := range j.after {
			c.answer(&j.after[i], nil, errUnavailable)
		}
		finished += heavy * len(j.after)
		return
	}
	at := lc.find(c)
	m := &lc.members[at]
	m.join = nil
	switch {
	case m.behind:
		c.tellGaps()
	case m.listening:
		c.catchUp(lc, at)
	}
	lc.joined()
	if c.state != stateReady {
		return
	}
	if at = lc.find(c); at < 0 {
		return
	}
	if len(j.after) > 0 {
		next := &joining{req: j.after[0], after: j.after[1:], lc: lc, deadline: time.Now().Add(c.loop.srv.cfg.AskTime)}
		c.startJoin(lc, next)
		return
	}
	if bad != nil && !lc.members[at].listening {
		c.exit(lc)
	}
}

// catchUp writes what was kept above the member's position. What went missing meanwhile is told as a gap.
func (c *conn) catchUp(lc *local, at int) {
	m := &lc.members[at]
	if lc.lostEpoch == m.epoch && lc.lost >= m.next {
		from := m.next
		m.next = lc.lost + 1
		c.sendGap(lc, from, lc.lost)
		if c.state != stateReady || m.behind {
			return // m may be another member's by now
		}
	}
	for i := range lc.kept {
		if it := &lc.kept[i]; it.epoch == m.epoch && it.seq >= m.next {
			m.next = it.seq + 1
			if n, done := c.try(it.frame); !done {
				c.holdBatch(lc, lc.kept[i:i+1], it.frame, nil, n)
			}
			if c.state != stateReady || m.behind {
				return
			}
		}
	}
}
