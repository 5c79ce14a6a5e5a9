package loadtest

import (
	"strconv"
)

// plan is what every process of a run must know. It is sent to the others as JSON.
type plan struct {
	Run      string // names the run's messages
	Scenario Scenario
	Targets  []target
	Prefix   string
	Rooms    int
	Conns    int
	Rate     float64 // messages per second of all; −1: closed loop
	Window   int
	Senders  int // connections per room that send; 0: all
	Active   int // rooms that are spoken in; 0: all
	Meet     int // addresses of one room; 0: all
	Size     int
	Ramp     int // new connections per second of all; 0: no limit
	Churn    float64
	Token    string
	// Skew is the server's clock minus this one's, in milliseconds: keys are made on the server's time.
	Skew   int64
	Seed   int64
	Shards int
	Loops  int // per shard
	// Goroutines takes goroutines instead of epoll.
	Goroutines bool
	Insecure   bool

	// Within one process.
	dial  dialFunc // nil: the network's own
	clock *clock   // nil: one of its own
}

// Connection i of the run is member i / Rooms of room i % Rooms. Neighbours are in different rooms, so that a sweep over
// the connections speaks in every room in turn.

func (p *plan) room(conn int) int   { return conn % p.Rooms }
func (p *plan) member(conn int) int { return conn / p.Rooms }

// target spreads the members of every room over all addresses, or over its own Meet neighbours among them.
func (p *plan) target(conn int) int {
	if p.Meet == 0 {
		return p.member(conn) % len(p.Targets)
	}
	return (p.room(conn)*p.Meet + p.member(conn)%p.Meet) % len(p.Targets)
}

// sends reports whether the connection is one of those that send.
func (p *plan) sends(conn int) bool {
	return (p.Senders == 0 || p.member(conn) < p.Senders) && (p.Active == 0 || p.room(conn) < p.Active)
}

// source is the last two bytes of the loopback address from which the connection comes: ports run out otherwise.
func (p *plan) source(conn int) (b2, b3 byte) {
	n := 1 + conn/perAddress
	return byte(n / 250), byte(1 + n%250)
}

// roomName appends the name of a room.
func (p *plan) roomName(dst []byte, room int) []byte {
	dst = append(dst, p.Prefix...)
	dst = append(dst, '-')
	return strconv.AppendInt(dst, int64(room), 10)
}

// roomIndex is the inverse of roomName; −1 for what is no room of this run.
func (p *plan) roomIndex(name []byte) int {
	n := len(p.Prefix)
	if len(name) <= n+1 || string(name[:n]) != p.Prefix || name[n] != '-' {
		return -1
	}
	i, ok := parseUint(name[n+1:])
	if !ok || i >= uint64(p.Rooms) {
		return -1
	}
	return int(i)
}

// lanes is the number of loops of all processes; connection i belongs to loop i modulo lanes.
func (p *plan) lanes() int { return p.Shards * p.Loops }

// entries is how many connections of a loop may be on their way into their room.
func (p *plan) entries() int {
	return max(entriesLeast, min(entriesAtOnce, entriesOfAll/p.lanes()))
}

// parseUint reads decimal digits and nothing else.
func parseUint(b []byte) (n uint64, ok bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// allSenders is the number of connections that send.
func (p *plan) allSenders() (n int) {
	if p.Senders == 0 && p.Active == 0 {
		return p.Conns
	}
	for i := range p.Conns {
		if p.sends(i) {
			n++
		}
	}
	return n
}
