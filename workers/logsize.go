package workers

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
)

const (
	logLookEvery   = 2 * time.Second // what is written between two looks may come on top of the limit
	logLookTimeout = 5 * time.Second
	logBlind       = 30 * time.Second // without a measure, before sends are taken whatever the last one was

	// leastRecord is taken for a record's size before one was written; close to the least that there is, as too large a
	// guess would refuse the sends from which the true size is learned.
	leastRecord = 256
	// recordFrame is about what a record takes in the log beside its value.
	recordFrame = 16
	// meanOver is over how many of the newest records, about, the mean size is taken.
	meanOver = 100_000
)

var errLogAtLimit = contracts.NewError(contracts.CodeOverloaded, "the log is at its size limit; it takes more once its messages are stored").After(5 * time.Second)

// Extents is what a worker asks of the log where Config.LogBytes is set; see journal.Log.
type Extents interface {
	Extents(ctx context.Context) ([]journal.Extent, error)
}

// logSize watches how much of the log waits to be trimmed. Kafka is asked for offsets and not for bytes: it frees those of a
// segment long after its records were deleted, and then the room would not be seen. What the persister leaves of each
// partition anyway does not count, so that sends always go on once it has caught up, whatever the mean size is taken for.
type logSize struct {
	limit, keep int64
	extents     Extents
	log         *slog.Logger

	records, bytes atomic.Int64 // written lately, for the mean
	held           atomic.Int64 // bytes at the last look
	full           atomic.Bool

	// Owned by watch.
	since time.Time // when it became full
	blind time.Time // since when it could not be measured
}

// wrote notes the size of a record.
func (s *logSize) wrote(bytes int) {
	s.records.Add(1)
	s.bytes.Add(int64(bytes) + recordFrame)
}

// watch looks until ctx ends.
func (s *logSize) watch(ctx context.Context) {
	tick := time.NewTicker(logLookEvery)
	defer tick.Stop()
	for {
		s.look(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look measures. A log that does not answer leaves things as they are, for a while: one partition without a leader is enough
// for that, and the others may have been trimmed.
func (s *logSize) look(ctx context.Context) {
	lookCtx, cancel := context.WithTimeout(ctx, logLookTimeout)
	defer cancel()
	all, err := s.extents.Extents(lookCtx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		if s.blind.IsZero() {
			s.blind = time.Now()
		}
		if time.Since(s.blind) >= logBlind && s.full.Swap(false) {
			s.log.Warn("the log cannot be measured, sends are taken again", "err", err)
		}
		return
	}
	s.blind = time.Time{}
	var waiting int64
	for _, e := range all {
		waiting += max(0, e.End-e.Start-s.keep)
	}
	held := waiting * s.mean()
	s.held.Store(held)
	full := held >= s.limit
	switch was := s.full.Swap(full); {
	case full && !was:
		s.since = time.Now()
		s.log.Warn("the log is at its size limit, sends are refused: is the persister running, and the store?", "bytes", held, "limit_bytes", s.limit, "records", waiting)
	case was && !full:
		s.log.Info("the log was trimmed, sends are taken again", "bytes", held, "limit_bytes", s.limit, "after", time.Since(s.since))
	}
}

// mean is the mean size of the records written lately, and makes those before them count less.
func (s *logSize) mean() int64 {
	n, bytes := s.records.Load(), s.bytes.Load()
	if n == 0 {
		return leastRecord
	}
	if n > meanOver {
		s.records.Add(-n / 2)
		s.bytes.Add(-bytes / 2)
	}
	return bytes / n
}

// state is what operators are told.
func (s *logSize) state() string {
	const mib = 1 << 20
	text := fmt.Sprintf("%.1f of %.1f MiB", float64(s.held.Load())/mib, float64(s.limit)/mib)
	if s.full.Load() {
		text += ": sends are refused"
	}
	return text
}
