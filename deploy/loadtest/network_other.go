//go:build !linux

package loadtest

func newNetwork(p *plan, conns []conn) (network, error) { return newPumps(p, conns), nil }

// canBindLoopback says that only 127.0.0.1 can be taken for granted.
const canBindLoopback = false
