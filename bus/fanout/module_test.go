package fanout_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/fx"
	"go.uber.org/fx/fxtest"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

// What the driver says of its own accord is for who looks for it.
func TestDriverLog(t *testing.T) {
	for level, heard := range map[slog.Level]bool{slog.LevelDebug: true, slog.LevelInfo: false} {
		var out bytes.Buffer
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
