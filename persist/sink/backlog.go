package sink

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

// recordOverhead is what a held record costs beside its bytes.
const recordOverhead = 512

// backlog is what was read of a partition since its checkpoint: the records of [C, next), in offset order.
type backlog struct {
	checkpoint contracts.Checkpoint // as the store has it
	fresh      bool                 // the store has none yet
	partitions int
	seq        *roomlog.Sequencer
	items      []item
	bytes      int
	forgot     time.Time // when the sequencer last forgot
}

// item is one record. It is decided when it has its seq, is known for a duplicate, or is a dead letter.
type item struct {
	offset  int64
	size    int
	hash    contracts.Hash
	record  contracts.Record
	decided bool
	seq     contracts.Seq // 0 where there is no row to store
	first   contracts.Seq // of a duplicate: the seq of what it repeats
	dead    string        // why nobody can read it
	value   []byte        // of a dead letter
}

// newBacklog starts at a checkpoint with nothing held, as after a take-over.
func newBacklog(c contracts.Checkpoint, fresh bool, partitions int) *backlog {
	return &backlog{
		checkpoint: c, fresh: fresh, partitions: partitions,
		seq: roomlog.New(c.Epoch, c.Offset, c.KeyTime, roomlog.Limits{}),
	}
}

// next is the offset of the record to be read next.
func (b *backlog) next() int64 { return b.seq.Next() }

// push takes the next record. It fails, and has not taken it, where the record is of a newer version.
func (b *backlog) push(r journal.Record) error {
	it := item{offset: r.Offset, size: len(r.Value) + recordOverhead, hash: contracts.HashRecord(r.Value)}
	record, err := contracts.DecodeRecord(r.Value, b.checkpoint.Partition, b.partitions)
	switch {
	case errors.Is(err, contracts.ErrNewerVersion):
		return err
	case err != nil:
		it.decided, it.dead, it.value = true, err.Error(), slices.Clone(r.Value)
		b.seq.Skip(r.Offset)
	default:
		it.record = record
		b.seq.Push(r.Offset, record.Identity())
	}
	b.items = append(b.items, it)
	b.bytes += it.size
	b.settle()
	return nil
}

// answer takes the store's answers to a look-up.
func (b *backlog) answer(l *roomlog.Lookup, entries, heads []roomlog.Found) {
	b.seq.Answer(l, entries, heads)
	b.settle()
}

// settle notes what the sequencer has decided.
func (b *backlog) settle() {
	for _, o := range b.seq.Take() {
		at, ok := slices.BinarySearchFunc(b.items, o.Offset, func(it item, offset int64) int { return cmp.Compare(it.offset, offset) })
		if !ok {
			panic("sink: the sequencer decided a record that is not held")
		}
		it := &b.items[at]
		it.decided = true
		if o.Duplicate {
			it.first = o.Seq
		} else {
			it.seq = o.Seq
		}
	}
}

// bulk is one write to the store.
type bulk struct {
	items      int // of the backlog's front
	duplicates int
	entries    []store.Entry
	told       []contracts.Envelope // for who wants to know
	dead       []store.DeadLetter
	prev, next contracts.Checkpoint
	full       bool
}

// front returns the decided front of the backlog, up to the limits; nil where there is none.
func (b *backlog) front(maxEntries, maxBytes int) *bulk {
	n, entries, bytes, full := 0, 0, 0, false
	for n < len(b.items) && b.items[n].decided {
		it := &b.items[n]
		if n > 0 && bytes+it.size > maxBytes || entries == maxEntries {
			full = true
			break
		}
		bytes += it.size
		if it.seq != 0 {
			entries++
		}
		n++
	}
	if n == 0 {
		return nil
	}
	w := &bulk{items: n, full: full || entries == maxEntries || bytes >= maxBytes, entries: make([]store.Entry, 0, entries)}
	for i := range b.items[:n] {
		it := &b.items[i]
		switch {
		case it.seq != 0:
			w.entries = append(w.entries, store.Entry{
				Record: it.record, Seq: it.seq, Epoch: b.checkpoint.Epoch, Offset: it.offset, Hash: it.hash,
			})
		case it.dead != "":
			w.dead = append(w.dead, store.DeadLetter{
				Partition: b.checkpoint.Partition, Reason: it.dead, Value: it.value,
				Position: contracts.Position{Epoch: b.checkpoint.Epoch, Offset: it.offset},
			})
		default:
			w.duplicates++
		}
		if it.record.Told.ID != 0 {
			w.told = append(w.told, contracts.Envelope{
				Kind: contracts.EnvelopeStored, Room: it.record.Room, Epoch: b.checkpoint.Epoch, Seq: max(it.seq, it.first),
				Except: it.record.Told, Key: it.record.Key,
			})
		}
	}
	last := &b.items[n-1]
	if !b.fresh {
		w.prev = b.checkpoint
	}
	w.next = contracts.Checkpoint{
		Partition: b.checkpoint.Partition, Epoch: b.checkpoint.Epoch, Offset: last.offset + 1,
		KeyTime: b.seq.KeyTime(), Last: last.hash, Sequencer: roomlog.Version,
	}
	return w
}

// ready reports whether front would return something, in addition to the first skip items.
func (b *backlog) ready(skip int) bool { return len(b.items) > skip && b.items[skip].decided }

// written drops what a bulk has stored and lets the sequencer forget what that made safe.
func (b *backlog) written(w *bulk, now time.Time) {
	for i := range b.items[:w.items] {
		b.bytes -= b.items[i].size
	}
	clear(b.items[:w.items])
	b.items = b.items[w.items:]
	if len(b.items) == 0 {
		b.items = nil
	}
	b.checkpoint, b.fresh = w.next, false
	if now.Sub(b.forgot) >= time.Second {
		b.forgot = now
		b.seq.Forget(w.next.Offset, now)
	}
}
