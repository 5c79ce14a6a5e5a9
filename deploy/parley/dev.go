package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/local"
	"github.com/parley-chat/parley/deploy/ops"
	"github.com/parley-chat/parley/deploy/wire"
	"github.com/parley-chat/parley/edge"
	"github.com/parley-chat/parley/edge/web"
	"github.com/parley-chat/parley/persist/mongo"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/persist/store"
	"github.com/parley-chat/parley/workers/dispatch"
)

// auditEvery is how often dev compares a stretch of its log with what became of it.
const auditEvery = 30 * time.Second

// devGC is dev's GOGC where the environment sets none: little of what all its parts allocate lives on, so that collecting
// it costs more than the memory that is saved.
const devGC = 200

type devCmd struct {
	Data         string `name:"data" env:"PARLEY_DATA" default:".parley" placeholder:"DIR" help:"Where the data are kept. Defaults to .parley."`
	Ephemeral    bool   `name:"ephemeral" env:"PARLEY_EPHEMERAL" help:"Keep nothing: all data are in memory or in a directory that goes with the process."`
	Fsync        bool   `name:"fsync" env:"PARLEY_FSYNC" help:"Sync to disk before a message is acked, so that it survives a power cut."`
	Edges        int    `name:"edges" env:"PARLEY_EDGES" default:"2" help:"Edges behind the one port; two, so that fan-out between nodes is seen. 0 with --write: edges run as processes of their own."`
	Write        string `name:"write" env:"PARLEY_WRITE" placeholder:"FILE" help:"Let other processes of this machine use the servers, and write their addresses to a file, for: . FILE && parley edge."`
	Portable     bool   `name:"portable" env:"PARLEY_PORTABLE" help:"A goroutine per connection instead of epoll, as elsewhere than on Linux."`
	Limits       bool   `name:"limits" env:"PARLEY_LIMITS" help:"Turn on the limits per second, per address and per person, as in parley edge and parley worker. Off, so that a first load test meets none."`
	LogBytes     int64  `name:"log-bytes" env:"PARLEY_LOG_BYTES" default:"1073741824" placeholder:"BYTES" help:"Size of the log above which sends are refused as overloaded until it was stored and trimmed. 0 is off."`
	clients      `embed:""`
	process      `embed:""`
	accounts     `embed:""`
	workerLimits `embed:""`
	retention    `embed:""`
	servers      `embed:""`
}

// Validate is called by the command line's parser.
func (c *devCmd) Validate() error {
	if c.Edges < 0 || c.Edges > 64 {
		return fmt.Errorf("--edges %d: must be 0 to 64", c.Edges)
	}
	if c.LogBytes < 0 {
		return fmt.Errorf("--log-bytes %d: must be 0 (off) or more", c.LogBytes)
	}
	if c.Edges == 0 && c.Write == "" {
		return errors.New("--edges 0: name a file with --write, by which the edges find the servers")
	}
	return errors.Join(c.servers.Validate(), c.process.Validate(), c.accounts.Validate(), c.clients.Validate(), c.workerLimits.Validate(), c.retention.Validate())
}

// Run runs everything until ctx ends.
func (c *devCmd) Run(ctx context.Context, s streams) (err error) {
	began := time.Now()
	if c.LogFormat == "auto" && c.LogLevel == "info" && terminal(s.err) {
		c.LogLevel = "warn" // a person reads the few lines below instead
	}
	if os.Getenv("GOGC") == "" {
		defer debug.SetGCPercent(debug.SetGCPercent(devGC))
	}
	log := c.logger(s.err)
	d := &dev{devCmd: c, log: log}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(ctx); err != nil {
		return stopped(ctx, err)
	}
	if err := d.start(ctx); err != nil {
		return stopped(ctx, err)
	}
	if c.Write != "" {
		if err := d.share(); err != nil {
			return err
		}
	}
	d.banner(s.out, time.Since(began))
	d.up.Store(true)
	select {
	case <-ctx.Done():
		fmt.Fprintln(s.out, "\nstopping …")
	case <-d.failed:
		return errors.New("a part of Parley has stopped; the log above says why")
	}
	return nil
}

