package path

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/fx"

	"github.com/parley-chat/parley/deploy/wire"
	"github.com/parley-chat/parley/persist/sink"
)

// bulk is how many entries the persister stores of a partition at once.
const bulk = 500

// CatchUp measures how fast a persister stores what it finds in the log, from its first write on, and how fast the
// store's driver alone puts the same documents into a store of the same kind, with the same indexes.
func CatchUp(ctx context.Context, servers Servers, cfg Config) (figures []Figure, err error) {
	w, err := servers(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	documents, err := w.fillLog(ctx, cfg.Records)
	if err != nil {
		return nil, err
	}
	var keep *sink.Sink
	app, err := wire.New(wire.Persist(w.set, "persist", fx.Populate(&keep)))
	if err != nil {
		return nil, err
	}
	if err := wire.Start(ctx, app); err != nil {
		return nil, err
	}
	err = await(ctx, "the persister", func() error {
		if n := stored(keep); n < int64(cfg.Records) {
			return fmt.Errorf("%d of %d records are stored", n, cfg.Records)
		}
		return nil
	})
	if err := errors.Join(err, wire.Stop(app)); err != nil {
		return nil, err
	}
	bare, err := w.bare(ctx, documents)
	if err != nil {
		return nil, err
	}
	rows, took := w.store.wrote()
	return []Figure{{What: "rows per s", Bare: float64(cfg.Records) / bare.Seconds(), Parley: float64(rows) / took.Seconds()}}, nil
}

// stored is how many records of the log a persister has stored.
func stored(keep *sink.Sink) (n int64) {
	for _, s := range keep.Status() {
		n += s.Stored
	}
	return n
}

// level is how little a persister is behind that has caught up: it polls every 20 ms, and a bulk that is not full waits 50 ms.
const level = 250 * time.Millisecond

// CatchUpLive measures how fast a persister stores what it finds in the log while more is written there and a dispatcher tells
// it: from its first write on until it is level. The figure's Bare is how many a second were written meanwhile.
func CatchUpLive(ctx context.Context, servers Servers, cfg Config) (figures []Figure, err error) {
	w, err := servers(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if _, err := w.fillLog(ctx, cfg.Records); err != nil {
		return nil, err
	}
	if err := w.dispatch(ctx); err != nil {
		return nil, err
	}
	live, err := w.stream(ctx, cfg.Records, cfg.Rate)
	if err != nil {
		return nil, err
	}
	var keep *sink.Sink
	if err := w.run(ctx, wire.Persist(w.set, "persist", fx.Populate(&keep))); err != nil {
		return nil, err
	}
	err = await(ctx, "the persister", func() error {
		behind := int64(cfg.Records) + live.acked.Load() - stored(keep)
		if behind > int64(level.Seconds()*float64(cfg.Rate)) {
			return fmt.Errorf("%d records are not stored", behind)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows, took := w.store.wrote()
	written := float64(live.acked.Load()) / time.Since(live.began).Seconds()
	return []Figure{{What: "rows per s", Bare: written, Parley: float64(rows) / took.Seconds()}}, live.stop()
}

// stream is what goes on being written to the log.
type stream struct {
	began time.Time
	acked atomic.Int64
	stop  func() error // waits for what is not acked, and returns what failed
}

// stream writes so many messages a second to the log, the first of which is the from-th of all, until stop or the world's end.
func (w *world) stream(ctx context.Context, from, rate int) (*stream, error) {
	writer, err := w.writer()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{began: time.Now()}
	var unacked sync.WaitGroup
	var mu sync.Mutex
	var failed error
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = errors.Join(failed, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := pace(ctx, rate, math.MaxInt, func(i int) error {
			d, err := newDocument(from + i)
			if err != nil {
				return err
			}
			unacked.Add(1)
			writer.Append(w.partition(d.Room), string(d.Room), d.value, func(_ int64, err error) {
				defer unacked.Done()
				if err != nil {
					fail(err)
					return
				}
				s.acked.Add(1)
			})
			return nil
		})
		if ctx.Err() == nil {
			fail(err)
		}
	}()
	s.stop = func() error {
		cancel()
		<-done
		unacked.Wait()
		return failed
	}
	w.later(s.stop)
	return s, nil
}

// fillLog writes so many messages to the log, as fast as it takes them.
func (w *world) fillLog(ctx context.Context, n int) ([]document, error) {
	writer, err := w.writer()
	if err != nil {
		return nil, err
	}
	documents := make([]document, n)
	free := make(chan struct{}, 10_000) // the writer refuses 20,000
	var mu sync.Mutex
	var failed error
	for i := range documents {
		if documents[i], err = newDocument(i); err != nil {
			return nil, err
		}
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		d := &documents[i]
		writer.Append(w.partition(d.Room), string(d.Room), d.value, func(_ int64, err error) {
			mu.Lock()
			failed = errors.Join(failed, err)
			mu.Unlock()
			<-free
		})
	}
	for range cap(free) {
		free <- struct{}{}
	}
	return documents, failed
}
