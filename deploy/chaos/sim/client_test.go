package sim_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
	"github.com/parley-chat/parley/deploy/chaos/sim"
)

// client speaks the protocol in the plainest way and writes down what it does and gets. It trusts the server: it takes
// every entry as it comes, so that what a library would mend shows.
type client struct {
	name string
	dial func() net.Conn // nil where no edge is up
	dice *sim.Dice
	note func(history.Event) // stamps and keeps
	key  func() contracts.Key

	mu    sync.Mutex // guards what follows
	user  contracts.UserID
	token string
	conn  net.Conn
	out   chan []byte // frames to be written to conn
	n     uint64      // connections so far
	ready bool        // connect was answered
	id    uint64      // requests so far on this connection
	asked map[uint64]request
	rooms map[contracts.RoomID]*listening
	over  bool
	stall time.Time // until then it reads nothing

	running sync.WaitGroup
	stop    context.CancelFunc
	ctx     context.Context
}

// request is what a reply is about.
type request struct {
	op    contracts.Op
	room  contracts.RoomID
	since *history.Position
	m     *outgoing
}

// listening is what the client knows of a room.
type listening struct {
	wanted, joined, joining bool
	have                    bool
	pos                     history.Position       // everything up to it is there
	aside                   map[contracts.Seq]bool // what came behind a gap that is not filled yet
	out                     []*outgoing            // in order; the first ones may be under way
	pause                   bool                   // something failed: nothing is sent before all is answered
}

type outgoing struct {
	key    contracts.Key
	text   string
	flying bool
}

const (
	retryPause  = 300 * time.Millisecond
	clientLimit = 12 * time.Second // for any reply
)

func newClient(name string, dice *sim.Dice, dial func() net.Conn, note func(history.Event), key func() contracts.Key) *client {
	c := &client{name: name, dial: dial, dice: dice, note: note, key: key, rooms: make(map[contracts.RoomID]*listening)}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.running.Go(c.run)
	return c
}

// close ends the client.
func (c *client) close() {
	c.mu.Lock()
	c.over = true
	c.hangUp()
	c.mu.Unlock()
	c.stop()
	c.running.Wait()
}

func (c *client) hangUp() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
}

// drop breaks the connection, as a network does.
func (c *client) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hangUp()
}

// run connects, again and again.
func (c *client) run() {
	for c.ctx.Err() == nil {
		if nc := c.dial(); nc != nil {
			c.serve(nc)
		}
		select {
		case <-time.After(50*time.Millisecond + c.dice.Time(500*time.Millisecond)):
		case <-c.ctx.Done():
		}
	}
}

// serve lives one connection.
func (c *client) serve(nc net.Conn) {
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(clientLimit))
	br, _, err := ws.Dialer{}.Upgrade(nc, &url.URL{Scheme: "ws", Host: "sim", Path: "/v1/ws"})
	if err != nil {
		return
	}
	_ = nc.SetDeadline(time.Time{})
	var in io.Reader = nc
	if br != nil {
		in = br
	}
	c.mu.Lock()
	c.n++
	c.conn, c.out, c.ready, c.id, c.asked = nc, make(chan []byte, 1024), false, 0, make(map[uint64]request)
	out := c.out
	c.running.Go(func() { writing(nc, out) })
	if c.token != "" {
		c.ask(request{op: contracts.OpConnect}, `"token":"`+c.token+`"`)
	} else {
		c.ask(request{op: contracts.OpConnect}, `"guest":"`+c.name+`"`)
	}
	c.mu.Unlock()
	for {
		c.mu.Lock()
		stall := time.Until(c.stall)
		c.mu.Unlock()
		if stall > 0 {
			<-time.After(stall)
		}
		frame, err := ws.ReadHeader(in)
		if err != nil {
			break
		}
		payload := make([]byte, frame.Length)
		if _, err := io.ReadFull(in, payload); err != nil {
			break
		}
		switch frame.OpCode {
		case ws.OpText:
			c.mu.Lock()
			c.take(payload)
			c.mu.Unlock()
		case ws.OpPing:
			c.mu.Lock()
			c.write(ws.OpPong, payload)
			c.mu.Unlock()
		case ws.OpClose:
			_ = nc.Close()
		}
	}
	c.disconnected()
}

