package dispatch

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
)

const (
	replyBytes   = 200 << 10 // of entries in one reply
	replyEntries = 1000
	maxReaders   = 64 // replies with entries being made at once
	maxLeft      = 10 * time.Second
)

// ask is one question.
type ask struct {
	partition int32
	req       rpc.Request
	q         contracts.Question
	deadline  time.Time
	waits     int // rooms that are not settled; the actor's
}

// rooms are those that must be settled before the answer.
func (a *ask) rooms(yield func(contracts.RoomID) bool) {
	for _, id := range a.q.Heads {
		if !yield(id) {
			return
		}
	}
	if a.q.Read != nil {
		yield(a.q.Room)
	}
}

// handler serves a partition's questions. It never blocks.
func (d *Dispatcher) handler(id int32) rpc.Handler {
	return func(req rpc.Request) {
		now := time.Now()
		a := &ask{partition: id, req: req}
		if err := d.parse(a); err != nil {
			d.reply(a, resultBad, &contracts.Reply{Err: contracts.AsError(err)})
			return
		}
		left := min(time.Duration(max(a.q.LeftMS, 0))*time.Millisecond, maxLeft)
		// The answer needs time for its way.
		a.deadline = now.Add(left - min(left/10, 50*time.Millisecond))
		select {
		case d.questions <- a:
		default:
			d.refuse(a, resultOverloaded)
		}
	}
}

func (d *Dispatcher) parse(a *ask) error {
	if err := json.Unmarshal(a.req.Body, &a.q); err != nil {
		return contracts.NewError(contracts.CodeBadRequest, "the question is not readable")
	}
	ours := func(id contracts.RoomID) error {
		if !contracts.ValidID(string(id)) || contracts.LaneOf(id).Partition(d.cfg.Partitions) != a.partition {
			return contracts.BadField("room", fmt.Sprintf("not a room of partition %d", a.partition))
		}
		return nil
	}
	for id := range a.rooms {
		if err := ours(id); err != nil {
			return err
		}
	}
	if a.q.Find != nil {
		return ours(a.q.Find.Room)
	}
	return nil
}

// ask answers a question, or lets it wait until all of its rooms are settled unless it wants a part now. The others are looked
// up for the next question.
func (d *Dispatcher) ask(a *ask) {
	p := d.partitions[a.partition]
	if p == nil || !d.alive() {
		d.refuse(a, resultUnavailable)
		return
	}
	var unsettled []contracts.RoomID
	for id := range a.rooms {
		if _, ok := p.settled(id); !ok {
			unsettled = append(unsettled, id)
		}
	}
	switch {
	case len(unsettled) == 0:
		d.answer(p, a)
	case a.q.Partly && a.q.Read == nil:
		for _, id := range unsettled {
			p.seq.Want(id)
		}
		d.answer(p, a)
		d.lookUp(p)
	case !a.deadline.After(time.Now()):
		d.refuse(a, resultUnavailable)
	case len(d.parked) >= d.cfg.Questions:
		d.refuse(a, resultOverloaded)
	default:
		d.parked[a] = struct{}{}
		a.waits = len(unsettled)
		for _, id := range unsettled {
			p.seq.Want(id)
			p.asks[id] = append(p.asks[id], a)
		}
		if d.sweepAt.IsZero() || a.deadline.Before(d.sweepAt) {
			d.sweepAt = a.deadline
			d.sweep.Reset(time.Until(a.deadline))
		}
		d.lookUp(p)
	}
}

