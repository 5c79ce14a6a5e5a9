package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
)

// load verifies a partition's checkpoint and returns a backlog that starts there, with the log's end. An alarmError says
// that the partition must stand still.
func (s *Sink) load(ctx context.Context, id int32) (b *backlog, end int64, err error) {
	c, start, end, err := s.verify(ctx, id)
	if err != nil {
		return nil, end, err
	}
	if c.Epoch == 0 {
		c = contracts.Checkpoint{Partition: id, Epoch: 1, Offset: start, Sequencer: roomlog.Version}
		return newBacklog(c, true, s.cfg.Partitions), end, nil
	}
	return newBacklog(c, false, s.cfg.Partitions), end, nil
}

// verify reads a partition's checkpoint, of epoch 0 where there is none, and checks that the log is the one it was
// written for. With an alarmError c, start and end are told as well.
func (s *Sink) verify(ctx context.Context, id int32) (c contracts.Checkpoint, start, end int64, err error) {
	c, found, err := s.deps.Store.Checkpoint(ctx, id)
	if err != nil {
		return c, 0, 0, fmt.Errorf("read the checkpoint of partition %d: %w", id, err)
	}
	start, end, err = s.deps.Log.Bounds(ctx, id)
	switch {
	case err != nil:
		return c, 0, 0, fmt.Errorf("read the bounds of partition %d: %w", id, err)
	case !found:
		return contracts.Checkpoint{}, start, end, nil
	case c.Sequencer != roomlog.Version:
		return c, start, end, &alarmError{why: whyVersion, reason: fmt.Sprintf("the checkpoint was written by numbering rules %d, this release has %d", c.Sequencer, roomlog.Version)}
	}
	return c, start, end, s.identify(ctx, c, start, end)
}

// identify checks that the log still is the one that a checkpoint was written for: it reaches from at most C to at
// least C, and the record before C, unless it was trimmed, is the one that the checkpoint names.
func (s *Sink) identify(ctx context.Context, c contracts.Checkpoint, start, end int64) error {
	lost := func(format string, args ...any) error {
		return &alarmError{why: whyLost, lost: true, reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case c.Offset < start && !s.cfg.AcceptLoss:
		return &alarmError{why: whyTrimmed, reason: fmt.Sprintf("the log begins at %d, the store goes on at %d: somebody deleted records that were not stored", start, c.Offset)}
	case c.Offset < start || c.Offset > end:
		return lost("the log holds [%d, %d), the store goes on at %d: records are lost or the log was replaced", start, end, c.Offset)
	case c.Last.IsZero() || c.Offset-1 < start:
		return nil
	}
	records, err := s.deps.Log.Read(ctx, c.Partition, c.Offset-1, 1)
	switch {
	case errors.Is(err, journal.ErrOutOfRange):
		return lost("the log within [%d, %d) does not hold record %d", start, end, c.Offset-1)
	case err != nil:
		return fmt.Errorf("read record %d of partition %d: %w", c.Offset-1, c.Partition, err)
	case len(records) == 0 || records[0].Offset != c.Offset-1 || contracts.HashRecord(records[0].Value) != c.Last:
		return lost("record %d of the log is not the one that was stored: the log was replaced", c.Offset-1)
	}
	return nil
}

// trimEvery is how often a log that grows fast is trimmed.
const trimEvery = 5 * time.Second

// keep compares log and store and trims the log, again and again until ctx ends: every Config.KeepEvery, and in between the
// partitions from which more may go than stays. At full speed a minute's records would be most of the log's size limit.
func (s *Sink) keep(ctx context.Context) {
	last := time.Now()
	for pause(ctx, min(s.cfg.KeepEvery, trimEvery)) {
		if all := time.Since(last) >= s.cfg.KeepEvery; all {
			last = time.Now()
			s.keepOnce(ctx, true)
		} else if slices.ContainsFunc(s.snapshot(), func(p *partition) bool { return s.spare(p, p.status().Stored) }) {
			s.keepOnce(ctx, false)
		}
	}
}

// spare reports whether more than Config.KeepRecords may be trimmed, below that a record is needed.
func (s *Sink) spare(p *partition, needed int64) bool { return needed-p.start > 2*s.cfg.KeepRecords }

func (s *Sink) keepOnce(ctx context.Context, all bool) {
	told, err := s.committed(ctx)
	if err != nil && !all {
		return
	}
	if err != nil {
		s.log.Warn("cannot read what the dispatchers have committed, the log is not trimmed", "err", err)
	}
	for _, p := range s.snapshot() {
		st := p.status()
		if st.Alarm != "" || st.fresh || !all && !s.spare(p, min(st.Stored, told[p.id].Offset)) {
			continue
		}
		if err := s.keepPartition(ctx, p, told); err != nil && ctx.Err() == nil {
			var a *alarmError
			if errors.As(err, &a) {
				p.condemn(a)
				continue
			}
			s.log.Warn("cannot compare log and store", "partition", p.id, "err", err)
		}
	}
}

func (s *Sink) committed(ctx context.Context) (map[int32]journal.Commit, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	return s.deps.Log.Committed(ctx, s.cfg.Names.DispatchGroup())
}

// keepPartition checks the log's identity, and then deletes the records that neither store nor dispatcher needs, except
// the newest Config.KeepRecords of them. What the dispatchers committed in another epoch counts for nothing; in this one
// it is never beyond the log's end, unless records that were told are lost.
func (s *Sink) keepPartition(ctx context.Context, p *partition, told map[int32]journal.Commit) error {
	id := p.id
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	c, start, end, err := s.verify(ctx, id)
	if err != nil {
		return err
	}
	p.start = start
	d, ok := told[id]
	if !ok || d.Epoch != c.Epoch {
		return nil
	}
	if d.Offset > end {
		return &alarmError{why: whyLost, lost: true, certain: true, reason: fmt.Sprintf("the log ends at %d, and the dispatchers have read more of it: records are lost or the log was replaced", end)}
	}
	before := min(c.Offset, d.Offset) - 1 - s.cfg.KeepRecords
	if before <= start {
		return nil
	}
	if err := s.deps.Log.Trim(ctx, id, before); err != nil {
		return fmt.Errorf("trim below %d: %w", before, err)
	}
	p.start = before
	s.metrics.trimmed.Add(float64(before - start))
	s.log.Debug("log trimmed", "partition", id, "before", before)
	return nil
}
