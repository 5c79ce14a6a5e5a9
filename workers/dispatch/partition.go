package dispatch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/planted"
	"github.com/parley-chat/parley/contracts/roomlog"
)

const (
	waitingAllowance = 256  // bytes counted for each waiting record beside its own
	catchUpRecords   = 2000 // read from the log at once
)

// partition is one owned partition. It is the actor's.
type partition struct {
	// Static after construction.
	id          int32
	epoch       contracts.Epoch
	from        int64 // where reading began
	publishFrom int64 // D at the take-over: what is below was told by others
	goal        int64 // the log's end at the take-over
	began       time.Time
	ctx         context.Context // of its jobs
	cancel      context.CancelFunc
	stop        func() error // ends its service

	gone   bool
	halted error // a record of a newer release: nothing from it on is read

	seq        *roomlog.Sequencer
	checkpoint int64 // C as last read
	committed  int64 // the last commit, or the one under way; below publishFrom: none of this epoch
	rooms      map[contracts.RoomID]*room
	adopt      map[contracts.RoomID]struct{} // rooms of the epoch before that are to learn this one

	// What waits for the store.
	pending      map[int64]pendingRecord // by offset
	waitingBytes int
	lookups      int  // under way
	inTurn       bool // it is in pace.turns
	failures     int  // of look-ups, in a row
	asks         map[contracts.RoomID][]*ask

	// Reading on from the log after too much waited; see catchUp.
	behind   bool
	missed   bool // something polled was dropped since the last read of the log began
	catching bool

	// The ring's share.
	bytes   int
	dropped []kept // entries at or above C without their encoding

	// Telling; see announce.go and teller.go.
	queue      []outgoing
	queueBytes int
	due        bool // it is in its teller's line
	headsDue   bool
	headsTaken time.Time
	epochDue   int // heads messages that are still to say the epoch
	changed    map[*room]struct{}
}

// readRecord is a record with what it says.
type readRecord struct {
	offset int64
	size   int
	rec    contracts.Record
	err    error // contracts.ErrUndecodable or contracts.ErrNewerVersion
	read   time.Time
}

type readBatch struct {
	partition int32
	records   []readRecord
	err       error
}

type pendingRecord struct {
	readRecord
	room *room
}

// newPartition makes a partition. known says that what was committed is of this epoch: then all rooms were told of it, or there
// was never another.
func (d *Dispatcher) newPartition(c contracts.Checkpoint, from, publishFrom, end int64, known bool) *partition {
	p := &partition{
		id: c.Partition, epoch: c.Epoch, from: from, publishFrom: publishFrom, goal: end,
		// K is the checkpoint's also where reading begins below C: it covers all key times below C.
		seq:        roomlog.New(c.Epoch, from, c.KeyTime, d.cfg.Limits),
		checkpoint: c.Offset, committed: publishFrom,
		rooms:   make(map[contracts.RoomID]*room),
		adopt:   make(map[contracts.RoomID]struct{}),
		pending: make(map[int64]pendingRecord),
		asks:    make(map[contracts.RoomID][]*ask),
		changed: make(map[*room]struct{}),
	}
	if !known {
		p.epochDue, p.committed = headsPerChange, publishFrom-1
	}
	return p
}

// decode reads a batch's records. It is a pure function of them, so the poller does it.
func (d *Dispatcher) decode(b *journal.Batch, now time.Time) readBatch {
	out := readBatch{partition: b.Partition, err: b.Err, records: make([]readRecord, len(b.Records))}
	for i, r := range b.Records {
		rec, err := contracts.DecodeRecord(r.Value, b.Partition, d.cfg.Partitions)
		out.records[i] = readRecord{offset: r.Offset, size: len(r.Value), rec: rec, err: err, read: now}
	}
	return out
}

// take takes a polled batch.
func (d *Dispatcher) take(p *partition, b *readBatch) {
	switch {
	case b.err != nil:
		d.takeAnew(p, alarmOutOfRange, fmt.Errorf("read the log at %d: %w", p.seq.Next(), b.err))
	case p.behind:
		p.missed = true
	case p.halted == nil && len(b.records) > 0 && b.records[0].offset > p.seq.Next():
		// Records before it were dropped: reading the log brings them. Numbered without them, all that follows in its rooms would be
		// wrong for good.
		p.behind, p.missed = true, true
	default:
		d.number(p, b.records)
	}
}

// number gives the records to the sequencer, until too much waits. Past D, what waited for that goes on.
func (d *Dispatcher) number(p *partition, records []readRecord) {
	if !p.silent() {
		d.push(p, records)
		return
	}
	if d.push(p, records); p.silent() {
		return
	}
	for _, id := range slices.Concat(slices.Collect(maps.Keys(p.asks)), slices.Collect(maps.Keys(p.adopt))) {
		d.wake(p, id)
	}
}

