package dispatch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
)

// serviceVersion shows in `nats micro ls`.
const serviceVersion = "1.0.0"

// alarmError is something wrong with a partition that waiting alone does not mend.
type alarmError struct {
	kind string // for the metric
	err  error
}

func (e *alarmError) Error() string { return e.err.Error() }
func (e *alarmError) Unwrap() error { return e.err }

// owner is what the consumer group tells of its decisions.
type owner struct{ d *Dispatcher }

var _ journal.Owner = owner{}

// Assign implements journal.Owner: the partition starts at min(C, D) and answers questions from now on.
func (o owner) Assign(ctx context.Context, id int32, committed *journal.Commit) (start int64, err error) {
	d := o.d
	var old func() error
	if !d.call(func() {
		if p := d.partitions[id]; p != nil {
			d.remove(p)
			old = p.stop
		}
		if _, failed := d.attempts[id]; !failed {
			d.attempts[id] = attempt{err: errors.New("being taken over"), at: time.Now()}
		}
	}) {
		return 0, errNotRunning
	}
	d.stop(old)
	p, err := d.load(ctx, id, committed)
	if err != nil {
		d.call(func() { d.notTaken(ctx, id, err) })
		return 0, err
	}
	d.call(func() {
		delete(d.lost, id)
		d.add(p)
	})
	stop, err := d.deps.Server.Serve(rpc.Service{
		Name:    d.cfg.Names.Service("dispatch"),
		Version: serviceVersion,
		Endpoints: []rpc.Endpoint{{
			Name:    fmt.Sprintf("partition-%d", id),
			Subject: d.cfg.Names.Dispatch(id),
			Handler: d.handler(id),
		}},
	})
	if err != nil {
		err = fmt.Errorf("serve the questions for partition %d: %w", id, err)
		d.call(func() {
			d.remove(p)
			d.notTaken(ctx, id, err)
		})
		return 0, err
	}
	kept, all := false, 0
	d.call(func() {
		if kept = !p.gone; kept {
			p.stop = stop
			d.assigned = true
			delete(d.attempts, id)
			if len(d.attempts) == 0 {
				all = len(d.partitions)
			}
		}
	})
	if !kept {
		d.stop(stop)
		return 0, fmt.Errorf("partition %d was let go again at once", id)
	}
	d.log.Debug("partition taken over", "partition", id, "epoch", p.epoch, "from", p.from, "publish_from", p.publishFrom, "end", p.goal)
	if all > 0 {
		d.log.Info("partitions taken over", "partitions", all)
	}
	return p.from, nil
}

// Revoke implements journal.Owner.
func (o owner) Revoke(ctx context.Context, ids []int32) {
	d := o.d
	d.commits.Wait() // an earlier one must not come behind the last, nor when somebody else has the partition
	commits := make(map[int32]journal.Commit)
	var stops []func() error
	d.call(func() {
		for _, id := range ids {
			if p := d.partitions[id]; p != nil && p.epochDue == 0 {
				commits[id] = journal.Commit{Offset: p.told(), Epoch: p.epoch}
			}
		}
		stops = d.giveUp(ids)
	})
	// Both at once: NATS and Kafka may be slow or away together, and whoever is asked to stop has little time.
	var stopping sync.WaitGroup
	defer stopping.Wait()
	stopping.Go(func() { d.stop(stops...) })
	if c := d.consumer.Load(); c != nil && len(commits) > 0 {
		if err := (*c).Commit(ctx, commits); err != nil {
			d.log.Warn("last commit failed: the next owner repeats what was told", "err", err)
		}
	}
}

// Lose implements journal.Owner.
func (o owner) Lose(ids []int32) {
	d := o.d
	d.commits.Wait()
	var stops []func() error
	d.call(func() { stops = d.giveUp(ids) })
	d.stop(stops...)
}

// load reads what the store and the log say about a partition, and checks that they belong together.
func (d *Dispatcher) load(ctx context.Context, id int32, committed *journal.Commit) (*partition, error) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.StoreTimeout)
	defer cancel()
	c, found, err := d.deps.Store.Checkpoint(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read the checkpoint of partition %d: %w", id, err)
	}
	start, end, err := d.deps.Log.Bounds(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read the bounds of partition %d: %w", id, err)
	}
	if !found {
		c = contracts.Checkpoint{Partition: id, Epoch: 1, Offset: start, Sequencer: roomlog.Version}
	}
	if c.Sequencer != roomlog.Version {
		return nil, &alarmError{alarmVersion, fmt.Errorf("the checkpoint was written by numbering rules %d, this release has %d", c.Sequencer, roomlog.Version)}
	}
	if err := d.identify(ctx, c, start, end); err != nil {
		return nil, err
	}
	told := start
	known := c.Epoch == 1 || committed != nil && committed.Epoch == c.Epoch
	if committed != nil && committed.Epoch == c.Epoch {
		if committed.Offset > end {
			return nil, gone(end)
		}
		if untold := start - committed.Offset; untold > 0 {
			d.metrics.untold.Add(float64(untold))
			d.log.Error("somebody deleted records of the log that were stored and not told: their rooms learn it with their next message",
				"partition", id, "from", committed.Offset, "records", untold)
		}
		told = max(told, committed.Offset)
	}
	var lost bool
	d.call(func() {
		was := d.lost[id]
		if lost = was.epoch == c.Epoch && was.next >= start; lost {
			was.told = true
			d.lost[id] = was
		}
	})
	if lost {
		return nil, gone(end)
	}
	return d.newPartition(c, min(c.Offset, told), told, end, known), nil
}

