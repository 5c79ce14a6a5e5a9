//go:build !lean

package path_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/parley-chat/parley/deploy/bench/path"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEmbedded measures a little of everything.
func TestEmbedded(t *testing.T) {
	cfg := path.Config{Duration: 300 * time.Millisecond, Rate: 1000, Records: 2000, Entries: 20_000, Pages: 40}
	for name, c := range map[string]struct {
		measure func(context.Context, path.Servers, path.Config) ([]path.Figure, error)
		figures int
		bare    bool
	}{
		"log-hop":       {path.Hop, 2, true},
		"catch-up":      {path.CatchUp, 1, true},
		"catch-up-live": {path.CatchUpLive, 1, true},
		"history":       {path.History, 4, false},
	} {
		t.Run(name, func(t *testing.T) {
			figures, err := c.measure(t.Context(), path.Embedded, cfg)
			if err != nil || len(figures) != c.figures {
				t.Fatalf("%d figures, want %d (%v)", len(figures), c.figures, err)
			}
			for _, f := range figures {
				t.Logf("%+v", f)
				if f.Parley <= 0 || c.bare != (f.Bare >= 0) {
					t.Errorf("figure %+v", f)
				}
			}
		})
	}
}

// TestReal: half of the servers are none.
func TestReal(t *testing.T) {
	env := map[string]string{"NATS_URL": "nats://x", "REDIS_URL": "redis://x", "KAFKA_BROKERS": "x:1"}
	if _, found := path.Real(func(name string) string { return env[name] }); found {
		t.Error("found servers without a database")
	}
	env["MONGODB_URI"] = "mongodb://x"
	if _, found := path.Real(func(name string) string { return env[name] }); !found {
		t.Error("did not find the servers")
	}
}
