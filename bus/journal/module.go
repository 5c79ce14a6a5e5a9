package journal

import (
	"context"
	"log/slog"

	"go.uber.org/fx"
)

// WriterModule provides the Writer on Kafka of the graph's Config, and closes it when the graph stops.
func WriterModule() fx.Option {
	return fx.Module("bus/journal/writer", fx.Provide(func(lc fx.Lifecycle, cfg Config, log *slog.Logger) (Writer, error) {
		w, err := NewWriter(cfg, log)
		if err != nil {
			return nil, err
		}
		lc.Append(fx.Hook{OnStop: w.Close})
		return w, nil
	}))
}

// LogModule provides the Log on Kafka of the graph's Config, and closes it when the graph stops. A Consumer needs its
// Owner and is made by whom it serves.
func LogModule() fx.Option {
	return fx.Module("bus/journal/log", fx.Provide(func(lc fx.Lifecycle, cfg Config, log *slog.Logger) (Log, error) {
		l, err := NewLog(cfg, log)
		if err != nil {
			return nil, err
		}
		lc.Append(fx.Hook{OnStop: func(context.Context) error { return l.Close() }})
		return l, nil
	}))
}