// disconnected makes everything under way unknown.
func (c *client) disconnected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.out)
	c.ready, c.conn = false, nil
	ids := make([]uint64, 0, len(c.asked))
	for id := range c.asked {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if r := c.asked[id]; r.m != nil {
			c.noteAnswer(r, history.Unknown, "disconnected")
		}
	}
	c.asked = nil
	c.note(history.Event{Kind: history.Closed, Client: c.name, Conn: c.n})
	for _, l := range c.rooms {
		l.joined, l.joining, l.pause = false, false, false
		for _, m := range l.out {
			m.flying = false
		}
	}
}

// ask sends a request. The caller holds mu; conn is set.
func (c *client) ask(r request, fields string) {
	c.id++
	id := c.id
	c.asked[id] = r
	body := fmt.Sprintf(`{"id":%d,"op":%q`, id, r.op)
	if r.room != "" {
		body += fmt.Sprintf(`,"room":%q`, r.room)
	}
	if fields != "" {
		body += "," + fields
	}
	c.write(ws.OpText, []byte(body+"}"))
	n := c.n
	time.AfterFunc(clientLimit, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, waits := c.asked[id]; waits && c.n == n {
			c.hangUp()
		}
	})
}

// write queues a frame. Writing waits for the server to read, and what reads here must not wait for that.
func (c *client) write(op ws.OpCode, payload []byte) {
	if c.conn == nil {
		return
	}
	var frame bytes.Buffer
	_ = wsutil.WriteClientMessage(&frame, op, payload) // a buffer takes everything
	select {
	case c.out <- frame.Bytes():
	default:
		c.hangUp()
	}
}

// writing writes what is queued until the connection ends.
func writing(nc net.Conn, out <-chan []byte) {
	for frame := range out {
		_ = nc.SetWriteDeadline(time.Now().Add(clientLimit))
		if _, err := nc.Write(frame); err != nil {
			_ = nc.Close() // the reader notices
		}
	}
}

// serverFrame is anything that a server says.
type serverFrame struct {
	ID    uint64           `json:"id"`
	OK    json.RawMessage  `json:"ok"`
	Error *contracts.Error `json:"error"`
	entry
	Head contracts.Seq   `json:"head"`
	From json.RawMessage `json:"from"`
	To   contracts.Seq   `json:"to"`
}

type entry struct {
	Event string           `json:"event"`
	Room  contracts.RoomID `json:"room"`
	Seq   contracts.Seq    `json:"seq"`
	Epoch contracts.Epoch  `json:"epoch"`
	Key   contracts.Key    `json:"key"`
	Text  string           `json:"text"`
}

func sender(from json.RawMessage) contracts.UserID {
	var p contracts.Person
	_ = json.Unmarshal(from, &p) // a gap's is a number
	return p.ID
}

// take takes one frame. The caller holds mu.
func (c *client) take(payload []byte) {
	var f serverFrame
	if err := json.Unmarshal(payload, &f); err != nil {
		panic(fmt.Sprintf("the server said %s: %v", payload, err))
	}
	switch {
	case f.ID != 0:
		r, ok := c.asked[f.ID]
		if !ok {
			panic(fmt.Sprintf("a reply to nothing: %s", payload))
		}
		delete(c.asked, f.ID)
		c.replied(r, &f)
	case f.Seq != 0 && f.Epoch != 0:
		l := c.room(f.Room)
		c.note(history.Event{Kind: history.Received, Client: c.name, Conn: c.n, Room: f.Room, Seq: f.Seq, Epoch: f.Epoch, Key: f.Key, Sender: sender(f.From), Hash: history.HashBody(f.Text), Live: true})
		switch {
		case l.aside != nil:
			l.aside[f.Seq] = true
		case f.Seq > l.pos.Seq:
			l.have, l.pos = true, history.Position{Epoch: f.Epoch, Seq: f.Seq}
		}
	case f.Event == "gap":
		var from contracts.Seq
		if err := json.Unmarshal(f.From, &from); err != nil {
			panic(string(payload))
		}
		c.note(history.Event{Kind: history.Gap, Client: c.name, Conn: c.n, Room: f.Room, From: from, To: f.To})
		if l := c.room(f.Room); l.aside == nil {
			l.aside = make(map[contracts.Seq]bool)
		}
		c.join(f.Room)
	case f.Event == "reset":
		l := c.room(f.Room)
		c.note(history.Event{Kind: history.Reset, Client: c.name, Conn: c.n, Room: f.Room, Epoch: f.Epoch, Head: f.Head})
		l.have, l.joined, l.aside = false, false, nil
		c.join(f.Room)
	}
}

