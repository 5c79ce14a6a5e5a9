package floor_test

import (
	"context"
	"io"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/parley-chat/parley/deploy/bench/floor"
	"github.com/parley-chat/parley/deploy/loadtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestDelivers: the yardstick itself loses, doubles and swaps nothing, in either mode.
func TestDelivers(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the floor is Linux's alone")
	}
	for name, batched := range map[string]bool{"one write per message": false, "batched": true} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			addr, ended := make(chan string, 1), make(chan error, 1)
			go func() {
				ended <- floor.Serve(ctx, floor.Config{Listen: "127.0.0.1:0", Batched: batched}, func(a string) { addr <- a })
			}()
			r, err := loadtest.Run(t.Context(), loadtest.Config{
				URLs: []string{<-addr}, Rooms: 4, Members: 10, Rate: loadtest.RateMax, Warmup: 100 * time.Millisecond, Duration: 400 * time.Millisecond,
			}, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if r.ExitCode() != 0 || r.Timings["delivery"].Count == 0 {
				t.Errorf("exit code %d, ledger %+v, errors %v", r.ExitCode(), r.Ledger, r.Errors)
			}
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
