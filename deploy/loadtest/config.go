package loadtest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Scenario is what a run does.
type Scenario string

// The scenarios.
const (
	// Connect opens connections, joins their rooms and holds them: memory and logins.
	Connect Scenario = "connect"
	// Fanout sends into rooms at a rate: latency and deliveries.
	Fanout Scenario = "fanout"
	// Chat mixes sending, typing, history, joins, leaves and new connections.
	Chat Scenario = "chat"
	// Storm cuts every connection at once in the middle and lets all resume.
	Storm Scenario = "storm"
	// Soak is Chat for long.
	Soak Scenario = "soak"
)

// Scenarios lists them in the order of the help.
func Scenarios() []Scenario { return []Scenario{Connect, Fanout, Chat, Storm, Soak} }

// RateMax is the Rate of the closed loop: the next message as soon as the one before has come back.
const RateMax = "max"

// Config says what to load, with what and for how long. The zero value of a field means its default.
type Config struct {
	// Scenario defaults to Fanout.
	Scenario Scenario
	// URLs are the servers' addresses: ws://host:port/path, wss://, http://, https:// or host:port. The connections of
	// every room are spread over all of them, unless Meet says less. Defaults to 127.0.0.1:8080.
	URLs []string
	// Rooms is the number of rooms. Defaults to 10, or to what Connections and Members make.
	Rooms int
	// Members is the number of connections per room. Defaults to 100.
	Members int
	// Connections is the number of connections. Defaults to Rooms × Members.
	Connections int
	// Rate is the number of messages per second of all senders together, or RateMax. Defaults to 10 per room, at most
	// as many as make 20,000 deliveries; 0 where the scenario is Connect.
	Rate string
	// Window is how many messages a sender may have under way. In the closed loop it is how many it keeps under way;
	// there it defaults to 4, otherwise to 64. At most 255.
	Window int
	// Senders is the number of connections per room that send. Defaults to all; in the closed loop to 1.
	Senders int
	// Meet is on how many of the URLs the members of one room meet. Defaults to all.
	Meet int
	// Active is the number of rooms that are spoken in; the others are only held. Defaults to all.
	Active int
	// Size is the length of a message's text in bytes. Defaults to 128, at least 96.
	Size int
	// Warmup runs before anything is measured. Defaults to 2 s.
	Warmup time.Duration
	// Duration is the time measured. Defaults to 8 s; 10 min where the scenario is Soak.
	Duration time.Duration
	// Drain is the longest wait for the last messages. Defaults to 5 s.
	Drain time.Duration
	// Ramp is the number of new connections per second. Defaults to as many as the server takes.
	Ramp int
	// RampTimeout is the longest wait for all connections. Defaults to 30 s and 1 s more per 250 connections.
	RampTimeout time.Duration
	// Churn is the share of the connections that is replaced per second. Defaults to 0.002 in Chat and Soak, 0 elsewhere.
	Churn float64
	// Stall and Trickle are further connections in the run's rooms, which send half a frame and read nothing, or read a byte
	// per second. Nothing is counted of them. Default to none.
	Stall, Trickle int
	// Token is the token that every connection shows. Defaults to none: guests.
	Token string
	// Prefix is the beginning of the rooms' names. Defaults to "load" and a name for the run.
	Prefix string
	// SLO are goals such as "p99<50ms,loss=0". Defaults to none.
	SLO string
	// PIDs are the servers' processes on this machine, whose memory and processor time are shown.
	PIDs []int
	// Metrics are addresses of the servers' Prometheus metrics, read for the same figures.
	Metrics []string
	// Processes is the number of processes that drive connections. Defaults to as many as the descriptor limit needs.
	Processes int
	// Loops is the number of loops per process. Defaults to half the processors.
	Loops int
	// Goroutines takes goroutines instead of epoll. TLS addresses and systems without epoll always do.
	Goroutines bool
	// Insecure takes every certificate of a wss:// server. Defaults to false.
	Insecure bool
	// JSON and HTML are files for the report. Defaults to none.
	JSON, HTML string
	// Plain prints lines instead of the live screen, also on a terminal.
	Plain bool
	// Shard is the command line that starts one more process of the load tester; it must call ServeShard. Defaults to
	// this program with the arguments "load --shard".
	Shard []string
	// Seed makes the choices of a run repeatable. Defaults to one from the clock.
	Seed int64

	dial dialFunc // nil: the network's own
}

// dialFunc connects to a server. The two bytes are the end of the loopback address to come from.
type dialFunc func(to target, source [2]byte) (net.Conn, error)

const (
	minSize     = 96
	maxWindow   = 255
	perAddress  = 20_000
	spareFDs    = 96 // descriptors that a process needs for itself
	defaultHost = "127.0.0.1:8080"
)

