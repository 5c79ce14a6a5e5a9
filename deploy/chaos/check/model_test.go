package check_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// model makes histories of a chat that keeps every promise, without any of Parley's code: sends that overlap, are refused,
// lost and retried; clients that lag, lose entries to gaps, disconnect and resume, leave and come back; a private room whose
// membership changes; a log that is lost and starts again in a new epoch; faults and probes.
type model struct {
	rnd    *rand.Rand
	now    int64
	events []history.Event
	keys   uint64

	rooms   []*modelRoom
	logs    []*modelLog
	clients []*modelClient
	numbers map[contracts.Identity]contracts.Seq
	open    []*modelSend // attempts under way
	failed  []*modelSend // to be retried
	fault   string       // the one under way
	faults  int
	healed  int64
}

type modelRoom struct {
	id      contracts.RoomID
	log     *modelLog
	private bool
	rows    []history.Event
}

type modelLog struct {
	id      int32
	epoch   contracts.Epoch
	records []history.Event
}

type modelClient struct {
	name  string
	user  contracts.UserID
	conn  uint64
	up    bool
	views map[*modelRoom]*modelView
}

type modelView struct {
	listening bool
	pos       int // of rows; -1: not known
	epoch     contracts.Epoch
}

type modelSend struct {
	client *modelClient
	conn   uint64
	room   *modelRoom
	key    contracts.Key
	hash   string
	logged bool
}

const (
	modelResume = 40 // entries; the checker is told
	modelPage   = 5
)

func newModel(seed uint64) *model {
	m := &model{rnd: rand.New(rand.NewPCG(seed, 77)), now: int64(time.Second), numbers: make(map[contracts.Identity]contracts.Seq)}
	for i := range 2 {
		m.logs = append(m.logs, &modelLog{id: int32(i), epoch: 1})
	}
	for i := range 4 {
		m.rooms = append(m.rooms, &modelRoom{id: contracts.RoomID(fmt.Sprintf("room-%d", i)), log: m.logs[i%2], private: i == 3})
	}
	m.add(history.Event{Kind: history.Private, Room: m.rooms[3].id})
	for i := range 5 {
		c := &modelClient{name: fmt.Sprintf("client-%d", i), user: contracts.UserID(fmt.Sprintf("user-%d", i)), views: make(map[*modelRoom]*modelView)}
		for _, r := range m.rooms {
			c.views[r] = &modelView{pos: -1}
		}
		m.clients = append(m.clients, c)
	}
	return m
}

// generate returns a good history of about steps steps.
func generate(seed uint64, steps int) []history.Event {
	m := newModel(seed)
	m.probe(history.Baseline)
	// The clock jumps and clients lag as they like: figures are for the end alone.
	m.add(history.Event{Kind: history.Fault, Fault: "turmoil", What: "turmoil", Silent: true})
	for _, c := range m.clients {
		m.connect(c)
	}
	m.member(m.rooms[3], m.clients[0], "joined")
	m.member(m.rooms[3], m.clients[1], "joined")
	for _, c := range m.clients {
		for _, r := range m.rooms {
			if !r.private || c == m.clients[0] {
				m.join(c, r)
			}
		}
	}
	for range steps {
		m.step()
	}
	m.rest()
	return m.events
}

func (m *model) add(e history.Event) {
	if e.At == 0 {
		e.At = m.now
	}
	e.Source = fmt.Sprintf("model:%d", len(m.events)+1)
	m.events = append(m.events, e)
}

func (m *model) step() {
	m.now += 1 + m.rnd.Int64N(int64(3*time.Millisecond))
	c := m.clients[m.rnd.IntN(len(m.clients))]
	r := m.rooms[m.rnd.IntN(len(m.rooms))]
	v := c.views[r]
	switch n := m.rnd.IntN(1000); {
	case n < 250:
		m.send(c, r)
	case n < 600:
		m.work()
	case n < 630:
		m.retry()
	case n < 900:
		m.deliver(c, r, 1+m.rnd.IntN(4), true)
	case n < 915:
		m.gap(c, r)
	case n < 935:
		m.disconnect(c)
	case n < 950:
		if v.listening && m.rnd.IntN(3) == 0 {
			m.leave(c, r)
		} else {
			m.join(c, r)
		}
	case n < 960:
		m.membership(c)
	case n < 963:
		m.lose(m.logs[m.rnd.IntN(2)])
	case n < 970:
		l := m.logs[m.rnd.IntN(2)]
		l.append(history.Event{Kind: history.Record, Dead: true, Record: "dead"})
	case n < 980:
		m.disturb()
	case n < 990:
		m.page(c, r)
	default:
		m.now += m.rnd.Int64N(int64(2 * time.Second))
		m.probe("")
	}
}

