package rpc

import (
	"context"
	"log/slog"

	"go.uber.org/fx"
)

// Module provides a Client and a Server on one connection to NATS, made with a Config from the graph and closed when
// the graph stops.
func Module() fx.Option {
	return fx.Module("bus/rpc", fx.Provide(
		func(lc fx.Lifecycle, cfg Config, log *slog.Logger) (*NATS, error) {
			n, err := Connect(cfg, log)
			if err != nil {
				return nil, err
			}
			lc.Append(fx.Hook{OnStop: func(context.Context) error { return n.Close() }})
			return n, nil
		},
		func(n *NATS) (Client, Server) { return n, n },
	))
}
