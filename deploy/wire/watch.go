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
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/ops"
)

// A server that went silent has to show within five seconds: these two together stay below.
const (
	pingEvery  = time.Second
	pingWithin = 2 * time.Second
)

// slowPing is what an answer must take for people to be told.
const slowPing = 100 * time.Millisecond

type ping = func(context.Context) error

// watch asks the servers that a role depends on for a sign of life, as their loss is to show before the role needs them: a
// worker whose readers find all in the caches may ask nothing of the store for minutes. What it finds is for operators
// alone; a role stays ready, as it can do much without one of them.
type watch struct {
	life    fx.Lifecycle
	log     *slog.Logger
	errors  *prometheus.CounterVec
	seconds *prometheus.GaugeVec

	mu   sync.Mutex               // guards what follows
	took map[string]time.Duration // what the latest answers took
	lost map[string]loss
}

type loss struct {
	since time.Time
	err   error
}

// watching has a role watch the servers that each of its options names, from the graph's start to its stop. It comes behind what
// makes the role, so that it stops first: what a role does at its stop may take longer than a ping may.
func watching(node contracts.NodeID, servers ...fx.Option) fx.Option {
	return fx.Options(fx.Provide(func(lc fx.Lifecycle, reg prometheus.Registerer, logger *slog.Logger, o *ops.Server) (*watch, error) {
		w := &watch{
			life: lc,
			log:  logger,
			errors: prometheus.NewCounterVec(prometheus.CounterOpts{
				Name: "parley_server_ping_errors_total",
				Help: "Signs of life that a server (NATS, log, Redis, store) did not give within two seconds; it is asked every second.",
			}, []string{"server"}),
			seconds: prometheus.NewGaugeVec(prometheus.GaugeOpts{
				Name: "parley_server_ping_seconds",
				Help: "What the latest sign of life of a server (NATS, log, Redis, store) took; 2 or more where it gave none.",
			}, []string{"server"}),
			took: make(map[string]time.Duration),
			lost: make(map[string]loss),
		}
		if err := errors.Join(reg.Register(w.errors), reg.Register(w.seconds)); err != nil {
			return nil, err
		}
		o.Tell(string(node)+" servers", func() string { return w.state(time.Now()) })
		return w, nil
	}), fx.Options(servers...))
}

func watchNATS() fx.Option {
	return fx.Invoke(func(w *watch, n *rpc.NATS) { w.ask("NATS", n.Ping) })
}

func watchRedis() fx.Option {
	return fx.Invoke(func(w *watch, client redis.UniversalClient) {
		w.ask("Redis", func(ctx context.Context) error { return fanout.Ping(ctx, client) })
	})
}

func watchLog() fx.Option {
	return fx.Invoke(func(w *watch, log journal.Log) { w.ask("log", log.Ping) })
}

func watchStore(s Settings) fx.Option {
	return fx.Invoke(func(w *watch) { w.ask("store", s.Store.Ping) })
}

// ask has a server asked from the graph's start on.
func (w *watch) ask(name string, do ping) {
	w.errors.WithLabelValues(name)
	w.seconds.WithLabelValues(name)
	ctx, cancel := context.WithCancel(context.Background())
	// A ping that is under way is not waited for: the others need the time, and nobody is told what comes of it.
	w.life.Append(fx.StartStopHook(func() { go w.run(ctx, name, do) }, cancel))
}

func (w *watch) run(ctx context.Context, name string, do ping) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		began := time.Now()
		try, cancel := context.WithTimeout(ctx, pingWithin)
		err := do(try)
		cancel()
		if ctx.Err() != nil {
			return
		}
		w.note(name, began, time.Since(began), err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// note keeps what a ping that began then came to. Only what changes is logged.
func (w *watch) note(name string, began time.Time, took time.Duration, err error) {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer in %s: %w", pingWithin, err)
	}
	if err != nil {
		took = max(took, pingWithin) // who refuses at once is not fast
	}
	w.seconds.WithLabelValues(name).Set(took.Seconds())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.took[name] = took
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

// state tells operators what does not answer, or late.
func (w *watch) state(now time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var said []string
	for _, name := range slices.Sorted(maps.Keys(w.took)) {
		switch l, lost := w.lost[name]; {
		case lost:
			said = append(said, fmt.Sprintf("%s lost for %s: %v", name, now.Sub(l.since).Round(time.Second), l.err))
		case w.took[name] >= slowPing:
			said = append(said, fmt.Sprintf("%s answers after %s", name, w.took[name].Round(time.Millisecond)))
		}
	}
	if len(said) == 0 {
		return "all answer"
	}
	return strings.Join(said, "; ")
}
