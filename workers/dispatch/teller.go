package dispatch

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/planted"
)

// teller has the round trips to Redis of the partitions that share a server: all of them, or on a cluster those of a lane
// group, so that a server that hangs silences its own rooms only. It is the actor's.
type teller struct {
	due     []*partition // that may have something to tell, who waits longest first
	telling bool         // a publication is under way

	// Entries that were told and are to be put into the cache, and their bytes.
	fresh       []recent.Entry
	freshBytes  int
	remembering bool // some are under way
}

// newTellers returns those that a publisher needs.
func newTellers(p fanout.Publisher, partitions int) []*teller {
	n := 1
	if fanout.IsSharded(p) {
		n = min(partitions, contracts.LaneGroups)
	}
	all := make([]*teller, n)
	for i := range all {
		all[i] = &teller{}
	}
	return all
}

// share is a partition's part of a publication.
type share struct {
	p         *partition
	batch     []outgoing
	heads     []said
	epochTold bool // to all lanes of the partition
}

// publish puts p in its teller's line, if it has something to tell.
func (d *Dispatcher) publish(p *partition) {
	if p.due || len(p.queue) == 0 && !p.headsDue {
		return
	}
	p.due = true
	t := d.tellers[int(p.id)%len(d.tellers)]
	t.due = append(t.due, p)
}

// tell starts the next publication of each teller that has none under way, with all that its partitions have to tell by now.
func (d *Dispatcher) tell() {
	for _, t := range d.tellers {
		if t.telling || len(t.due) == 0 || !d.alive() {
			continue
		}
		shares := d.shares(t)
		if len(shares) == 0 {
			continue
		}
		t.telling = true
		d.jobs.Go(func() {
			ctx, cancel := context.WithTimeout(d.bg, d.cfg.PublishTimeout)
			defer cancel()
			err := d.publication(ctx, shares)
			now := time.Now()
			d.post(func() { d.took(t, shares, now, err) })
		})
	}
}

// shares takes what the next publication says from the partitions of the line.
func (d *Dispatcher) shares(t *teller) (out []share) {
	n, size := 0, 0
	for len(t.due) > 0 && n < publishEntries && size < publishBytes {
		p := t.due[0]
		t.due = t.due[1:]
		if p.due = false; p.gone {
			continue
		}
		s := share{p: p}
		taken := 0
		for ; taken < len(p.queue) && n < publishEntries && size < publishBytes; taken++ {
			n++
			size += len(p.queue[taken].body)
			p.handOver(&p.queue[taken])
		}
		if s.batch, p.queue = p.queue[:taken:taken], p.queue[taken:]; len(p.queue) == 0 {
			p.queue = nil
		}
		if s.heads, s.epochTold = p.headsNow(d.cfg.HeadsEvery); len(s.batch) > 0 || len(s.heads) > 0 || s.epochTold {
			out = append(out, s)
		}
		d.publish(p) // what is left
	}
	return out
}

// publication tells the shares. Partitions and rooms are only read for what never changes.
func (d *Dispatcher) publication(ctx context.Context, shares []share) error {
	if !d.alive() {
		return errNotAlive
	}
	return d.deps.Publisher.Publish(ctx, d.messages(shares))
}

// messages makes one message per lane of the entries, in order, and behind them those of the heads and epochs.
func (d *Dispatcher) messages(shares []share) (out []fanout.Message) {
	at := make(map[contracts.Lane]int)
	for i := range shares {
		s := &shares[i]
		for j := range s.batch {
			o := &s.batch[j]
			n, ok := at[o.room.lane]
			if !ok {
				n = len(out)
				at[o.room.lane] = n
				out = append(out, fanout.Message{Lane: o.room.lane})
			}
			out[n].Body = contracts.AppendEnvelope(out[n].Body, &contracts.Envelope{
				Kind: contracts.EnvelopeEntry, Room: o.room.id, Epoch: s.p.epoch, Seq: o.seq, Body: o.body,
			})
		}
	}
	if planted.On(planted.NoHeads) {
		return out
	}
	entries := len(out)
	for i := range shares {
		s := &shares[i]
		for _, h := range s.heads {
			if n := len(out); n == entries || out[n-1].Lane != h.room.lane || len(out[n-1].Body) > headsBytes {
				out = append(out, fanout.Message{Lane: h.room.lane})
			}
			m := &out[len(out)-1]
			m.Body = contracts.AppendEnvelope(m.Body, &contracts.Envelope{
				Kind: contracts.EnvelopeHead, Room: h.room.id, Epoch: s.p.epoch, Seq: h.seq,
			})
		}
		if !s.epochTold {
			continue
		}
		for _, l := range d.lanes(s.p.id) {
			out = append(out, fanout.Message{Lane: l, Body: contracts.AppendEnvelope(nil, &contracts.Envelope{Kind: contracts.EnvelopeEpoch, Epoch: s.p.epoch})})
		}
	}
	return out
}

// took takes a publication's end. Its entries go into the cache behind it, whatever became of it.
func (d *Dispatcher) took(t *teller, shares []share, now time.Time, err error) {
	t.telling = false
	if !errors.Is(err, errNotAlive) {
		d.redis(err)
	}
	if err != nil {
		d.metrics.publishErrors.Inc()
	}
	for i := range shares {
		s := &shares[i]
		if s.p.gone {
			continue
		}
		d.published(s.p, s, now, err)
		for _, o := range s.batch {
			t.fresh = append(t.fresh, recent.Entry{Room: o.room.id, Epoch: s.p.epoch, Seq: o.seq, JSON: o.body})
			t.freshBytes += len(o.body)
		}
	}
	if t.freshBytes > d.cfg.QueueBytes { // a reader takes the hole for a miss
		n := 0
		for ; t.freshBytes > d.cfg.QueueBytes/2; n++ {
			t.freshBytes -= len(t.fresh[n].JSON)
		}
		t.fresh = slices.Delete(t.fresh, 0, n)
		d.metrics.publishErrors.Inc()
	}
	d.remember(t)
}

// remember puts entries into the cache, a room's in order: one append at a time. Nobody waits for it. Until then, and where
// it fails, a reader asks this dispatcher.
func (d *Dispatcher) remember(t *teller) {
	if t.remembering || len(t.fresh) == 0 {
		return
	}
	n, size := 0, 0
	for n < len(t.fresh) && n < publishEntries && size < publishBytes {
		size += len(t.fresh[n].JSON)
		n++
	}
	entries := t.fresh[:n:n]
	if t.fresh = t.fresh[n:]; len(t.fresh) == 0 {
		t.fresh = nil
	}
	t.freshBytes -= size
	t.remembering = true
	d.jobs.Go(func() {
		err := errNotAlive
		if d.alive() {
			ctx, cancel := context.WithTimeout(d.bg, d.cfg.PublishTimeout)
			defer cancel()
			err = d.deps.Recent.Append(ctx, entries)
		}
		d.post(func() {
			if t.remembering = false; err != nil && !errors.Is(err, errNotAlive) {
				d.redis(err)
				d.metrics.publishErrors.Inc()
			}
			d.remember(t)
		})
	})
}
