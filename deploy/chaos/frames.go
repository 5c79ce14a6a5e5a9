package chaos

import (
	"encoding/json"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// stream is what the server owes one connection of a room by the frames that came on it, whatever the client has asked meanwhile
// and makes of them: from the reply to a join to the reply to a leave every entry, once and in order, or a gap in its place.
type stream struct {
	live bool
	why  string        // it is not live, as what comes now comes so
	next contracts.Seq // if live
	left int           // number of the latest leave that was answered
}

func (s *stream) begins(head contracts.Seq) { s.live, s.next = true, head+1 }

func (s *stream) ends(why string) { s.live, s.why = false, why }

// wireCall is a request without its reply.
type wireCall struct {
	op    string
	room  contracts.RoomID
	key   contracts.Key
	asked int
	since *history.Position
	safe  bool // the reply to a send may wait until it is stored
}

func (t *tap) stream(room contracts.RoomID) *stream {
	s := t.rooms[room]
	if s == nil {
		s = &stream{why: "before the reply to join"}
		t.rooms[room] = s
	}
	return s
}

// asks takes a request of the client.
func (t *tap) asks(payload []byte) {
	var f struct {
		ID    uint64            `json:"id"`
		Op    string            `json:"op"`
		Room  contracts.RoomID  `json:"room"`
		Key   contracts.Key     `json:"key"`
		Text  string            `json:"text"`
		Ack   string            `json:"ack"`
		Since *history.Position `json:"since"`
	}
	if err := json.Unmarshal(payload, &f); err != nil || t.ended {
		return
	}
	call := wireCall{op: f.Op, room: f.Room, key: f.Key, since: f.Since, safe: f.Ack == "stored"}
	switch contracts.Op(f.Op) {
	case contracts.OpSend:
		t.r.tally.attempts.Add(1)
		t.r.add(t.n, history.Event{Kind: history.Sent, Room: f.Room, User: t.r.user, Key: f.Key, Hash: history.HashBody(f.Text), Safe: call.safe})
	case contracts.OpJoin:
		p := t.r.place(f.Room)
		p.asked++
		call.asked = p.asked
		p.resumes(t.n, f.Since)
		t.r.add(t.n, history.Event{Kind: history.Joining, Room: f.Room, Since: f.Since})
	case contracts.OpLeave:
		p := t.r.place(f.Room)
		p.asked++
		call.asked = p.asked
		// The library forgets the room, or, where it only frees a room whose send was given up, joins again with what it has.
		t.r.add(t.n, history.Event{Kind: history.Leaving, Room: f.Room})
		p.on, p.joining = 0, 0
	}
	t.calls[f.ID] = call
}

// serverFrame is any frame of a server.
type serverFrame struct {
	ID    uint64           `json:"id"`
	OK    json.RawMessage  `json:"ok"`
	Error *contracts.Error `json:"error"`
	wireEvent
	Head   contracts.Seq `json:"head"`
	To     contracts.Seq `json:"to"`
	Reason string        `json:"reason"`
}

// wireEvent is an entry, or the beginning of another event.
type wireEvent struct {
	Event string           `json:"event"`
	Room  contracts.RoomID `json:"room"`
	Seq   contracts.Seq    `json:"seq"`
	Epoch contracts.Epoch  `json:"epoch"`
	From  json.RawMessage  `json:"from"`
	Key   contracts.Key    `json:"key"`
	Text  string           `json:"text"`
}

func (e *wireEvent) entry() history.Entry {
	var from contracts.Person
	_ = json.Unmarshal(e.From, &from) // where it is none, the checker finds an unknown sender
	return history.Entry{Seq: e.Seq, Epoch: e.Epoch, Key: e.Key, Sender: from.ID, Hash: history.HashBody(e.Text)}
}

// hears takes a frame of the server.
func (t *tap) hears(payload []byte) {
	var f serverFrame
	if err := json.Unmarshal(payload, &f); err != nil {
		t.odd("a frame that cannot be read: %v", err)
		return
	}
	if t.ended {
		return
	}
	switch {
	case f.ID != 0 && f.Event == "":
		call, ok := t.calls[f.ID]
		delete(t.calls, f.ID)
		if ok {
			t.reply(call, &f)
		}
	case f.Seq > 0 && f.Epoch > 0 && f.Event != string(contracts.EventReset):
		t.live(&f)
	case f.Event == string(contracts.EventStored):
		m := identity{f.Room, f.Key}
		if !t.owed[m] {
			t.odd("key %v of %s was told to be stored, and nothing waited for that", f.Key, f.Room)
		}
		delete(t.owed, m)
		t.stored(m, f.Seq)
	case f.Event == string(contracts.EventGap):
		var from contracts.Seq
		_ = json.Unmarshal(f.From, &from) // absent: 0
		switch s := t.stream(f.Room); {
		case !s.live:
			t.odd("gap %d-%d of %s came %s", from, f.To, f.Room, s.why)
		case from != s.next || f.To < from:
			t.odd("gap %d-%d of %s was told where %d was next", from, f.To, f.Room, s.next)
			fallthrough
		default:
			s.next = max(s.next, f.To+1)
		}
		t.r.tally.gaps.Add(1)
		t.r.add(t.n, history.Event{Kind: history.Gap, Room: f.Room, From: from, To: f.To})
	case f.Event == string(contracts.EventReset):
		t.stream(f.Room).ends("behind a reset")
		p := t.r.place(f.Room)
		p.have, p.on, p.joining = false, 0, 0
		p.asked++
		t.r.tally.resets.Add(1)
		t.r.add(t.n, history.Event{Kind: history.Reset, Room: f.Room, Epoch: f.Epoch, Head: f.Head})
	case f.Event == string(contracts.EventLeft):
		t.stream(f.Room).ends("behind the end of the membership")
		p := t.r.place(f.Room)
		p.have, p.on, p.joining = false, 0, 0
		p.asked++
		t.r.add(t.n, history.Event{Kind: history.Left, Room: f.Room, Code: f.Reason})
	}
}

// live takes a live entry.
func (t *tap) live(f *serverFrame) {
	switch s := t.stream(f.Room); {
	case !s.live:
		t.odd("entry %d of %s came %s", f.Seq, f.Room, s.why)
	case f.Seq < s.next:
		t.odd("entry %d of %s came live where %d was next", f.Seq, f.Room, s.next)
	case f.Seq > s.next:
		t.odd("entry %d of %s came live behind %d, and no gap was told", f.Seq, f.Room, s.next-1)
		fallthrough
	default:
		s.next = f.Seq + 1
	}
	p := t.r.place(f.Room)
	if p.on != t.n && p.joining != t.n || !p.have || f.Seq != p.at.Seq+1 {
		return // the library drops it too
	}
	e := f.entry()
	p.at, p.live = history.Position{Epoch: e.Epoch, Seq: e.Seq}, t.n
	t.r.tally.delivered.Add(1)
	t.r.add(t.n, history.Event{
		Kind: history.Received, Room: f.Room, Seq: e.Seq, Epoch: e.Epoch, Key: e.Key, Sender: e.Sender, Hash: e.Hash, Live: true,
	})
}

// reply takes the reply to a request.
func (t *tap) reply(call wireCall, f *serverFrame) {
	switch contracts.Op(call.op) {
	case contracts.OpConnect:
		var ok contracts.ConnectOK
		if f.Error == nil && json.Unmarshal(f.OK, &ok) == nil {
			t.r.user = ok.User.ID
			t.r.tally.connected.Add(1)
			t.r.add(t.n, history.Event{Kind: history.Connected, User: ok.User.ID})
		}
	case contracts.OpSend:
		if f.Error == nil {
			t.answered(call, history.OK, "")
			t.kept(call, f.OK)
			return
		}
		t.answered(call, history.OutcomeOf(f.Error.Code), string(f.Error.Code))
	case contracts.OpJoin:
		if f.Error == nil {
			t.joined(call, f.OK)
		}
	case contracts.OpLeave:
		if f.Error != nil {
			return
		}
		s, p := t.stream(call.room), t.r.place(call.room)
		s.left = call.asked
		s.ends("behind the reply to leave")
		if p.asked == call.asked { // else a join followed at once
			p.left = t.n
			t.r.add(t.n, history.Event{Kind: history.Left, Room: call.room, Code: "left"})
		}
	}
}

// kept takes what the reply to a send that may wait until it is stored says of that.
func (t *tap) kept(call wireCall, raw json.RawMessage) {
	if !call.safe {
		return
	}
	var ok struct {
		State string        `json:"state"`
		Seq   contracts.Seq `json:"seq"`
	}
	err := json.Unmarshal(raw, &ok)
	m := identity{call.room, call.key}
	switch {
	case err == nil && ok.State == "stored":
		t.stored(m, ok.Seq)
	case err == nil && ok.State == "logged":
		t.owed[m] = true
	default:
		t.odd("the reply to a send that waits until it is stored was %s", raw)
	}
}

func (t *tap) stored(m identity, seq contracts.Seq) {
	t.r.tally.stored.Add(1)
	t.r.add(t.n, history.Event{Kind: history.Stored, Room: m.room, Key: m.key, Seq: seq})
}

func (t *tap) answered(call wireCall, o history.Outcome, code string) {
	if o == history.OK {
		t.r.tally.acked.Add(1)
	} else {
		t.r.tally.refused.Add(1)
	}
	t.r.add(t.n, history.Event{Kind: history.Answered, Room: call.room, User: t.r.user, Key: call.key, Outcome: o, Code: code})
}

func (t *tap) joined(call wireCall, raw json.RawMessage) {
	var ok struct {
		State   contracts.JoinState `json:"state"`
		Epoch   contracts.Epoch     `json:"epoch"`
		Head    contracts.Seq       `json:"head"`
		First   contracts.Seq       `json:"first"`
		Entries []wireEvent         `json:"entries"`
	}
	if err := json.Unmarshal(raw, &ok); err != nil {
		t.odd("a reply to join %s that cannot be read: %v", call.room, err)
		return
	}
	switch s := t.stream(call.room); {
	case call.asked < s.left: // the leave came first: this changes nothing
	case ok.State == contracts.JoinMore:
		s.ends("behind a reply that says more")
	default:
		s.begins(ok.Head)
	}
	p := t.r.place(call.room)
	if p.asked != call.asked {
		return // the library has asked anew and drops it
	}
	e := history.Event{Kind: history.Joined, Room: call.room, Since: call.since, State: ok.State, Epoch: ok.Epoch, Head: ok.Head, First: ok.First}
	// What came live while the reply was on its way is written down already: the client resumes behind it.
	went := call.since != nil && ok.State != contracts.JoinReset && p.have && p.at.Seq > call.since.Seq
	if went {
		at := p.at
		e.Since = &at
	}
	for i := range ok.Entries {
		if went && ok.Entries[i].Seq <= p.at.Seq {
			continue
		}
		e.Entries = append(e.Entries, ok.Entries[i].entry())
	}
	if ok.State == contracts.JoinReset {
		t.r.tally.resets.Add(1)
	}
	t.r.add(t.n, e)
	t.r.tally.joins.Add(1)
	if call.since != nil {
		t.r.tally.resumes.Add(1)
		t.r.tally.resumed.Add(int64(len(ok.Entries)))
	}
	if ok.State == contracts.JoinMore {
		last := ok.Entries[max(0, len(ok.Entries)-1)]
		p.stands(history.Position{Epoch: ok.Epoch, Seq: last.Seq})
		return
	}
	p.stands(history.Position{Epoch: ok.Epoch, Seq: ok.Head})
	p.on, p.joining = t.n, 0
}
