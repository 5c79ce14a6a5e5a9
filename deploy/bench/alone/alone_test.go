package alone_test

import (
	"context"
	"io"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/parley-chat/parley/deploy/bench/alone"
	"github.com/parley-chat/parley/deploy/loadtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestDelivers: what stands in for the rest loses, doubles and swaps nothing.
func TestDelivers(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	addr, ended := make(chan string, 1), make(chan error, 1)
	go func() { ended <- alone.Serve(ctx, "127.0.0.1:0", func(a string) { addr <- a }) }()
	r, err := loadtest.Run(t.Context(), loadtest.Config{
		URLs: []string{<-addr}, Rooms: 4, Members: 10, Rate: loadtest.RateMax, Warmup: 100 * time.Millisecond, Duration: 400 * time.Millisecond, Drain: time.Minute,
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
}
