package workers

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/planted"
)

// cacheTimeout bounds a look into the cache, which is only worth it while it is fast.
const cacheTimeout = 300 * time.Millisecond

// chunk is how many entries are read at once where as many are wanted as fit.
const chunk = 200

// span is the entries from … to of a room, numbered in an epoch of its partition.
type span struct {
	room     contracts.RoomID
	epoch    contracts.Epoch
	from, to contracts.Seq
}

// read returns every entry of s in order, or an error; it never returns less. floor is the lowest seq that the
// dispatcher said to have, 0 where it was not asked. What is not in the cache as a whole comes from the dispatcher,
// and below the dispatcher's floor from the store, in this order, as the floor only rises and everything below it is
// in the store. Equal reads at the same time are done once.
func (w *Worker) read(ctx context.Context, s span, floor contracts.Seq) ([]contracts.NumberedJSON, error) {
	if s.from > s.to {
		return nil, nil
	}
	return w.flights.do(ctx, s, func() ([]contracts.NumberedJSON, error) {
		entries, err := w.readAnywhere(ctx, s, floor)
		w.hide(entries)
		return entries, err
	})
}

// hide makes tombstones of entries that are older than Config.Retain: the cache and the dispatcher have them for longer than
// the store.
func (w *Worker) hide(entries []contracts.NumberedJSON) {
	if w.cfg.Retain <= 0 {
		return
	}
	then := time.Now().Add(-w.cfg.Retain).UnixMilli()
	for i := range entries {
		entries[i].JSON = contracts.HideEntry(entries[i].JSON, then)
	}
}

// readAnywhere is read, for one caller.
func (w *Worker) readAnywhere(ctx context.Context, s span, floor contracts.Seq) ([]contracts.NumberedJSON, error) {
	if entries := w.readCache(ctx, s); entries != nil {
		return entries, nil
	}
	lower := s
	var upper []contracts.NumberedJSON
	if floor <= s.to {
		want := s
		want.from = max(s.from, floor)
		var err error
		if upper, err = w.readDispatcher(ctx, want); err != nil {
			return nil, err
		}
		if len(upper) > 0 {
			lower.to = upper[0].Seq - 1
		}
	}
	if lower.from > lower.to {
		return upper, nil
	}
	entries, err := w.readStore(ctx, lower)
	if err != nil {
		return nil, err
	}
	return append(entries, upper...), nil
}

// readCache returns all of s or nil.
func (w *Worker) readCache(ctx context.Context, s span) []contracts.NumberedJSON {
	ctx, cancel := context.WithTimeout(ctx, cacheTimeout)
	defer cancel()
	found, err := w.deps.Recent.Read(ctx, []recent.Query{{Room: s.room, Epoch: s.epoch, From: s.from, To: s.to}})
	if planted.On(planted.StaleCache) && err == nil && found[0] == nil && s.from < s.to {
		s.to--
		return w.readCache(ctx, s)
	}
	if err != nil {
		w.metrics.cacheErrors.Inc()
	}
	if err != nil || len(found) != 1 || !covers(found[0], s.from, s.to) {
		return nil
	}
	return found[0]
}

// readDispatcher returns the entries of s that the dispatcher has: the upper end of s, or nothing where all of it is
// below its floor.
func (w *Worker) readDispatcher(ctx context.Context, s span) ([]contracts.NumberedJSON, error) {
	var entries []contracts.NumberedJSON
	for from := s.from; from <= s.to; {
		reply, err := w.askNow(ctx, w.partition(s.room), contracts.Question{
			Room: s.room,
			Read: &contracts.Range{Epoch: s.epoch, From: from, To: s.to},
		})
		switch {
		case err != nil:
			return nil, err
		case reply.Epoch != s.epoch:
			return nil, fmt.Errorf("read room %s: epoch %d became %d: %w", s.room, s.epoch, reply.Epoch, errAgain)
		case len(reply.Entries) == 0 && len(entries) == 0 && reply.Floor > s.to:
			return nil, nil
		case len(reply.Entries) == 0:
			return nil, fmt.Errorf("read room %s: dispatcher has no entry %d: %w", s.room, from, errAgain)
		}
		first, last := reply.Entries[0].Seq, reply.Entries[len(reply.Entries)-1].Seq
		if first < from || last > s.to || len(entries) > 0 && first != from || !covers(reply.Entries, first, last) {
			return nil, fmt.Errorf("read room %s: dispatcher's entries %d to %d have a hole: %w", s.room, first, last, errAgain)
		}
		entries = append(entries, reply.Entries...)
		from = last + 1
	}
	return entries, nil
}

