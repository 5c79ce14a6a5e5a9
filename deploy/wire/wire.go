// Package wire puts the roles together: one flat graph of fx per role, of the same parts whether they run alone against
// real servers or side by side in `parley dev`.
package wire

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/dig"
	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/ops"
	"github.com/parley-chat/parley/edge"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/persist/store"
	"github.com/parley-chat/parley/workers"
	"github.com/parley-chat/parley/workers/audit"
	"github.com/parley-chat/parley/workers/dispatch"
)

// StopTimeout bounds how long a role takes to stop.
const StopTimeout = 5 * time.Second

// Settings are what all roles of a process have in common.
type Settings struct {
	Names      contracts.Names
	Partitions int
	Version    string
	NATS       rpc.Config
	Redis      fanout.Config
	Recent     recent.Config
	Kafka      journal.Config
	// AcceptLoss is the persisters'; see sink.Config.
	AcceptLoss bool
	// Retain is the persisters' and the workers'; see sink.Config.
	Retain time.Duration
	// Store is open; whoever opened it closes it. Edges need none.
	Store store.Store
	Ops   *ops.Server
	Log   *slog.Logger
}

// base is what every role's graph begins with.
func base(s Settings, role string, node contracts.NodeID) fx.Option {
	log := s.Log.With("role", role, "node", string(node))
	reg := prometheus.WrapRegistererWith(prometheus.Labels{"node": string(node)}, s.Ops.Registry())
	nats := s.NATS
	nats.Name = string(node)
	return fx.Options(
		fx.NopLogger,
		fx.StartTimeout(30*time.Second),
		fx.StopTimeout(StopTimeout),
		fx.Supply(s.Names, nats, s.Redis, s.Recent, log, s.Ops),
		fx.Provide(func() prometheus.Registerer { return reg }),
		rpc.Module(),
		fanout.Module(),
	)
}

func stores(s Settings) fx.Option {
	return fx.Provide(func() (workers.Store, dispatch.Store, sink.Store) { return s.Store, s.Store, s.Store })
}

func kafka(s Settings, node contracts.NodeID) journal.Config {
	k := s.Kafka
	k.Names, k.Partitions, k.ClientID = s.Names, s.Partitions, string(node)
	return k
}

// Edge is the graph of an edge.
func Edge(s Settings, cfg edge.Config, more ...fx.Option) fx.Option {
	cfg.Names, cfg.Partitions, cfg.Version = s.Names, s.Partitions, s.Version
	return fx.Options(base(s, "edge", cfg.Node), fx.Supply(cfg), fx.Provide(edgeDeps), edge.Module(),
		fx.Invoke(func(e *edge.Server, o *ops.Server) {
			o.Add(ops.Check{Name: string(cfg.Node), Ready: e.Ready})
			o.Tell(string(cfg.Node), e.State)
		}),
		watching(cfg.Node, watchNATS(), watchRedis()), fx.Options(more...))
}

// Worker is the graph of a worker. durability is the log's class, told to clients.
func Worker(s Settings, cfg workers.Config, durability journal.Durability, more ...fx.Option) fx.Option {
	cfg.Names, cfg.Partitions, cfg.Version, cfg.Durability = s.Names, s.Partitions, s.Version, string(durability)
	cfg.LogKeep, cfg.Retain = sink.KeepRecords, s.Retain
	return fx.Options(base(s, "worker", cfg.Node), stores(s), recent.Module(),
		fx.Supply(cfg, kafka(s, cfg.Node)), journal.WriterModule(), journal.LogModule(), workers.Module(),
		fx.Provide(func(l journal.Log) workers.Extents { return l }),
		fx.Invoke(func(w *workers.Worker, o *ops.Server) {
			o.Add(ops.Check{Name: string(cfg.Node), Ready: w.Ready})
			if _, limited := w.LogState(); limited {
				o.Tell(string(cfg.Node)+" log", func() string { state, _ := w.LogState(); return state })
			}
		}),
		watching(cfg.Node, watchNATS(), watchRedis(), watchLog(), watchStore(s)), fx.Options(more...))
}