func (m *model) key() (k contracts.Key) {
	m.keys++
	binary.BigEndian.PutUint64(k[8:], m.keys)
	binary.BigEndian.PutUint64(k[:8], uint64(m.now/int64(time.Millisecond))<<16)
	k[6], k[8] = 0x70, 0x80
	return k
}

// send writes one to three messages at once.
func (m *model) send(c *modelClient, r *modelRoom) {
	if !c.up || !r.visible(c.user) || m.busy(c, r) {
		return
	}
	for range 1 + m.rnd.IntN(3) {
		s := &modelSend{client: c, conn: c.conn, room: r, key: m.key()}
		s.hash = history.HashBody(s.key.String())
		m.attempt(s)
	}
}

// busy reports whether the client has something to retry in the room, which comes first.
func (m *model) busy(c *modelClient, r *modelRoom) bool {
	return slices.ContainsFunc(m.failed, func(s *modelSend) bool { return s.client == c && s.room == r })
}

func (m *model) attempt(s *modelSend) {
	s.conn = s.client.conn
	m.add(history.Event{Kind: history.Sent, Client: s.client.name, Conn: s.conn, Room: s.room.id, User: s.client.user, Key: s.key, Hash: s.hash})
	m.open = append(m.open, s)
}

func (m *model) answer(s *modelSend, outcome history.Outcome, code contracts.Code) {
	m.add(history.Event{Kind: history.Answered, Client: s.client.name, Conn: s.conn, Room: s.room.id, User: s.client.user, Key: s.key, Outcome: outcome, Code: string(code)})
}

// work takes the attempts a step further: first of its client and room, so that their order stays.
func (m *model) work() {
	if len(m.open) == 0 {
		return
	}
	pick := m.open[m.rnd.IntN(len(m.open))]
	i := slices.IndexFunc(m.open, func(s *modelSend) bool { return s.client == pick.client && s.room == pick.room })
	s := m.open[i]
	drop := func() { m.open = slices.Delete(m.open, i, i+1) }
	switch n := m.rnd.IntN(1000); {
	case s.logged && (m.fault != "" && n < 200):
		drop()
		m.fail(s)
	case s.logged:
		drop()
		m.answer(s, history.OK, "")
	case m.fault != "" && n < 200:
		drop()
		m.fail(s)
	case m.fault != "" && n < 250:
		drop()
		m.answer(s, history.Rejected, contracts.CodeForbidden)
	default:
		m.record(s.room, history.Event{Sender: s.client.user, Key: s.key, Hash: s.hash})
		s.logged = true
	}
}

// fail answers the attempt and all behind it unknown; they are retried in order, or given up together.
func (m *model) fail(s *modelSend) {
	all := []*modelSend{s}
	m.open = slices.DeleteFunc(m.open, func(o *modelSend) bool {
		if o.client != s.client || o.room != s.room {
			return false
		}
		all = append(all, o)
		return true
	})
	for _, s := range all {
		if s.conn == s.client.conn && s.client.up {
			m.answer(s, history.Unknown, contracts.CodeUnavailable)
		}
	}
	if m.rnd.IntN(4) > 0 {
		m.failed = append(m.failed, all...)
	}
}

// retry sends everything of one client and room again.
func (m *model) retry() {
	if len(m.failed) == 0 {
		return
	}
	c, r := m.failed[0].client, m.failed[0].room
	if !c.up {
		return
	}
	m.failed = slices.DeleteFunc(m.failed, func(s *modelSend) bool {
		if s.client != c || s.room != r {
			return false
		}
		again := *s
		again.logged = false
		m.attempt(&again)
		return true
	})
}

// record appends to the log and, unless it is a repeat, numbers.
func (m *model) record(r *modelRoom, e history.Event) {
	e.Kind, e.Room, e.Record = history.Record, r.id, "r"+e.Key.String()
	at := r.log.append(e)
	id := contracts.Identity{Room: r.id, Sender: e.Sender, Key: e.Key}
	if m.numbers[id] != 0 {
		return
	}
	e.Kind, e.Seq, e.Epoch, e.Partition, e.Offset = history.Row, contracts.Seq(len(r.rows)+1), r.log.epoch, r.log.id, at
	m.numbers[id] = e.Seq
	r.rows = append(r.rows, e)
}

func (l *modelLog) append(e history.Event) int64 {
	e.Partition, e.Offset = l.id, int64(len(l.records))
	l.records = append(l.records, e)
	return e.Offset
}

