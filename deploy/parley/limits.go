package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/parley-chat/parley/edge"
	"github.com/parley-chat/parley/workers"
)

// edgeLimits are an edge's limits. Those that a load test would meet are behind --limits, which each role has with a
// default of its own.
type edgeLimits struct {
	MaxConnections int      `name:"max-connections" env:"PARLEY_MAX_CONNECTIONS" default:"0" help:"WebSockets that an edge holds. 0: 0.9 of the process's descriptor limit."`
	HandshakesPerS int      `name:"handshakes-per-s" env:"PARLEY_HANDSHAKES_PER_S" default:"${handshakes_per_s}" help:"WebSocket handshakes per second and edge. 0 is off; off in dev without --limits."`
	Handshaking    int      `name:"handshaking" env:"PARLEY_HANDSHAKING" default:"${handshaking}" help:"Connections that may be about to send their HTTP head. 0 is off; off in dev without --limits."`
	PerIP          int      `name:"connections-per-ip" env:"PARLEY_CONNECTIONS_PER_IP" default:"${per_ip}" help:"WebSockets of one address; private addresses that no trusted proxy names are not limited. 0 is off; off in dev without --limits."`
	PerUser        int      `name:"connections-per-user" env:"PARLEY_CONNECTIONS_PER_USER" default:"${per_user}" help:"Connections of one person per edge; above it the oldest ends. 0 is off; off in dev without --limits."`
	FramesPerS     int      `name:"frames-per-s" env:"PARLEY_FRAMES_PER_S" default:"${frames_per_s}" help:"Frames per second of one connection, joins apart. 0 is off; off in dev without --limits."`
	BytesPerS      int      `name:"bytes-per-s" env:"PARLEY_BYTES_PER_S" default:"${bytes_per_s}" help:"Bytes per second of one connection. 0 is off; off in dev without --limits."`
	JoinsPerS      int      `name:"joins-per-s" env:"PARLEY_JOINS_PER_S" default:"${joins_per_s}" help:"Joins per second of one connection, with a burst of 1,000. 0 is off; off in dev without --limits."`
	InFlight       int      `name:"in-flight" env:"PARLEY_IN_FLIGHT" default:"2000" help:"Questions to workers that may be unanswered, per edge; more wait."`
	TrustedProxies []string `name:"trusted-proxies" env:"PARLEY_TRUSTED_PROXIES" placeholder:"CIDR" help:"Proxies whose X-Forwarded-For and PROXY protocol are believed: addresses or ranges."`
	ProxyProtocol  bool     `name:"proxy-protocol" env:"PARLEY_PROXY_PROTOCOL" help:"Every connection begins with a header of the PROXY protocol, version 1 or 2; needs --trusted-proxies."`
}

// edgeLimitDefaults are the flags' defaults.
func edgeLimitDefaults() map[string]string {
	vars := make(map[string]string)
	l := edge.DefaultLimits()
	for name, n := range map[string]int{
		"handshakes_per_s": l.HandshakesPerS, "handshaking": l.Handshaking, "per_ip": l.PerIP, "per_user": l.PerUser,
		"frames_per_s": l.FramesPerS, "bytes_per_s": l.BytesPerS, "joins_per_s": l.JoinsPerS,
	} {
		vars[name] = fmt.Sprint(n)
	}
	return vars
}

// set writes the limits into an edge's configuration; on is --limits.
func (l *edgeLimits) set(c *edge.Config, on bool) {
	c.MaxConnections, c.InFlight = l.MaxConnections, l.InFlight
	c.Limits.TrustedProxies, _ = l.proxies() // Validate has seen them
	c.Limits.ProxyProtocol = l.ProxyProtocol
	if on {
		c.Limits.HandshakesPerS, c.Limits.Handshaking = l.HandshakesPerS, l.Handshaking
		c.Limits.PerIP, c.Limits.PerUser = l.PerIP, l.PerUser
		c.Limits.FramesPerS, c.Limits.BytesPerS, c.Limits.JoinsPerS = l.FramesPerS, l.BytesPerS, l.JoinsPerS
	}
}

func (l *edgeLimits) proxies() (all []netip.Prefix, err error) {
	for _, s := range l.TrustedProxies {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			ip, err := netip.ParseAddr(s)
			if err != nil {
				return nil, fmt.Errorf("--trusted-proxies %q: use addresses or ranges, such as 10.0.0.0/8", s)
			}
			p = netip.PrefixFrom(ip, ip.BitLen())
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// Validate tells what is wrong with the settings.
func (l *edgeLimits) Validate() error {
	_, err := l.proxies()
	if l.InFlight < 1 {
		err = errors.Join(err, fmt.Errorf("--in-flight %d: must be 1 or more", l.InFlight))
	}
	probe := edge.Config{Node: "probe"}
	l.set(&probe, true)
	if err == nil {
		err = probe.Validate()
	}
	return err
}

// workerLimits are the limits that a worker keeps, behind --limits like an edge's.
type workerLimits struct {
	SendsPerS     float64 `name:"sends-per-s" env:"PARLEY_SENDS_PER_S" default:"5" help:"Messages per second of one person and worker. 0 is off; off in dev without --limits."`
	RoomSendsPerS float64 `name:"room-sends-per-s" env:"PARLEY_ROOM_SENDS_PER_S" default:"200" help:"Messages per second of one room and worker. 0 is off; off in dev without --limits."`
}

func (l *workerLimits) set(c *workers.Config, on bool) {
	if on {
		c.Limits.SendsPerS, c.Limits.RoomSendsPerS = l.SendsPerS, l.RoomSendsPerS
	}
}

// Validate tells what is wrong with the settings.
func (l *workerLimits) Validate() error {
	if l.SendsPerS < 0 || l.RoomSendsPerS < 0 {
		return errors.New("--sends-per-s and --room-sends-per-s must be 0 (off) or more")
	}
	return nil
}
