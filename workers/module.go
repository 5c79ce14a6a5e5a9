package workers

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
)

// closeWithin is for what is in flight at the stop. The log's writer and the connections need some of the graph's time, too.
const closeWithin = 1500 * time.Millisecond

// needs is what the graph must have.
type needs struct {
	fx.In

	Config     Config
	Ask        rpc.Client
	Server     rpc.Server
	Log        journal.Writer
	Recent     recent.Cache
	Publisher  fanout.Publisher
	Roster     fanout.Roster
	Store      Store
	Extents    Extents
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Module provides a Worker made of a Config and the parts in the graph, which serves from the graph's start to its stop.
func Module() fx.Option {
	return fx.Module("workers",
		fx.Provide(func(lc fx.Lifecycle, n needs) (*Worker, error) {
			w, err := New(n.Config, Deps{
				Ask: n.Ask, Log: n.Log, Recent: n.Recent, Publisher: n.Publisher, Roster: n.Roster, Store: n.Store, Extents: n.Extents,
				Logger: n.Logger, Registerer: n.Registerer,
			})
			if err != nil {
				return nil, err
			}
			var stop func() error
			lc.Append(fx.Hook{
				OnStart: func(context.Context) (err error) {
					stop, err = w.Serve(n.Server)
					return err
				},
				OnStop: func(ctx context.Context) error {
					err := stop()
					ctx, cancel := context.WithTimeout(ctx, closeWithin)
					defer cancel()
					// It is no failure of the stop where log or store do not answer in time: who asked learns nothing, and tries again.
					if err := w.Close(ctx); err != nil {
						n.Logger.Warn("stopped with requests unanswered", "err", err)
					}
					return err
				},
			})
			return w, nil
		}),
		fx.Invoke(func(*Worker) {}),
	)
}
