//go:build !lean

package rpc_test

import (
	"log/slog"
	"testing"

	"go.uber.org/fx"
	"go.uber.org/fx/fxtest"

	"github.com/parley-chat/parley/bus/rpc"
)

func TestModule(t *testing.T) {
	var client rpc.Client
	var server rpc.Server
	app := fxtest.New(t, fx.NopLogger, rpc.Module(), fx.Populate(&client, &server),
		fx.Supply(rpc.Config{InProcess: broker(t)}, slog.New(slog.DiscardHandler)))
	app.RequireStart()
	if !client.Up() || server == nil {
		t.Error("the module's client is not connected")
	}
	app.RequireStop()
	if client.Up() {
		t.Error("the client is still connected after the graph stopped")
	}
}
