package edge

import (
	"go.uber.org/fx"
)

// Module provides the Server for a Config and Deps from the graph; it starts and stops with the graph.
func Module() fx.Option {
	return fx.Module("edge", fx.Provide(func(lc fx.Lifecycle, cfg Config, deps Deps) (*Server, error) {
		s, err := New(cfg, deps)
		if err != nil {
			return nil, err
		}
		lc.Append(fx.Hook{OnStart: s.Start, OnStop: s.Shutdown})
		return s, nil
	}))
}
