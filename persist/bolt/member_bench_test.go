package bolt_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/bolt"
)

// processor is the processor time that this process has taken.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkJoin writes memberships beside half a million: one by one by 16 callers, or in batches. Users' ids are random,
// or rise with the time as guests' do.
func BenchmarkJoin(b *testing.B) {
	for _, ids := range []string{"random", "rising"} {
		path := filepath.Join(b.TempDir(), "store.db")
		s, err := bolt.Open(bolt.Config{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		made := 0
		some := func(n int) []contracts.Membership {
			rows := make([]contracts.Membership, n)
			for i := range rows {
				made++
				id := "g-" + strings.ToLower(rand.Text())
				if ids == "rising" {
					id = fmt.Sprintf("g-%09d%s", made, id[11:])
				}
				rows[i] = contracts.Membership{
					Room: contracts.RoomID(fmt.Sprint("load-", made%8929)),
					User: contracts.Person{ID: contracts.UserID(id), Name: fmt.Sprint("load-", made), Guest: true},
				}
			}
			return rows
		}
		size := func() int64 {
			info, err := os.Stat(path)
			if err != nil {
				b.Fatal(err)
			}
			return info.Size()
		}
		const before = 500_000
		for range before / 500 {
			if err := s.Join(b.Context(), some(500)...); err != nil {
				b.Fatal(err)
			}
		}
		perMember := float64(size()) / before
		for _, batch := range []int{1, 8, 50, 500} {
			b.Run(fmt.Sprintf("ids=%s/batch=%d", ids, batch), func(b *testing.B) {
				benchmarkJoin(b, s, batch, some(b.N))
				b.ReportMetric(perMember, "file-B/member")
			})
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkJoin(b *testing.B, s *bolt.Store, batch int, rows []contracts.Membership) {
	queue := make(chan []contracts.Membership, len(rows))
	for len(rows) > 0 {
		n := min(batch, len(rows))
		queue <- rows[:n]
		rows = rows[n:]
	}
	close(queue)
	callers := 2
	if batch == 1 {
		callers = 16
	}
	began := processor(b)
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for rows := range queue {
				if err := s.Join(b.Context(), rows...); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(processor(b)-began)/1e3/float64(b.N), "cpu-µs/op")
}
