package edge

import (
	"errors"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
)

// Limits is what an edge takes of its clients. In each field 0 is off; a burst is two seconds' worth where nothing else
// is said. DefaultLimits are on in `parley edge`.
type Limits struct {
	// HandshakesPerS is how many WebSockets per second this edge takes; above it HTTP 503.
	HandshakesPerS int
	// Handshaking is how many connections may be about to send their HTTP head; above it HTTP 503.
	Handshaking int
	// PerIP is how many WebSockets one address may hold, of IPv6 one /64; above it HTTP 429. Whose address that is says
	// clientIP.
	PerIP int
	// PerUser is how many connections one person may hold here; above it the oldest is closed with 4409.
	PerUser int
	// FramesPerS is how many frames a connection may send, joins apart.
	FramesPerS int
	// BytesPerS is how many bytes of payload a connection may send. The burst is one message at least.
	BytesPerS int
	// JoinsPerS is how many joins a connection may send, with a burst of MaxRooms: who comes back joins every room again.
	JoinsPerS int
	// TrustedProxies are the peers whose X-Forwarded-For and PROXY protocol are believed.
	TrustedProxies []netip.Prefix
	// ProxyProtocol says that every connection begins with a header of the PROXY protocol, version 1 or 2. Those of peers
	// that are not trusted are refused.
	ProxyProtocol bool
}

// DefaultLimits are the limits of a public edge.
func DefaultLimits() Limits {
	return Limits{
		HandshakesPerS: 1000, Handshaking: 512, PerIP: 50, PerUser: 10,
		FramesPerS: 20, BytesPerS: 64 << 10, JoinsPerS: 20,
	}
}

// limit names one limit in parley_edge_limited_total.
type limit uint8

const (
	limitFrames limit = iota
	limitBytes
	limitJoins
	limitStrain
	limitConnections
	limitHandshakes
	limitHandshaking
	limitPerIP
	limitPerUser
	limitAsking
	limitBreaker
	limitInbox
	limits // how many there are
)

var limitNames = [limits]string{
	limitFrames:      "frames",
	limitBytes:       "bytes",
	limitJoins:       "joins",
	limitStrain:      "strain",
	limitConnections: "connections",
	limitHandshakes:  "handshakes",
	limitHandshaking: "handshaking",
	limitPerIP:       "connections_per_ip",
	limitPerUser:     "connections_per_user",
	limitAsking:      "requests_waiting",
	limitInbox:       "loop_inbox",
	limitBreaker:     "breaker",
}

// maxRate is the most per second that a bucket of a connection can count.
const maxRate = 8000

func (l *Limits) validate() error {
	for _, n := range []int{l.HandshakesPerS, l.Handshaking, l.PerIP, l.PerUser, l.BytesPerS} {
		if n < 0 || n > 1<<28 {
			return errors.New("edge: a limit is negative or above 2^28")
		}
	}
	for _, n := range []int{l.FramesPerS, l.JoinsPerS} {
		if n < 0 || n > maxRate {
			return errors.New("edge: the limits of frames and of joins must be from 0 (off) to 8000 per second")
		}
	}
	if l.ProxyProtocol && len(l.TrustedProxies) == 0 {
		return errors.New("edge: the PROXY protocol is believed of trusted proxies only: name some")
	}
	return nil
}

// registerLimits exports every limit as a gauge; 0 is off.
func registerLimits(reg prometheus.Registerer, c *Config) {
	l := &c.Limits
	for _, g := range []struct {
		name, help string
		value      int
	}{
		{"connections", "WebSocket connections that this edge holds at most.", c.MaxConnections},
		{"handshakes_per_second", "WebSocket handshakes per second; 0 is off.", l.HandshakesPerS},
		{"handshaking", "Connections that may be about to send their HTTP head; 0 is off.", l.Handshaking},
		{"connections_per_ip", "WebSocket connections of one address; 0 is off.", l.PerIP},
		{"connections_per_user", "WebSocket connections of one person; 0 is off.", l.PerUser},
		{"frames_per_second", "Frames per second of one connection, joins apart; 0 is off.", l.FramesPerS},
		{"received_bytes_per_second", "Bytes per second of one connection; 0 is off.", l.BytesPerS},
		{"joins_per_second", "Joins per second of one connection; 0 is off.", l.JoinsPerS},
		{"message_bytes", "Size of one message of a client.", c.MessageBytes},
		{"fragments", "Frames of one message of a client.", c.Fragments},
		{"rooms", "Rooms of one connection.", c.MaxRooms},
		{"outbound_bytes", "Bytes that may wait for one connection.", c.OutboundBytes},
		{"requests_in_flight", "Questions to workers that may be unanswered.", c.InFlight},
	} {
		gauge := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "parley", Subsystem: "edge", Name: "limit_" + g.name, Help: g.help})
		gauge.Set(float64(g.value))
		reg.MustRegister(gauge)
	}
}
