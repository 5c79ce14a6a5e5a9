//go:build !lean

package recent_test

import (
	"log/slog"
	"testing"

	"go.uber.org/fx"
	"go.uber.org/fx/fxtest"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
)

// The modules of fanout and recent share one client.
func TestModules(t *testing.T) {
	var cache recent.Cache
	var roster fanout.Roster
	var publisher fanout.Publisher
	app := fxtest.New(t, fx.NopLogger, fanout.Module(), recent.Module(), fx.Populate(&cache, &roster, &publisher),
		fx.Supply(fanout.Config{URL: server(t).URL()}, recent.Config{}, fresh(), slog.New(slog.DiscardHandler)))
	app.RequireStart()
	if err := cache.Append(t.Context(), []recent.Entry{{Room: "a", Epoch: 1, Seq: 1, JSON: []byte(`{}`)}}); err != nil {
		t.Errorf("Append: %v", err)
	}
	if err := publisher.Publish(t.Context(), []fanout.Message{{Lane: 1, Body: []byte("x")}}); err != nil {
		t.Errorf("Publish: %v", err)
	}
	if _, err := roster.Turn(t.Context(), "a"); err != nil {
		t.Errorf("Turn: %v", err)
	}
	app.RequireStop()
	if err := cache.Append(t.Context(), []recent.Entry{{Room: "a", Epoch: 1, Seq: 2, JSON: []byte(`{}`)}}); err == nil {
		t.Error("the client still works after the graph stopped")
	}
}
