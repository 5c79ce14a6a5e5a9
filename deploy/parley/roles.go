package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/ops"
	"github.com/parley-chat/parley/deploy/wire"
	"github.com/parley-chat/parley/edge"
	"github.com/parley-chat/parley/persist/mongo"
)

// clients is how an edge treats its clients.
type clients struct {
	Listen  string        `name:"listen" env:"PARLEY_LISTEN" default:"127.0.0.1:8080" help:"Address for WebSocket, API and page."`
	Origins []string      `name:"origins" env:"PARLEY_ORIGINS" placeholder:"URL" help:"Origins that may connect beside the page's own, https://app.example each."`
	Ping    time.Duration `name:"ping" env:"PARLEY_PING" default:"25s" help:"Interval of WebSocket pings."`

	OutboundBytes int           `name:"outbound-bytes" env:"PARLEY_OUTBOUND_BYTES" default:"1048576" help:"Most bytes that wait for one connection; above three quarters its rooms fall behind and are told a gap, above all of it it is closed with 4440."`
	OutboundTotal int64         `name:"outbound-total" env:"PARLEY_OUTBOUND_TOTAL" placeholder:"BYTES" help:"Most bytes that wait for all connections of an edge; above 80 % the slowest give up first. Defaults to a quarter of the memory limit (GOMEMLIMIT, control group or machine)."`
	Stall         time.Duration `name:"stall" env:"PARLEY_STALL" placeholder:"TIME" help:"How long a socket may take nothing of what waits for it before it is closed with 4440. Defaults to the ping interval and 10s."`
	SendBuffer    int           `name:"send-buffer" env:"PARLEY_SEND_BUFFER" default:"65536" help:"SO_SNDBUF of each connection, which Linux doubles; -1 leaves it to the kernel, which goes up to 4 MiB."`

	edgeLimits `embed:""`
}

func (c *clients) config(node contracts.NodeID, limits bool) edge.Config {
	cfg := edge.Config{
		Node: node, Listen: c.Listen, Origins: c.Origins, Ping: c.Ping,
		OutboundBytes: c.OutboundBytes, OutboundTotal: c.OutboundTotal, Stall: c.Stall, SendBuffer: c.SendBuffer,
	}
	c.edgeLimits.set(&cfg, limits)
	return cfg
}

// computed are the values, by flag, of those settings that an edge works out where they are not given.
func (c *clients) computed() map[string]string {
	cfg := c.config("", false).WithDefaults()
	return map[string]string{
		"max-connections": fmt.Sprint(cfg.MaxConnections), "outbound-total": fmt.Sprint(cfg.OutboundTotal), "stall": cfg.Stall.String(),
	}
}

type edgeCmd struct {
	brokers  `embed:""`
	process  `embed:""`
	clients  `embed:""`
	draining `embed:""`
	handing  `embed:""`
	Port     int  `name:"port" env:"PARLEY_PORT,PORT" placeholder:"N" help:"Port on all addresses; replaces --listen."`
	Limits   bool `name:"limits" negatable:"" default:"true" env:"PARLEY_LIMITS" help:"The limits per second, per address and per person. --no-limits for load tests."`
	Portable bool `name:"portable" env:"PARLEY_PORTABLE" help:"A goroutine per connection instead of epoll, as elsewhere than on Linux."`
}

// Validate is called by the command line's parser.
func (c *edgeCmd) Validate() error {
	return errors.Join(c.brokers.Validate(), c.process.Validate(), c.draining.Validate(), c.clients.Validate())
}

// Run holds connections until ctx ends; then it sends its clients away.
func (c *edgeCmd) Run(ctx context.Context, s streams) error {
	if err := missing("edge", map[string]string{"NATS_URL": c.NATSURL, "REDIS_URL": c.RedisURL}); err != nil {
		return err
	}
	node, err := c.process.node("edge")
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		defer paceGC()()
	}
	cfg := c.config(node, c.Limits)
	cfg.Portable = c.Portable
	if c.Port != 0 {
		cfg.Listen = fmt.Sprintf(":%d", c.Port)
	}
	h := &handover{handing: &c.handing, natsURL: c.NATSURL, opsAddr: c.Ops}
	cfg.Names, cfg.Partitions, cfg.Version = c.names(), c.Partitions, version()
	if err := h.call(ctx, &cfg, c.Node); err != nil {
		return err
	}
	node = cfg.Node
	var e *edge.Server
	drain := func(log *slog.Logger) { c.draining.run(e, log) }
	begin := func(ctx context.Context, log *slog.Logger) error { return h.begin(ctx, e, &cfg, log) }
	offer := func(o *ops.Server, log *slog.Logger) (<-chan struct{}, error) { return h.offer(e, &cfg, o, log) }
	r := role{servers: &servers{brokers: c.brokers}, process: &c.process, node: node, leave: drain, begin: begin, offer: offer, successor: h.ops}
	if cfg.Predecessor != nil {
		r.late = true
	}
	return r.run(ctx, s, func(set wire.Settings, _ journal.Durability) fx.Option {
		return wire.Edge(set, cfg, page(), fx.Populate(&e), fx.Invoke(func(lc fx.Lifecycle) {
			lc.Append(fx.Hook{OnStart: func(context.Context) error {
				if cfg.Predecessor == nil { // it does not yet
					set.Log.Info("edge listens", "node", string(node), "addr", e.Addr())
				}
				return nil
			}})
		}))
	})
}

