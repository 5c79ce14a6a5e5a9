package dispatch

import (
	"github.com/parley-chat/parley/contracts"
)

// room is what a partition knows of a room in which something happened. It is the actor's.
type room struct {
	id   contracts.RoomID
	lane contracts.Lane

	// The newest entries, without a hole: items[i] has seq base+i. Each is in memory or at or above C.
	base  contracts.Seq
	items []item

	waiting int // records that the sequencer has not decided

	// What was told; see announce.go.
	sent    contracts.Seq // the last seq given to a publication, or known without one; heads say this
	changed bool          // is in partition.changed
	told    int           // heads of sent that Redis took
	low     [3]int64      // the first offset that was in no heads message, in the one under way, in one; -1 for none
}

// Places in room.low.
const (
	lowNone = iota
	lowUnderWay
	lowOnce
)

// item is one entry.
type item struct {
	offset int64
	body   []byte // the client's encoding; nil: dropped, the log has it
	size   int32  // of the encoding
}

// kept names an entry of the ring. The room may have let go of it since.
type kept struct {
	p    *partition
	room *room
	seq  contracts.Seq
}

// ring orders the entries that are in memory, of all partitions, from the oldest.
type ring struct {
	bytes int
	fifo  []kept
	first int // fifo[:first] is gone
}

func (g *ring) push(k kept) {
	if g.first > 1024 && g.first > len(g.fifo)/2 {
		n := copy(g.fifo, g.fifo[g.first:])
		clear(g.fifo[n:])
		g.fifo, g.first = g.fifo[:n], 0
	}
	g.fifo = append(g.fifo, k)
}

// pop returns the oldest entry that is still held.
func (g *ring) pop() (k kept, ok bool) {
	for g.first < len(g.fifo) {
		k = g.fifo[g.first]
		g.fifo[g.first] = kept{}
		g.first++
		if !k.p.gone && k.room.at(k.seq) != nil {
			return k, true
		}
	}
	return k, false
}

// at returns the room's item of seq, if it has one.
func (r *room) at(seq contracts.Seq) *item {
	if seq < r.base || seq >= r.base+contracts.Seq(len(r.items)) {
		return nil
	}
	return &r.items[seq-r.base]
}

// keep takes a new entry into the ring.
func (d *Dispatcher) keep(p *partition, r *room, seq contracts.Seq, offset int64, body []byte) {
	if n := len(r.items); n > 0 && seq != r.base+contracts.Seq(n) {
		d.letGo(p, r, r.base+contracts.Seq(n)-1) // the numbers have a hole: what is before it is of no use to a reader
	}
	if len(r.items) == 0 {
		r.base = seq
	}
	r.items = append(r.items, item{offset: offset, body: body, size: int32(len(body))})
	p.bytes += len(body)
	d.ring.bytes += len(body)
	d.ring.push(kept{p, r, seq})
}

// evict drops the oldest encodings until the rest fits. An entry below C goes altogether: the store has it.
func (d *Dispatcher) evict() {
	for d.ring.bytes > d.cfg.RingBytes {
		k, ok := d.ring.pop()
		if !ok {
			return
		}
		it := k.room.at(k.seq)
		if it.offset < k.p.checkpoint {
			d.letGo(k.p, k.room, k.seq)
			d.tidy(k.p, k.room)
			continue
		}
		d.ring.bytes -= len(it.body)
		k.p.bytes -= len(it.body)
		it.body = nil
		k.p.dropped = append(k.p.dropped, k)
	}
}

// letGo removes the room's entries up to seq, included.
func (d *Dispatcher) letGo(p *partition, r *room, seq contracts.Seq) {
	n := int(seq - r.base + 1)
	for i := range r.items[:n] {
		d.ring.bytes -= len(r.items[i].body)
		p.bytes -= len(r.items[i].body)
		r.items[i] = item{}
	}
	r.base += contracts.Seq(n)
	if r.items = r.items[n:]; len(r.items) == 0 {
		r.items = nil
	}
}

// letGoStored removes the entries that are neither in memory nor at or above C any more.
func (d *Dispatcher) letGoStored(p *partition) {
	rest := p.dropped[:0]
	for _, k := range p.dropped {
		it := k.room.at(k.seq)
		switch {
		case it == nil:
		case it.offset < p.checkpoint:
			d.letGo(p, k.room, k.seq)
			d.tidy(p, k.room)
		default:
			rest = append(rest, k)
		}
	}
	clear(p.dropped[len(rest):])
	p.dropped = rest
}

// floor returns the lowest seq from which on every entry up to head is answerable.
func (p *partition) floor(id contracts.RoomID, head contracts.Seq) contracts.Seq {
	if r := p.rooms[id]; r != nil && len(r.items) > 0 {
		return r.base
	}
	return head + 1
}

// forget drops what belongs to partitions that are gone, so that their rooms are freed.
func (g *ring) forget() {
	rest := g.fifo[:0]
	for _, k := range g.fifo[g.first:] {
		if !k.p.gone {
			rest = append(rest, k)
		}
	}
	clear(g.fifo[len(rest):])
	g.fifo, g.first = rest, 0
}