// expire refuses the parked questions whose time has run out.
func (d *Dispatcher) expire() {
	d.sweepAt = time.Time{}
	now := time.Now()
	for a := range d.parked {
		if a.deadline.After(now) {
			if d.sweepAt.IsZero() || a.deadline.Before(d.sweepAt) {
				d.sweepAt = a.deadline
			}
			continue
		}
		delete(d.parked, a)
		p := d.partitions[a.partition]
		for id := range a.rooms {
			rest := slices.DeleteFunc(p.asks[id], func(other *ask) bool { return other == a })
			if p.asks[id] = rest; len(rest) == 0 {
				delete(p.asks, id)
			}
		}
		d.refuse(a, resultUnavailable)
	}
	if !d.sweepAt.IsZero() {
		d.sweep.Reset(d.sweepAt.Sub(now))
	}
}

// answer answers a question from the rooms that are settled.
func (d *Dispatcher) answer(p *partition, a *ask) {
	r := &contracts.Reply{Epoch: p.epoch, Certain: p.seq.Low() >= p.goal}
	for _, id := range a.q.Heads {
		head, ok := p.settled(id)
		if !ok {
			r.Heads, r.Unsettled = append(r.Heads, contracts.Head{}), append(r.Unsettled, id)
			continue
		}
		r.Heads = append(r.Heads, contracts.Head{Seq: head, Floor: p.floor(id, head)})
	}
	if a.q.Find != nil {
		r.Found, _ = p.seq.Find(*a.q.Find)
	}
	if a.q.Read == nil {
		d.reply(a, resultOK, r)
		return
	}
	head, _ := p.settled(a.q.Room)
	r.Floor = p.floor(a.q.Room, head)
	pieces := p.pieces(a.q.Room, *a.q.Read)
	switch {
	case len(pieces) == 0:
		d.reply(a, resultOK, r)
	case d.readers >= maxReaders:
		d.refuse(a, resultOverloaded)
	default:
		d.readers++
		d.jobs.Go(func() {
			d.answerRead(p.ctx, p.id, a, r, pieces)
			d.post(func() { d.readers-- })
		})
	}
}

// pieces returns the entries of a range that are answerable, the oldest first, until they are enough for a reply.
func (p *partition) pieces(id contracts.RoomID, want contracts.Range) []piece {
	r := p.rooms[id]
	if r == nil || want.Epoch != p.epoch {
		return nil
	}
	var pieces []piece
	size := 0
	for seq := max(want.From, r.base); seq <= want.To && len(pieces) < replyEntries; seq++ {
		it := r.at(seq)
		if it == nil || len(pieces) > 0 && size+int(it.size) > replyBytes {
			break
		}
		size += int(it.size)
		pieces = append(pieces, piece{room: id, seq: seq, offset: it.offset, body: it.body})
	}
	return pieces
}

// answerRead completes a reply with entries.
func (d *Dispatcher) answerRead(ctx context.Context, partition int32, a *ask, r *contracts.Reply, pieces []piece) {
	ctx, cancel := context.WithDeadline(ctx, a.deadline)
	defer cancel()
	if err := d.fill(ctx, partition, r.Epoch, pieces); err != nil {
		d.log.Warn("entries cannot be read again", "partition", partition, "room", a.q.Room, "err", err)
		d.refuse(a, resultUnavailable)
		return
	}
	for _, p := range pieces {
		r.Entries = append(r.Entries, contracts.NumberedJSON{Seq: p.seq, JSON: p.body})
	}
	d.reply(a, resultOK, r)
}

// refuse answers that there is no answer now.
func (d *Dispatcher) refuse(a *ask, result string) {
	err := contracts.NewError(contracts.CodeUnavailable, "the room's dispatcher cannot answer now")
	if result == resultOverloaded {
		err = contracts.NewError(contracts.CodeOverloaded, "too many questions at once")
	}
	d.reply(a, result, &contracts.Reply{Err: err})
}

func (d *Dispatcher) reply(a *ask, result string, r *contracts.Reply) {
	d.metrics.questions.WithLabelValues(result).Inc()
	body, err := contracts.Marshal(r)
	if err != nil {
		d.log.Error("reply cannot be encoded", "partition", a.partition, "err", err)
		return
	}
	a.req.Answer(body)
}
