package check

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// client is one client over all its connections.
type client struct {
	name  string
	user  contracts.UserID
	conn  uint64
	views map[contracts.RoomID]*view
	drops []int64 // when its user broke the connection off
}

// span is the seqs from … to, both included.
type span struct {
	from, to contracts.Seq
	source   string // the line behind which it starts
}

// view is what one client knows of one room.
type view struct {
	room      *room
	listening bool
	asked     bool   // a join is not answered yet
	conn      uint64 // that the latest join was written on
	epoch     contracts.Epoch
	stretches []*stretch
	skipped   []span      // what replies to joins left out between entries, though the client did not have it, and what pages of history did
	public    []Violation // unless the room is private
	ended     string      // the ended line
}

// stretch is what a client knows without a break, from a join without a position, or a reset, to the next one.
type stretch struct {
	known    bool          // at is
	at       contracts.Seq // the first entry that is owed is at+1
	pos      contracts.Seq // the highest received, or at
	replied  bool          // promised counts
	promised contracts.Seq // the head that the latest reply told
	runs     []span        // what was received, ascending, without holes inside
	told     []span        // gaps that the server owned up to
	source   string
}

func (v *view) now() *stretch {
	if len(v.stretches) == 0 {
		v.begin("")
	}
	return v.stretches[len(v.stretches)-1]
}

func (v *view) begin(source string) *stretch {
	s := &stretch{source: source}
	v.stretches = append(v.stretches, s)
	return s
}

func (c *Checker) seen(e *history.Event) {
	cl := c.client(e.Client)
	if e.Kind == history.Closed {
		if e.Code == history.Dropped {
			cl.drops = append(cl.drops, e.At)
		}
		for _, v := range cl.views {
			v.listening = v.listening && v.conn != e.Conn
		}
		return
	}
	v := c.view(cl, e.Room)
	switch e.Kind {
	case history.Joining:
		v.listening, v.asked, v.conn = true, true, e.Conn
	case history.Joined:
		c.joined(cl, v, e)
	case history.Received:
		c.received(cl, v, e)
	case history.Gap:
		c.report.Figures.Gaps++
		v.now().told = append(v.now().told, span{from: e.From, to: e.To, source: e.Source})
	case history.Reset:
		c.report.Figures.Resets++
		if v.epoch != 0 && e.Epoch <= v.epoch {
			c.violate(Violation{Kind: BadReset, Room: e.Room, Seq: e.Head, Client: cl.name, What: fmt.Sprintf("a reset to epoch %d of a room joined in epoch %d", e.Epoch, v.epoch), Evidence: []string{e.Source}})
		}
		v.listening = v.asked // its answer makes the client listen again
		v.begin(e.Source)
	case history.Left:
		v.listening, v.asked = false, false
		v.begin(e.Source)
	case history.Ended:
		v.ended = e.Source
	}
}

func (c *Checker) view(cl *client, room contracts.RoomID) *view {
	v := cl.views[room]
	if v == nil {
		v = &view{room: c.room(room)}
		cl.views[room] = v
	}
	return v
}

// page takes a page of history, which is no part of what the client knows: it must be what all others have, without a hole, up to
// the head or to where it was asked for.
func (c *Checker) page(e *history.Event) {
	c.report.Figures.Pages++
	v := c.view(c.client(e.Client), e.Room)
	end := e.Head
	if e.Before != 0 {
		end = e.Before - 1 // who asked has seen an entry there
	}
	first := end + 1
	if len(e.Entries) > 0 {
		first = e.Entries[0].Seq
	}
	if e.More != (first > 1) {
		v.public = append(v.public, Violation{
			Kind: Missing, Room: e.Room, Seq: first, Client: e.Client, What: fmt.Sprintf("a page of history begins here and says more: %t", e.More), Evidence: []string{e.Source},
		})
	}
	at := first - 1
	for _, in := range e.Entries {
		v.room.place(in.Seq).sight(&history.Event{Client: e.Client, Room: e.Room, Source: e.Source, Seq: in.Seq, Epoch: in.Epoch, Key: in.Key, Sender: in.Sender, Hash: in.Hash})
		if in.Seq <= at || in.Seq > end {
			c.violate(Violation{
				Kind: Backwards, Room: e.Room, Seq: in.Seq, Client: e.Client, What: fmt.Sprintf("a page of history that ends at %d has it behind %d", end, at), Evidence: []string{e.Source},
			})
		}
		v.skip(at+1, in.Seq-1, e.Source)
		at = max(at, in.Seq)
	}
	if len(e.Entries) == 0 {
		at = 0
	}
	v.skip(at+1, end, e.Source)
}

