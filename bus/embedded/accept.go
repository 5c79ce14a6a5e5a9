//go:build !lean

package embedded

import (
	"errors"
	"net"
	"time"
)

// acceptPause is how long nothing is accepted after an error.
const acceptPause = 50 * time.Millisecond

// accept is ln's Accept for as long as ln is open: what else fails, as where no descriptor is free, is tried again.
func accept(ln net.Listener) (net.Conn, error) {
	for {
		nc, err := ln.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return nc, err
		}
		time.Sleep(acceptPause)
	}
}
