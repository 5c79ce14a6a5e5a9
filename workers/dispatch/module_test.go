package dispatch_test

import (
	"log/slog"
	"testing"

	"go.uber.org/fx"

	"github.com/parley-chat/parley/workers/dispatch"
)

// The graph's start runs the dispatcher, its stop waits for the end.
func TestModule(t *testing.T) {
	w := newWorld(t)
	log := slog.New(slog.DiscardHandler)
	var d *dispatch.Dispatcher
	app := fx.New(
		fx.NopLogger,
		dispatch.Module(),
		fx.Supply(log, dispatch.Config{Partitions: 1}, dispatch.Deps{
			Log: fakeLog{w}, Consume: w.consume, Store: w, Recent: w, Publisher: w, Server: w, Logger: log,
		}),
		fx.Populate(&d),
	)
	if err := app.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := app.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.Ready() == nil {
		t.Error("ready after the stop")
	}
}
