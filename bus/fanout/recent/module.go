package recent

import (
	"github.com/redis/go-redis/v9"
	"go.uber.org/fx"

	"github.com/parley-chat/parley/contracts"
)

// Module provides a Cache on a Redis client and a Config from the graph.
func Module() fx.Option {
	return fx.Module("bus/fanout/recent", fx.Provide(
		func(client redis.UniversalClient, names contracts.Names, cfg Config) Cache {
			return New(client, names, cfg)
		},
	))
}
