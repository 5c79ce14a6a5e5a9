package dispatch

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/planted"
)

const (
	headsPerChange = 5        // heads messages that Redis must take after a room changed
	publishEntries = 1024     // in one publication
	publishBytes   = 1 << 20  // of entries in one publication
	headsBytes     = 64 << 10 // of one heads message
)

var errNotAlive = errors.New("the group may have given the partition away")

// outgoing is an entry that waits to be published.
type outgoing struct {
	room   *room
	seq    contracts.Seq
	offset int64
	body   []byte
	read   time.Time
}

// said is a head in a heads message.
type said struct {
	room *room
	seq  contracts.Seq
}

// change has the room's head told again.
func (p *partition) change(r *room) {
	r.told, r.changed = 0, true
	p.changed[r] = struct{}{}
}

// enqueue puts an entry into the line for its lane. Where too much waits, the older half is skipped.
func (d *Dispatcher) enqueue(p *partition, o outgoing) {
	p.queue = append(p.queue, o)
	p.queueBytes += len(o.body)
	if p.queueBytes <= d.cfg.QueueBytes {
		return
	}
	n := 0
	for ; n < len(p.queue) && p.queueBytes > d.cfg.QueueBytes/2; n++ {
		p.handOver(&p.queue[n])
	}
	p.queue = slices.Delete(p.queue, 0, n)
	d.metrics.skipped.Add(float64(n))
}

// handOver counts an entry as given to a publication, whatever becomes of that: from now on its room's head says it.
func (p *partition) handOver(o *outgoing) {
	p.queueBytes -= len(o.body)
	o.room.sent = o.seq
	if o.room.low[lowNone] < 0 {
		o.room.low[lowNone] = o.offset
	}
	p.change(o.room)
}

// publish starts the next publication, if there is something to tell and none is under way.
func (d *Dispatcher) publish(p *partition) {
	if p.publishing || len(p.queue) == 0 && !p.headsDue || !d.alive() {
		return
	}
	n, size := 0, 0
	for n < len(p.queue) && n < publishEntries && (n == 0 || size+len(p.queue[n].body) <= publishBytes) {
		size += len(p.queue[n].body)
		n++
	}
	batch := slices.Clone(p.queue[:n])
	for i := range batch {
		p.handOver(&batch[i])
	}
	clear(p.queue[:n])
	if p.queue = p.queue[n:]; len(p.queue) == 0 {
		p.queue = nil
	}
	heads, epoch := p.headsNow(d.cfg.HeadsEvery)
	if len(batch) == 0 && len(heads) == 0 && !epoch {
		return
	}
	p.publishing = true
	d.job(p, func(ctx context.Context) func() {
		ctx, cancel := context.WithTimeout(ctx, d.cfg.PublishTimeout)
		defer cancel()
		var lanes []contracts.Lane
		if epoch {
			lanes = d.lanes(p.id)
		}
		err := d.tell(ctx, p.epoch, batch, heads, lanes)
		now := time.Now()
		d.remember(ctx, p.epoch, batch)
		return func() {
			if epoch && err == nil {
				p.epochDue--
				p.headsTaken = now
			}
			d.published(p, batch, heads, now, err)
		}
	})
}

// lanes are those of a partition.
func (d *Dispatcher) lanes(id int32) []contracts.Lane {
	all := make([]contracts.Lane, 0, contracts.Lanes/d.cfg.Partitions)
	for l := contracts.Lane(id); int(l) < contracts.Lanes; l += contracts.Lane(d.cfg.Partitions) {
		all = append(all, l)
	}
	return all
}

// headsNow returns the heads of the rooms that changed, if it is time for them, and whether the epoch is to be told with
// them. Two messages stand at least half a pause apart, also where the first one took long: what loses one must not lose
// the other.
func (p *partition) headsNow(every time.Duration) (heads []said, epoch bool) {
	if !p.headsDue {
		return nil, false
	}
	p.headsDue = false
	if time.Since(p.headsTaken) < every/2 {
		return nil, false
	}
	epoch = p.epochDue > 0
	if len(p.changed) == 0 {
		return nil, epoch
	}
	heads = make([]said, 0, len(p.changed))
	for r := range p.changed {
		heads = append(heads, said{r, r.sent})
		r.low[lowUnderWay], r.low[lowNone] = r.low[lowNone], -1
	}
	slices.SortFunc(heads, func(a, b said) int {
		return cmp.Or(cmp.Compare(a.room.lane, b.room.lane), cmp.Compare(a.room.id, b.room.id))
	})
	return heads, epoch
}

