package edge

import (
	"net/netip"
	"time"
	"unsafe"

	"github.com/parley-chat/parley/contracts"
)

// Buckets are a connection's buckets, driven by who calls them.
type Buckets struct {
	r rates
	b buckets
}

// BucketsSize is what buckets add to a connection.
const BucketsSize = unsafe.Sizeof(buckets{})

// NewBuckets makes full buckets of a configuration.
func NewBuckets(c Config) *Buckets {
	c.setDefaults()
	return &Buckets{r: newRates(&c)}
}

// Take counts one frame at a tick; it returns the ticks to wait and the limit's name.
func (b *Buckets) Take(now uint32, size int, join bool) (wait uint32, met string) {
	wait, l := b.b.take(&b.r, now, size, join)
	return wait, limitNames[l]
}

// Strained reports whether the connection would be closed.
func (b *Buckets) Strained() bool { return b.b.strained() }

// Breaker is a breaker whose clock is the caller's.
type Breaker struct{ b breaker }

// NewBreaker makes a closed breaker.
func NewBreaker(pause time.Duration) *Breaker { return &Breaker{breaker{pause: pause}} }

// Allow and Note are its two sides.
func (b *Breaker) Allow(now time.Time) (ok, probe bool) { return b.b.allow(now) }

// Note takes the fate of a question.
func (b *Breaker) Note(now time.Time, probe, failed bool, share float64) {
	b.b.note(now, probe, failed, share)
}

// Soon says that the question noted last has failed at once.
func (b *Breaker) Soon(now time.Time) { b.b.soon(now) }

// ClientIP is whose connection it is.
func ClientIP(l *Limits, peer, told string, forwarded ...string) string {
	var from, named netip.Addr
	if peer != "" {
		from = netip.MustParseAddr(peer)
	}
	if told != "" {
		named = netip.MustParseAddr(told)
	}
	if ip := l.clientIP(from, named, forwarded); ip.IsValid() {
		return ip.String()
	}
	return ""
}

// ReadProxy reads a PROXY header; ok is false where it is refused.
func ReadProxy(b []byte) (told netip.Addr, n int, ok bool) {
	told, n, bad := readProxy(b)
	return told, n, bad == nil
}

// Counted is how many addresses, people, heads and refused clients are remembered.
func (s *Server) Counted() (addresses, people, handshaking, lingering int) {
	a := &s.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.addresses), len(a.people), int(a.handshaking.Load()), int(a.lingering.Load())
}

// Block keeps every loop busy until release is called.
func (s *Server) Block() (release func()) {
	gate := make(chan struct{})
	for _, l := range s.loops {
		at := make(chan struct{})
		l.call(func() { close(at); <-gate })
		<-at
	}
	return func() { close(gate) }
}

// Inboxes is how much waits in all inboxes.
func (s *Server) Inboxes() (n int) {
	for _, l := range s.loops {
		l.mu.Lock()
		n += len(l.inbox)
		l.mu.Unlock()
	}
	return n
}

// Overdue has a room's repair look as if it had been tried for so long that it is given up with the next answer.
func (s *Server) Overdue(room contracts.RoomID) {
	sh := s.hub.shard(contracts.LaneOf(room))
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.rooms[room].since = time.Now().Add(-repairTime)
}
