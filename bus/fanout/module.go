package fanout

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"
	"go.uber.org/fx"

	"github.com/parley-chat/parley/contracts"
)

// Module provides a Redis client, made with a Config from the graph and closed when the graph stops, and on it a
// Publisher and a Roster; whether Redis is there is logged once. A Subscriber is made by who receives.
func Module() fx.Option {
	return fx.Module("bus/fanout", fx.Provide(
		func(lc fx.Lifecycle, cfg Config, log *slog.Logger) (redis.UniversalClient, error) {
			if cfg.URL == "" {
				cfg.URL = "redis://localhost:6379"
			}
			redis.SetLogger(driverLog{log})
			client, err := cfg.Connect()
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithCancel(context.Background())
			told := make(chan struct{})
			lc.Append(fx.Hook{
				OnStart: func(context.Context) error {
					go func() {
						defer close(told)
						Await(ctx, client, cfg.URL, log)
					}()
					return nil
				},
				OnStop: func(context.Context) error {
					cancel()
					<-told
					return client.Close()
				},
			})
			return client, nil
		},
		func(cfg Config, client redis.UniversalClient, names contracts.Names) Publisher {
			if cfg.Publisher != nil {
				return cfg.Publisher
			}
			return NewPublisher(client, names)
		},
		func(client redis.UniversalClient, names contracts.Names) Roster { return NewRoster(client, names) },
	))
}

// driverLog takes what the driver logs, for all clients of the process. Its calls return the same errors, which are logged
// or counted where they matter, so that an outage would be told once per attempt.
type driverLog struct{ log *slog.Logger }

// Printf implements the driver's logger.
func (d driverLog) Printf(ctx context.Context, format string, v ...any) {
	if d.log.Enabled(ctx, slog.LevelDebug) {
		d.log.DebugContext(ctx, "the Redis driver says", "what", fmt.Sprintf(format, v...))
	}
}
