// Package rawconn makes a TCP connection's reads and writes cheap for a process that is mostly idle.
//
// Go's own go through the scheduler's entry for system calls that may block, although a socket's never do. That wakes the
// runtime's monitor, which then looks every 20 µs for 1 ms, and longer as long as there are more of them: in an edge that is
// being connected to it takes as much of the processor as all the rest of its broker's client.
package rawconn

import "net"

// Wrap returns a connection that reads and writes nc's socket directly, and is nc in everything else; or nc itself where that
// cannot be done: on other systems than Linux, and for what is no TCP connection. Errors are those of package net. One Read
// and one Write run at a time; others wait for them.
func Wrap(nc net.Conn) net.Conn { return wrap(nc) }
