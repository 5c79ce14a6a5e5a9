package roomlog_test

import (
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
)

// reader is what persister and dispatcher have in common: a sequencer and its look-ups.
type reader struct {
	*roomlog.Sequencer
	name       string
	epoch      int
	generation int   // of the log that it reads; -1 before the first read
	out        bool  // it has noticed that it reads the wrong log, or in the wrong epoch, and ends
	asOf       place // C at the start
	read       map[int64]record
	lookups    []*lookup
}

func (w *world) newReader(name string, start int64) reader {
	limits := roomlog.Limits{Rooms: 1 + w.rand.IntN(rooms), Keys: 1 + w.rand.IntN(10)}
	c := w.checkpoint
	return reader{
		Sequencer: roomlog.New(contracts.Epoch(c.epoch), start, c.k, limits), name: name,
		epoch: c.epoch, generation: -1, asOf: at(c.epoch, c.c), read: make(map[int64]record),
	}
}

// look moves the look-ups: it asks, has the store read, or takes an answer, in any order.
func (r *reader) look(w *world) {
	if w.chance(50) {
		if l := r.Lookup(1 + w.rand.IntN(8)); l != nil {
			r.lookups = append(r.lookups, &lookup{Lookup: l, reader: at(r.epoch, r.Next()), asOf: r.asOf})
		}
	}
	if len(r.lookups) == 0 {
		return
	}
	i := w.rand.IntN(len(r.lookups))
	l := r.lookups[i]
	switch {
	case l.read && w.chance(w.speed):
		r.Answer(l.Lookup, l.entries, l.heads)
	case !l.read && !w.storeAway && w.chance(80):
		w.answer(l)
		return
	case w.chance(10):
		r.Failed(l.Lookup)
	default:
		return
	}
	r.lookups = append(r.lookups[:i], r.lookups[i+1:]...)
}

// forget forgets up to C, in one of the ways that the rules allow, or in the wrong one.
func (r *reader) forget(w *world) {
	c := w.checkpoint.c
	if w.checkpoint.epoch != r.epoch {
		return
	}
	do := func() {
		switch w.rand.IntN(4) {
		case 0:
			r.Forget(c, time.Unix(int64(w.step)*5, 0))
		case 1:
			r.ForgetRooms(c)
		default:
			r.ForgetKeys(c - int64(w.rand.IntN(3)))
		}
	}
	switch w.rule {
	case keysByTime:
		r.ForgetKeys(r.Next() - int64(w.rand.IntN(6)))
	case roomsUnstored:
		r.ForgetRooms(r.Next())
	case readAheadKept:
		r.KeepReadAhead(do)
	default:
		do()
	}
}

type persister struct {
	reader
	base checkpoint // as it read or wrote it last
	todo []row      // numbered, not stored
	sure bool       // the log was compared with the checkpoint again since the first read
}

// startPersister takes over, or mends what hinders that.
func (w *world) startPersister() {
	switch {
	case w.identified():
		p := &persister{reader: w.newReader("persister", w.checkpoint.c), base: w.checkpoint}
		w.persisters = append(w.persisters, p)
	case !w.storeAway && w.chance(50):
		w.raise()
	}
}

func (p *persister) take(w *world) {
	for _, o := range p.Take() {
		index, good := w.check(&p.reader, o)
		if good && !o.Duplicate {
			p.todo = append(p.todo, row{message: index, seq: o.Seq, place: at(p.epoch, o.Offset)})
		}
	}
}

// bulk writes some rows, unordered; what comes after the first that is not written may be.
func (p *persister) bulk(w *world) {
	if w.storeAway || !p.certain(w) {
		return
	}
	whole := w.chance(60)
	var left []row
	wrote := place(-1)
	for _, r := range p.todo {
		if !whole && w.chance(40) {
			left = append(left, r)
			continue
		}
		w.insert(r)
		wrote = max(wrote, r.place)
	}
	p.todo = left
	if w.rule == pastHole && wrote >= 0 {
		p.checkpoint(w, max(wrote.position().Offset+1, p.base.c))
	}
}

