package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/ops"
)

// A server that went silent has to show within five seconds: these two together stay below.
const (
	pingEvery  = time.Second
	pingWithin = 2 * time.Second
)

// watch asks the servers that a role depends on for a sign of life, as their loss is to show before the role needs them: a
// worker whose readers find all in the caches may ask nothing of the store for minutes. What it finds is for operators
// alone; a role stays ready, as it can do much without one of them.
type watch struct {
	log    *slog.Logger
	errors *prometheus.CounterVec

	mu   sync.Mutex // guards lost
	lost map[string]loss
}

type loss struct {
	since time.Time
	err   error
}

// watching has a role with a store watch it, Redis and the log, from the graph's start to its stop.
func watching(s Settings, node contracts.NodeID) fx.Option {
	return fx.Invoke(func(lc fx.Lifecycle, log journal.Log, client redis.UniversalClient, reg prometheus.Registerer, logger *slog.Logger, o *ops.Server) error {
		w := &watch{
			log: logger,
			errors: prometheus.NewCounterVec(prometheus.CounterOpts{
				Name: "parley_server_ping_errors_total",
				Help: "Signs of life that a server (log, Redis, store) did not give within two seconds; it is asked every second.",
			}, []string{"server"}),
			lost: make(map[string]loss),
		}
		if err := reg.Register(w.errors); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		for name, ping := range map[string]func(context.Context) error{
			"log":   log.Ping,
			"Redis": func(ctx context.Context) error { return fanout.Ping(ctx, client) },
			"store": s.Store.Ping,
		} {
			w.errors.WithLabelValues(name)
			lc.Append(fx.StartHook(func() { go w.run(ctx, name, ping) }))
		}
		// A ping that is under way is not waited for: the others need the time, and nobody is told what comes of it.
		lc.Append(fx.StopHook(cancel))
		o.Tell(string(node)+" servers", func() string { return w.state(time.Now()) })
		return nil
	})
}

func (w *watch) run(ctx context.Context, name string, ping func(context.Context) error) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		began := time.Now()
		try, cancel := context.WithTimeout(ctx, pingWithin)
		err := ping(try)
		cancel()
		if ctx.Err() != nil {
			return
		}
		w.note(name, began, err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// note keeps what a ping that began then came to. Only what changes is logged.
func (w *watch) note(name string, began time.Time, err error) {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer in %s: %w", pingWithin, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	was, lost := w.lost[name]
	switch {
	case err != nil:
		w.errors.WithLabelValues(name).Inc()
		if !lost {
			was.since = began
			w.log.Warn("lost a server; what does not need it goes on", "server", name, "err", err)
		}
		w.lost[name] = loss{was.since, err}
	case lost:
		delete(w.lost, name)
		w.log.Info("a server is back", "server", name, "after", time.Since(was.since).Round(time.Millisecond))
	}
}

// state tells operators what does not answer.
func (w *watch) state(now time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.lost) == 0 {
		return "all answer"
	}
	var said []string
	for _, name := range slices.Sorted(maps.Keys(w.lost)) {
		l := w.lost[name]
		said = append(said, fmt.Sprintf("%s lost for %s: %v", name, now.Sub(l.since).Round(time.Second), l.err))
	}
	return strings.Join(said, "; ")
}