// skip notes that from … to were left out.
func (v *view) skip(from, to contracts.Seq, source string) {
	if from <= to {
		v.skipped = append(v.skipped, span{from: from, to: to, source: source})
	}
}

func (c *Checker) joined(cl *client, v *view, e *history.Event) {
	c.report.Figures.Joins++
	v.asked = false
	s := v.now()
	bad := func(kind Kind, what string, args ...any) {
		c.violate(Violation{Kind: kind, Room: e.Room, Seq: e.Head, Client: cl.name, What: fmt.Sprintf(what, args...), Evidence: []string{s.source, e.Source}})
	}
	if !v.listening || v.conn != e.Conn {
		bad(Malformed, "a reply to a join that was not asked on connection %d", e.Conn)
	}
	switch {
	case e.Since != nil && e.State == contracts.JoinReset:
		switch {
		case e.Since.Epoch != e.Epoch:
		case e.Since.Seq > e.Head && s.known && e.Since.Seq <= s.pos:
			bad(BadReset, "a resume since %+v, which the client has, was answered reset, with head %d", *e.Since, e.Head)
		case e.Since.Seq <= e.Head && e.Head-e.Since.Seq <= c.cfg.ResumeEntries && e.Since.Seq+1 >= e.First:
			bad(BadReset, "a resume since %+v was answered reset, with epoch %d, head %d and first %d", *e.Since, e.Epoch, e.Head, e.First)
		}
		s = v.begin(e.Source)
	case e.Since == nil:
		s = v.begin(e.Source)
	default:
		c.report.Figures.Resumes++
		switch {
		case s.known && e.Since.Seq > s.pos:
			bad(Malformed, "the client resumed since %d, and had %d", e.Since.Seq, s.pos)
		case !s.known || e.Since.Seq != s.pos && !s.pulls(e.Since.Seq):
			s = v.begin(e.Source)
			s.known, s.at, s.pos = true, e.Since.Seq, e.Since.Seq
		}
		if e.State == contracts.JoinComplete && e.Head < e.Since.Seq && e.Epoch == e.Since.Epoch {
			bad(Missing, "the client has %d, and the reply is complete with head %d", e.Since.Seq, e.Head)
		}
	}
	if e.State != contracts.JoinMore {
		s.replied, s.promised = true, e.Head
	}
	v.epoch = e.Epoch
	for _, in := range e.Entries {
		c.received(cl, v, &history.Event{
			Kind: history.Received, At: e.At, Client: e.Client, Conn: e.Conn, Room: e.Room, Source: e.Source,
			Seq: in.Seq, Epoch: in.Epoch, Key: in.Key, Sender: in.Sender, Hash: in.Hash,
		})
	}
	v.skips(s, e, c.cfg.ResumeEntries)
}

