package sink_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/bolt"
	"github.com/parley-chat/parley/persist/mongo"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/persist/store"
)

// BenchmarkCatchUp fills a store from a log of 20,000 records in 200 rooms, and a second one with the same entries by bulks
// alone; ratio is how much of the bulks' speed the persister reaches.
func BenchmarkCatchUp(b *testing.B) {
	stores := map[string]func(name string) (store.Store, error){
		"bbolt": func(name string) (store.Store, error) {
			return bolt.Open(bolt.Config{Path: filepath.Join(b.TempDir(), name)})
		},
	}
	if uri, _, _ := strings.Cut(os.Getenv("PARLEY_TEST_MONGODB_URI"), ","); uri != "" {
		key, err := contracts.NewKey()
		if err != nil {
			b.Fatal(err)
		}
		stores["MongoDB"] = func(name string) (store.Store, error) {
			return mongo.Open(b.Context(), mongo.Config{URI: uri, Database: "parley_bench_" + key.String()[24:] + name})
		}
	}
	for kind, open := range stores {
		b.Run(kind, func(b *testing.B) {
			const records, bulk = 20_000, 500
			values := messages(roomsOf(0, 200), time.Now().UnixMilli(), records)
			run := 0
			fresh := func() store.Store {
				run++
				s, err := open(string(rune('a' + run)))
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { s.Close() })
				if err := s.Prepare(b.Context(), partitions); err != nil {
					b.Fatal(err)
				}
				return s
			}
			var persisted, bare time.Duration
			for b.Loop() {
				from := fresh()
				began := time.Now()
				catchUp(b, from, values)
				persisted += time.Since(began)
				entries := numberedAs(b, from, records)
				to := fresh()
				began = time.Now()
				prev := contracts.Checkpoint{}
				for at := 0; at < records; at += bulk {
					next := contracts.Checkpoint{Epoch: 1, Offset: int64(at + bulk), Sequencer: roomlog.Version}
					if err := to.Append(b.Context(), entries[at:at+bulk], prev, next); err != nil {
						b.Fatal(err)
					}
					prev = next
				}
				bare += time.Since(began)
			}
			b.ReportMetric(float64(b.N*records)/persisted.Seconds(), "records/s")
			b.ReportMetric(float64(b.N*records)/bare.Seconds(), "bare/s")
			b.ReportMetric(bare.Seconds()/persisted.Seconds(), "ratio")
		})
	}
}

// catchUp runs a persister until it has stored the values.
func catchUp(b *testing.B, s store.Store, values [][]byte) {
	log := newMemoryLog()
	log.append(0, values...)
	stored := make(chan contracts.Checkpoint, len(values))
	moody := &moodyStore{Store: s}
	moody.fail(nil, func(c contracts.Checkpoint) error { stored <- c; return nil })
	p := sink.New(sink.Config{Partitions: partitions}, sink.Deps{
		Log: log, Store: moody, Logger: slog.New(slog.DiscardHandler),
		Consume: func(o journal.Owner) (journal.Consumer, error) {
			c := log.consumer(names.PersistGroup(), o)
			c.most = 1000
			c.assign(0)
			return c, nil
		},
	})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	for c := range stored {
		if c.Offset == int64(len(values)) {
			break
		}
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// numberedAs returns a partition's rows in the order of the log.
func numberedAs(b *testing.B, s store.Store, n int) []store.Entry {
	rows, err := s.Above(b.Context(), 0, contracts.Position{})
	if err != nil || len(rows) != n {
		b.Fatalf("%d rows, %v, want %d", len(rows), err, n)
	}
	entries := make([]store.Entry, n)
	for _, e := range rows {
		entries[e.Offset] = e
	}
	return entries
}
