package edge

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/wire"
)

var (
	errFull         = &wire.HTTPError{Status: 503, Message: "no more connections here", Header: "Retry-After: 5\r\n"}
	errHandshakes   = &wire.HTTPError{Status: 503, Message: "too many handshakes at the moment", Header: "Retry-After: 1\r\n"}
	errTooManyOfOne = &wire.HTTPError{Status: 429, Message: "too many connections from this address", Header: "Retry-After: 30\r\n"}
)

// admission decides who becomes a WebSocket, and who stays one.
type admission struct {
	cfg     *Config
	metrics *metrics

	handshakes  *rate.Limiter // nil: off
	handshaking atomic.Int64  // connections whose head has not come yet
	lingering   atomic.Int64  // connections that were refused and are not closed yet

	mu        sync.Mutex // guards the rest, and every address.held
	addresses map[netip.Addr]*address
	people    map[contracts.UserID][]*conn // the oldest first
}

// address counts the WebSockets of one client address.
type address struct {
	ip   netip.Addr
	held int
}

func (a *admission) init(c *Config, m *metrics) {
	a.cfg, a.metrics = c, m
	if n := c.Limits.HandshakesPerS; n > 0 {
		a.handshakes = rate.NewLimiter(rate.Limit(n), 2*n)
	}
	a.addresses = make(map[netip.Addr]*address)
	a.people = make(map[contracts.UserID][]*conn)
}

// admit lets a handshake of a client's address become a WebSocket, or says why not. What it returns is to be given back
// with release.
func (s *Server) admit(client netip.Addr) (*address, *wire.HTTPError) {
	if bad := s.full(); bad != nil {
		if bad == errFull {
			s.metrics.limited[limitConnections].Inc()
		}
		return nil, bad
	}
	a := &s.admission
	from, ok := a.enter(client)
	if !ok {
		s.metrics.limited[limitPerIP].Inc()
		return nil, errTooManyOfOne
	}
	if a.handshakes != nil && !a.handshakes.Allow() {
		a.release(from)
		s.metrics.limited[limitHandshakes].Inc()
		return nil, errHandshakes
	}
	return from, nil
}

// enter counts one more of an address; nil where it is not limited.
func (a *admission) enter(ip netip.Addr) (from *address, ok bool) {
	most := a.cfg.Limits.PerIP
	if most == 0 || !ip.IsValid() {
		return nil, true
	}
	if ip.Is6() { // what one subscriber has is a /64
		if p, err := ip.Prefix(64); err == nil {
			ip = p.Addr()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	from = a.addresses[ip]
	switch {
	case from == nil:
		from = &address{ip: ip}
		a.addresses[ip] = from
	case from.held >= most:
		return nil, false
	}
	from.held++
	return from, true
}

// release counts one less.
func (a *admission) release(from *address) {
	if from == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if from.held--; from.held == 0 {
		delete(a.addresses, from.ip)
	}
}

// give releases what goes with a socket that nobody took.
func (a *admission) give(h *handoff) {
	if h != nil {
		a.release(h.from)
	}
}

// join counts a connection of a person and closes their oldest if they are too many.
func (a *admission) join(c *conn) {
	most := a.cfg.Limits.PerUser
	if most == 0 {
		return
	}
	a.mu.Lock()
	all := append(a.people[c.user.ID], c)
	var oldest *conn
	if len(all) > most {
		oldest = all[0]
		all = slices.Delete(all, 0, 1)
	}
	a.people[c.user.ID] = all
	a.mu.Unlock()
	if oldest != nil {
		a.metrics.limited[limitPerUser].Inc()
		oldest.loop.call(func() { oldest.shut(contracts.CloseReplaced, "too many connections of this person: the oldest ends") })
	}
}

// leave counts a connection of a person less, if it still counts.
func (a *admission) leave(c *conn) {
	if a.cfg.Limits.PerUser == 0 || c.user.ID == "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	all := slices.DeleteFunc(a.people[c.user.ID], func(o *conn) bool { return o == c })
	if len(all) == 0 {
		delete(a.people, c.user.ID)
	} else {
		a.people[c.user.ID] = all
	}
}

// arrive counts a connection whose head is to come, and refuses it if too many are so far.
func (c *conn) arrive() {
	s := c.loop.srv
	c.handshaking = true
	n, most := s.admission.handshaking.Add(1), s.cfg.Limits.Handshaking
	if most > 0 && n > int64(most) {
		s.metrics.limited[limitHandshaking].Inc()
		c.refuse(errHandshakes)
	}
}

// headDone: the head has come, or nobody waits for it any more.
func (c *conn) headDone() {
	if c.handshaking {
		c.handshaking = false
		c.loop.srv.admission.handshaking.Add(-1)
	}
}
