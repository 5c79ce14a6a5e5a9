package sink

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

// errNotAlive: the group may have given the partitions to somebody else, so nothing is written until it confirms.
var errNotAlive = errors.New("the group has not confirmed this persister for a session timeout")

// alive reports whether the group confirmed this persister within a session timeout. Together with the bound on each call
// it bounds when an earlier owner's last write can arrive; see Config.RaiseAfter.
func (s *Sink) alive() bool {
	s.mu.Lock()
	c := s.consumer
	s.mu.Unlock()
	return c != nil && time.Since(c.Alive()) < s.cfg.SessionTimeout
}

// mend begins a new epoch, after the time in which writes of earlier owners may still arrive, and has the partition taken
// over anew. seen is the epoch in which a was found, read the offset below which everything had been in the log, -1 where only the
// checkpoint tells.
func (p *partition) mend(a *alarmError, seen contracts.Epoch, read int64) {
	p.backlog = nil
	p.alarm(a)
	for wait := p.sink.cfg.RaiseAfter; p.rest(wait); wait = firstBackoff {
		err := p.sink.persistently(p.ctx, "raise", func(ctx context.Context) error { return p.sink.raise(ctx, p.id, seen, read) })
		var final *alarmError
		switch {
		case err == nil:
			p.sink.again(p.id)
			return
		case errors.As(err, &final):
			p.alarm(final)
			return
		case !errors.Is(err, store.ErrConflict):
			return // ctx has ended
		}
	}
}

// raise writes the first checkpoint of a new epoch, if the log does not belong to the store's, or ends before what was
// read of it. What is stored keeps its numbers: records that come again are found by their keys, and seqs go on from the
// newest rows. So K must cover the keys of all rows there are, also of those above C, which a persister stored that died
// before it moved C. ErrConflict: the checkpoint has changed meanwhile, so everything is to be read again.
func (s *Sink) raise(ctx context.Context, id int32, seen contracts.Epoch, read int64) error {
	c, start, end, err := s.verify(ctx, id)
	var a *alarmError
	switch {
	case errors.As(err, &a) && a.lost:
	case err != nil:
		return err
	case c.Epoch != seen || read < start || c.Epoch == 0:
		return nil // mended by somebody else, or gone because it was stored and trimmed, or nothing was ever stored
	}
	above, err := s.deps.Store.Above(ctx, id, c.Position())
	if err != nil {
		return err
	}
	next := contracts.Checkpoint{Partition: id, Epoch: c.Epoch + 1, Offset: start, KeyTime: c.KeyTime, Sequencer: roomlog.Version}
	for i := range above {
		next.KeyTime = max(next.KeyTime, above[i].Key.Time())
	}
	holes, err := s.holes(ctx, c, above)
	if err != nil {
		return err
	}
	if err := s.deps.Store.Append(ctx, holes, c, next); err != nil {
		return fmt.Errorf("raise the epoch of partition %d: %w", id, err)
	}
	s.metrics.raised.Inc()
	s.log.Error("epoch raised: the log lost records or was replaced", "partition", id, "epoch", next.Epoch,
		"stored_to", c.Offset, "log_start", start, "log_end", end, "rows_above", len(above), "numbers_lost", len(holes))
	return nil
}

// holes returns tombstones for the seqs that lack between a checkpoint and the rows above it: a bulk was stored in part,
// and the log that had the rest is gone. Without them every read of the room across such a seq would fail for good.
func (s *Sink) holes(ctx context.Context, c contracts.Checkpoint, above []store.Entry) (stones []store.Entry, err error) {
	rows := make(map[contracts.RoomID][]*store.Entry)
	for i := range above {
		rows[above[i].Room] = append(rows[above[i].Room], &above[i])
	}
	var heads []roomlog.HeadQuery
	for room := range rows {
		heads = append(heads, roomlog.HeadQuery{Room: room, Before: c.Position()})
	}
	if len(heads) == 0 {
		return nil, nil
	}
	_, found, err := s.deps.Store.Lookup(ctx, nil, heads)
	if err != nil {
		return nil, err
	}
	for i, q := range heads {
		have := rows[q.Room]
		slices.SortFunc(have, func(a, b *store.Entry) int { return cmp.Compare(a.Seq, b.Seq) })
		seq := found[i].Seq
		for _, e := range have {
			for seq++; seq < e.Seq; seq++ {
				stones = append(stones, lostEntry(q.Room, seq, e.Position()))
			}
		}
	}
	return stones, nil
}

// lostSender is whom a lost entry is from. Its keys are too old for anybody who has this id to use them.
const lostSender = "_"

// lostEntry is a tombstone in place of an entry that was numbered and is lost. Its key follows from its seq, so that it is
// the same whoever makes it, and its time is older than any client's.
func lostEntry(room contracts.RoomID, seq contracts.Seq, at contracts.Position) store.Entry {
	var k contracts.Key
	k[6], k[8] = 0x70, 0x80
	binary.BigEndian.PutUint32(k[12:], uint32(seq))
	binary.BigEndian.PutUint16(k[10:], uint16(seq>>32))
	return store.Entry{
		Record: contracts.Record{Kind: contracts.KindMessage, Room: room, From: contracts.Person{ID: lostSender, Name: lostSender}, Key: k},
		Seq:    seq, Epoch: at.Epoch, Offset: at.Offset,
	}
}

// again has the poller take a partition over anew.
func (s *Sink) again(id int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restarts = append(s.restarts, id)
}

// takeRestarts returns the owned partitions that are to be taken over anew, once.
func (s *Sink) takeRestarts() (ids []int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.restarts {
		if s.owned[id] != nil {
			ids = append(ids, id)
		}
	}
	s.restarts = nil
	return ids
}