func (c *client) replied(r request, f *serverFrame) {
	switch r.op {
	case contracts.OpConnect:
		var ok struct {
			User  contracts.Person
			Token string
		}
		if f.Error != nil || json.Unmarshal(f.OK, &ok) != nil {
			c.hangUp()
			return
		}
		c.user, c.ready = ok.User.ID, true
		if ok.Token != "" {
			c.token = ok.Token
		}
		c.note(history.Event{Kind: history.Connected, Client: c.name, Conn: c.n, User: c.user})
		for _, id := range sortedKeys(c.rooms) {
			if c.rooms[id].wanted {
				c.join(id)
			}
			c.flush(id)
		}
	case contracts.OpJoin:
		c.joined(r, f)
	case contracts.OpLeave:
		if f.Error == nil {
			c.note(history.Event{Kind: history.Left, Client: c.name, Conn: c.n, Room: r.room})
			l := c.room(r.room)
			l.joined, l.have, l.aside = false, false, nil
			switch {
			case l.joining: // asked behind the leave: its reply is still to come, and makes it listen again
				c.note(history.Event{Kind: history.Joining, Client: c.name, Conn: c.n, Room: r.room})
			case l.wanted:
				c.join(r.room)
			}
		} else {
			c.later(func() { c.leaveNow(r.room) })
		}
	case contracts.OpSend:
		c.sent(r, f)
	}
}

func (c *client) noteAnswer(r request, outcome history.Outcome, code string) {
	c.note(history.Event{Kind: history.Answered, Client: c.name, Conn: c.n, Room: r.room, User: c.user, Key: r.m.key, Outcome: outcome, Code: code})
}

// later does something on the same connection in a moment.
func (c *client) later(f func()) {
	n := c.n
	time.AfterFunc(retryPause+c.dice.Time(retryPause), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.n == n && c.ready && !c.over {
			f()
		}
	})
}

func (c *client) room(id contracts.RoomID) *listening {
	l := c.rooms[id]
	if l == nil {
		l = &listening{}
		c.rooms[id] = l
	}
	return l
}

// listen joins a room, now or when connected.
func (c *client) listen(id contracts.RoomID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.room(id)
	l.wanted = true
	c.join(id)
}

// join asks for what the client lacks of a room. The caller holds mu.
func (c *client) join(id contracts.RoomID) {
	l := c.room(id)
	if !c.ready || l.joining || !l.wanted {
		return
	}
	l.joining = true
	r := request{op: contracts.OpJoin, room: id}
	fields := ""
	if l.have {
		since := l.pos
		r.since = &since
		fields = fmt.Sprintf(`"since":{"epoch":%d,"seq":%d}`, since.Epoch, since.Seq)
	}
	c.note(history.Event{Kind: history.Joining, Client: c.name, Conn: c.n, Room: id, Since: r.since})
	c.ask(r, fields)
}

