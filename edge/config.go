// Package edge holds the connections: WebSockets on our own epoll loops, and beside them, on the same port, the HTTP
// API and the chat page. It decides nothing: it parses envelopes, asks workers over rpc, hears the rooms through
// fanout and writes what happens there to the members, in order and without holes.
//
// Who owns what:
//
//	loop   one goroutine per core. It owns its connections and its part of each room (local); everything that
//	       happens to them arrives through its inbox or its poller, so that none of it needs a lock.
//	hub    the rooms that have a member on this node: the last seq passed on, what was heard out of order, the repair.
//	       Guarded by one mutex per group of lanes. It hands each entry to the loops, in seq order, framed once.
//	asker  the questions that workers have not answered yet.
//
// A message to a member: fanout → hub (order, holes) → inbox of each loop with members → one write per member for all
// that waits in that room.
package edge

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
)

// Config of an edge. The zero value of a field means its default.
type Config struct {
	// Node names this edge among all. Required.
	Node contracts.NodeID
	// Version is told to clients. Defaults to "devel".
	Version string
	Names   contracts.Names
	// Partitions of the log. Defaults to contracts.DefaultPartitions.
	Partitions int
	// Listen is the address for WebSocket, API and page, "off" for none. Defaults to 127.0.0.1:8080.
	Listen string
	// Loops is how many event loops run. Defaults to the number of cores.
	Loops int
	// Portable uses a goroutine per connection instead of epoll. Elsewhere than on Linux it is always so.
	Portable bool
	// Origins are the Origin headers that are welcome beside the page's own host. Defaults to none.
	Origins []string
	// MaxConnections is the most that are held; above it HTTP 503. Defaults to 0.9 of the descriptor limit.
	MaxConnections int
	// MaxRooms is the most rooms that one connection may listen to. Defaults to 1,000.
	MaxRooms int
	// MessageBytes is the most that one message of a client may measure. Defaults to 64 KiB.
	MessageBytes int
	// Fragments is the most that one message may come in. Defaults to 64.
	Fragments int
	// OutboundBytes is the most that waits for one connection. Defaults to 1 MiB.
	OutboundBytes int
	// OutboundTotal is the most that waits for all connections together, as bytes of memory. Defaults to a quarter of the
	// process's memory limit.
	OutboundTotal int64
	// Stall is how long a socket may take nothing of what waits for it. Defaults to Ping and Pong together, for which it
	// stands in: a stuck connection is not pinged.
	Stall time.Duration
	// SendBuffer is what the kernel may hold for one connection, as SO_SNDBUF; -1 leaves it to the kernel, which goes up to
	// 4 MiB. Defaults to 64 KiB. Linux doubles the figure for its own records.
	SendBuffer int
	// Ping is the interval of WebSocket pings. Defaults to 25 s.
	Ping time.Duration
	// Pong is how long after a ping something must be heard. Defaults to 10 s.
	Pong time.Duration
	// HeadTime is the time for a whole HTTP head, ConnectTime for the connect that must come first. Default to 5 s.
	HeadTime, ConnectTime time.Duration
	// FrameTime is the time for one message that has begun. Defaults to 30 s.
	FrameTime time.Duration
	// CloseTime is how long a peer has to take a close frame and answer it. Defaults to 2 s.
	CloseTime time.Duration
	// StoredTime is how long the reply to a send with "ack":"stored" waits for that, and how often it is asked for
	// afterwards. Defaults to 4 s.
	StoredTime time.Duration
	// AskTime is the time that a worker has to answer. Defaults to 5 s.
	AskTime time.Duration
	// InFlight is how many questions to workers may be unanswered; more wait their turn. Defaults to 2,000.
	InFlight int
	// BreakTime is how long nothing is asked of workers that do not answer; where none is to be reached it is 250 ms at the most.
	// Defaults to 2 s; negative: the breaker is off.
	BreakTime time.Duration
	// Limits is what clients may do in how much time. Default to off.
	Limits Limits
	// Predecessor is the running edge to take over from; TakeOver does it. Node must be its Node. Defaults to none.
	Predecessor *Predecessor
}

// WithDefaults returns c with the default in place of each zero, as New takes it: some depend on the machine.
func (c Config) WithDefaults() Config {
	c.setDefaults()
	return c
}

func (c *Config) setDefaults() {
	set := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	last := func(v *time.Duration, def time.Duration) {
		if *v == 0 {
			*v = def
		}
	}
	if c.Version == "" {
		c.Version = "devel"
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:8080"
	}
	set(&c.Partitions, contracts.DefaultPartitions)
	set(&c.Loops, runtime.GOMAXPROCS(0))
	set(&c.MaxConnections, descriptorLimit()*9/10)
	set(&c.MaxRooms, 1000)
	set(&c.MessageBytes, 64<<10)
	set(&c.Fragments, 64)
	set(&c.OutboundBytes, 1<<20)
	set(&c.SendBuffer, 64<<10)
	if c.OutboundTotal == 0 {
		c.OutboundTotal = memoryLimit() / 4
	}
	set(&c.InFlight, 2000)
	last(&c.Ping, 25*time.Second)
	last(&c.Pong, 10*time.Second)
	last(&c.Stall, c.Ping+c.Pong)
	last(&c.HeadTime, 5*time.Second)
	last(&c.ConnectTime, 5*time.Second)
	last(&c.FrameTime, 30*time.Second)
	last(&c.CloseTime, 2*time.Second)
	last(&c.StoredTime, 4*time.Second)
	last(&c.AskTime, 5*time.Second)
	last(&c.BreakTime, 2*time.Second)
}

// Validate tells what is wrong with c, if anything is.
func (c *Config) Validate() error {
	if !contracts.ValidID(string(c.Node)) {
		return fmt.Errorf("edge node %q: use 1 to 64 of A-Z a-z 0-9 _ -", c.Node)
	}
	if c.Partitions != 0 && !contracts.ValidPartitions(c.Partitions) {
		return fmt.Errorf("edge partitions %d: must be a power of two from 1 to %d", c.Partitions, contracts.Lanes)
	}
	if c.Ping < 0 || c.Pong < 0 || c.Stall < 0 || c.OutboundBytes < 0 || c.OutboundTotal < 0 || c.Loops < 0 || c.MaxConnections < 0 {
		return errors.New("edge: a setting is negative")
	}
	if c.Loops > maxLoops {
		return fmt.Errorf("edge loops %d: must be at most %d", c.Loops, maxLoops)
	}
	return c.Limits.validate()
}

// Deps is what an edge needs of others.
type Deps struct {
	// Ask reaches workers and dispatchers.
	Ask rpc.Client
	// Hear makes the subscriber that calls the edge; the edge closes it.
	Hear func(fanout.Receiver) fanout.Subscriber
	// Page serves everything that is neither the protocol nor the API. Nil: 404.
	Page http.Handler
	Log  *slog.Logger
	// Metrics is where the edge registers its metrics.
	Metrics prometheus.Registerer
}