// certain compares the log with the checkpoint once more before the first write: it may have changed before the first read.
func (p *persister) certain(w *world) bool {
	if !p.sure && w.rule != checkedOnce && p.generation >= 0 {
		p.sure = w.checkpoint == p.base && w.identified()
		p.out = p.out || !p.sure
	}
	return !p.out
}

// stored is C as far as this persister has come.
func (p *persister) stored() int64 {
	c := p.Low()
	for _, r := range p.todo {
		c = min(c, r.place.position().Offset)
	}
	return c
}

// checkpoint moves C by compare-and-set. It is false where somebody else moved it: then this persister has lost.
func (p *persister) checkpoint(w *world, c int64) bool {
	if w.storeAway || c <= p.base.c || !p.certain(w) {
		return true
	}
	if w.checkpoint != p.base {
		return false
	}
	p.base = checkpoint{epoch: p.epoch, c: c, k: p.KeyTime(), last: p.read[c-1].id}
	w.checkpoint = p.base
	for offset := w.start; p.generation == w.generation && offset < c; offset++ {
		if index := w.log[offset-w.start].message; index >= 0 && w.messages[index].id.Key.Time() > p.base.k {
			w.fail("K is %d in the checkpoint at %d, and offset %d has key time %d", p.base.k, c, offset, w.messages[index].id.Key.Time())
		}
	}
	return true
}

type dispatcher struct {
	reader
	from     int64 // publishes from here; silent below
	deposed  bool  // another one owns the partition, or did: this one never will again
	ring     [rooms][]row
	announce []announcement
	lost     [members]bool // the last heads message to each member was lost
}

// announcement is an entry that is to be told in two heads messages.
type announcement struct {
	row
	room, times int
}

func (w *world) startDispatcher() {
	if !w.identified() {
		return
	}
	c, d := w.checkpoint.c, w.start
	if w.committed.epoch == w.checkpoint.epoch || w.rule == commitOfAnyEpoch {
		d = max(d, w.committed.d)
	}
	if w.rule == fromCAlone {
		d = c
	}
	start := min(c, d)
	if w.rule == stateAsOfC {
		start = d
	}
	for _, old := range w.dispatchers {
		old.deposed = true
	}
	next := &dispatcher{reader: w.newReader("dispatcher", start), from: d}
	// What it tells before the epoch is raised, if the log changes between the check and the first read, is reset then.
	next.generation = w.generation
	w.dispatchers = append(w.dispatchers, next)
}

func (d *dispatcher) take(w *world) {
	for _, o := range d.Take() {
		index, good := w.check(&d.reader, o)
		if !good || o.Duplicate {
			continue
		}
		room := w.messages[index].room
		r := row{message: index, seq: o.Seq, place: at(d.epoch, o.Offset)}
		d.ring[room] = append(d.ring[room], r)
		d.announce = append(d.announce, announcement{row: r, room: room})
		if o.Offset >= d.from && !w.redisDown {
			for _, m := range w.members {
				if m.connected && !w.chance(w.loss) {
					m.live(w, room, r)
				}
			}
		}
	}
	if low := d.Low(); low == d.Next() && w.current(&d.reader) {
		for room, name := range roomNames {
			if head, held := d.Head(name); held && int(head) != headAt(w.fold[room], at(d.epoch, low)) {
				w.fail("dispatcher: head of %s is %d at offset %d, want %d", name, head, low, headAt(w.fold[room], at(d.epoch, low)))
			}
		}
	}
}

func headAt(fold []entry, below place) (n int) {
	for n < len(fold) && fold[n].place < below {
		n++
	}
	return n
}

