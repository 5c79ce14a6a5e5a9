package edge

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/parley-chat/parley/edge/wire"
)

// What happens to a connection before it is a WebSocket: its head is read, then it is upgraded, refused, passed to another server
// that shares the port, or handed over to the HTTP server.

func (c *conn) readHead(data []byte) {
	whole, before := data, c.busy != nil && len(c.busy.head) > 0
	if before {
		c.busy.head = append(c.busy.head, data...)
		whole = c.busy.head
	}
	told, skip, bad := c.proxied(whole)
	var req wire.Request
	n := 0
	if skip >= 0 && bad == nil {
		req, n, bad = wire.ParseRequest(whole[skip:])
	}
	switch {
	case bad != nil:
		c.refuse(bad)
	case n == 0:
		if !before {
			c.work().head = bytes.Clone(data)
		}
	case req.Path != wire.Path:
		if before {
			c.busy.head = nil
		}
		c.handOver(whole[skip:], told)
	default:
		c.upgrade(&req, whole[skip+n:], told)
	}
}

// proxied reads the PROXY header before the head, where there must be one: skip is its length, -1 while it is not complete.
func (c *conn) proxied(head []byte) (told netip.Addr, skip int, bad *wire.HTTPError) {
	l := &c.loop.srv.cfg.Limits
	if !l.ProxyProtocol {
		return told, 0, nil
	}
	if !l.trusts(c.peer()) {
		return told, 0, errProxyHeader
	}
	told, skip, bad = readProxy(head)
	if skip == 0 {
		skip = -1
	}
	return told, skip, bad
}

// client is the address that a request came from.
func (c *conn) client(req *wire.Request, told netip.Addr) netip.Addr {
	l := &c.loop.srv.cfg.Limits
	if l.PerIP == 0 {
		return netip.Addr{}
	}
	return l.clientIP(c.peer(), told, forwardedFor(req))
}

func (c *conn) upgrade(req *wire.Request, behind []byte, told netip.Addr) {
	s := c.loop.srv
	if bad := req.CheckUpgrade(s.cfg.Origins); bad != nil {
		c.refuse(bad)
		return
	}
	next := s.nextShare()
	from, bad := next.admit(c.client(req, told))
	if bad != nil {
		c.refuse(bad)
		return
	}
	if next != s {
		c.passTo(next, req, behind, from)
		return
	}
	c.from = from
	c.opened(wire.AppendSwitching(c.loop.out[:0], req), behind)
}

// full reports why the server takes no WebSocket at the moment.
func (s *Server) full() *wire.HTTPError {
	switch {
	case !s.up.Load() || s.partings.stage.Load() >= drainRefuses || s.handover.last.Load():
		return &wire.HTTPError{Status: 503, Message: "this server is stopping", Header: "Retry-After: 1\r\n"}
	case s.open.Load() >= int64(s.cfg.MaxConnections):
		return errFull
	}
	return nil
}

// opened turns a connection whose head is done into a WebSocket. switching is the caller's again on return.
func (c *conn) opened(switching, behind []byte) {
	s := c.loop.srv
	if c.busy != nil {
		c.busy.head = nil
	}
	c.headDone()
	c.state = stateOpen
	s.open.Add(1)
	s.opened.Add(1)
	s.metrics.connections.Inc()
	c.schedule(c.loop.in(s.cfg.ConnectTime))
	c.write(switching, false)
	if len(behind) > 0 && c.state == stateOpen {
		c.readFrames(behind)
	}
	c.rest()
}

const (
	// lingerTime is how long a refused client has to read its answer and go: closing with its input unread could reset the
	// answer away.
	lingerTime = time.Second
	// maxLingering bounds the refused clients that are waited for.
	maxLingering = 512
)

// refuse answers a request that does not become a WebSocket.
func (c *conn) refuse(bad *wire.HTTPError) {
	l := c.loop
	s := l.srv
	s.metrics.refused.WithLabelValues(strconv.Itoa(bad.Status)).Inc()
	_, _ = c.put(wire.AppendHTTPError(nil, bad))
	c.halfClose()
	c.headDone()
	c.state = stateRefused
	c.busy = nil
	c.schedule(l.in(lingerTime))
	if s.admission.lingering.Add(1) > maxLingering {
		c.close()
	}
}

// handOver gives the connection with all it sent so far to the HTTP server.
func (c *conn) handOver(sent []byte, told netip.Addr) {
	s := c.loop.srv
	sent = bytes.Clone(sent)
	c.forget()
	nc, err := c.detach()
	if err != nil {
		s.log.Warn("hand a connection to the API", "err", err)
		return
	}
	s.http.take(&replayed{Conn: nc, first: sent, told: told})
}

// replayed is a connection whose first bytes were read already.
type replayed struct {
	net.Conn
	first []byte
	told  netip.Addr // the client's address, where a PROXY header names it
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
