// Package path measures what lies behind the edges: the log's hop to the rooms' lanes, the persister, and pages of
// history. What the libraries do without Parley is measured in the same run, as a yardstick.
package path

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/ops"
	"github.com/parley-chat/parley/deploy/wire"
	"github.com/parley-chat/parley/persist/store"
	"github.com/parley-chat/parley/workers/dispatch"
)

// Config is how much is measured.
type Config struct {
	// Warmup and Duration are the times before and while Hop measures, at Rate sends per second.
	Warmup, Duration time.Duration
	Rate             int
	// Records are how many CatchUp and CatchUpLive find in the log; Rate is also how many a second come meanwhile in the second.
	Records int
	// Entries are how many the store holds when History reads it, and Pages how many pages of each kind are read.
	Entries, Pages int
}

// Figure is one figure of a case.
type Figure struct {
	What string // with its unit
	// Bare is what the libraries do without Parley; below 0: there is nothing to compare with.
	Bare, Parley float64
}

const (
	rooms = 200
	text  = 128 // bytes of a message's
	// patience is how long something may take that takes seconds.
	patience = 5 * time.Minute
)

// Servers starts what a case runs on, or connects to it, with nothing in it yet.
type Servers func(ctx context.Context) (*world, error)

// world is what a case runs on. What was opened is closed in reverse order.
type world struct {
	set   wire.Settings
	class journal.Durability
	store *noted
	// bare puts what CatchUp's persister has stored into a store of the same kind, in the bulks that the persister makes,
	// and returns how long that took.
	bare func(ctx context.Context, documents []document) (time.Duration, error)
	undo []func() error
}

func newWorld(prefix string, partitions int) *world {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	return &world{set: wire.Settings{
		Names: contracts.Names{Prefix: prefix}, Partitions: partitions, Version: "0.0.0", Log: log, Ops: ops.New(ops.Config{Listen: "off"}, log),
	}}
}

func (w *world) later(undo func() error) { w.undo = append(w.undo, undo) }

func (w *world) close() error {
	var errs []error
	for _, undo := range slices.Backward(w.undo) {
		errs = append(errs, undo())
	}
	return errors.Join(errs...)
}

// prepare makes the log and the store ready for use.
func (w *world) prepare(ctx context.Context, s store.Store) error {
	w.later(s.Close)
	w.store = &noted{Store: s}
	w.set.Store = w.store
	w.set.Kafka.Names, w.set.Kafka.Partitions = w.set.Names, w.set.Partitions
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var err error
	w.class, err = wire.Prepare(ctx, w.set, func(err error) { w.set.Log.Warn("waiting for the servers", "err", err) })
	return err
}

// run starts a role, which is stopped with the world.
func (w *world) run(ctx context.Context, graph fx.Option) error {
	app, err := wire.New(graph)
	if err != nil {
		return err
	}
	if err := wire.Start(ctx, app); err != nil {
		return err
	}
	w.later(func() error { return wire.Stop(app) })
	return nil
}

// dispatch starts a dispatcher and waits until it has told what is in the log.
func (w *world) dispatch(ctx context.Context) error {
	var disp *dispatch.Dispatcher
	if err := w.run(ctx, wire.Dispatch(w.set, "dispatch", fx.Populate(&disp))); err != nil {
		return err
	}
	return await(ctx, "the dispatcher", func() error {
		if n := len(disp.Owned()); n < w.set.Partitions {
			return fmt.Errorf("it owns %d partitions of %d", n, w.set.Partitions)
		}
		return disp.Ready()
	})
}

// writer opens a writer to the log, which is closed with the world.
func (w *world) writer() (*journal.KafkaWriter, error) {
	writer, err := journal.NewWriter(w.set.Kafka, w.set.Log)
	if err == nil {
		w.later(func() error { return writer.Close(context.Background()) })
	}
	return writer, err
}

func (w *world) partition(room contracts.RoomID) int32 {
	return contracts.LaneOf(room).Partition(w.set.Partitions)
}

// document is a message before it is numbered, and what the log holds of it.
type document struct {
	contracts.Record
	value []byte
}

// newDocument makes the i-th message of all; the rooms take turns, so that it is the room's number i/rooms+1.
func newDocument(i int) (document, error) {
	key, err := contracts.NewKey()
	if err != nil {
		return document{}, err
	}
	d := document{Record: contracts.Record{
		Kind: contracts.KindMessage, Room: roomID(i % rooms), Key: key, Stamp: time.Now().UnixMilli(),
		From: contracts.Person{ID: contracts.UserID(fmt.Sprint("user-", i%1000)), Name: "Ada"}, Text: strings.Repeat("x", text),
	}}
	d.value, err = contracts.EncodeRecord(&d.Record)
	return d, err
}

// pace calls do with 0, 1, 2 … at a rate per second, until it has done so often enough, do fails or ctx ends. What is late is
// made up for.
func pace(ctx context.Context, rate, often int, do func(i int) error) error {
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for next := 0; next < often; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		for due := min(int(time.Since(began).Seconds()*float64(rate)), often); next < due; next++ {
			if err := do(next); err != nil {
				return err
			}
		}
	}
	return nil
}

func roomID(i int) contracts.RoomID { return contracts.RoomID(fmt.Sprint("room-", i)) }

// await looks again and again until there is no error, for what tells nobody when it happens.
func await(ctx context.Context, what string, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (last: %w)", what, ctx.Err(), err)
		}
	}
}

// percentile returns what so large a part of the times, which are sorted, is not above, in milliseconds.
func percentile(times []time.Duration, part float64) float64 {
	at := min(int(part*float64(len(times))), len(times)-1)
	return float64(times[at]) / float64(time.Millisecond)
}

// noted is a store that notes when and how much is written to it, and counts the pages that are read from it.
type noted struct {
	store.Store

	mu          sync.Mutex // guards what follows
	first, last time.Time  // the beginning of the first Append and the end of the last one
	rows, pages int
}

// Append implements store.Store.
func (s *noted) Append(ctx context.Context, entries []store.Entry, prev, next contracts.Checkpoint) error {
	began := time.Now()
	err := s.Store.Append(ctx, entries, prev, next)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first.IsZero() || began.Before(s.first) {
		s.first = began
	}
	s.last = time.Now()
	if err == nil {
		s.rows += len(entries)
	}
	return err
}

// Page implements store.Store.
func (s *noted) Page(ctx context.Context, room contracts.RoomID, from, to contracts.Seq, limit int, newest bool) ([]store.Entry, error) {
	s.mu.Lock()
	s.pages++
	s.mu.Unlock()
	return s.Store.Page(ctx, room, from, to, limit, newest)
}

// wrote returns how many rows were stored, and how long that took from the first Append on.
func (s *noted) wrote() (rows int, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rows, s.last.Sub(s.first)
}

func (s *noted) read() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pages
}
