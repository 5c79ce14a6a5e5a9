package check

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// room is what is known of a room: what the store holds, and what anybody saw.
type room struct {
	id      contracts.RoomID
	private bool
	places  map[contracts.Seq]*place
	order   []contracts.Seq // of places with a row, ascending; made by rows
	rows    map[contracts.Identity]*row
	spells  map[contracts.UserID][]span // of a private room: when somebody was a member
}

// place is one seq of a room.
type place struct {
	row    *row
	sights []sight // what receivers got there; one where they agree
}

type row struct {
	id             contracts.Identity
	seq            contracts.Seq
	partition      int32
	position       contracts.Position
	hash, record   string
	member         contracts.UserID
	change, source string
}

func (r *room) place(seq contracts.Seq) *place {
	if r.places == nil {
		r.places = make(map[contracts.Seq]*place)
		r.rows = make(map[contracts.Identity]*row)
	}
	p := r.places[seq]
	if p == nil {
		p = &place{}
		r.places[seq] = p
	}
	return p
}

// last is the newest seq stored.
func (r *room) last() contracts.Seq {
	if len(r.order) == 0 {
		return 0
	}
	return r.order[len(r.order)-1]
}

func (c *Checker) row(e *history.Event) {
	c.report.got(inputRows)
	c.report.Figures.Rows++
	w := &row{
		id:  contracts.Identity{Room: e.Room, Sender: e.Sender, Key: e.Key},
		seq: e.Seq, partition: e.Partition, position: contracts.Position{Epoch: e.Epoch, Offset: e.Offset},
		hash: e.Hash, record: e.Record, member: e.Member, change: e.Change, source: e.Source,
	}
	r := c.room(e.Room)
	p := r.place(e.Seq)
	if p.row != nil {
		c.violate(Violation{Kind: Doubled, Room: e.Room, Seq: e.Seq, Key: e.Key, What: fmt.Sprintf("two rows in one place; the other one's key is %v", p.row.id.Key), Evidence: []string{p.row.source, e.Source}})
		return
	}
	p.row = w
	if other := r.rows[w.id]; other != nil {
		c.violate(Violation{Kind: Doubled, Room: e.Room, Seq: e.Seq, Key: e.Key, What: fmt.Sprintf("stored twice, at seq %d too", other.seq), Evidence: []string{other.source, e.Source}})
		return
	}
	r.rows[w.id] = w
	c.partition(e.Partition).rows = append(c.partition(e.Partition).rows, w)
}

// rows looks at what the store holds of one room.
func (c *Checker) rows(r *room) {
	var newest *row
	next := contracts.Seq(1)
	for _, seq := range slices.Sorted(maps.Keys(r.places)) {
		w := r.places[seq].row
		if w == nil {
			continue
		}
		r.order = append(r.order, seq)
		if seq != next {
			c.violate(Violation{Kind: Hole, Room: r.id, Seq: next, What: fmt.Sprintf("no row has seq %d … %d, though there is a later one", next, seq-1), Evidence: []string{w.source}})
		}
		next = seq + 1
		if newest != nil && !newest.position.Less(w.position) {
			c.violate(Violation{Kind: Order, Room: r.id, Seq: seq, Key: w.id.Key,
				What:     fmt.Sprintf("at %+v of the log, seq %d before it at %+v", w.position, newest.seq, newest.position),
				Evidence: []string{newest.source, w.source}})
		}
		newest = w
		if w.change != "" {
			r.membership(w)
			continue
		}
		c.sender(r.id, seq, w.id, w.hash, "stored", w.source)
	}
}

// sender checks that somebody sent what was stored or received.
func (c *Checker) sender(room contracts.RoomID, seq contracts.Seq, id contracts.Identity, hash, how, source string) {
	switch m := c.messages[id]; {
	case m == nil || m.attempts == 0:
		c.violate(Violation{Kind: Ghost, Room: room, Seq: seq, Key: id.Key, What: fmt.Sprintf("%s, and %s never sent it", how, id.Sender), Evidence: []string{source}})
	case hash != "" && !slices.Contains(m.bodies, hash):
		c.violate(Violation{Kind: Body, Room: room, Seq: seq, Key: id.Key, What: fmt.Sprintf("%s with body %s, sent as %v", how, hash, m.bodies), Evidence: []string{m.firstAt, source}})
	}
}