// skips notes what a reply left out. That a gap was told before is no excuse for it: the reply is what fills the gap.
func (v *view) skips(s *stretch, e *history.Event, most contracts.Seq) {
	if len(e.Entries) == 0 {
		return // it was asked for none, or they follow
	}
	at := e.Entries[0].Seq // the reply must go on behind it
	if e.Since != nil && e.State != contracts.JoinReset {
		at = e.Since.Seq
	}
	to := func(next contracts.Seq) {
		for seq := at + 1; seq < next; seq++ {
			if next-seq > most {
				v.skip(seq, next-1, e.Source)
				break
			}
			if !s.has(seq) {
				v.skip(seq, seq, e.Source)
			}
		}
		at = max(at, next)
	}
	for _, in := range e.Entries {
		to(in.Seq)
	}
	if e.State != contracts.JoinMore {
		to(e.Head + 1)
	}
}

// pulls reports whether a join since seq gets what a gap left out. Where that was filled before, the client goes back: it had
// asked anew before it looked at the reply.
func (s *stretch) pulls(seq contracts.Seq) bool {
	return !s.has(seq+1) && slices.ContainsFunc(s.told, func(g span) bool { return seq+1 >= g.from && seq < g.to })
}

func (c *Checker) received(cl *client, v *view, e *history.Event) {
	c.report.Figures.Received++
	if !v.listening || v.conn != e.Conn {
		c.violate(Violation{Kind: Leak, Room: e.Room, Seq: e.Seq, Key: e.Key, Client: cl.name, What: fmt.Sprintf("connection %d got an entry of a room that it does not listen to", e.Conn), Evidence: []string{e.Source}})
		return
	}
	v.room.place(e.Seq).sight(e)
	m := c.message(contracts.Identity{Room: e.Room, Sender: e.Sender, Key: e.Key})
	if m.reached == 0 || e.At < m.reached {
		m.reached = e.At
	}
	if e.Live {
		c.live(cl, v, m, e)
	}
	s := v.now()
	if !s.known {
		s.known, s.at = true, e.Seq-1
		if e.Live && s.replied {
			s.at = min(s.promised, e.Seq-1)
		}
		s.pos = s.at
	}
	if e.Seq > s.pos {
		if n := len(s.runs); n > 0 && s.runs[n-1].to+1 == e.Seq {
			s.runs[n-1].to = e.Seq
		} else {
			s.runs = append(s.runs, span{from: e.Seq, to: e.Seq, source: e.Source})
		}
		s.pos = e.Seq
		return
	}
	if !s.fill(e) {
		kind, what := Backwards, "an entry from before the latest one, and from no gap that was told"
		if s.has(e.Seq) {
			kind, what = Repeated, "an entry that this client has"
		}
		c.violate(Violation{Kind: kind, Room: e.Room, Seq: e.Seq, Key: e.Key, Client: cl.name, What: fmt.Sprintf("%s; its latest is %d", what, s.pos), Evidence: []string{s.source, e.Source}})
	}
}

// live notes when an entry was seen, and how long it took.
func (c *Checker) live(cl *client, v *view, m *message, e *history.Event) {
	c.report.Figures.Live++
	if v.epoch == 0 {
		v.epoch = e.Epoch
	}
	if e.Epoch != v.epoch {
		c.violate(Violation{Kind: Epoch, Room: e.Room, Seq: e.Seq, Key: e.Key, Client: cl.name, What: fmt.Sprintf("a live entry of epoch %d, in a room joined in epoch %d", e.Epoch, v.epoch), Evidence: []string{e.Source}})
	}
	if m.seen == 0 || e.At < m.seen {
		m.seen, m.seenAt = e.At, e.Source
	}
	if m.attempts == 0 {
		m.early = append(m.early, e.At)
	} else {
		c.delays.add(m.first, e.At)
	}
}

func (s *stretch) has(seq contracts.Seq) bool {
	i, ok := slices.BinarySearchFunc(s.runs, seq, func(r span, seq contracts.Seq) int { return cmp.Compare(r.from, seq) })
	return ok || i > 0 && s.runs[i-1].to >= seq
}

