package audit

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
)

// needs is what the graph must have.
type needs struct {
	fx.In

	Config     Config
	Log        journal.Log
	Store      Store
	Recent     recent.Cache
	Ask        rpc.Client
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Module runs an Auditor made of a Config and the parts in the graph, while the graph runs.
func Module() fx.Option {
	return fx.Module("workers/audit", fx.Invoke(func(lc fx.Lifecycle, n needs) {
		a := New(n.Config, Deps{
			Log: n.Log, Store: n.Store, Recent: n.Recent, Ask: n.Ask, Logger: n.Logger, Registerer: n.Registerer,
		})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		lc.Append(fx.Hook{
			OnStart: func(context.Context) error { wg.Go(func() { a.Run(ctx) }); return nil },
			OnStop:  func(context.Context) error { cancel(); wg.Wait(); return nil },
		})
	}))
}
