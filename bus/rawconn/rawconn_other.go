//go:build !linux

package rawconn

import "net"

func wrap(nc net.Conn) net.Conn { return nc }