func (c *client) joined(r request, f *serverFrame) {
	l := c.room(r.room)
	l.joining = false
	if f.Error != nil {
		if f.Error.Retry {
			c.later(func() { c.join(r.room) })
		}
		return
	}
	var ok struct {
		State   contracts.JoinState
		Epoch   contracts.Epoch
		Head    contracts.Seq
		First   contracts.Seq
		Entries []struct {
			entry
			From json.RawMessage `json:"from"`
		}
	}
	if err := json.Unmarshal(f.OK, &ok); err != nil {
		panic(string(f.OK))
	}
	e := history.Event{Kind: history.Joined, Client: c.name, Conn: c.n, Room: r.room, Since: r.since, State: ok.State, Epoch: ok.Epoch, Head: ok.Head, First: ok.First}
	for _, in := range ok.Entries {
		if l.aside[in.Seq] && ok.State != contracts.JoinReset {
			continue
		}
		e.Entries = append(e.Entries, history.Entry{Seq: in.Seq, Epoch: in.Epoch, Key: in.Key, Sender: sender(in.From), Hash: history.HashBody(in.Text)})
	}
	c.note(e)
	l.have, l.pos = true, history.Position{Epoch: ok.Epoch, Seq: ok.Head}
	if ok.State == contracts.JoinMore {
		l.pos.Seq = ok.Entries[len(ok.Entries)-1].Seq
		c.join(r.room)
		return
	}
	l.joined, l.aside = true, nil
}

// leave stops listening.
func (c *client) leave(id contracts.RoomID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.room(id)
	if !c.ready || !l.joined || l.joining {
		return
	}
	l.wanted = false
	c.leaveNow(id)
}

func (c *client) leaveNow(id contracts.RoomID) {
	c.note(history.Event{Kind: history.Leaving, Client: c.name, Conn: c.n, Room: id})
	c.ask(request{op: contracts.OpLeave, room: id}, "")
}

// sleep makes the client read nothing for a while.
func (c *client) sleep(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stall = time.Now().Add(d)
}

// send queues n messages of at least size bytes and sends them as soon as what is before them allows it.
func (c *client) send(id contracts.RoomID, n, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.room(id)
	for range n {
		k := c.key()
		l.out = append(l.out, &outgoing{key: k, text: "text of " + k.String() + strings.Repeat(".", size)})
	}
	c.flush(id)
}

// flush sends what is not under way, in order. The caller holds mu.
func (c *client) flush(id contracts.RoomID) {
	l := c.room(id)
	if !c.ready || l.pause {
		return
	}
	for _, m := range l.out {
		if m.flying {
			continue
		}
		m.flying = true
		c.note(history.Event{Kind: history.Sent, Client: c.name, Conn: c.n, Room: id, User: c.user, Key: m.key, Hash: history.HashBody(m.text)})
		c.ask(request{op: contracts.OpSend, room: id, m: m}, fmt.Sprintf(`"key":%q,"text":%q`, m.key, m.text))
	}
}

func (c *client) sent(r request, f *serverFrame) {
	l := c.room(r.room)
	r.m.flying = false
	switch {
	case f.Error == nil:
		c.noteAnswer(r, history.OK, "")
		l.out = slices.DeleteFunc(l.out, func(m *outgoing) bool { return m == r.m })
	case f.Error.Retry:
		c.noteAnswer(r, history.OutcomeOf(f.Error.Code), string(f.Error.Code))
		l.pause = true
	default:
		c.noteAnswer(r, history.Rejected, string(f.Error.Code))
		l.out = slices.DeleteFunc(l.out, func(m *outgoing) bool { return m == r.m })
	}
	if l.pause && !slices.ContainsFunc(l.out, func(m *outgoing) bool { return m.flying }) {
		c.later(func() {
			l.pause = false
			c.flush(r.room)
		})
	}
}

// settled reports whether nothing is under way or to be done, and notes the end if asked.
func (c *client) settled(end bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ready || len(c.asked) > 0 {
		return false
	}
	for _, l := range c.rooms {
		if len(l.out) > 0 || l.wanted != l.joined || l.joining {
			return false
		}
	}
	if end {
		for _, id := range sortedKeys(c.rooms) {
			if c.rooms[id].joined {
				c.note(history.Event{Kind: history.Ended, Client: c.name, Conn: c.n, Room: id})
			}
		}
	}
	return true
}

// keyAt makes a key of its own for each n.
func keyAt(now time.Time, n uint64) (k contracts.Key) {
	binary.BigEndian.PutUint64(k[:8], uint64(now.UnixMilli())<<16)
	binary.BigEndian.PutUint64(k[8:], n)
	k[6], k[8] = 0x70, 0x80
	return k
}
