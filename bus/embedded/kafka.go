//go:build !lean

package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
)

// segmentBytes is how much of a partition is in one file. Files are deleted whole.
const segmentBytes = 16 << 20

// KafkaConfig is how a Kafka runs.
type KafkaConfig struct {
	// Dir holds the log and the groups' commits. The caller keeps others out of it: a second broker would open it without
	// complaint. Defaults to none: all is in memory.
	Dir string
	// Sync syncs every batch to disk before it is confirmed. Defaults to false: what is confirmed survives the end of
	// the process, not that of the machine.
	Sync bool
	// Partitions of the log's topic. Defaults to contracts.EmbeddedPartitions.
	Partitions int
	// Names builds the topic's name. Defaults to the names under "parley".
	Names contracts.Names
	// Log gets the broker's warnings. Defaults to nowhere.
	Log *slog.Logger
}

// Kafka is a single Kafka broker inside this process, on a loopback port, with the log's topic made. It is safe for
// concurrent use.
type Kafka struct {
	cfg     KafkaConfig
	cluster *kfake.Cluster
	gate    *gate
}

// StartKafka starts a broker and returns once it has the topic. It fails when that lasts above 30 s, beyond the time that it
// takes to read Dir.
func StartKafka(cfg KafkaConfig) (*Kafka, error) {
	if cfg.Partitions == 0 {
		cfg.Partitions = contracts.EmbeddedPartitions
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	k := &Kafka{cfg: cfg, gate: newGate()}
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ListenFn(k.gate.listen),
		// Its default of 100 MiB would stay on the disk, in each partition, long after all of it was trimmed, and come
		// back into the log after a crash.
		kfake.BrokerConfigs(map[string]string{"log.segment.bytes": fmt.Sprint(segmentBytes)}),
		kfake.GroupMinSessionTimeout(100 * time.Millisecond), // so that tests need not wait for it
		kfake.WithLogger(kafkaLog{cfg.Log}),
	}
	if cfg.Dir != "" {
		// A clean stop writes down who was in the groups. All of them were in this process or cannot find its new port:
		// they would only hold their partitions until their sessions end.
		if err := os.Remove(filepath.Join(cfg.Dir, "session_state.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("start kafka: %w", err)
		}
		opts = append(opts, kfake.DataDir(cfg.Dir))
		if cfg.Sync {
			opts = append(opts, kfake.SyncWrites())
		}
	}
	var err error
	if k.cluster, err = kfake.NewCluster(opts...); err != nil {
		k.gate.end()
		return nil, fmt.Errorf("start kafka: %w", err)
	}
	if err := k.ensure(); err != nil {
		k.Close()
		return nil, fmt.Errorf("start kafka: %w", err)
	}
	return k, nil
}

func (k *Kafka) ensure() error {
	log, err := journal.NewLog(journal.Config{Brokers: k.Addrs(), Names: k.cfg.Names, Partitions: k.cfg.Partitions}, k.cfg.Log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return errors.Join(log.Ensure(ctx, k.cfg.Partitions), log.Close())
}

// Addrs are the brokers to be given to journal.Config.
func (k *Kafka) Addrs() []string { return k.cluster.ListenAddrs() }

// Class is the durability to be given to journal.Config.
func (k *Kafka) Class() journal.Durability {
	switch {
	case k.cfg.Dir == "":
		return journal.DurabilityVolatile
	case k.cfg.Sync:
		return journal.DurabilityPower
	}
	return journal.DurabilityProcess
}

// Dial connects to the broker from within this process, without the cost of a loopback connection: it is a journal.Config's
// Dial. It fails for another address than the broker's.
func (k *Kafka) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	if !slices.Contains(k.Addrs(), addr) {
		return nil, fmt.Errorf("dial %s: the embedded broker is at %v", addr, k.Addrs())
	}
	return k.gate.dial(ctx)
}

// Interrupt ends all connections and refuses new ones, until Resume. What is being answered may or may not be done.
func (k *Kafka) Interrupt() { k.gate.shut(true) }

// Resume takes connections again, on the same port.
func (k *Kafka) Resume() { k.gate.shut(false) }

// Close stops the broker, with everything written.
func (k *Kafka) Close() {
	k.cluster.Close()
	k.gate.end()
}

// gate lets the broker's connections in, or not.
type gate struct {
	within chan net.Conn // from this process
	ended  chan struct{} // closed by end
	once   sync.Once

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]struct{}
	closed bool
}

func newGate() *gate {
	return &gate{within: make(chan net.Conn), ended: make(chan struct{}), conns: make(map[net.Conn]struct{})}
}

func (g *gate) listen(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	gl := &gated{Listener: l, gate: g, without: make(chan accepted)}
	go gl.listen()
	return gl, nil
}

var errShut = errors.New("the embedded broker takes no connections")

// dial makes a connection to the broker.
func (g *gate) dial(ctx context.Context) (net.Conn, error) {
	g.mu.Lock()
	closed := g.closed
	g.mu.Unlock()
	if closed {
		return nil, errShut
	}
	client, server := newPipe(0)
	select {
	case g.within <- server:
		return client, nil
	case <-g.ended:
		return nil, errShut
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *gate) shut(yes bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = yes
	if yes {
		for c := range g.conns {
			_ = c.Close()
		}
	}
}

// end is shut for good.
func (g *gate) end() {
	g.shut(true)
	g.once.Do(func() { close(g.ended) })
}

// enter reports whether c may be served.
func (g *gate) enter(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.conns[c] = struct{}{}
	}
	return !g.closed
}

func (g *gate) leave(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

// gated is the broker's listener: it accepts what comes through the port and from within.
type gated struct {
	net.Listener
	gate    *gate
	without chan accepted // through the port
}

type accepted struct {
	conn net.Conn
	err  error
}

// listen accepts through the port until that is closed.
func (l *gated) listen() {
	for {
		c, err := accept(l.Listener)
		select {
		case l.without <- accepted{c, err}:
		case <-l.gate.ended:
			if err == nil {
				_ = c.Close()
			}
			return
		}
		if err != nil {
			return
		}
	}
}

func (l *gated) Accept() (net.Conn, error) {
	for {
		var c net.Conn
		select {
		case a := <-l.without:
			if a.err != nil {
				return nil, a.err
			}
			c = a.conn
		case c = <-l.gate.within:
		case <-l.gate.ended:
			return nil, net.ErrClosed
		}
		gc := &gatedConn{Conn: c, gate: l.gate}
		if l.gate.enter(c) {
			return gc, nil
		}
		_ = c.Close()
	}
}

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c *gatedConn) Close() error {
	c.gate.leave(c.Conn)
	return c.Conn.Close()
}

// kafkaLog passes the broker's warnings and errors on.
type kafkaLog struct{ log *slog.Logger }

func (l kafkaLog) Logf(level kfake.LogLevel, msg string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.log.Error("embedded kafka", "msg", fmt.Sprintf(msg, args...))
	case kfake.LogLevelWarn:
		l.log.Warn("embedded kafka", "msg", fmt.Sprintf(msg, args...))
	}
}