// dev is everything in one process. What was opened is closed in reverse order.
type dev struct {
	*devCmd
	log   *slog.Logger
	ops   *ops.Server
	set   wire.Settings
	class journal.Durability
	// natsURL is where other processes reach NATS; empty where they do not.
	natsURL string
	edges   []*edge.Server
	failed  chan struct{}
	up      atomic.Bool // every part has started
	undo    []func() error
}

func (d *dev) later(f func() error) { d.undo = append(d.undo, f) }

func (d *dev) close() error {
	var errs []error
	for i := len(d.undo) - 1; i >= 0; i-- {
		errs = append(errs, d.undo[i]())
	}
	d.undo = nil
	return errors.Join(errs...)
}

// open takes the data directory and starts the servers that no URL was given for.
func (d *dev) open(ctx context.Context) error {
	d.failed = make(chan struct{}, 8)
	dir := d.Data
	if d.Ephemeral {
		tmp, err := os.MkdirTemp("", "parley-")
		if err != nil {
			return err
		}
		d.later(func() error { return os.RemoveAll(tmp) })
		dir = tmp
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if errors.Is(err, errLocked) {
		return fmt.Errorf("another parley dev uses %s; stop it, or use other data with --data DIR", dir)
	}
	if err != nil {
		return fmt.Errorf("take the data directory: %w", err)
	}
	d.later(unlock)
	if d.Secret == "" {
		if d.Secret, err = local.KeepSecret(filepath.Join(dir, "secret")); err != nil {
			return err
		}
	}
	// The port is looked at before anything is started: it is what most often is in the way.
	if d.Edges == 0 {
		d.Listen = "127.0.0.1:0"
	}
	if ln, err := net.Listen("tcp", d.Listen); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("port %s is in use: stop what uses it, or choose another with --listen", d.Listen)
		}
		return fmt.Errorf("--listen %s: %w", d.Listen, err)
	} else if err := ln.Close(); err != nil {
		return err
	}
	d.ops = ops.New(ops.Config{Listen: d.Ops}, d.log)
	d.ops.Add(ops.Check{Name: "start", Ready: func() error {
		if d.up.Load() {
			return nil
		}
		return errors.New("starting")
	}})
	if err := d.ops.Start(); err != nil {
		return err
	}
	d.later(func() error {
		sctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return d.ops.Stop(sctx)
	})
	d.set = wire.Settings{
		Names: d.names(), Partitions: d.Partitions, Version: version(), Ops: d.ops, Log: d.log,
		NATS: rpc.Config{URL: d.NATSURL}, Redis: fanout.Config{URL: d.RedisURL}, Kafka: d.kafka(), Retain: d.Retain,
	}
	d.natsURL = d.NATSURL
	if len(d.KafkaBrokers) == 0 {
		d.set.Partitions = contracts.EmbeddedPartitions
	}
	if err := d.embed(dir); err != nil {
		return err
	}
	if d.MongoURI != "" {
		st, err := mongo.Open(ctx, mongo.Config{URI: d.MongoURI, Names: d.names()})
		if err != nil {
			return err
		}
		d.useStore(st)
	}
	d.class, err = wire.Prepare(ctx, d.set, func(err error) { d.log.Warn("waiting for the servers", "err", err) })
	if err != nil {
		return err
	}
	d.ops.Fact("durability", string(d.class))
	return nil
}

func (d *dev) useStore(st store.Store) {
	d.set.Store = st
	d.later(st.Close)
}

// start starts the roles. The port opens when dispatcher and persister have read the log to its end.
func (d *dev) start(ctx context.Context) error {
	var disp *dispatch.Dispatcher
	var keep *sink.Sink
	if err := d.run(ctx, wire.Persist(d.set, "persist-1", fx.Populate(&keep))); err != nil {
		return err
	}
	if err := d.run(ctx, wire.Dispatch(d.set, "dispatch-1", fx.Populate(&disp))); err != nil {
		return err
	}
	worker := d.accounts.worker("worker-1")
	d.workerLimits.set(&worker, d.Limits)
	worker.LogBytes = d.LogBytes
	if err := d.run(ctx, wire.Worker(d.set, worker, d.class, wire.Audit(d.set, auditEvery))); err != nil {
		return err
	}
	if err := d.catchUp(ctx, disp, keep); err != nil {
		return err
	}
	if d.Edges == 0 {
		return nil
	}
	graphs := make([]*fx.App, d.Edges)
	d.edges = make([]*edge.Server, d.Edges)
	for i := range graphs {
		cfg := d.config(contracts.NodeID(fmt.Sprintf("edge-%d", i+1)), d.Limits)
		cfg.Portable = d.Portable
		var err error
		if graphs[i], err = wire.New(wire.Edge(d.set, cfg, page(), fx.Populate(&d.edges[i]))); err != nil {
			return err
		}
	}
	edge.Share(d.edges[0], d.edges[1:]...)
	for i := len(graphs) - 1; i >= 0; i-- {
		if err := d.startApp(ctx, graphs[i]); err != nil {
			return err
		}
	}
	return nil
}