func (m *model) connect(c *modelClient) {
	c.conn++
	c.up = true
	m.add(history.Event{Kind: history.Connected, Client: c.name, Conn: c.conn, User: c.user})
}

// visible reports whether the person may enter now.
func (r *modelRoom) visible(user contracts.UserID) bool {
	return !r.private || r.member(user, len(r.rows))
}

// member reports whether the person was a member behind the room's first n rows.
func (r *modelRoom) member(user contracts.UserID, n int) bool {
	for i := n - 1; i >= 0; i-- {
		if r.rows[i].Member == user {
			return r.rows[i].Change == "joined"
		}
	}
	return false
}

// sees reports whether the row with this index is the person's to see: it was a member, or this is its leaving.
func (r *modelRoom) sees(user contracts.UserID, i int) bool {
	return r.member(user, i) || r.member(user, i+1)
}

// entries returns rows from … to (indexes) that the person may see.
func (r *modelRoom) entries(user contracts.UserID, from, to int) (all []history.Entry) {
	for i := from; i < to; i++ {
		if row := r.rows[i]; !r.private || r.sees(user, i) {
			all = append(all, history.Entry{Seq: row.Seq, Epoch: row.Epoch, Key: row.Key, Sender: row.Sender, Hash: row.Hash})
		}
	}
	return all
}

// first is the index of the lowest row that the person may see now.
func (r *modelRoom) first(user contracts.UserID) int {
	first := 0
	for i := range r.rows {
		if r.private && r.rows[i].Member == user && r.rows[i].Change == "joined" {
			first = i
		}
	}
	return first
}

// join listens: from the client's position where it has one.
func (m *model) join(c *modelClient, r *modelRoom) {
	v := c.views[r]
	if !c.up || !r.visible(c.user) {
		return
	}
	e := history.Event{Client: c.name, Conn: c.conn, Room: r.id}
	if v.pos >= 0 {
		e.Since = &history.Position{Epoch: v.epoch, Seq: contracts.Seq(v.pos)}
	}
	ask := e
	ask.Kind = history.Joining
	m.add(ask)
	m.now += m.rnd.Int64N(int64(time.Millisecond))
	e.Kind, e.Epoch, e.Head, e.First = history.Joined, r.log.epoch, contracts.Seq(len(r.rows)), contracts.Seq(r.first(c.user)+1)
	from := max(len(r.rows)-modelPage, r.first(c.user), 0)
	switch {
	case v.pos < 0:
		e.State = contracts.JoinComplete
	case v.epoch != r.log.epoch || len(r.rows)-v.pos > modelResume || v.pos < r.first(c.user):
		e.State = contracts.JoinReset
	default:
		e.State, from = contracts.JoinComplete, v.pos
	}
	all := r.entries(c.user, from, len(r.rows))
	if m.rnd.IntN(2) == 0 {
		e.Entries, all = all, nil
	}
	m.add(e)
	for _, in := range all {
		m.add(history.Event{Kind: history.Received, Client: c.name, Conn: c.conn, Room: r.id, Seq: in.Seq, Epoch: in.Epoch, Key: in.Key, Sender: in.Sender, Hash: in.Hash})
	}
	v.listening, v.epoch, v.pos = true, r.log.epoch, len(r.rows)
}

// deliver hands the client its next entries of the room.
func (m *model) deliver(c *modelClient, r *modelRoom, max int, live bool) {
	v := c.views[r]
	for ; max > 0 && c.up && v.listening && v.pos < len(r.rows); max-- {
		if in := r.entries(c.user, v.pos, v.pos+1); len(in) > 0 {
			m.add(history.Event{Kind: history.Received, Client: c.name, Conn: c.conn, Room: r.id, Seq: in[0].Seq, Epoch: in[0].Epoch, Key: in[0].Key, Sender: in[0].Sender, Hash: in[0].Hash, Live: live})
		}
		v.pos++
		if row := r.rows[v.pos-1]; row.Member == c.user && row.Change == "left" {
			m.add(history.Event{Kind: history.Left, Client: c.name, Conn: c.conn, Room: r.id, Code: "kicked"})
			v.listening, v.pos = false, -1
		}
	}
}

// page is read by somebody who need not listen to the room.
func (m *model) page(c *modelClient, r *modelRoom) {
	if !c.up || r.private || len(r.rows) == 0 {
		return
	}
	head, limit := len(r.rows), 2+m.rnd.IntN(4)
	e := history.Event{Kind: history.Page, Client: c.name, Conn: c.conn, Room: r.id, Head: contracts.Seq(head)}
	to := head
	if m.rnd.IntN(2) == 0 {
		to = m.rnd.IntN(head)
		e.Before = contracts.Seq(to) + 1
	}
	from := max(0, to-limit)
	e.More, e.Entries = from > 0, r.entries(c.user, from, to)
	m.add(e)
}