// tell tells entries and heads, and some lanes the epoch. Rooms are only read for what never changes.
func (d *Dispatcher) tell(ctx context.Context, epoch contracts.Epoch, batch []outgoing, heads []said, lanes []contracts.Lane) error {
	if !d.alive() {
		return errNotAlive
	}
	out := messages(epoch, batch, heads)
	if planted.On(planted.NoHeads) {
		lanes = nil
	}
	for _, l := range lanes {
		out = append(out, fanout.Message{Lane: l, Body: contracts.AppendEnvelope(nil, &contracts.Envelope{Kind: contracts.EnvelopeEpoch, Epoch: epoch})})
	}
	_, err := d.messages.Send(ctx, out)
	return err
}

// remember puts entries into the cache. Nobody waits for that: until then, and where it fails, a reader asks this dispatcher.
func (d *Dispatcher) remember(ctx context.Context, epoch contracts.Epoch, batch []outgoing) {
	if len(batch) == 0 || !d.alive() {
		return
	}
	entries := make([]recent.Entry, len(batch))
	for i, o := range batch {
		entries[i] = recent.Entry{Room: o.room.id, Epoch: epoch, Seq: o.seq, JSON: o.body}
	}
	if _, err := d.entries.Send(ctx, entries); err != nil {
		d.redis(err)
		d.metrics.publishErrors.Inc()
	}
}

// messages makes one message per lane of the entries, in order, and behind them those of the heads.
func messages(epoch contracts.Epoch, batch []outgoing, heads []said) []fanout.Message {
	var out []fanout.Message
	at := make(map[contracts.Lane]int)
	for i := range batch {
		o := &batch[i]
		n, ok := at[o.room.lane]
		if !ok {
			n = len(out)
			at[o.room.lane] = n
			out = append(out, fanout.Message{Lane: o.room.lane})
		}
		out[n].Body = contracts.AppendEnvelope(out[n].Body, &contracts.Envelope{
			Kind: contracts.EnvelopeEntry, Room: o.room.id, Epoch: epoch, Seq: o.seq, Body: o.body,
		})
	}
	first := len(out)
	if planted.On(planted.NoHeads) {
		heads = nil
	}
	for _, h := range heads {
		if n := len(out); n == first || out[n-1].Lane != h.room.lane || len(out[n-1].Body) > headsBytes {
			out = append(out, fanout.Message{Lane: h.room.lane})
		}
		m := &out[len(out)-1]
		m.Body = contracts.AppendEnvelope(m.Body, &contracts.Envelope{
			Kind: contracts.EnvelopeHead, Room: h.room.id, Epoch: epoch, Seq: h.seq,
		})
	}
	return out
}

// published takes a publication's end. What failed is not repeated: the heads say it, and edges pull.
func (d *Dispatcher) published(p *partition, batch []outgoing, heads []said, now time.Time, err error) {
	p.publishing = false
	if !errors.Is(err, errNotAlive) {
		d.redis(err)
	}
	if err != nil {
		d.metrics.publishErrors.Inc()
		for _, h := range heads {
			if under := h.room.low[lowUnderWay]; under >= 0 {
				h.room.low[lowNone], h.room.low[lowUnderWay] = under, -1
			}
		}
		d.advance(p)
		return
	}
	d.metrics.published.Add(float64(len(batch)))
	for i := range batch {
		d.metrics.hop.Observe(now.Sub(batch[i].read).Seconds())
	}
	if len(heads) > 0 {
		p.headsTaken = now
		d.metrics.heads.Add(float64(len(heads)))
	}
	for _, h := range heads {
		r := h.room
		r.low[lowOnce], r.low[lowUnderWay] = r.low[lowUnderWay], -1
		if r.sent != h.seq {
			continue
		}
		if r.told++; r.told >= headsPerChange {
			r.changed = false
			delete(p.changed, r)
			d.tidy(p, r)
		}
	}
	d.advance(p)
}

// redis logs once that Redis fails and once that it works again.
func (d *Dispatcher) redis(err error) {
	away := err != nil
	if d.redisAway.Swap(away) == away {
		return
	}
	if away {
		d.log.Warn("Redis does not take what is told; rooms are repaired by pull", "err", err)
	} else {
		d.log.Info("Redis takes what is told again")
	}
}

// told is D: the first offset that is not announced, or not decided.
func (p *partition) told() int64 {
	low := p.seq.Low()
	if planted.On(planted.CommitFirst) {
		return max(low, p.publishFrom)
	}
	for i := range p.queue {
		low = min(low, p.queue[i].offset)
	}
	for r := range p.changed {
		for _, offset := range r.low {
			if offset >= 0 {
				low = min(low, offset)
			}
		}
	}
	return max(low, p.publishFrom)
}
