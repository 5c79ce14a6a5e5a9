package loadtest

import "net"

// WithDial makes the connections of a run by other means than the network.
func (c Config) WithDial(dial func() (net.Conn, error)) Config {
	c.dial = func(target, [2]byte) (net.Conn, error) { return dial() }
	return c
}