func (d *Dispatcher) push(p *partition, records []readRecord) {
	for i := range records {
		r := &records[i]
		switch {
		case p.halted != nil:
			return
		case r.offset < p.seq.Next():
			continue
		case len(p.pending) > 0 && d.waitingBytes >= d.cfg.WaitingBytes:
			p.behind, p.missed = true, true
			return
		case errors.Is(r.err, contracts.ErrNewerVersion):
			p.halted = fmt.Errorf("record %d waits for a newer release: %w", r.offset, r.err)
			d.alarm(p.id, alarmVersion, p.halted)
			return
		case r.err != nil:
			d.metrics.dead.Inc()
			p.seq.Skip(r.offset)
			continue
		}
		p.seq.Push(r.offset, r.rec.Identity())
		if out := p.seq.Take(); len(out) > 0 {
			d.decided(p, p.room(r.rec.Room), r, out[0])
			continue
		}
		rm := p.room(r.rec.Room)
		if rm.waiting++; rm.waiting == 1 {
			d.waitingRooms++
		}
		p.pending[r.offset] = pendingRecord{*r, rm}
		p.waitingBytes += r.size + waitingAllowance
		d.waitingBytes += r.size + waitingAllowance
	}
}

// decided takes the sequencer's word about a record.
func (d *Dispatcher) decided(p *partition, r *room, rec *readRecord, o roomlog.Outcome) {
	if o.Duplicate {
		d.metrics.duplicates.Inc()
		d.tidy(p, r)
		return
	}
	d.metrics.entries.Inc()
	if planted.On(planted.RedisCounter) {
		o.Seq = contracts.Seq(planted.Next(string(r.id)))
	}
	body := encode(rec.rec, o.Seq, p.epoch, o.Offset)
	d.keep(p, r, o.Seq, o.Offset, body)
	if o.Offset < p.publishFrom {
		r.sent = o.Seq
		p.change(r)
		return
	}
	d.enqueue(p, outgoing{room: r, seq: o.Seq, offset: o.Offset, body: body, read: rec.read})
}

// advance starts whatever p has to do.
func (d *Dispatcher) advance(p *partition) {
	if p.gone {
		return
	}
	d.catchUp(p)
	d.lookUp(p)
	d.publish(p)
	d.evict()
}

// catchUp reads on from the log where what was polled was dropped because too much waited.
func (d *Dispatcher) catchUp(p *partition) {
	if !p.behind || p.catching || p.halted != nil || len(p.pending) > 0 && d.waitingBytes >= d.cfg.WaitingBytes/2 {
		return
	}
	p.catching, p.missed = true, false
	from := p.seq.Next()
	d.job(p, func(ctx context.Context) func() {
		call, cancel := context.WithTimeout(ctx, d.cfg.StoreTimeout)
		defer cancel()
		records, err := d.deps.Log.Read(call, p.id, from, catchUpRecords)
		if err != nil && !errors.Is(err, journal.ErrOutOfRange) {
			_ = pause(ctx, time.Second)
		}
		b := d.decode(&journal.Batch{Partition: p.id, Records: records}, time.Now())
		return func() {
			p.catching = false
			switch {
			case errors.Is(err, journal.ErrOutOfRange):
				d.takeAnew(p, alarmOutOfRange, fmt.Errorf("read the log at %d: %w", from, err))
				return
			case err != nil:
				d.log.Warn("reading on from the log failed, trying on", "partition", p.id, "err", err)
			case len(b.records) == 0:
				p.behind = p.missed
			default:
				d.number(p, b.records)
			}
			d.advance(p)
		}
	})
}

// stored takes a newer C.
func (d *Dispatcher) stored(p *partition, checkpoint int64) {
	if checkpoint > p.checkpoint {
		p.checkpoint = checkpoint
		d.letGoStored(p)
	}
	p.seq.Forget(p.checkpoint, time.Now())
	d.advance(p)
}

// room returns what is known of a room, maybe nothing.
func (p *partition) room(id contracts.RoomID) *room {
	r := p.rooms[id]
	if r == nil {
		r = &room{id: id, lane: contracts.LaneOf(id), low: [3]int64{-1, -1, -1}}
		p.rooms[id] = r
	}
	return r
}

// tidy forgets a room of which nothing is held and nothing is to be told.
func (d *Dispatcher) tidy(p *partition, r *room) {
	if len(r.items) == 0 && r.waiting == 0 && !r.changed && p.rooms[r.id] == r {
		delete(p.rooms, r.id)
	}
}

// settled returns the head of a room that is held and in which nothing waits.
func (p *partition) settled(id contracts.RoomID) (head contracts.Seq, ok bool) {
	if p.silent() {
		return 0, false
	}
	if r := p.rooms[id]; r != nil && r.waiting > 0 {
		return 0, false
	}
	return p.seq.Head(id)
}

// silent reports whether records below D are still to be read. Nobody publishes those again, so a head given now might
// leave who asked for it without them.
func (p *partition) silent() bool { return p.seq.Next() < p.publishFrom }

// wake goes on with what waited for a room.
func (d *Dispatcher) wake(p *partition, id contracts.RoomID) {
	head, ok := p.settled(id)
	if !ok {
		return
	}
	if _, adopt := p.adopt[id]; adopt {
		delete(p.adopt, id)
		r := p.room(id)
		if r.sent == 0 {
			r.sent = head
			if len(r.items) > 0 {
				r.sent = r.base - 1 // the rest is on its way
			}
		}
		p.change(r)
	}
	asks := p.asks[id]
	delete(p.asks, id)
	for _, a := range asks {
		if a.waits--; a.waits == 0 {
			delete(d.parked, a)
			d.ask(a)
		}
	}
}
