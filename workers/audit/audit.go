// Package audit checks in production what the system promises. It takes a stretch of the log now and then and compares
// what became of its records: the numbers, the store, the recent cache and the dispatcher's heads. What it finds is
// counted and logged with room, seq and key; it mends nothing.
//
//	log: a stretch of a partition ──► store: a row for each record below the checkpoint, in order, no seq left out
//	                                  one room of them ──► its rows against the records, the cache against the rows,
//	                                                       the dispatcher's head against the newest row
//	     records that wait too long ──► numbered? stored?
package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
)

// Log is what an Auditor reads of the log; see journal.Log.
type Log interface {
	Bounds(ctx context.Context, partition int32) (start, end int64, err error)
	Read(ctx context.Context, partition int32, from int64, max int) ([]journal.Record, error)
}

// Store is what an Auditor reads of the store; see store.Entries.
type Store interface {
	Checkpoint(ctx context.Context, partition int32) (c contracts.Checkpoint, found bool, err error)
	Lookup(ctx context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (foundEntries, foundHeads []roomlog.Found, err error)
	Page(ctx context.Context, room contracts.RoomID, from, to contracts.Seq, limit int, newest bool) ([]contracts.Entry, error)
}

// Config of an Auditor. The zero value of a field means its default.
type Config struct {
	Names contracts.Names
	// Partitions of the log. Defaults to contracts.DefaultPartitions.
	Partitions int
	// Every is the pause between two samples. Defaults to 30 s.
	Every time.Duration
	// Records is how many records one sample takes. Defaults to 200.
	Records int
	// Late is how old a record may be that is not numbered and stored, in time by the workers' clocks. Defaults to 30 s.
	Late time.Duration
	// Again is the pause before a finding is looked at once more: only what is found twice counts, as parts of the
	// system may be moving during a sample. Defaults to 2 s.
	Again time.Duration
}

func (c *Config) setDefaults() {
	if c.Partitions == 0 {
		c.Partitions = contracts.DefaultPartitions
	}
	if c.Every == 0 {
		c.Every = 30 * time.Second
	}
	if c.Records == 0 {
		c.Records = 200
	}
	if c.Late == 0 {
		c.Late = 30 * time.Second
	}
	if c.Again == 0 {
		c.Again = 2 * time.Second
	}
}

// Deps is what an Auditor works with; all are required.
type Deps struct {
	Log        Log
	Store      Store
	Recent     recent.Cache
	Ask        rpc.Client // to the dispatchers
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Auditor takes samples while Run runs.
type Auditor struct {
	cfg     Config
	deps    Deps
	metrics *metrics
}

// New returns an Auditor that does nothing until Run.
func New(cfg Config, deps Deps) *Auditor {
	cfg.setDefaults()
	return &Auditor{cfg: cfg, deps: deps, metrics: newMetrics(deps.Registerer)}
}

// Run takes a sample of a partition chosen by chance every Config.Every, until ctx ends.
func (a *Auditor) Run(ctx context.Context) {
	for pause(ctx, a.cfg.Every/2+rand.N(a.cfg.Every)) {
		a.Sample(ctx, rand.Int32N(int32(a.cfg.Partitions)))
	}
}

// Sample checks a stretch of a partition, chosen by chance, and counts what it finds.
func (a *Auditor) Sample(ctx context.Context, partition int32) {
	findings, checked, err := a.sample(ctx, partition)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		a.metrics.samples.WithLabelValues("failed").Inc()
		a.deps.Logger.Debug("audit", "partition", partition, "err", err)
		return
	}
	a.metrics.samples.WithLabelValues("done").Inc()
	a.metrics.records.Add(float64(checked))
	for _, f := range findings {
		a.metrics.found(f)
		a.deps.Logger.Error("audit: the system breaks its promise", "what", string(f.Kind), "partition", partition,
			"offset", f.Offset, "room", f.Room, "seq", f.Seq, "key", f.Key, "detail", f.Detail)
	}
}

func (a *Auditor) sample(ctx context.Context, partition int32) (findings []Finding, checked int, err error) {
	start, end, err := a.deps.Log.Bounds(ctx, partition)
	if err != nil || start == end {
		return nil, 0, err
	}
	from := start + rand.Int64N(end-start)
	findings, checked, err = a.check(ctx, partition, from)
	if err != nil || len(findings) == 0 {
		return nil, checked, err
	}
	if !pause(ctx, a.cfg.Again) {
		return nil, 0, ctx.Err()
	}
	again, _, err := a.check(ctx, partition, from)
	if err != nil {
		return nil, 0, fmt.Errorf("look once more at %d findings: %w", len(findings), err)
	}
	twice := make(map[Finding]bool, len(findings))
	for _, f := range findings {
		f.Detail = "" // it tells of what moves
		twice[f] = true
	}
	return slices.DeleteFunc(again, func(f Finding) bool {
		f.Detail = ""
		return !twice[f]
	}), checked, nil
}

// errMoving: what is compared changed during the sample.
var errMoving = errors.New("the log's epoch changed during the sample")

// pause waits and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