// Audit adds to a worker's graph what samples the log and checks the promises, so often.
func Audit(s Settings, every time.Duration) fx.Option {
	return fx.Options(audit.Module(),
		fx.Provide(func() audit.Store { return s.Store }),
		fx.Supply(audit.Config{Names: s.Names, Partitions: s.Partitions, Every: every}))
}

// Dispatch is the graph of a dispatcher.
func Dispatch(s Settings, node contracts.NodeID, more ...fx.Option) fx.Option {
	cfg := dispatch.Config{Names: s.Names, Partitions: s.Partitions, SessionTimeout: s.Kafka.SessionTimeout}
	return fx.Options(base(s, "dispatch", node), stores(s), recent.Module(),
		fx.Supply(cfg, kafka(s, node)), journal.LogModule(), fx.Provide(dispatchDeps), dispatch.Module(),
		fx.Invoke(func(d *dispatch.Dispatcher, o *ops.Server) { o.Add(ops.Check{Name: string(node), Ready: d.Ready}) }),
		watching(node, watchNATS(), watchRedis(), watchLog(), watchStore(s)), fx.Options(more...))
}

// Persist is the graph of a persister.
func Persist(s Settings, node contracts.NodeID, more ...fx.Option) fx.Option {
	cfg := sink.Config{Names: s.Names, Partitions: s.Partitions, SessionTimeout: s.Kafka.SessionTimeout, AcceptLoss: s.AcceptLoss, Retain: s.Retain}
	return fx.Options(base(s, "persist", node), stores(s),
		fx.Supply(cfg, kafka(s, node)), journal.LogModule(), fx.Provide(sinkDeps), sink.Module(),
		fx.Invoke(func(k *sink.Sink, o *ops.Server) { o.Add(ops.Check{Name: string(node), Ready: k.Ready}) }),
		watching(node, watchRedis(), watchLog(), watchStore(s)), fx.Options(more...))
}

// Prepare waits until the log and the store are there and belong together, and returns the log's durability class.
// waiting is told what it waits for, whenever that changes.
func Prepare(ctx context.Context, s Settings, waiting func(error)) (journal.Durability, error) {
	log, err := journal.NewLog(kafka(s, "prepare"), s.Log)
	if err != nil {
		return "", err
	}
	defer func() { _ = log.Close() }()
	var class journal.Durability
	steps := []func(context.Context) error{
		func(ctx context.Context) error { return log.Ensure(ctx, s.Partitions) },
		func(ctx context.Context) (err error) { class, err = log.Durability(ctx); return err },
		func(ctx context.Context) error { return s.Store.Prepare(ctx, s.Partitions) },
	}
	told := ""
	for _, step := range steps {
		for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
			err := attempt(ctx, step)
			if err == nil {
				break
			}
			if errors.Is(err, store.ErrPartitions) || ctx.Err() != nil {
				return "", err
			}
			if err.Error() != told {
				told = err.Error()
				waiting(err)
			}
			select {
			case <-ctx.Done():
				return "", err
			case <-time.After(pause):
			}
		}
	}
	return class, nil
}

func attempt(ctx context.Context, step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return step(ctx)
}

// New makes a graph. The error is the failing constructor's own.
func New(graph fx.Option) (*fx.App, error) {
	app := fx.New(graph)
	if err := app.Err(); err != nil {
		return nil, dig.RootCause(err)
	}
	return app, nil
}

// Start starts a graph. The caller stops it with Stop.
func Start(ctx context.Context, app *fx.App) error {
	ctx, cancel := context.WithTimeout(ctx, app.StartTimeout())
	defer cancel()
	return app.Start(ctx)
}

// Stop stops a graph, within StopTimeout.
func Stop(app *fx.App) error {
	ctx, cancel := context.WithTimeout(context.Background(), app.StopTimeout())
	defer cancel()
	return app.Stop(ctx)
}
