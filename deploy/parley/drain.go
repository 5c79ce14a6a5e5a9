package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/parley-chat/parley/edge"
)

// draining is how an edge sends its clients away before it stops.
type draining struct {
	Notice time.Duration `name:"drain-notice" env:"PARLEY_DRAIN_NOTICE" default:"2s" help:"How long a stopping edge still accepts while /readyz says 503, so that balancers notice. Skipped where nobody is connected."`
	Rate   int           `name:"drain-rate" env:"PARLEY_DRAIN_RATE" default:"500" help:"Clients a second that a stopping edge tells to move."`
	Window time.Duration `name:"drain-window" env:"PARLEY_DRAIN_WINDOW" default:"2s" help:"Each of them moves at a random time within this."`
	Limit  time.Duration `name:"drain-limit" env:"PARLEY_DRAIN_LIMIT" default:"60s" help:"Longest time for all of it; who is left is closed with 4450. A second signal ends it at once."`
}

func (d *draining) drainConfig() edge.DrainConfig {
	return edge.DrainConfig{Notice: d.Notice, Rate: d.Rate, Window: d.Window, Limit: d.Limit}
}

// Validate tells what is wrong with the settings.
func (d *draining) Validate() error {
	cfg := d.drainConfig()
	return cfg.Validate()
}

// run drains an edge. Another signal than the one that led here hurries it.
func (d *draining) run(e *edge.Server, log *slog.Logger) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := e.Drain(ctx, d.drainConfig())
	if err != nil {
		log.Warn("drain ended early", "err", err)
	}
	log.Info("drained", "held", report.Held, "told", report.Told, "left", report.Left, "closed", report.Closed,
		"answered", report.Answered, "took", report.Took.String())
}
