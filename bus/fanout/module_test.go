package fanout_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/fx"
	"go.uber.org/fx/fxtest"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

// lines is what was written, also by a dial that goes on after its client was closed.
type lines struct {
	mu  sync.Mutex // guards out
	out bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

// What the driver says of its own accord is for who looks for it.
func TestDriverLog(t *testing.T) {
	for level, heard := range map[slog.Level]bool{slog.LevelDebug: true, slog.LevelInfo: false} {
		var out lines
		var client redis.UniversalClient
		app := fxtest.New(t, fx.NopLogger, fanout.Module(), fx.Populate(&client),
			fx.Supply(fanout.Config{URL: "redis://127.0.0.1:1"}, contracts.Names{},
				slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}))))
		app.RequireStart()
		if err := client.Ping(t.Context()).Err(); err == nil {
			t.Error("nobody listens there, and answered")
		}
		app.RequireStop()
		if got := strings.Contains(out.String(), "the Redis driver says"); got != heard {
			t.Errorf("at level %v the driver is heard: %v\n%s", level, got, out.String())
		}
	}
}
