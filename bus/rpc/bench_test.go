//go:build !lean

package rpc_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
)

// BenchmarkAsk measures round trips inside one process: each of the callers has one request in flight.
func BenchmarkAsk(b *testing.B) {
	for _, callers := range []int{1, 256} {
		b.Run(map[int]string{1: "callers=1", 256: "callers=256"}[callers], func(b *testing.B) {
			n := broker(b)
			server, client := connect(b, rpc.Config{InProcess: n}), connect(b, rpc.Config{InProcess: n})
			stop, err := server.Serve(rpc.Service{Name: "bench", Version: "1.0.0", Queue: "q", Endpoints: []rpc.Endpoint{
				{Name: "echo", Subject: "bench.*", Handler: func(r rpc.Request) { r.Answer(r.Body) }},
			}})
			if err != nil {
				b.Fatal(err)
			}
			defer stop()
			body := make([]byte, 256)
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for range callers {
				wg.Add(1)
				var next func([]byte, error)
				next = func(_ []byte, err error) {
					if err != nil {
						b.Error(err)
					}
					if left.Add(-1) < 0 {
						wg.Done()
						return
					}
					client.Ask("bench.1", body, 10*time.Second, next)
				}
				next(nil, nil)
			}
			wg.Wait()
		})
	}
}
