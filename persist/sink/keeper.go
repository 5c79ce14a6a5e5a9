package sink

import (
	"context"
	"errors"
	"fmt"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
)

// load reads a partition's checkpoint, checks that the log is the one it was written for, and returns a backlog that
// starts there, with the log's end. An alarmError says that the partition must stand still.
func (s *Sink) load(ctx context.Context, id int32) (b *backlog, end int64, err error) {
	c, found, err := s.deps.Store.Checkpoint(ctx, id)
	if err != nil {
		return nil, 0, fmt.Errorf("read the checkpoint of partition %d: %w", id, err)
	}
	start, end, err := s.deps.Log.Bounds(ctx, id)
	if err != nil {
		return nil, 0, fmt.Errorf("read the bounds of partition %d: %w", id, err)
	}
	if !found {
		c = contracts.Checkpoint{Partition: id, Epoch: 1, Offset: start, Sequencer: roomlog.Version}
		return newBacklog(c, true, s.cfg.Partitions), end, nil
	}
	if c.Sequencer != roomlog.Version {
		return nil, end, &alarmError{fmt.Sprintf("the checkpoint was written by numbering rules %d, this release has %d", c.Sequencer, roomlog.Version)}
	}
	if err := s.identify(ctx, c, start, end); err != nil {
		return nil, end, err
	}
	return newBacklog(c, false, s.cfg.Partitions), end, nil
}

// identify checks that the log still is the one that a checkpoint was written for: it reaches from at most C to at
// least C, and the record before C, unless it was trimmed, is the one that the checkpoint names.
func (s *Sink) identify(ctx context.Context, c contracts.Checkpoint, start, end int64) error {
	if c.Offset < start || c.Offset > end {
		return &alarmError{fmt.Sprintf("the log holds [%d, %d), the store goes on at %d: records are lost or the log was replaced", start, end, c.Offset)}
	}
	if c.Last.IsZero() || c.Offset-1 < start {
		return nil
	}
	records, err := s.deps.Log.Read(ctx, c.Partition, c.Offset-1, 1)
	if errors.Is(err, journal.ErrOutOfRange) {
		return &alarmError{fmt.Sprintf("the log within [%d, %d) does not hold record %d", start, end, c.Offset-1)}
	}
	if err != nil {
		return fmt.Errorf("read record %d of partition %d: %w", c.Offset-1, c.Partition, err)
	}
	if len(records) == 0 || records[0].Offset != c.Offset-1 || contracts.HashRecord(records[0].Value) != c.Last {
		return &alarmError{fmt.Sprintf("record %d of the log is not the one that was stored: the log was replaced", c.Offset-1)}
	}
	return nil
}

// keep compares log and store and trims the log, again and again until ctx ends.
func (s *Sink) keep(ctx context.Context) {
	for pause(ctx, s.cfg.KeepEvery) {
		s.keepOnce(ctx)
	}
}

func (s *Sink) keepOnce(ctx context.Context) {
	told, err := s.committed(ctx)
	if err != nil {
		s.log.Warn("cannot read what the dispatchers have committed, the log is not trimmed", "err", err)
	}
	for _, p := range s.snapshot() {
		st := p.status()
		if st.Alarm != "" || st.fresh {
			continue
		}
		if err := s.keepPartition(ctx, st.checkpoint, told); err != nil && ctx.Err() == nil {
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
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.deps.Log.Committed(ctx, s.cfg.Names.DispatchGroup())
}

// keepPartition checks the log's identity against a checkpoint that the store has, and then deletes the records that
// neither store nor dispatcher needs, except the newest Config.KeepRecords of them. What the dispatchers committed in
// another epoch counts for nothing.
func (s *Sink) keepPartition(ctx context.Context, c contracts.Checkpoint, told map[int32]journal.Commit) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	start, end, err := s.deps.Log.Bounds(ctx, c.Partition)
	if err != nil {
		return err
	}
	if err := s.identify(ctx, c, start, end); err != nil {
		return err
	}
	d, ok := told[c.Partition]
	if !ok || d.Epoch != c.Epoch {
		return nil
	}
	before := min(c.Offset, d.Offset) - 1 - s.cfg.KeepRecords
	if before <= start {
		return nil
	}
	if err := s.deps.Log.Trim(ctx, c.Partition, before); err != nil {
		return fmt.Errorf("trim below %d: %w", before, err)
	}
	s.metrics.trimmed.Add(float64(before - start))
	s.log.Debug("log trimmed", "partition", c.Partition, "before", before)
	return nil
}