// fill takes an entry that a told gap had left out.
func (s *stretch) fill(e *history.Event) bool {
	if e.Seq <= s.at || s.has(e.Seq) || !slices.ContainsFunc(s.told, func(g span) bool { return g.from <= e.Seq && e.Seq <= g.to }) {
		return false
	}
	i, _ := slices.BinarySearchFunc(s.runs, e.Seq, func(r span, seq contracts.Seq) int { return cmp.Compare(r.from, seq) })
	s.runs = slices.Insert(s.runs, i, span{from: e.Seq, to: e.Seq, source: e.Source})
	if i+1 < len(s.runs) && s.runs[i+1].from == e.Seq+1 {
		s.runs[i].to = s.runs[i+1].to
		s.runs = slices.Delete(s.runs, i+1, i+2)
	}
	if i > 0 && s.runs[i-1].to+1 == e.Seq {
		s.runs[i-1].to = s.runs[i].to
		s.runs = slices.Delete(s.runs, i, i+1)
	}
	return true
}

// members checks that every client got exactly its range of every room.
func (c *Checker) members() {
	c.report.Figures.Clients = len(c.clients)
	for _, name := range slices.Sorted(maps.Keys(c.clients)) {
		cl := c.clients[name]
		for _, id := range slices.Sorted(maps.Keys(cl.views)) {
			v := cl.views[id]
			for i, s := range v.stretches {
				c.holes(cl, v, s, v.ended != "" && i == len(v.stretches)-1)
			}
			for _, left := range v.skipped {
				if seq, ok := v.room.visibleIn(cl.user, left.from, left.to); ok {
					c.violate(Violation{Kind: Missing, Room: v.room.id, Seq: seq, Client: cl.name, What: "a reply to a join, or a page of history, goes past it", Evidence: []string{left.source}})
				}
			}
			if !v.room.private {
				for _, odd := range v.public {
					c.violate(odd)
				}
			}
			if v.ended != "" {
				c.end(cl, v)
			}
			if v.room.private {
				c.strangers(cl, v)
			}
		}
	}
}

// holes looks for what a client went past. A told gap has to be filled by a client that stayed to the end.
func (c *Checker) holes(cl *client, v *view, s *stretch, toEnd bool) {
	at := s.at
	for _, run := range s.runs {
		from, ok := v.room.visibleIn(cl.user, at+1, run.from-1)
		told := slices.IndexFunc(s.told, func(g span) bool { return g.from <= from && from <= g.to })
		switch {
		case !ok:
		case told < 0:
			c.violate(Violation{Kind: Missing, Room: v.room.id, Seq: from, Client: cl.name, What: fmt.Sprintf("after %d came %d, and nothing told of what is between", at, run.from), Evidence: []string{s.source, run.source}})
		case toEnd:
			c.violate(Violation{Kind: Unpulled, Room: v.room.id, Seq: from, Client: cl.name, What: fmt.Sprintf("the gap before %d was never filled", run.from), Evidence: []string{s.told[told].source, run.source}})
		}
		at = run.to
	}
}

// end checks that a client at rest has the newest entry.
func (c *Checker) end(cl *client, v *view) {
	c.report.Figures.Members++
	s := v.now()
	if !v.listening {
		c.violate(Violation{Kind: Malformed, Room: v.room.id, Client: cl.name, What: "ended in a room that the client does not listen to", Evidence: []string{v.ended}})
		return
	}
	have := s.pos
	if !s.known {
		have = s.promised
	}
	if !c.report.has(inputRows) {
		return
	}
	last := v.room.last()
	from, ok := v.room.visibleIn(cl.user, have+1, last)
	if !ok {
		return
	}
	kind := Tail
	if slices.ContainsFunc(s.told, func(g span) bool { return g.from <= from && from <= g.to }) {
		kind = Unpulled
	}
	c.violate(Violation{Kind: kind, Room: v.room.id, Seq: from, Client: cl.name, What: fmt.Sprintf("at rest the client has everything up to %d, and the room's head is %d", have, last), Evidence: []string{s.source, v.ended}})
}