// readStore returns all of s from the store.
func (w *Worker) readStore(ctx context.Context, s span) ([]contracts.NumberedJSON, error) {
	rows, err := w.deps.Store.Page(ctx, s.room, s.from, s.to, int(s.to-s.from)+1, false)
	if err != nil {
		return nil, fmt.Errorf("read room %s from the store: %w", s.room, err)
	}
	entries := make([]contracts.NumberedJSON, len(rows))
	for i := range rows {
		entries[i] = contracts.NumberedJSON{Seq: rows[i].Seq, JSON: contracts.AppendEntry(nil, &rows[i])}
	}
	if !covers(entries, s.from, s.to) {
		return nil, fmt.Errorf("read room %s: the store lacks some of %d to %d: %w", s.room, s.from, s.to, errAgain)
	}
	return entries, nil
}

// covers reports whether entries are from … to without a hole.
func covers(entries []contracts.NumberedJSON, from, to contracts.Seq) bool {
	if uint64(len(entries)) != uint64(to-from)+1 {
		return false
	}
	for i := range entries {
		if entries[i].Seq != from+contracts.Seq(i) || len(entries[i].JSON) == 0 {
			return false
		}
	}
	return true
}

// readOldest returns the oldest entries of s, as many as fit budget bytes and at least one. Its chunks end at the
// same places whoever reads, so that many who resume at once share them. After an error it returns what it has, and
// the error only if that is nothing.
func (w *Worker) readOldest(ctx context.Context, s span, floor contracts.Seq, budget int) ([]contracts.NumberedJSON, error) {
	var entries []contracts.NumberedJSON
	for from := s.from; from <= s.to; {
		part := s
		part.from = from
		part.to = min(s.to, (from+chunk-1)/chunk*chunk)
		got, err := w.read(ctx, part, floor)
		if err != nil {
			if len(entries) > 0 {
				return entries, nil
			}
			return nil, err
		}
		fits := fit(got, &budget, len(entries) == 0)
		entries = append(entries, got[:fits]...)
		if fits < len(got) {
			break
		}
		from = part.to + 1
	}
	return entries, nil
}

// readNewest returns the newest entries of s, as many as fit budget bytes and at least one.
func (w *Worker) readNewest(ctx context.Context, s span, floor contracts.Seq, budget int) ([]contracts.NumberedJSON, error) {
	entries, err := w.read(ctx, s, floor)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	entries = slices.Clone(entries)
	slices.Reverse(entries)
	entries = entries[:fit(entries, &budget, true)]
	slices.Reverse(entries)
	return entries, nil
}

// fit returns how many of the first entries fit budget, and takes them off it. With one, the first fits anyway.
func fit(entries []contracts.NumberedJSON, budget *int, one bool) int {
	for i := range entries {
		size := len(entries[i].JSON) + 1
		if size > *budget && !(one && i == 0) {
			return i
		}
		*budget -= size
	}
	return len(entries)
}

// flights lets equal reads at the same time be done once. Entries never change, so an answer is right for everybody
// who waits for it, whenever they came.
type flights struct {
	mu  sync.Mutex
	all map[span]*flight // guarded by mu
}

// flight is written before done is closed and read after.
type flight struct {
	done    chan struct{}
	entries []contracts.NumberedJSON
	err     error
}

func newFlights() *flights { return &flights{all: make(map[span]*flight)} }

// do returns what read returns, for this caller or for another one that asked for the same. An error is shared too: it
// may only say that the other one's time ran out, so callers with time left try again. So is the result: it must not be changed.
func (f *flights) do(ctx context.Context, s span, read func() ([]contracts.NumberedJSON, error)) ([]contracts.NumberedJSON, error) {
	f.mu.Lock()
	fl, under := f.all[s]
	if !under {
		fl = &flight{done: make(chan struct{}), err: errUnavailable}
		f.all[s] = fl
	}
	f.mu.Unlock()
	if !under {
		defer func() {
			f.mu.Lock()
			delete(f.all, s)
			f.mu.Unlock()
			close(fl.done)
		}()
		fl.entries, fl.err = read()
		return slices.Clip(fl.entries), fl.err
	}
	select {
	case <-fl.done:
		return slices.Clip(fl.entries), fl.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