// heads sends one heads message, unless Redis refuses it. Each second the dispatcher looks for a newer epoch, too.
func (d *dispatcher) heads(w *world) {
	if d.out = d.out || d.epoch != w.checkpoint.epoch; d.out {
		return
	}
	if w.redisDown || w.rule == noHeads {
		return
	}
	var heads [rooms]contracts.Seq
	left := d.announce[:0]
	for _, a := range d.announce {
		heads[a.room] = max(heads[a.room], a.seq)
		if a.times++; a.times < 2 {
			left = append(left, a)
		}
	}
	d.announce = left
	for i, m := range w.members {
		// A message that Redis took may still be lost, but not two in a row.
		d.lost[i] = !m.connected || !d.lost[i] && w.chance(20)
		if !d.lost[i] {
			m.heads(d.epoch, heads)
		}
	}
}

// commit commits D, if the partition is still this dispatcher's.
func (d *dispatcher) commit(w *world) {
	to := d.Low()
	if w.rule != commitUnannounced && w.rule != noHeads {
		for _, a := range d.announce {
			to = min(to, a.place.position().Offset)
		}
	}
	if d == w.owner() && (d.epoch != w.committed.epoch || to > w.committed.d) {
		w.committed = commit{epoch: d.epoch, d: max(to, d.from)}
	}
}

func (w *world) owner() *dispatcher {
	for _, d := range w.dispatchers {
		if !d.deposed {
			return d
		}
	}
	return nil
}

// member is an edge with one member in every room.
type member struct {
	connected bool
	ask       bool // reconnected, and has yet to hear the heads from the dispatcher
	epoch     [rooms]int
	has, want [rooms]contracts.Seq
}

// see takes the epoch of something that is told of a room, and reports whether it counts. A newer one resets the room: its
// client reads it anew, up to seq.
func (m *member) see(room, epoch int, seq contracts.Seq) bool {
	if epoch > m.epoch[room] {
		m.epoch[room], m.has[room], m.want[room] = epoch, seq, seq
	}
	return epoch == m.epoch[room]
}

func (m *member) live(w *world, room int, r row) {
	if !m.see(room, r.place.epoch(), r.seq) {
		return
	}
	if r.seq == m.has[room]+1 {
		m.take(w, room, r)
	}
	m.want[room] = max(m.want[room], r.seq)
}

// take appends an entry to what the member has in the room.
func (m *member) take(w *world, room int, r row) {
	m.has[room]++
	fold := w.foldOf(m.epoch[room])[room]
	if r.seq != m.has[room] || int(r.seq) > len(fold) || r.message >= 0 && fold[r.seq-1].message != r.message {
		w.fail("a member of %s takes message %d as %d", roomNames[room], r.message, r.seq)
	}
}

func (m *member) heads(epoch int, heads [rooms]contracts.Seq) {
	for room, head := range heads {
		if head == 0 || !m.see(room, epoch, head) {
			continue
		}
		m.want[room] = max(m.want[room], head)
	}
}

// repair reads what is missing: from the dispatcher's ring, else from the store.
func (m *member) repair(w *world) {
	d := w.owner()
	if m.ask && m.connected && d != nil && (d.Low() >= d.from || w.rule == answersBelowD) {
		m.ask = false
		for room, name := range roomNames {
			d.Want(name)
			head, held := d.Head(name)
			if held = held && m.see(room, d.epoch, head); held {
				m.want[room] = max(m.want[room], head)
			}
			m.ask = m.ask || !held
		}
	}
	for room := range roomNames {
		for m.connected && m.has[room] < m.want[room] {
			r, ok := w.entry(d, room, m.epoch[room], m.has[room]+1)
			if !ok {
				break
			}
			if r.place.epoch() > m.epoch[room] {
				m.see(room, r.place.epoch(), r.seq)
				break
			}
			m.take(w, room, r)
		}
	}
}

func (w *world) entry(d *dispatcher, room, epoch int, seq contracts.Seq) (row, bool) {
	if d != nil && d.epoch == epoch {
		for _, r := range d.ring[room] {
			if r.seq == seq {
				return r, true
			}
		}
	}
	if !w.storeAway && int(seq) <= len(w.rows[room]) {
		if r := w.rows[room][seq-1]; r.place >= 0 {
			return r, true
		}
	}
	return row{}, false
}
