package journal

import (
	"context"
	"log/slog"
	"time"

	"go.uber.org/fx"
)

// flushWithin is for what is not confirmed when the graph stops.
const flushWithin = time.Second

// WriterModule provides the Writer on Kafka of the graph's Config, and closes it when the graph stops.
func WriterModule() fx.Option {
	return fx.Module("bus/journal/writer", fx.Provide(func(lc fx.Lifecycle, cfg Config, log *slog.Logger) (Writer, error) {
		w, err := NewWriter(cfg, log)
		if err != nil {
			return nil, err
		}
		lc.Append(fx.Hook{OnStop: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, flushWithin)
			defer cancel()
			// It is no failure of the stop where the brokers are away: what they did not confirm was reported as unknown.
			if err := w.Close(ctx); err != nil {
				log.Warn("the log's writer was closed with records unconfirmed", "err", err)
			}
			return nil
		}})
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
