package sink

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/journal"
)

var _ journal.Owner = (*Sink)(nil)

// Assign implements journal.Owner: a partition starts from the store's checkpoint, whatever the group has committed.
func (s *Sink) Assign(ctx context.Context, id int32, _ *journal.Commit) (start int64, err error) {
	s.Lose([]int32{id}) // an earlier assignment that was not taken back
	s.attempt(id, errors.New("being taken over"))
	p := newPartition(s, id)
	b, end, err := s.load(ctx, id)
	var a *alarmError
	if err != nil && !errors.As(err, &a) && ctx.Err() == nil {
		s.attempt(id, err)
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.attempts, id) // also where it goes elsewhere meanwhile: it is nothing that this persister lacks
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	s.owned[id] = p
	s.assigned = true
	if a != nil { // it stands still where nothing is read in vain
		go p.stand(a)
		return end, nil
	}
	p.begin(b, end)
	go p.run()
	return b.checkpoint.Offset, nil
}

// stand is run for a partition that cannot be taken over as it is.
func (p *partition) stand(a *alarmError) {
	defer close(p.done)
	defer p.cancel()
	if a.lost {
		p.mend(a, 0, -1)
		return
	}
	p.alarm(a)
}

// attempt notes why a partition is not taken over yet.
func (s *Sink) attempt(id int32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts[id] = attempt{err: err, at: time.Now()}
}

// attempt is a partition whose Assign did not succeed yet. One that is not tried again went to somebody else.
type attempt struct {
	err error
	at  time.Time
}

// Revoke implements journal.Owner: the partitions write what is decided, within the time for it, and the group learns
// how far they came.
func (s *Sink) Revoke(ctx context.Context, ids []int32) {
	gone := s.remove(ids)
	flushCtx, cancel := context.WithTimeout(ctx, s.cfg.FlushTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, p := range gone {
		wg.Go(func() { p.drain(flushCtx) })
	}
	wg.Wait()
	commits := make(map[int32]journal.Commit)
	for _, p := range gone {
		if c := p.status().commit(); c.Offset > 0 {
			commits[p.id] = c
		}
	}
	s.mu.Lock()
	consumer := s.consumer
	s.mu.Unlock()
	if consumer == nil || len(commits) == 0 {
		return
	}
	if err := consumer.Commit(ctx, commits); err != nil {
		s.log.Debug("group commit failed", "err", err)
	}
}

// Lose implements journal.Owner: the partitions stop at once. A write under way is harmless: it stores what the new
// owner stores as well, and moves the checkpoint only if that has not.
func (s *Sink) Lose(ids []int32) {
	for _, p := range s.remove(ids) {
		p.stop()
	}
}

func (s *Sink) remove(ids []int32) []*partition {
	s.mu.Lock()
	defer s.mu.Unlock()
	var gone []*partition
	for _, id := range ids {
		if p := s.owned[id]; p != nil {
			delete(s.owned, id)
			gone = append(gone, p)
		}
	}
	return gone
}

func (s *Sink) partition(id int32) *partition {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owned[id]
}

func (s *Sink) partitions() []int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.owned))
}

// snapshot returns the owned partitions, ascending.
func (s *Sink) snapshot() []*partition {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.owned), func(a, b *partition) int { return cmp.Compare(a.id, b.id) })
}
