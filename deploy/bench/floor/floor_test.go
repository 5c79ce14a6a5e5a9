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

// TestDelivers: the yardstick itself loses, doubles and swaps nothing, in either mode, alone and by two.
func TestDelivers(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the floor is Linux's alone")
	}
	for _, c := range []struct {
		name         string
		batched, two bool
	}{
		{name: "one write per message"},
		{name: "batched", batched: true},
		{name: "two, one write per message", two: true},
		{name: "two, batched", batched: true, two: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			urls := []string{serve(t, floor.Config{Batched: c.batched})}
			if c.two {
				urls = append(urls, serve(t, floor.Config{Batched: c.batched, First: urls[0]}))
			}
			r, err := loadtest.Run(t.Context(), loadtest.Config{
				URLs: urls, Rooms: 4, Members: 10, Senders: 2, Rate: loadtest.RateMax, Warmup: 100 * time.Millisecond, Duration: 400 * time.Millisecond, Drain: time.Minute,
			}, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if r.ExitCode() != 0 || r.Timings["delivery"].Count == 0 {
				t.Errorf("exit code %d, ledger %+v, errors %v", r.ExitCode(), r.Ledger, r.Errors)
			}
		})
	}
}

// TestSecondEndsWithFirst: without the first nobody numbers, and a second that went on would measure nothing.
func TestSecondEndsWithFirst(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the floor is Linux's alone")
	}
	ctx, stop := context.WithCancel(t.Context())
	first, firstEnded := start(ctx, floor.Config{})
	second, secondEnded := start(t.Context(), floor.Config{First: <-first})
	<-second
	stop()
	if err := <-firstEnded; err != nil {
		t.Error(err)
	}
	if err := <-secondEnded; err == nil {
		t.Error("the second ended without an error")
	}
}

// serve runs a floor for as long as the test, and returns its address.
func serve(t *testing.T, cfg floor.Config) string {
	ctx, stop := context.WithCancel(context.Background())
	addr, ended := start(ctx, cfg)
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return <-addr
}

func start(ctx context.Context, cfg floor.Config) (addr chan string, ended chan error) {
	cfg.Listen = "127.0.0.1:0"
	addr, ended = make(chan string, 1), make(chan error, 1)
	go func() { ended <- floor.Serve(ctx, cfg, func(a string) { addr <- a }) }()
	return addr, ended
}
