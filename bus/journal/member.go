package journal

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// part is a partition that this member owns. All but assigned is owned by who holds KafkaConsumer.polling.
type part struct {
	id       int32
	assigned atomic.Bool // an Assign has returned without an error: Owner holds something of it
	reading  bool        // the reader has it
	next     int64       // the offset to be read next

	// What runs for it beside Poll, if anything.
	cancel context.CancelFunc
	done   chan struct{}
}

// halt ends what runs beside Poll for p and waits for it.
func (p *part) halt() {
	if p.cancel != nil {
		p.cancel()
		<-p.done
		p.cancel, p.done = nil, nil
	}
}

type eventKind int

const (
	assigned  eventKind = iota // partitions are ours
	revoked                    // partitions are to be given up
	lost                       // partitions were lost
	located                    // it is known where to read part from
	leftGroup                  // the member is out of the group
)

// event is what Poll is to deal with.
type event struct {
	kind       eventKind
	partitions []int32
	dealt      chan struct{} // closed when dealt with; nil if nobody waits

	part              *part
	run               chan struct{} // part.done of who sent it: an outdated one is ignored
	start, first, end int64
}

// post leaves an event for Poll. There are never more than a few per partition: the group's callbacks come one after
// the other, and every goroutine of a part leaves one at most.
func (c *KafkaConsumer) post(e event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, e)
	if c.wake != nil {
		c.wake()
	}
}

// onAssigned may be called before NewConsumer has its client.
func (c *KafkaConsumer) onAssigned(_ context.Context, member *kgo.Client, m map[string][]int32) {
	if ps := m[c.topic]; len(ps) > 0 {
		if c.alive.Load() == 0 {
			c.confirm(member, c.cfg.heartbeat()) // else its owner could do nothing with them before the next beat
		}
		c.post(event{kind: assigned, partitions: ps})
	}
}

func (c *KafkaConsumer) onRevoked(_ context.Context, _ *kgo.Client, m map[string][]int32) {
	c.postAndWait(revoked, m[c.topic])
}

func (c *KafkaConsumer) onLost(_ context.Context, _ *kgo.Client, m map[string][]int32) {
	c.postAndWait(lost, m[c.topic])
}

// postAndWait holds the group's callback until Poll (or Close) has told Owner.
func (c *KafkaConsumer) postAndWait(kind eventKind, partitions []int32) {
	if len(partitions) == 0 {
		return
	}
	c.held.Store(true)
	defer c.held.Store(false)
	dealt := make(chan struct{})
	c.post(event{kind: kind, partitions: partitions, dealt: dealt})
	select {
	case <-dealt:
	case <-c.ctx.Done():
	}
}