type workerCmd struct {
	servers      `embed:""`
	process      `embed:""`
	accounts     `embed:""`
	workerLimits `embed:""`
	retention    `embed:""`
	Limits       bool          `name:"limits" negatable:"" default:"true" env:"PARLEY_LIMITS" help:"The limits per second. --no-limits for load tests."`
	LogBytes     int64         `name:"log-bytes" env:"PARLEY_LOG_BYTES" default:"0" placeholder:"BYTES" help:"Size of the log, uncompressed and without replicas, above which sends are refused as overloaded until the persister has stored and trimmed; see workers/README.md. 0 is off: only you know the brokers' disks."`
	Audit        time.Duration `name:"audit" env:"PARLEY_AUDIT" default:"30s" help:"How often this worker compares a stretch of the log with what became of it; see the metrics parley_audit_…. 0 is off."`
}

// Validate is called by the command line's parser.
func (c *workerCmd) Validate() error {
	if c.Audit < 0 || c.Audit > 0 && c.Audit < time.Second {
		return fmt.Errorf("--audit %v: must be 1s or more, or 0 for off", c.Audit)
	}
	if c.LogBytes < 0 {
		return fmt.Errorf("--log-bytes %d: must be 0 (off) or more", c.LogBytes)
	}
	return errors.Join(c.servers.Validate(), c.process.Validate(), c.accounts.Validate(), c.workerLimits.Validate(), c.retention.Validate())
}

// Run decides until ctx ends.
func (c *workerCmd) Run(ctx context.Context, s streams) error {
	needs := c.needs()
	if c.JWKSURL == "" {
		needs["PARLEY_SECRET or PARLEY_JWKS_URL"] = c.Secret
	}
	if err := missing("worker", needs); err != nil {
		return err
	}
	node, err := c.process.node("worker")
	if err != nil {
		return err
	}
	cfg := c.accounts.worker(node)
	c.workerLimits.set(&cfg, c.Limits)
	cfg.LogBytes = c.LogBytes
	return role{servers: &c.servers, process: &c.process, node: node, store: true}.run(ctx, s, func(set wire.Settings, class journal.Durability) fx.Option {
		set.Retain = c.Retain
		if c.Audit == 0 {
			return wire.Worker(set, cfg, class)
		}
		return wire.Worker(set, cfg, class, wire.Audit(set, c.Audit))
	})
}

type dispatchCmd struct {
	servers `embed:""`
	process `embed:""`
}

// Validate is called by the command line's parser.
func (c *dispatchCmd) Validate() error {
	return errors.Join(c.servers.Validate(), c.process.Validate())
}

// Run numbers the log and tells the rooms until ctx ends.
func (c *dispatchCmd) Run(ctx context.Context, s streams) error {
	if err := missing("dispatch", c.needs()); err != nil {
		return err
	}
	node, err := c.process.node("dispatch")
	if err != nil {
		return err
	}
	return role{servers: &c.servers, process: &c.process, node: node, store: true}.run(ctx, s, func(set wire.Settings, _ journal.Durability) fx.Option {
		return wire.Dispatch(set, node)
	})
}

type persistCmd struct {
	servers   `embed:""`
	process   `embed:""`
	retention `embed:""`

	AcceptLoss bool `name:"accept-loss" env:"PARLEY_ACCEPT_LOSS" help:"Go on, in a new epoch, where somebody deleted records of the log that were not stored. Without it such a partition stands still until a person has looked."`
}

// Validate is called by the command line's parser.
func (c *persistCmd) Validate() error {
	return errors.Join(c.servers.Validate(), c.process.Validate(), c.retention.Validate())
}