// membership notes when somebody joined and left a private room. Both entries are the member's to see.
func (r *room) membership(w *row) {
	if r.spells == nil {
		r.spells = make(map[contracts.UserID][]span)
	}
	spells := r.spells[w.member]
	open := len(spells) > 0 && spells[len(spells)-1].to == math.MaxUint64
	switch w.change {
	case "joined":
		if !open {
			r.spells[w.member] = append(spells, span{from: w.seq, to: math.MaxUint64})
		}
	case "left", "kicked", "banned":
		if open {
			spells[len(spells)-1].to = w.seq
		}
	}
}

// partition is what is known of one partition of the log.
type partition struct {
	epoch      contracts.Epoch
	start, end int64
	ranged     bool
	checkpoint *history.Event
	records    []record
	rows       []*row
	letters    []*history.Event
}

type record struct {
	offset               int64
	id                   contracts.Identity
	hash, record, source string
	dead                 bool
}

func (c *Checker) partition(id int32) *partition {
	p := c.partitions[id]
	if p == nil {
		p = &partition{}
		c.partitions[id] = p
	}
	return p
}

func (c *Checker) log(e *history.Event) {
	p := c.partition(e.Partition)
	switch e.Kind {
	case history.Range:
		p.epoch, p.start, p.end, p.ranged = e.Epoch, e.Start, e.End, true
		c.report.got(inputLog)
	case history.Checkpoint:
		p.checkpoint = e
		c.report.got(inputRows) // a store may be empty
	case history.Letter:
		p.letters = append(p.letters, e)
	case history.Record:
		c.report.Figures.Records++
		if e.Dead {
			c.report.Figures.Dead++
		}
		id := contracts.Identity{Room: e.Room, Sender: e.Sender, Key: e.Key}
		p.records = append(p.records, record{offset: e.Offset, id: id, hash: e.Hash, record: e.Record, source: e.Source, dead: e.Dead})
		if !e.Dead {
			c.logged[id] = true
		}
	}
}

// below reports whether a row stands before what the log still holds: the store's word is all there is about it.
func (p *partition) below(w *row) bool {
	return w.position.Less(contracts.Position{Epoch: p.epoch, Offset: p.start})
}

// inLog checks that an acked message is in the log, or was stored before the log was trimmed or lost.
func (c *Checker) inLog(m *message, w *row) {
	if !c.report.has(inputLog) || c.logged[m.id] || w != nil && c.partition(w.partition).below(w) {
		return
	}
	c.violate(Violation{Kind: Unlogged, Room: m.id.Room, Key: m.id.Key, What: "acked, and not in the log", Evidence: []string{m.firstAt, m.ackedAt}})
}

// folds numbers every partition of the log anew and compares the store with that.
func (c *Checker) folds() {
	for _, id := range slices.Sorted(maps.Keys(c.partitions)) {
		p := c.partitions[id]
		if !p.ranged {
			continue
		}
		if k := p.checkpoint; k != nil && (k.Offset != p.end || k.Epoch != p.epoch) {
			c.violate(Violation{Kind: Unsettled, What: fmt.Sprintf("partition %d's checkpoint is (%d, %d), the log's end (%d, %d)", id, k.Epoch, k.Offset, p.epoch, p.end), Evidence: []string{k.Source}})
		}
		if last := c.cfg.LastEpoch; last != 0 && p.epoch > last {
			v := Violation{Kind: Epoch, What: fmt.Sprintf("partition %d is in epoch %d, and nothing was done to the log that would end epoch %d", id, p.epoch, last)}
			if p.checkpoint != nil {
				v.Evidence = []string{p.checkpoint.Source}
			}
			c.violate(v)
		}
		slices.SortStableFunc(p.records, func(a, b record) int { return cmp.Compare(a.offset, b.offset) })
		c.fold(id, p)
		c.buried(id, p)
	}
}

// buried compares the dead letters with the records that nobody can read, as far as the log goes back and C has come.
func (c *Checker) buried(id int32, p *partition) {
	if p.checkpoint == nil {
		return
	}
	letters := make(map[int64]*history.Event)
	for _, l := range p.letters {
		if l.Epoch != p.epoch || l.Offset < p.start {
			continue
		}
		if letters[l.Offset] != nil {
			c.violate(Violation{Kind: Unburied, What: fmt.Sprintf("partition %d: two dead letters of %d", id, l.Offset), Evidence: []string{letters[l.Offset].Source, l.Source}})
		}
		letters[l.Offset] = l
	}
	for _, r := range p.records {
		l := letters[r.offset]
		delete(letters, r.offset)
		v := Violation{Kind: Unburied, Room: r.id.Room, Key: r.id.Key, Evidence: []string{r.source}}
		switch {
		case l == nil && r.dead && r.offset < p.checkpoint.Offset:
			v.What = fmt.Sprintf("nobody can read record %d of partition %d, and there is no dead letter of it", r.offset, id)
		case l == nil:
			continue
		case !r.dead:
			v.What = fmt.Sprintf("record %d of partition %d can be read, and there is a dead letter of it", r.offset, id)
		case l.Record != r.record:
			v.What = fmt.Sprintf("record %d of partition %d is %s, its dead letter %s", r.offset, id, r.record, l.Record)
		default:
			continue
		}
		if l != nil {
			v.Evidence = append(v.Evidence, l.Source)
		}
		c.violate(v)
	}
	for _, offset := range slices.Sorted(maps.Keys(letters)) {
		c.violate(Violation{Kind: Unburied, What: fmt.Sprintf("a dead letter of record %d of partition %d, which is not in the log", offset, id), Evidence: []string{letters[offset].Source}})
	}
}

