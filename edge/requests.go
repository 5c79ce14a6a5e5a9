package edge

import (
	"bytes"
	"strconv"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// clientOps are the ops that a client may ask for.
var clientOps = []contracts.Op{
	contracts.OpConnect, contracts.OpJoin, contracts.OpLeave, contracts.OpSend, contracts.OpHistory, contracts.OpStatus,
	contracts.OpTyping, contracts.OpPresence, contracts.OpRooms, contracts.OpRefresh, contracts.OpPing,
}

// workerOps are the ops that an edge asks of workers.
var workerOps = append([]contracts.Op{contracts.OpGuest, contracts.OpRepair, contracts.OpGone}, clientOps...)

// request is one request of a client.
type request struct {
	id   uint64 // 0: the client wants no reply
	op   contracts.Op
	room contracts.RoomID
	key  contracts.Key // of a send; zero where there is none or it is no key
	quit bool          // of a leave
	safe *storing      // of a send whose reply waits until the message is stored
	body []byte        // the whole JSON object
}

var (
	errNotConnected = contracts.NewError(contracts.CodeUnauthorized, "connect comes first")
	errConnected    = contracts.BadField("op", "this connection is connected already")
)

// request takes one text message. payload is valid during the call only.
func (c *conn) request(payload []byte) {
	if c.state == stateConnecting {
		c.await(payload)
		return
	}
	req, bad := readRequest(payload, &c.loop.object)
	if !c.admit(&req, len(payload)) {
		return
	}
	if c.state == stateOpen && req.op != contracts.OpConnect {
		if bad == nil {
			bad = errNotConnected
		}
		c.fail(&req, bad)
		c.shut(contracts.CloseBadRequests, "connect comes first")
		return
	}
	if bad != nil {
		c.fail(&req, bad)
		return
	}
	c.loop.srv.metrics.requests[req.op].Inc()
	if req.op != contracts.OpSend {
		c.loop.pumpAll() // what was sent before is asked before
	}
	switch req.op {
	case contracts.OpConnect:
		c.connect(&req)
	case contracts.OpPing:
		var body [32]byte
		c.reply(&req, append(strconv.AppendInt(append(body[:0], `{"time":`...), time.Now().UnixMilli(), 10), '}'))
	case contracts.OpSend:
		c.post(&req)
	case contracts.OpJoin:
		c.join(&req)
	case contracts.OpLeave:
		c.leave(&req)
	default:
		c.forward(&req)
	}
}

// readRequest reads the envelope, in o's memory. What could be read of it is returned beside an error too.
func readRequest(payload []byte, o *contracts.Object) (req request, bad *contracts.Error) {
	err := o.Parse(payload)
	if err != nil {
		return req, contracts.AsError(err)
	}
	id, has, err := o.Int("id")
	switch {
	case err != nil:
		return req, contracts.AsError(err)
	case has && id == 0:
		return req, contracts.BadField("id", "id must be 1 or more")
	}
	req.id = id
	op, has, err := o.String("op")
	switch {
	case err != nil:
		return req, contracts.AsError(err)
	case !has:
		return req, contracts.BadField("op", "op is missing")
	}
	req.op = contracts.Op(op)
	needsRoom := false
	switch req.op {
	case contracts.OpJoin, contracts.OpLeave, contracts.OpSend, contracts.OpHistory, contracts.OpStatus, contracts.OpTyping, contracts.OpPresence:
		needsRoom = true
	case contracts.OpConnect, contracts.OpRooms, contracts.OpRefresh, contracts.OpPing:
	default:
		if len(req.op) > contracts.MaxIDLen {
			req.op = ""
		}
		return req, contracts.NewError(contracts.CodeUnknownOp, "there is no such op")
	}
	if needsRoom {
		room, has, err := o.String("room")
		switch {
		case err != nil:
			return req, contracts.AsError(err)
		case !has:
			return req, contracts.BadField("room", "room is missing")
		}
		if req.room, err = contracts.ParseRoomID(room); err != nil {
			return req, contracts.AsError(err)
		}
	}
	switch req.op {
	case contracts.OpSend:
		if key, has, err := o.String("key"); has && err == nil {
			if k, err := contracts.ParseKey(key); err == nil {
				req.key = k
			}
		}
		if ack, _, err := o.String("ack"); err == nil && ack == "stored" { // a worker refuses what is neither this nor "logged"
			req.safe = &storing{}
		}
	case contracts.OpLeave:
		if req.quit, _, err = o.Bool("quit"); err != nil {
			return req, contracts.AsError(err)
		}
	}
	req.body = payload
	return req, nil
}

// await keeps a request until connect is answered.
func (c *conn) await(payload []byte) {
	b := c.work()
	b.waitSize += len(payload)
	if b.waitSize > connectBytes {
		c.shut(contracts.CloseTooBig, "too much before the answer to connect")
		return
	}
	b.waiting = append(b.waiting, bytes.Clone(payload))
}

func (c *conn) connect(req *request) {
	if c.state != stateOpen {
		c.fail(req, errConnected)
		return
	}
	c.state = stateConnecting
	c.schedule(c.loop.in(c.loop.srv.cfg.AskTime + c.loop.srv.cfg.Ping))
	c.ask(req, c.connected)
}

// connected takes the answer to connect.
func (c *conn) connected(req *request, a *contracts.Answer, bad *contracts.Error) {
	if c.state != stateConnecting {
		return
	}
	s := c.loop.srv
	waiting := c.work().waiting
	c.busy.waiting, c.busy.waitSize = nil, 0
	if bad == nil && (a.Connected == nil || a.Connected.OK == nil) {
		bad = errUnreadable
	}
	if bad != nil {
		c.fail(req, bad)
		switch bad.Code {
		case contracts.CodeUnauthorized:
			c.shut(contracts.CloseUnauthorized, bad.Message)
			return
		case contracts.CodeForbidden:
			c.shut(contracts.CloseBanned, bad.Message)
			return
		}
		c.state = stateOpen
		c.schedule(c.loop.in(s.cfg.ConnectTime))
		for _, payload := range waiting {
			after, unreadable := readRequest(payload, &c.loop.object)
			if unreadable == nil {
				unreadable = bad
			}
			c.fail(&after, unreadable)
		}
		return
	}
	ok := a.Connected.OK
	ok.Ping = int(s.cfg.Ping / time.Second)
	ok.Server.Node, ok.Server.Version = s.cfg.Node, s.cfg.Version
	ok.Limits.FrameBytes, ok.Limits.Rooms = s.cfg.MessageBytes, s.cfg.MaxRooms
	ok.Limits.FramesPerS = float64(s.cfg.Limits.FramesPerS)
	c.user, c.expires = compact(a.Connected.User), a.Connected.Expires
	c.state = stateReady
	s.admission.join(c)
	c.reply(req, contracts.AppendConnectOK(make([]byte, 0, 1024), ok))
	if c.state != stateReady {
		return // the reply's write ended it
	}
	c.nextTimer()
	for _, payload := range waiting {
		if c.state != stateReady {
			return
		}
		c.request(payload)
	}
}

// compact returns a copy that shares no memory with the answer it came in, with one string behind both names.
func compact(p contracts.Person) contracts.Person {
	both := string(p.ID) + p.Name
	p.ID, p.Name = contracts.UserID(both[:len(p.ID)]), both[len(p.ID):]
	return p
}

// known is who the connection belongs to, nil before connect is answered.
func (c *conn) known() *contracts.Person {
	if c.user.ID == "" {
		return nil
	}
	return &c.user
}

// forward asks a worker and passes its answer on.
func (c *conn) forward(req *request) {
	c.ask(req, func(req *request, a *contracts.Answer, bad *contracts.Error) {
		if bad != nil {
			c.fail(req, bad)
			return
		}
		if a.Connected != nil { // a refresh
			c.expires, c.reminded = a.Connected.Expires, false
			c.nextTimer()
		}
		c.reply(req, a.OK)
	})
}

// ask sends a request to a worker. then runs on the loop, unless the connection has ended.
func (c *conn) ask(req *request, then func(*request, *contracts.Answer, *contracts.Error)) {
	s, l := c.loop.srv, c.loop
	r := *req
	r.body = bytes.Clone(req.body)
	weight := 1
	if r.op == contracts.OpHistory {
		weight = heavy
	}
	c.begin(weight)
	conn, user := c.id, c.known()
	l.ask(question{
		op:       r.op,
		subject:  s.subject(r.op, r.room),
		deadline: time.Now().Add(s.cfg.AskTime),
		body: func(dst []byte, left time.Duration) []byte {
			cmd := s.command(dst, r.op, conn, left, user, r.room)
			cmd = append(cmd, `,"body":`...)
			cmd = append(cmd, r.body...)
			return append(cmd, '}')
		},
		done: func(a *contracts.Answer, bad *contracts.Error) {
			l.call(func() {
				if c.state == stateGone {
					return
				}
				if c.state != stateClosing {
					then(&r, a, bad)
				}
				c.finish(weight)
			})
		},
	})
}

// begin counts requests that are not answered, and makes a client wait that has too many: while the whole edge waits for
// workers, that is one.
func (c *conn) begin(n int) {
	c.work().pending += n
	if c.busy.pending >= maxPending || c.loop.srv.asker.crowded.Load() {
		c.paused = true
	}
}

// finish counts answers.
func (c *conn) finish(n int) {
	if c.state == stateGone || c.busy == nil {
		return
	}
	c.busy.pending -= n
	if c.loop.srv.partings.stage.Load() != 0 {
		c.loop.srv.partings.answered.Add(int64(n))
	}
	if c.busy.pending == 0 && c.loop.ending {
		c.part()
	}
	c.resume()
	c.rest()
}
