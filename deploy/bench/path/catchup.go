package path

import (
	"context"
	"errors"
	"fmt"
	"sync"

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
		stored := int64(0)
		for _, s := range keep.Status() {
			stored += s.Stored
		}
		if stored < int64(cfg.Records) {
			return fmt.Errorf("%d of %d records are stored", stored, cfg.Records)
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
	n := float64(cfg.Records)
	return []Figure{{What: "rows per s", Bare: n / bare.Seconds(), Parley: n / w.store.wrote().Seconds()}}, nil
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
