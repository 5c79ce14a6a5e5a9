package bolt_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/bolt"
	"github.com/parley-chat/parley/persist/store"
)

// BenchmarkAppend writes entries of two people per room, who take turns at random, in bulks beside many earlier ones.
func BenchmarkAppend(b *testing.B) {
	for _, rooms := range []int{200, 9500} {
		for _, bulk := range []int{500, 2000} {
			b.Run(fmt.Sprintf("rooms=%d/bulk=%d", rooms, bulk), func(b *testing.B) { benchmarkAppend(b, rooms, bulk) })
		}
	}
}

func benchmarkAppend(b *testing.B, rooms, bulk int) {
	path := filepath.Join(b.TempDir(), "store.db")
	s, err := bolt.Open(bolt.Config{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	}()
	seqs := make([]contracts.Seq, rooms)
	seed := uint64(1)
	var at contracts.Checkpoint
	some := func(n int) []store.Entry {
		entries := make([]store.Entry, n)
		for i := range entries {
			seed = seed*6364136223846793005 + 1442695040888963407
			room := int(seed>>33) % rooms
			seqs[room]++
			key, err := contracts.NewKey()
			if err != nil {
				b.Fatal(err)
			}
			entries[i] = store.Entry{
				Record: contracts.Record{
					Kind: contracts.KindMessage, Room: contracts.RoomID(fmt.Sprint("load-", room)), Key: key, Stamp: 1,
					From: contracts.Person{ID: contracts.UserID(fmt.Sprintf("g-%09d%016d", room, seed>>63)), Name: "load", Guest: true},
					Text: strings.Repeat("x", 100),
				},
				Seq: seqs[room], Epoch: 1, Offset: at.Offset + int64(i),
			}
		}
		return entries
	}
	write := func(entries []store.Entry) {
		for len(entries) > 0 {
			n := min(bulk, len(entries))
			next := at
			next.Epoch, next.Offset = 1, at.Offset+int64(n)
			if err := s.Append(b.Context(), entries[:n], at, next); err != nil {
				b.Fatal(err)
			}
			at, entries = next, entries[n:]
		}
	}
	write(some(100_000))
	entries := some(b.N)
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	before := processor(b)
	b.ReportAllocs()
	b.ResetTimer()
	write(entries)
	b.StopTimer()
	b.ReportMetric(float64(processor(b)-before)/1e3/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(info.Size())/100_000, "file-B/entry")
}