// withDefaults returns c with every unset field filled in.
func (c Config) withDefaults() Config {
	set(&c.Scenario, Fanout)
	if len(c.URLs) == 0 {
		c.URLs = []string{defaultHost}
	}
	set(&c.Members, 100)
	switch {
	case c.Rooms == 0 && c.Connections == 0:
		c.Rooms = 10
	case c.Rooms == 0:
		c.Members = min(c.Members, c.Connections)
		c.Rooms = (c.Connections + c.Members - 1) / c.Members
	}
	set(&c.Connections, c.Rooms*c.Members)
	c.Rooms = min(c.Rooms, c.Connections)
	if c.Rate == "" {
		rate := 10 * c.Rooms
		if perSend := c.Connections / c.Rooms; rate*perSend > 20_000 {
			rate = max(1, 20_000/perSend)
		}
		if c.Scenario == Connect {
			rate = 0
		}
		c.Rate = strconv.Itoa(rate)
	}
	if c.Rate == RateMax {
		set(&c.Window, 4)
		set(&c.Senders, 1)
	}
	set(&c.Window, 64)
	set(&c.Size, 128)
	set(&c.Warmup, 2*time.Second)
	if c.Scenario == Soak {
		set(&c.Duration, 10*time.Minute)
	}
	set(&c.Duration, 8*time.Second)
	set(&c.Drain, 5*time.Second)
	set(&c.RampTimeout, 30*time.Second+time.Duration(c.Connections/250)*time.Second)
	if c.Scenario == Chat || c.Scenario == Soak {
		set(&c.Churn, 0.002)
	}
	set(&c.Seed, time.Now().UnixNano())
	if c.Prefix == "" {
		c.Prefix = "load-" + runName(c.Seed)
	}
	if len(c.Shard) == 0 {
		if self, err := os.Executable(); err == nil {
			c.Shard = []string{self, "load", "--shard"}
		}
	}
	return c
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// runName is a short name for a run.
func runName(seed int64) string {
	const digits = "abcdefghijklmnopqrstuvwxyz234567"
	x := mix(uint64(seed))
	name := make([]byte, 6)
	for i := range name {
		name[i] = digits[x&31]
		x >>= 5
	}
	return string(name)
}

// mix is the finisher of SplitMix64: neighbouring numbers become unrelated ones.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Validate says what is wrong with the settings, naming the flag, or returns nil.
func (c Config) Validate() error {
	c = c.withDefaults()
	if !slices.Contains(Scenarios(), c.Scenario) {
		return fmt.Errorf("scenario %q: there are connect, fanout, chat, storm and soak", c.Scenario)
	}
	for _, u := range c.URLs {
		if _, err := parseTarget(u); err != nil {
			return err
		}
	}
	for _, n := range []struct {
		name        string
		value       int
		least, most int
	}{
		{"rooms", c.Rooms, 1, 1 << 22},
		{"members", c.Members, 1, 1 << 22},
		{"connections", c.Connections, 1, 1 << 22},
		{"window", c.Window, 1, maxWindow},
		{"meet", c.Meet, 0, len(c.URLs)},
		{"senders", c.Senders, 0, 1 << 22}, {"active", c.Active, 0, 1 << 22},
		{"size", c.Size, minSize, 64 << 10},
		{"ramp", c.Ramp, 0, 1 << 22},
		{"processes", c.Processes, 0, 1024},
		{"loops", c.Loops, 0, 64},
		{"stall", c.Stall, 0, 1 << 14},
		{"trickle", c.Trickle, 0, 1 << 14},
	} {
		if n.value < n.least || n.value > n.most {
			return fmt.Errorf("--%s %d: must be %d to %d", n.name, n.value, n.least, n.most)
		}
	}
	if _, err := parseRate(c.Rate); err != nil {
		return err
	}
	if c.Rate == RateMax && (c.Scenario == Connect || c.Scenario == Chat || c.Scenario == Soak) {
		return fmt.Errorf("--rate max: the %s scenario has a fixed rate", c.Scenario)
	}
	if c.Warmup < 0 || c.Duration <= 0 || c.Drain < 0 || c.RampTimeout <= 0 {
		return fmt.Errorf("--warmup, --duration, --drain, --ramp-timeout: must not be negative")
	}
	if c.Churn < 0 || c.Churn > 1 {
		return fmt.Errorf("--churn %g: must be 0 to 1, a share of the connections", c.Churn)
	}
	if err := validPrefix(c.Prefix); err != nil {
		return err
	}
	_, err := ParseSLO(c.SLO)
	return err
}

// parseRate returns the messages per second; −1 for RateMax.
func parseRate(s string) (float64, error) {
	if s == RateMax {
		return -1, nil
	}
	rate, err := strconv.ParseFloat(s, 64)
	if err != nil || !(rate >= 0 && rate <= 10_000_000) {
		return 0, fmt.Errorf("--rate %q: must be messages per second, 0 to 10,000,000, or max", s)
	}
	return rate, nil
}

func validPrefix(prefix string) error {
	if len(prefix) > 40 || strings.ContainsFunc(prefix, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
	}) {
		return fmt.Errorf("--prefix %q: up to 40 of A–Z, a–z, 0–9, - and _", prefix)
	}
	return nil
}

// target is one server address.
type target struct {
	TLS  bool
	Host string // with port
	Path string // with query
}

// String returns the address as a URL.
func (t target) String() string {
	if t.TLS {
		return "wss://" + t.Host + t.Path
	}
	return "ws://" + t.Host + t.Path
}

// parseTarget understands what Config.URLs describes.
func parseTarget(s string) (target, error) {
	if !strings.Contains(s, "://") {
		s = "ws://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return target{}, fmt.Errorf("address %q: %w", s, err)
	}
	t := target{Host: u.Host, Path: u.RequestURI()}
	port := "80"
	switch u.Scheme {
	case "ws", "http":
	case "wss", "https":
		t.TLS, port = true, "443"
	default:
		return target{}, fmt.Errorf("address %q: begins with ws://, wss://, http:// or https://", s)
	}
	if u.Hostname() == "" {
		return target{}, fmt.Errorf("address %q: the host is missing", s)
	}
	if u.Port() == "" {
		t.Host += ":" + port
	}
	if t.Path == "/" {
		t.Path = "/v1/ws"
	}
	return t, nil
}