// revoke tells Owner, who still has time to commit when ctx, the poller's, ends.
func (c *KafkaConsumer) revoke(ctx context.Context, partitions []int32) {
	within := revokeTimeout
	if c.isClosed() {
		within = closingRevoke
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	c.owner.Revoke(ctx, partitions)
}

// handle deals with the events that are there.
func (c *KafkaConsumer) handle(ctx context.Context) (gone bool) {
	c.mu.Lock()
	events := c.events
	c.events = nil
	c.mu.Unlock()
	for i := range events {
		e := &events[i]
		switch e.kind {
		case assigned:
			for _, id := range e.partitions {
				c.own(id)
			}
		case revoked:
			if ps := c.giveUp(e.partitions); len(ps) > 0 {
				c.revoke(ctx, ps)
			}
			c.disown(e.partitions)
		case lost:
			ps := c.giveUp(e.partitions)
			c.disown(e.partitions)
			if len(ps) > 0 {
				c.log.Warn("partitions were lost to the group", "partitions", ps)
				c.owner.Lose(ps)
			}
		case located:
			if p := c.parts[e.part.id]; p == e.part && p.done == e.run {
				c.startReading(p, e)
			}
		case leftGroup:
			gone = true
		}
		if e.dealt != nil {
			close(e.dealt)
		}
	}
	if now := time.Now(); now.Sub(c.drained) > time.Second {
		c.drained = now
		c.drainMember()
	}
	return gone
}

// handleClosing is handle for Close: it waits for an event first.
func (c *KafkaConsumer) handleClosing(ctx context.Context) (gone bool) {
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	c.wake = cancel
	ready := len(c.events) > 0
	c.mu.Unlock()
	if !ready {
		<-wait.Done()
	}
	c.mu.Lock()
	c.wake = nil
	c.mu.Unlock()
	return c.handle(ctx)
}

// drainMember takes the errors out of the member's client; it keeps them for a reader that there is not.
func (c *KafkaConsumer) drainMember() {
	//lint:ignore SA1012 nil is franz-go's word for: do not wait
	c.member.PollFetches(nil).EachError(func(_ string, partition int32, err error) {
		var session *kgo.ErrGroupSession
		if errors.As(err, &session) {
			err = session.Err
		}
		c.log.Warn("the group's session failed", "partition", partition, "err", err)
	})
}

// own begins the ownership of a partition.
func (c *KafkaConsumer) own(id int32) {
	if c.parts[id] != nil {
		return
	}
	p := &part{id: id}
	c.mu.Lock()
	c.parts[id] = p
	c.mu.Unlock()
	c.assign(p)
}

// Restart implements Consumer.
func (c *KafkaConsumer) Restart(partition int32) {
	p := c.parts[partition]
	if p == nil {
		return
	}
	p.halt()
	c.stopReading(p)
	c.assign(p)
}

// giveUp stops everything for partitions, and returns those that Owner holds something of.
func (c *KafkaConsumer) giveUp(partitions []int32) (held []int32) {
	for _, id := range partitions {
		if p := c.parts[id]; p != nil && p.cancel != nil {
			p.cancel() // all at once, so that the waits below overlap
		}
	}
	for _, id := range partitions {
		p := c.parts[id]
		if p == nil {
			continue
		}
		p.halt()
		c.stopReading(p)
		if p.assigned.Load() {
			held = append(held, id)
		}
	}
	c.out = slices.DeleteFunc(c.out, func(b Batch) bool { return slices.Contains(partitions, b.Partition) })
	return held
}

func (c *KafkaConsumer) disown(partitions []int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range partitions {
		delete(c.parts, id)
	}
}

// beside runs f for p on a goroutine of its own, until the part is halted. f returns the offset to read from.
func (c *KafkaConsumer) beside(p *part, f func(ctx context.Context) (start int64, err error)) {
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan struct{})
	p.cancel, p.done = cancel, done
	c.wg.Go(func() {
		defer close(done)
		defer cancel()
		for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
			e, err := c.find(ctx, p, done, f)
			if err == nil {
				c.post(e)
				return
			}
			if ctx.Err() != nil {
				return
			}
			c.log.Warn("partition cannot be taken up yet", "partition", p.id, "err", err)
			if pause(ctx, wait) != nil {
				return
			}
		}
	})
}

// find asks f where to start and the log for its bounds.
func (c *KafkaConsumer) find(ctx context.Context, p *part, run chan struct{}, f func(ctx context.Context) (int64, error)) (event, error) {
	start, err := f(ctx)
	if err != nil {
		return event{}, err
	}
	first, end, err := bounds(ctx, c.reader, c.topic, p.id)
	if err != nil {
		return event{}, err
	}
	return event{kind: located, part: p, run: run, start: start, first: first, end: end}, nil
}

// assign asks Owner where to start reading p.
func (c *KafkaConsumer) assign(p *part) {
	var start int64
	var have bool // if what comes behind Assign fails, Assign is not asked twice
	c.beside(p, func(ctx context.Context) (int64, error) {
		if have {
			return start, nil
		}
		commits, err := committed(ctx, c.adm, c.group, c.topic)
		if err != nil {
			return 0, err
		}
		var commit *Commit
		if got, ok := commits[p.id]; ok {
			commit = &got
		}
		if start, err = c.owner.Assign(ctx, p.id, commit); err != nil {
			return 0, err
		}
		have = true
		p.assigned.Store(true)
		return start, nil
	})
}

// locate takes p up again at an offset, after a while.
func (c *KafkaConsumer) locate(p *part, from int64, after time.Duration) {
	p.halt()
	c.beside(p, func(ctx context.Context) (int64, error) { return from, pause(ctx, after) })
}

// startReading hands p to the reader. The first batch says at once if there is nothing to be read.
func (c *KafkaConsumer) startReading(p *part, e *event) {
	p.next = e.start
	if e.start < e.first || e.start > e.end {
		c.log.Error("the log does not hold what is to be read", "partition", p.id, "offset", e.start, "first", e.first, "end", e.end)
		c.out = append(c.out, Batch{Partition: p.id, End: e.end, Err: ErrOutOfRange})
		return
	}
	if e.start == e.end {
		c.out = append(c.out, Batch{Partition: p.id, End: e.end})
	}
	p.reading = true
	c.reader.AddConsumePartitions(map[string]map[int32]kgo.Offset{c.topic: {p.id: kgo.NewOffset().At(e.start)}})
}

// stopReading takes p from the reader, with all that was fetched of it.
func (c *KafkaConsumer) stopReading(p *part) {
	if p.reading {
		p.reading = false
		c.reader.RemoveConsumePartitions(map[string][]int32{c.topic: {p.id}})
	}
}