func (c *Checker) fold(id int32, p *partition) {
	trusted := make(map[contracts.Identity]*row)
	newest := make(map[contracts.RoomID]*row)
	left := make(map[contracts.Position]*row) // rows that no record has accounted for
	for _, w := range p.rows {
		if !p.below(w) {
			left[w.position] = w
			continue
		}
		trusted[w.id] = w
		if n := newest[w.id.Room]; n == nil || n.position.Less(w.position) {
			newest[w.id.Room] = w
		}
	}
	keyTime := int64(-1) // K: where nothing was stored before, every key that is not held is new
	if len(trusted) > 0 {
		keyTime = math.MaxInt64
	}
	unbounded := roomlog.Limits{Rooms: math.MaxInt, Keys: math.MaxInt}
	s := roomlog.New(p.epoch, p.start, keyTime, unbounded)
	byOffset := make(map[int64]*record, len(p.records))
	for i := range p.records {
		r := &p.records[i]
		if byOffset[r.offset] != nil || r.offset < p.start || r.offset >= p.end {
			c.violate(Violation{Kind: Malformed, What: fmt.Sprintf("partition %d: offset %d twice or outside of the range", id, r.offset), Evidence: []string{r.source}})
			continue
		}
		byOffset[r.offset] = r
		if r.dead {
			s.Skip(r.offset)
			continue
		}
		s.Push(r.offset, r.id)
		for l := s.Lookup(roomlog.MaxQuestions); l != nil; l = s.Lookup(roomlog.MaxQuestions) {
			s.Answer(l, found(l.Entries, func(q roomlog.EntryQuery) *row { return trusted[q.Identity] }), found(l.Heads, func(q roomlog.HeadQuery) *row { return newest[q.Room] }))
		}
		for _, o := range s.Take() {
			c.numbered(p, byOffset[o.Offset], o, left)
		}
	}
	extra := slices.SortedFunc(maps.Values(left), func(a, b *row) int { return cmp.Compare(a.position.Offset, b.position.Offset) })
	for _, w := range extra {
		c.violate(Violation{Kind: Numbering, Room: w.id.Room, Seq: w.seq, Key: w.id.Key, What: fmt.Sprintf("a row of partition %d at %+v, where the log numbers nothing", id, w.position), Evidence: []string{w.source}})
	}
}

func found[Q any](queries []Q, row func(Q) *row) []roomlog.Found {
	answers := make([]roomlog.Found, len(queries))
	for i, q := range queries {
		if w := row(q); w != nil {
			answers[i] = roomlog.Found{Seq: w.seq, Position: w.position}
		}
	}
	return answers
}

// numbered compares one record's number with the store.
func (c *Checker) numbered(p *partition, r *record, o roomlog.Outcome, left map[contracts.Position]*row) {
	if o.Duplicate {
		c.report.Figures.Duplicates++
		return
	}
	at := contracts.Position{Epoch: p.epoch, Offset: o.Offset}
	w := left[at]
	delete(left, at)
	v := Violation{Kind: Numbering, Room: r.id.Room, Seq: o.Seq, Key: r.id.Key, Evidence: []string{r.source}}
	switch {
	case w == nil:
		v.What = fmt.Sprintf("the log gives this seq to the record at %+v; the store has no row of it", at)
	case w.id != r.id || w.seq != o.Seq:
		v.What = fmt.Sprintf("the log gives this seq to the record at %+v; the store has seq %d, key %v in room %s", at, w.seq, w.id.Key, w.id.Room)
		v.Evidence = append(v.Evidence, w.source)
	case w.hash != r.hash || w.record != r.record:
		v.Kind, v.What = Body, fmt.Sprintf("the record at %+v has body %s and hash %q, the row %s and %q", at, r.hash, r.record, w.hash, w.record)
		v.Evidence = append(v.Evidence, w.source)
	default:
		return
	}
	c.violate(v)
}