// strangers looks for entries of a private room from when the person was no member.
func (c *Checker) strangers(cl *client, v *view) {
	for _, s := range v.stretches {
		for _, run := range s.runs {
			for seq := run.from; seq <= run.to; seq++ {
				if !v.room.visible(cl.user, seq) {
					c.violate(Violation{Kind: Leak, Room: v.room.id, Seq: seq, Client: cl.name, What: fmt.Sprintf("%s was no member of this private room then", cl.user), Evidence: []string{run.source}})
				}
			}
		}
	}
}

// visibleIn returns the lowest seq in from … to that the person may see.
func (r *room) visibleIn(user contracts.UserID, from, to contracts.Seq) (contracts.Seq, bool) {
	if !r.private {
		return from, from <= to
	}
	lowest := contracts.Seq(math.MaxUint64)
	for _, s := range r.spells[user] {
		if a := max(s.from, from); a <= min(s.to, to) {
			lowest = min(lowest, a)
		}
	}
	return lowest, lowest != math.MaxUint64
}

func (r *room) visible(user contracts.UserID, seq contracts.Seq) bool {
	_, ok := r.visibleIn(user, seq, seq)
	return ok
}

// sight is what somebody got in one place.
type sight struct {
	id             contracts.Identity
	epoch          contracts.Epoch
	hash           string
	client, source string
}

func (p *place) sight(e *history.Event) {
	s := sight{id: contracts.Identity{Room: e.Room, Sender: e.Sender, Key: e.Key}, epoch: e.Epoch, hash: e.Hash, client: e.Client, source: e.Source}
	for i := range p.sights {
		old := &p.sights[i]
		if old.id == s.id && old.epoch == s.epoch && (old.hash == s.hash || old.hash == "" || s.hash == "") {
			old.hash = cmp.Or(old.hash, s.hash)
			return
		}
	}
	p.sights = append(p.sights, s)
}

// agreement checks that all receivers, and the store, have the same in every place of a room.
func (c *Checker) agreement(r *room) {
	for _, seq := range slices.Sorted(maps.Keys(r.places)) {
		p := r.places[seq]
		if len(p.sights) > 1 {
			v := Violation{Kind: Disagreement, Room: r.id, Seq: seq, What: "receivers got different entries in this place:"}
			for _, s := range p.sights {
				v.What += fmt.Sprintf(" %s %v by %s, epoch %d, body %s;", s.client, s.id.Key, s.id.Sender, s.epoch, s.hash)
				v.Evidence = append(v.Evidence, s.source)
			}
			c.violate(v)
		}
		for _, s := range p.sights {
			c.against(r, seq, p.row, s)
		}
	}
}

// against compares what somebody got with the store.
func (c *Checker) against(r *room, seq contracts.Seq, w *row, s sight) {
	if w == nil || w.change == "" {
		c.sender(r.id, seq, s.id, s.hash, "received", s.source)
	}
	v := Violation{Kind: Disagreement, Room: r.id, Seq: seq, Key: s.id.Key, Client: s.client, Evidence: []string{s.source}}
	switch {
	case !c.report.has(inputRows):
		return
	case w == nil:
		v.What = "received, and the store has nothing in this place"
	case w.id != s.id:
		v.What = fmt.Sprintf("received, and the store has key %v by %s in this place", w.id.Key, w.id.Sender)
		v.Evidence = append(v.Evidence, w.source)
	case w.position.Epoch != s.epoch:
		v.Kind, v.What = Epoch, fmt.Sprintf("received with epoch %d, stored with %d", s.epoch, w.position.Epoch)
		v.Evidence = append(v.Evidence, w.source)
	case s.hash != "" && w.hash != "" && s.hash != w.hash:
		v.Kind, v.What = Body, fmt.Sprintf("received with body %s, stored with %s", s.hash, w.hash)
		v.Evidence = append(v.Evidence, w.source)
	default:
		return
	}
	c.violate(v)
}