// Run numbers the log and fills the database until ctx ends.
func (c *persistCmd) Run(ctx context.Context, s streams) error {
	needs := c.needs()
	delete(needs, "NATS_URL")
	if err := missing("persist", needs); err != nil {
		return err
	}
	node, err := c.process.node("persist")
	if err != nil {
		return err
	}
	return role{servers: &c.servers, process: &c.process, node: node, store: true}.run(ctx, s, func(set wire.Settings, _ journal.Durability) fx.Option {
		set.AcceptLoss, set.Retain = c.AcceptLoss, c.Retain
		return wire.Persist(set, node)
	})
}

// role is one role as a process of its own.
type role struct {
	*servers
	*process
	node  contracts.NodeID
	store bool // it needs the log and the database to be there
	// leave, where not nil, is what there is to do between the request to stop and the stop.
	leave func(*slog.Logger)
	// begin, where not nil, is what there is to do once the graph has started, and offer once the operators' port is open, too.
	// over ends the role as if it were asked to stop, but for leave.
	begin func(context.Context, *slog.Logger) error
	offer func(*ops.Server, *slog.Logger) (over <-chan struct{}, err error)
	// late opens the operators' port only after begin; successor is its listener then, if another process had it open.
	late      bool
	successor net.Listener
}

// run opens the operators' port, waits for the servers, and runs the graph until ctx ends or a part of it gives up.
func (r role) run(ctx context.Context, s streams, graph func(wire.Settings, journal.Durability) fx.Option) error {
	log := r.logger(s.err)
	o := ops.New(ops.Config{Listen: r.Ops, Listener: r.successor}, log)
	var starting atomic.Pointer[error]
	first := errors.New("starting")
	starting.Store(&first)
	o.Add(ops.Check{Name: "start", Ready: func() error { return *starting.Load() }})
	if !r.late {
		if err := o.Start(); err != nil {
			return err
		}
	}
	defer func() {
		sctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = o.Stop(sctx)
	}()
	dialed := connects(o.Registry())
	set := wire.Settings{
		Names: r.names(), Partitions: r.Partitions, Version: version(), Ops: o, Log: log,
		NATS: rpc.Config{URL: r.NATSURL, Dialed: dialed("NATS")}, Redis: fanout.Config{URL: r.RedisURL, Dialed: dialed("Redis")}, Kafka: r.kafka(),
	}
	set.Kafka.Dialed = dialed("log")
	var class journal.Durability
	if r.store {
		st, err := mongo.Open(ctx, mongo.Config{URI: r.MongoURI, Names: r.names(), Dialed: dialed("store")})
		if err != nil {
			return err
		}
		defer func() { _ = st.Close() }()
		set.Store = st
		class, err = wire.Prepare(ctx, set, func(err error) {
			log.Warn("waiting for the servers", "err", err)
			starting.Store(&err)
		})
		if err != nil {
			return stopped(ctx, err)
		}
		o.Fact("durability", string(class))
	}
	app, err := wire.New(graph(set, class))
	if err != nil {
		return err
	}
	if err := wire.Start(ctx, app); err != nil {
		return stopped(ctx, err)
	}
	var over <-chan struct{}
	if r.begin != nil {
		err := r.begin(ctx, log)
		if err == nil && r.late {
			err = o.Start()
		}
		if err == nil {
			over, err = r.offer(o, log)
		}
		if err != nil {
			return stopped(ctx, errors.Join(err, wire.Stop(app)))
		}
	}
	var none error
	starting.Store(&none)
	log.Info("running", "node", string(r.node), "ops", o.Addr())
	code, leave := 0, r.leave
	select {
	case <-over:
		leave = nil
	case <-ctx.Done():
	case sig := <-app.Wait():
		code = sig.ExitCode // 0 for a signal, which fx listens to as well: either may hear it first
	}
	if code == 0 {
		log.Info("stopping", "node", string(r.node))
		if leave != nil {
			leave(log)
		}
	}
	if err := wire.Stop(app); err != nil {
		return fmt.Errorf("stop %s: %w", r.node, err)
	}
	if code != 0 {
		return errExit(code)
	}
	return nil
}

// connects counts the connections to each server.
func connects(reg prometheus.Registerer) (dialed func(server string) func()) {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "parley_server_connects_total",
		Help: "Connections that were made or tried to a server (NATS, log, Redis, store). It rises while they break.",
	}, []string{"server"})
	reg.MustRegister(total)
	return func(server string) func() { return func() { total.WithLabelValues(server).Inc() } }
}

// stopped is no error where somebody asked for the stop.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// needs lists what a role with every server must be given.
func (s *servers) needs() map[string]string {
	return map[string]string{
		"NATS_URL": s.NATSURL, "REDIS_URL": s.RedisURL, "KAFKA_BROKERS": strings.Join(s.KafkaBrokers, ","), "MONGODB_URI": s.MongoURI,
	}
}
