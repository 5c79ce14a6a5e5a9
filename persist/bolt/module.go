package bolt

import (
	"context"

	"go.uber.org/fx"

	"github.com/parley-chat/parley/persist/store"
)

// Module provides the store on bbolt, opened with a Config from the graph and closed when the graph stops.
func Module() fx.Option {
	return fx.Module("persist/bolt", fx.Provide(func(lc fx.Lifecycle, cfg Config) (store.Store, error) {
		s, err := Open(cfg)
		if err != nil {
			return nil, err
		}
		lc.Append(fx.Hook{OnStop: func(context.Context) error { return s.Close() }})
		return s, nil
	}))
}
