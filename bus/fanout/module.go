package fanout

import (
	"context"
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
			client, err := Connect(cfg.URL)
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
		func(client redis.UniversalClient, names contracts.Names) Publisher {
			return NewPublisher(client, names)
		},
		func(client redis.UniversalClient, names contracts.Names) Roster { return NewRoster(client, names) },
	))
}