// gap leaves entries out, tells it, maybe goes on live, and the client pulls.
func (m *model) gap(c *modelClient, r *modelRoom) {
	v := c.views[r]
	if !c.up || !v.listening || r.private || len(r.rows)-v.pos < 2 || len(r.rows)-v.pos > modelResume/2 {
		return
	}
	from, to := v.pos+1, v.pos+1+m.rnd.IntN(len(r.rows)-v.pos-1)
	m.add(history.Event{Kind: history.Gap, Client: c.name, Conn: c.conn, Room: r.id, From: contracts.Seq(from), To: contracts.Seq(to)})
	since := v.pos
	if m.rnd.IntN(2) == 0 {
		v.pos = to
		m.deliver(c, r, 1, true)
	}
	at := v.pos
	e := history.Event{Client: c.name, Conn: c.conn, Room: r.id, Since: &history.Position{Epoch: v.epoch, Seq: contracts.Seq(since)}}
	ask := e
	ask.Kind = history.Joining
	m.add(ask)
	e.Kind, e.State, e.Epoch, e.Head, e.First = history.Joined, contracts.JoinComplete, v.epoch, contracts.Seq(len(r.rows)), 1
	for _, in := range r.entries(c.user, since, len(r.rows)) {
		if at > since && int(in.Seq) > to && int(in.Seq) <= at {
			continue // the client has it
		}
		e.Entries = append(e.Entries, in)
	}
	m.add(e)
	v.pos = len(r.rows)
}

// disconnect breaks the connection; what was under way is unknown. The client comes back and resumes its rooms.
func (m *model) disconnect(c *modelClient) {
	if !c.up {
		return
	}
	c.up = false
	m.add(history.Event{Kind: history.Closed, Client: c.name, Conn: c.conn, Code: "1006"})
	for _, r := range m.rooms {
		if i := slices.IndexFunc(m.open, func(s *modelSend) bool { return s.client == c && s.room == r }); i >= 0 {
			s := m.open[i]
			m.open = slices.Delete(m.open, i, i+1)
			m.fail(s)
		}
	}
	m.now += m.rnd.Int64N(int64(time.Second))
	m.connect(c)
	for _, r := range m.rooms {
		if v := c.views[r]; v.listening {
			v.listening = false
			m.join(c, r)
		}
	}
}

func (m *model) leave(c *modelClient, r *modelRoom) {
	v := c.views[r]
	if !c.up || !v.listening {
		return
	}
	m.add(history.Event{Kind: history.Leaving, Client: c.name, Conn: c.conn, Room: r.id})
	m.deliver(c, r, m.rnd.IntN(2), true)
	if v.listening {
		m.add(history.Event{Kind: history.Left, Client: c.name, Conn: c.conn, Room: r.id})
		v.listening, v.pos = false, -1
	}
}

// membership adds the person to the private room, or takes it out. The first one always stays.
func (m *model) membership(c *modelClient) {
	r := m.rooms[3]
	switch {
	case c == m.clients[0]:
	case r.visible(c.user) && !m.clientSends(c, r):
		m.member(r, c, "left")
		if v := c.views[r]; v.listening && !c.up {
			v.listening, v.pos = false, -1
		}
		m.deliver(c, r, len(r.rows), true)
	case !r.visible(c.user) && c.views[r].pos < 0:
		m.member(r, c, "joined")
	}
}

func (m *model) clientSends(c *modelClient, r *modelRoom) bool {
	return m.busy(c, r) || slices.ContainsFunc(m.open, func(s *modelSend) bool { return s.client == c && s.room == r })
}

func (m *model) member(r *modelRoom, c *modelClient, change string) {
	m.record(r, history.Event{Sender: m.clients[0].user, Key: m.key(), Member: c.user, Change: change})
}

// lose starts the log again from nothing, in a new epoch; everything was stored. Listeners are reset.
func (m *model) lose(l *modelLog) {
	for _, r := range m.rooms {
		if r.log != l {
			continue
		}
		for _, c := range m.clients {
			m.deliver(c, r, len(r.rows), true)
		}
	}
	l.epoch++
	l.records = nil
	for _, r := range m.rooms {
		for _, c := range m.clients {
			if v := c.views[r]; r.log == l && c.up && v.listening {
				m.add(history.Event{Kind: history.Reset, Client: c.name, Conn: c.conn, Room: r.id, Epoch: l.epoch, Head: contracts.Seq(len(r.rows))})
				v.pos, v.listening = -1, false
				m.join(c, r)
			}
		}
	}
}