func (d *dev) run(ctx context.Context, graph fx.Option) error {
	app, err := wire.New(graph)
	if err != nil {
		return err
	}
	return d.startApp(ctx, app)
}

func (d *dev) startApp(ctx context.Context, app *fx.App) error {
	if err := wire.Start(ctx, app); err != nil {
		return err
	}
	d.later(func() error { return wire.Stop(app) })
	done := app.Wait()
	go func() {
		if sig := <-done; sig.ExitCode != 0 {
			d.failed <- struct{}{}
		}
	}()
	return nil
}

// catchUp waits until all that was acked before is numbered and stored.
func (d *dev) catchUp(ctx context.Context, disp *dispatch.Dispatcher, keep *sink.Sink) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	told := time.Now()
	for {
		err := errors.Join(disp.Ready(), keep.Ready())
		all := len(disp.Owned()) == d.set.Partitions && len(keep.Status()) == d.set.Partitions
		if err == nil && all {
			return nil
		}
		if time.Since(told) > 2*time.Second {
			told = time.Now()
			d.log.Warn("reading the log to its end", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func (d *dev) banner(w io.Writer, took time.Duration) {
	fmt.Fprintf(w, "Parley %s is up after %d ms.\n\n", version(), took.Milliseconds())
	if len(d.edges) > 0 {
		base := "http://" + d.edges[0].Addr()
		if host, port, err := net.SplitHostPort(d.edges[0].Addr()); err == nil && (host == "::" || host == "0.0.0.0") {
			base = "http://localhost:" + port
		}
		fmt.Fprintf(w, "  chat        %s/\n", base)
		fmt.Fprintf(w, "  WebSocket   %s/v1/ws\n", strings.Replace(base, "http", "ws", 1))
		fmt.Fprintf(w, "  API         %s/v1/\n", base)
	}
	if d.ops.Addr() != "" {
		fmt.Fprintf(w, "  operators   http://%s/readyz?verbose\n", d.ops.Addr())
	}
	where := d.Data
	if abs, err := filepath.Abs(where); err == nil {
		where = abs
	}
	if d.Ephemeral {
		where = "nowhere (--ephemeral)"
	}
	fmt.Fprintf(w, "  data        %s\n", where)
	fmt.Fprintf(w, "  survives    %s\n", survives(d.class))
	if d.Write != "" {
		fmt.Fprintf(w, "  an edge     . %s && %s edge --ops 127.0.0.1:9104\n", sourced(d.Write), program())
	}
	switch {
	case len(d.edges) == 0:
		fmt.Fprintf(w, "\nNobody can connect before an edge runs. Ctrl-C stops.\n")
	case len(d.edges) == 1:
		fmt.Fprintf(w, "\nOpen the chat in two tabs. Ctrl-C stops.\n")
	default:
		fmt.Fprintf(w, "\nOpen the chat in two tabs: they land on two different edges. Ctrl-C stops.\n")
	}
}

// survives tells a durability class to a person.
func survives(class journal.Durability) string {
	switch class {
	case journal.DurabilityPower:
		return "power: an acked message survives a power cut"
	case journal.DurabilityReplicated:
		return "replicated: an acked message is on several brokers"
	case journal.DurabilityProcess:
		return "process: an acked message survives kill -9, not a power cut (--fsync)"
	}
	return "volatile: messages end with the process"
}

// page gives an edge's graph the chat page.
func page() fx.Option { return fx.Provide(func() http.Handler { return web.Handler() }) }
