package loadtest

import "time"

// network carries the bytes of a loop's connections. All methods are called by the loop's goroutine, and so are the
// handler's, from within wait.
type network interface {
	// dial begins to connect. opened or closed follows, unless an error is returned.
	dial(c *conn, to target, source [2]byte) error
	// write sends p or keeps a copy of what cannot be sent yet.
	write(c *conn, p []byte) error
	// drop ends a connection without a further call of the handler; hard: as if the machine had vanished.
	drop(c *conn, hard bool)
	// part takes the connection's socket away without ending it: nothing more is read, and c can dial anew. end writes last where
	// that can be done at once, and ends it.
	part(c *conn) (end func(last []byte))
	// wait calls the handler for what happens, for at most d.
	wait(d time.Duration, h handler) error
	// close releases everything. Connections must have been dropped.
	close()
}

// handler learns what happens on the network.
type handler interface {
	opened(c *conn)
	// received gets bytes that are valid only during the call.
	received(c *conn, p []byte)
	// closed says that the connection has ended; the network has dropped it.
	closed(c *conn, err error)
}
