//go:build !lean

package journal_test

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/journal"
)

// fromStart is an owner that reads everything.
type fromStart struct{}

func (fromStart) Assign(context.Context, int32, *journal.Commit) (int64, error) { return 0, nil }
func (fromStart) Revoke(context.Context, []int32)                               {}
func (fromStart) Lose([]int32)                                                  {}

// both runs a benchmark through the embedded broker's port and within its process.
func both(b *testing.B, run func(b *testing.B, w journal.Writer, c journal.Consumer)) {
	for _, within := range []bool{false, true} {
		b.Run(fmt.Sprint("within=", within), func(b *testing.B) {
			w, c := benchmarkParts(b, within)
			began := processor(b)
			run(b, w, c)
			b.ReportMetric(float64(processor(b)-began)/1e3/float64(b.N), "cpu-µs/op")
		})
	}
}

// processor is the processor time that this process has taken.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchmarkParts returns a writer and a consumer that has taken up all partitions.
func benchmarkParts(b *testing.B, within bool) (journal.Writer, journal.Consumer) {
	k := startKafka(b, embedded.KafkaConfig{Dir: b.TempDir(), Partitions: 8})
	cfg := journal.Config{Brokers: k.Addrs(), Partitions: 8}
	if within {
		cfg.Dial = k.Dial
	}
	w, err := journal.NewWriter(cfg, quiet())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = w.Close(context.Background()) })
	c, err := journal.NewConsumer(cfg, "g", fromStart{}, quiet())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	for have := 0; have < 8; {
		batches, err := c.Poll(b.Context(), time.Second)
		if err != nil {
			b.Fatal(err)
		}
		have += len(batches)
	}
	return w, c
}

func poll(b *testing.B, c journal.Consumer) (n int) {
	batches, err := c.Poll(b.Context(), time.Second)
	if err != nil {
		b.Error(err)
	}
	for _, batch := range batches {
		n += len(batch.Records)
	}
	return n
}

var benchmarkValue = make([]byte, 300)

// BenchmarkAppend is one caller that waits for each confirmation.
func BenchmarkAppend(b *testing.B) {
	both(b, func(b *testing.B, w journal.Writer, _ journal.Consumer) {
		done := make(chan error)
		for b.Loop() {
			w.Append(0, "room", benchmarkValue, func(_ int64, err error) { done <- err })
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkAppendToPoll is one record at a time, from Append to Poll's return.
func BenchmarkAppendToPoll(b *testing.B) {
	both(b, func(b *testing.B, w journal.Writer, c journal.Consumer) {
		for b.Loop() {
			w.Append(0, "room", benchmarkValue, func(int64, error) {})
			for n := 0; n == 0; {
				n = poll(b, c)
			}
		}
	})
}

// BenchmarkThroughput has 4,096 records in flight, written and read at the same time.
func BenchmarkThroughput(b *testing.B) { both(b, benchmarkThroughput) }

func benchmarkThroughput(b *testing.B, w journal.Writer, c journal.Consumer) {
	free := make(chan struct{}, 4096)
	var wg sync.WaitGroup
	b.ResetTimer()
	wg.Go(func() {
		for n := 0; n < b.N; {
			n += poll(b, c)
		}
	})
	for i := range b.N {
		free <- struct{}{}
		w.Append(int32(i%8), "room", benchmarkValue, func(_ int64, err error) {
			if err != nil {
				b.Error(err)
			}
			<-free
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
