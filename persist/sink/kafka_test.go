//go:build !lean

package sink_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/bolt"
	"github.com/parley-chat/parley/persist/sink"
)

// TestOnKafka runs two persisters in one group on the embedded broker: the second takes partitions over while records
// come, then the first leaves, and every record is stored once.
func TestOnKafka(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*bustest.Patience)
	defer cancel()
	quiet := slog.New(slog.DiscardHandler)
	broker, err := embedded.StartKafka(embedded.KafkaConfig{Partitions: partitions})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	cfg := journal.Config{Brokers: broker.Addrs(), Partitions: partitions}
	log, err := journal.NewLog(cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	writer, err := journal.NewWriter(cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close(context.WithoutCancel(ctx))
	db, err := bolt.Open(bolt.Config{Path: filepath.Join(t.TempDir(), "store.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Prepare(ctx, partitions); err != nil {
		t.Fatal(err)
	}

	moved := make(chan contracts.Checkpoint, 10_000)
	start := func() (stop func()) {
		s := &moodyStore{Store: db}
		s.fail(nil, func(c contracts.Checkpoint) error { moved <- c; return nil })
		p := sink.New(sink.Config{Partitions: partitions}, sink.Deps{
			Log: log, Store: s, Logger: quiet,
			Consume: func(o journal.Owner) (journal.Consumer, error) {
				return journal.NewConsumer(cfg, names.PersistGroup(), o, quiet)
			},
		})
		runCtx, stopRun := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := p.Run(runCtx); err != nil {
				t.Errorf("run: %v", err)
			}
		}()
		return func() { stopRun(); <-done }
	}
	written, stored := make(map[int32]int64), make(map[int32]int64)
	write := func(ms int64) {
		for id := range int32(partitions) {
			for _, v := range messages(roomsOf(id, 5), ms, 300) {
				writer.Append(id, "", v, func(_ int64, err error) {
					if err != nil {
						t.Errorf("append: %v", err)
					}
				})
				written[id]++
			}
		}
	}
	allStored := func() {
		t.Helper()
		for id := int32(0); id < partitions; {
			if stored[id] == written[id] {
				id++
				continue
			}
			select {
			case c := <-moved:
				stored[c.Partition] = max(stored[c.Partition], c.Offset)
			case <-ctx.Done():
				t.Fatalf("stored %v of %v", stored, written)
			}
		}
	}

	write(1000)
	stopFirst := start()
	defer func() { stopFirst() }()
	allStored()
	stopSecond := start()
	defer func() { stopSecond() }()
	write(2000)
	allStored()
	write(3000)
	stopFirst()
	stopFirst = func() {}
	write(4000)
	allStored()
	stopSecond()
	stopSecond = func() {}

	for id := range int32(partitions) {
		for _, room := range roomsOf(id, 5) {
			page, err := db.Page(ctx, room, 1, contracts.MaxInt, 1000, false)
			if err != nil || len(page) != 4*60 {
				t.Fatalf("room %s has %d rows, %v, want 240", room, len(page), err)
			}
			for i, e := range page {
				if e.Seq != contracts.Seq(i+1) || i > 0 && e.Offset <= page[i-1].Offset {
					t.Fatalf("room %s: row %d has seq %d and offset %d", room, i, e.Seq, e.Offset)
				}
			}
		}
	}
	commits, err := log.Committed(ctx, names.PersistGroup())
	if err != nil {
		t.Fatal(err)
	}
	for id := range int32(partitions) {
		if got := commits[id]; got != (journal.Commit{Offset: written[id], Epoch: 1}) {
			t.Errorf("partition %d: group commit %+v, want %d in epoch 1", id, got, written[id])
		}
	}
}