// gone is the alarm that records which were told are lost. The numbers of this epoch are used up then, and the partition
// waits for the persister to begin the next.
func gone(end int64) error {
	return &alarmError{alarmIdentity, fmt.Errorf("the log ends at %d, and more of it was told: records are lost or the log was replaced", end)}
}

// loss is where a partition could not be read on, and in which epoch.
type loss struct {
	epoch contracts.Epoch
	next  int64
	told  bool // to be committed: it was not just trimmed under a late reader
}

// lostOffset is committed as D where records above C are lost that were told. It is beyond the end of any log, by which
// the persister, which may have read none of them, learns of it.
const lostOffset = 1 << 62

// identify checks that the log is the one that the checkpoint was written for.
func (d *Dispatcher) identify(ctx context.Context, c contracts.Checkpoint, start, end int64) error {
	if c.Offset < start || c.Offset > end {
		return &alarmError{alarmIdentity, fmt.Errorf("the log holds [%d, %d), the store goes on at %d: records are lost or the log was replaced", start, end, c.Offset)}
	}
	before := c.Offset - 1
	if c.Last.IsZero() || before < start {
		return nil
	}
	records, err := d.deps.Log.Read(ctx, c.Partition, before, 1)
	if err != nil && !errors.Is(err, journal.ErrOutOfRange) {
		return fmt.Errorf("read record %d of partition %d: %w", before, c.Partition, err)
	}
	if len(records) == 0 || records[0].Offset != before || contracts.HashRecord(records[0].Value) != c.Last {
		return &alarmError{alarmIdentity, fmt.Errorf("record %d of the log is not the one that was stored: the log was replaced", before)}
	}
	return nil
}

// notTaken notes why a partition is not taken over. The same alarm is raised once.
func (d *Dispatcher) notTaken(ctx context.Context, id int32, err error) {
	if ctx.Err() != nil {
		delete(d.attempts, id)
		return
	}
	var a *alarmError
	if errors.As(err, &a) && d.attempts[id].err.Error() != err.Error() {
		d.alarm(id, a.kind, a.err)
	}
	d.attempts[id] = attempt{err: err, at: time.Now()}
}

func (d *Dispatcher) alarm(id int32, kind string, err error) {
	d.metrics.alarms.WithLabelValues(kind).Inc()
	d.log.Error("partition stopped", "partition", id, "err", err)
}

// add begins the ownership of p.
func (d *Dispatcher) add(p *partition) {
	p.ctx, p.cancel = context.WithCancel(d.bg)
	p.began = time.Now()
	d.partitions[p.id] = p
	for _, id := range d.adopted[p.id] {
		p.adopt[id] = struct{}{}
		p.seq.Want(id)
	}
	delete(d.adopted, p.id)
	d.advance(p)
}

// remove ends the ownership of p. What runs for it is told to end, and its reports are not heard any more.
func (d *Dispatcher) remove(p *partition) {
	p.gone = true
	p.cancel()
	delete(d.partitions, p.id)
	d.ring.bytes -= p.bytes
	d.ring.forget()
	d.waitingBytes -= p.waitingBytes
	for _, r := range p.rooms {
		if r.waiting > 0 {
			d.waitingRooms--
		}
	}
	for a := range d.parked {
		if a.partition == p.id {
			delete(d.parked, a)
			d.refuse(a, resultUnavailable)
		}
	}
}

// giveUp ends the ownership of partitions and returns what stops their services.
func (d *Dispatcher) giveUp(ids []int32) (stops []func() error) {
	for _, id := range ids {
		if p := d.partitions[id]; p != nil {
			d.remove(p)
			stops = append(stops, p.stop)
		}
		for i := range d.restarts {
			if d.restarts[i].id == id {
				stops = append(stops, d.restarts[i].stop)
				d.restarts = append(d.restarts[:i], d.restarts[i+1:]...)
				break
			}
		}
		delete(d.attempts, id)
		delete(d.adopted, id)
		delete(d.lost, id)
	}
	return stops
}

// takeAnew stops answering for p at once and has the poller take it over from scratch. Its rooms learn the new epoch.
func (d *Dispatcher) takeAnew(p *partition, kind string, err error) {
	d.alarm(p.id, kind, err)
	if kind == alarmOutOfRange {
		d.lost[p.id] = loss{epoch: p.epoch, next: p.seq.Next()}
	}
	ids := make([]contracts.RoomID, 0, len(p.rooms)+len(p.adopt))
	for id := range p.rooms {
		ids = append(ids, id)
	}
	for id := range p.adopt {
		ids = append(ids, id)
	}
	d.adopted[p.id] = ids
	d.attempts[p.id] = attempt{err: err, at: time.Now()}
	d.remove(p)
	d.restarts = append(d.restarts, restart{id: p.id, stop: p.stop, due: p.began.Add(restartAfter)})
}

// stop ends services, all at once: each costs a round trip.
func (d *Dispatcher) stop(stops ...func() error) {
	var wg sync.WaitGroup
	for _, stop := range stops {
		if stop == nil {
			continue
		}
		wg.Go(func() {
			if err := stop(); err != nil {
				d.log.Warn("stopping a service failed", "err", err)
			}
		})
	}
	wg.Wait()
}
