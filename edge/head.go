package edge

import (
	"bytes"
	"io"
	"net"
	"strconv"

	"github.com/parley-chat/parley/edge/wire"
)

// What happens to a connection before it is a WebSocket: its head is read, then it is upgraded, refused, passed to another server
// that shares the port, or handed over to the HTTP server.

func (c *conn) readHead(data []byte) {
	b := c.work()
	whole := data
	if len(b.head) > 0 {
		b.head = append(b.head, data...)
		whole = b.head
	}
	req, n, bad := wire.ParseRequest(whole)
	switch {
	case bad != nil:
		c.refuse(bad)
	case n == 0:
		if len(b.head) == 0 {
			b.head = bytes.Clone(data)
		}
	case req.Path != wire.Path:
		b.head = nil
		c.handOver(whole)
	default:
		c.upgrade(&req, whole[n:])
	}
}

func (c *conn) upgrade(req *wire.Request, behind []byte) {
	s := c.loop.srv
	if bad := req.CheckUpgrade(s.cfg.Origins); bad != nil {
		c.refuse(bad)
		return
	}
	next := s.nextShare()
	if bad := next.full(); bad != nil {
		c.refuse(bad)
		return
	}
	if next != s {
		c.passTo(next, req, behind)
		return
	}
	c.opened(wire.AppendSwitching(nil, req), behind)
}

// full reports why the server takes no WebSocket at the moment.
func (s *Server) full() *wire.HTTPError {
	switch {
	case !s.up.Load() || s.partings.stage.Load() >= drainRefuses:
		return &wire.HTTPError{Status: 503, Message: "this server is stopping", Header: "Retry-After: 1\r\n"}
	case s.open.Load() >= int64(s.cfg.MaxConnections):
		return &wire.HTTPError{Status: 503, Message: "no more connections here", Header: "Retry-After: 5\r\n"}
	}
	return nil
}

// opened turns a connection whose head is done into a WebSocket.
func (c *conn) opened(switching, behind []byte) {
	s := c.loop.srv
	if c.busy != nil {
		c.busy.head = nil
	}
	c.state = stateOpen
	s.open.Add(1)
	s.opened.Add(1)
	s.metrics.connections.Inc()
	c.schedule(c.loop.in(s.cfg.ConnectTime))
	c.write(switching, true)
	if len(behind) > 0 && c.state == stateOpen {
		c.readFrames(behind)
	}
	c.rest()
}

// refuse answers a request that does not become a WebSocket.
func (c *conn) refuse(bad *wire.HTTPError) {
	c.loop.srv.metrics.refused.WithLabelValues(strconv.Itoa(bad.Status)).Inc()
	_, _ = c.put(wire.AppendHTTPError(nil, bad))
	c.halfClose()
	c.forget()
	// The client may still be sending: closing now could reset the answer away.
	if conn, err := c.detach(); err == nil {
		c.loop.srv.linger(conn)
	}
}

// handOver gives the connection with all it sent so far to the HTTP server.
func (c *conn) handOver(sent []byte) {
	s := c.loop.srv
	sent = bytes.Clone(sent)
	c.forget()
	nc, err := c.detach()
	if err != nil {
		s.log.Warn("hand a connection to the API", "err", err)
		return
	}
	s.http.take(&replayed{Conn: nc, first: sent})
}

// replayed is a connection whose first bytes were read already.
type replayed struct {
	net.Conn
	first []byte
}

func (r *replayed) Read(p []byte) (int, error) {
	if len(r.first) > 0 {
		n := copy(p, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

var _ io.Reader = (*replayed)(nil)
