package dispatch

import (
	"context"
	"log/slog"

	"go.uber.org/fx"
)

// Module provides a *Dispatcher for a Config and Deps from the graph, and runs it while the graph runs.
func Module() fx.Option {
	return fx.Module("workers/dispatch", fx.Provide(func(lc fx.Lifecycle, stop fx.Shutdowner, cfg Config, deps Deps, log *slog.Logger) *Dispatcher {
		d := New(cfg, deps)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		lc.Append(fx.Hook{
			OnStart: func(context.Context) error {
				go func() {
					defer close(done)
					if err := d.Run(ctx); err != nil {
						log.Error("dispatcher ended", "err", err)
						_ = stop.Shutdown(fx.ExitCode(1))
					}
				}()
				return nil
			},
			OnStop: func(ctx context.Context) error {
				cancel()
				select {
				case <-done:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			},
		})
		return d
	}))
}
