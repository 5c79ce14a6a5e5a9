package mongo

import (
	"context"

	"go.uber.org/fx"

	"github.com/parley-chat/parley/persist/store"
)

// Module provides the store on MongoDB for a Config from the graph; its connections end when the graph stops.
func Module() fx.Option {
	return fx.Module("persist/mongo", fx.Provide(func(lc fx.Lifecycle, cfg Config) (store.Store, error) {
		s, err := Open(context.Background(), cfg)
		if err != nil {
			return nil, err
		}
		lc.Append(fx.Hook{OnStop: func(context.Context) error { return s.Close() }})
		return s, nil
	}))
}
