package dispatch

import (
	"cmp"
	"errors"
	"slices"
	"time"

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

// published takes the end of what a publication said of p. What failed is not repeated: the heads say it, and edges pull.
func (d *Dispatcher) published(p *partition, s *share, now time.Time, err error) {
	if err != nil {
		for _, h := range s.heads {
			if under := h.room.low[lowUnderWay]; under >= 0 {
				h.room.low[lowNone], h.room.low[lowUnderWay] = under, -1
			}
		}
		return
	}
	if s.epochTold {
		p.epochDue--
		p.headsTaken = now
	}
	d.metrics.published.Add(float64(len(s.batch)))
	for i := range s.batch {
		d.metrics.hop.Observe(now.Sub(s.batch[i].read).Seconds())
	}
	if len(s.heads) > 0 {
		p.headsTaken = now
		d.metrics.heads.Add(float64(len(s.heads)))
	}
	for _, h := range s.heads {
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
}

// redis logs once that Redis fails and once that it works again.
func (d *Dispatcher) redis(err error) {
	away := err != nil
	if d.redisAway == away {
		return
	}
	if d.redisAway = away; away {
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
