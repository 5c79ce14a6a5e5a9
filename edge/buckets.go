package edge

import (
	"time"

	"github.com/parley-chat/parley/contracts"
)

// buckets counts what one connection sends, in 16 bytes. It is a pure function of the loop's ticks: a second has four,
// and a token of frames, joins or bytes four units, so that a rate of r per second is exactly r units per tick.
type buckets struct {
	at     uint32 // tick to which the rest is true
	bytes  uint32 // units taken and not given back yet
	frames uint16 // units
	joins  uint16 // units
	// over and strain are what was refused, in seconds' worth of what is allowed, times strainUnit: over in this second,
	// strain in the seconds before, as long as they were all strained.
	over   uint16
	strain uint16
}

const (
	ticksPerS = uint32(time.Second / tick)
	// strainUnit is one second's worth of allowance.
	strainUnit = 2048
	// strained is how much is refused in a second to somebody who sends three times what is allowed.
	strained = 2 * strainUnit
	// maxStrain closes: three times what is allowed for ten seconds, or as much more in less time.
	maxStrain = 10 * strained
)

// bucket is one limit's fixed side; the zero one is off.
type bucket struct {
	rate  uint32 // units per tick
	burst uint32 // units
}

func newBucket(perS, burst int) bucket {
	if perS == 0 {
		return bucket{}
	}
	return bucket{rate: uint32(perS), burst: uint32(burst) * ticksPerS}
}

// wait is how many ticks it takes until n units fit on top of level; 0: they fit now. What is larger than the burst
// fits when nothing is taken.
func (b bucket) wait(level, n uint32) uint32 {
	room := max(b.burst, n)
	if b.rate == 0 || level+n <= room {
		return 0
	}
	return (level + n - room + b.rate - 1) / b.rate
}

// rates are the buckets' fixed sides, the same for all connections of an edge.
type rates struct {
	frames, joins, bytes bucket
}

func newRates(c *Config) rates {
	l := &c.Limits
	return rates{
		frames: newBucket(l.FramesPerS, 2*l.FramesPerS),
		joins:  newBucket(l.JoinsPerS, min(max(2*l.JoinsPerS, c.MaxRooms), 2*maxRate)),
		bytes:  newBucket(l.BytesPerS, max(2*l.BytesPerS, c.MessageBytes)),
	}
}

// off reports whether nothing is limited.
func (r *rates) off() bool { return r.frames.rate|r.joins.rate|r.bytes.rate == 0 }

// advance gives back what the time since the last call has earned.
func (b *buckets) advance(r *rates, now uint32) {
	passed := now - b.at
	if passed == 0 {
		return
	}
	if second := now/ticksPerS - b.at/ticksPerS; second > 0 {
		if second == 1 && b.over >= strained {
			b.strain = add16(b.strain, uint32(b.over))
		} else {
			b.strain = 0
		}
		b.over = 0
	}
	b.at = now
	passed = min(passed, 1<<16) // no bucket needs longer
	b.frames -= uint16(min(uint32(b.frames), passed*r.frames.rate))
	b.joins -= uint16(min(uint32(b.joins), passed*r.joins.rate))
	b.bytes -= uint32(min(uint64(b.bytes), uint64(passed)*uint64(r.bytes.rate)))
}

// take counts one frame of size bytes at a tick. It returns 0 where it may pass, and otherwise after how many ticks it
// might, and the limit that is met; a frame that may not pass takes nothing.
func (b *buckets) take(r *rates, now uint32, size int, join bool) (wait uint32, met limit) {
	b.advance(r, now)
	one, level, met := r.frames, &b.frames, limitFrames
	if join {
		one, level, met = r.joins, &b.joins, limitJoins
	}
	units := uint32(size) * ticksPerS
	byCount, bySize := one.wait(uint32(*level), ticksPerS), r.bytes.wait(b.bytes, units)
	if byCount == 0 && bySize == 0 {
		if one.rate > 0 {
			*level += uint16(ticksPerS)
		}
		if r.bytes.rate > 0 {
			b.bytes += units
		}
		return 0, met
	}
	cost := uint64(0)
	if byCount > 0 {
		cost = strainUnit/uint64(one.rate) + 1
	}
	if bySize > 0 {
		cost = max(cost, uint64(size)*strainUnit/uint64(r.bytes.rate)+1)
	}
	b.over = add16(b.over, uint32(min(cost, 1<<16)))
	if bySize > byCount {
		met = limitBytes
	}
	return max(byCount, bySize), met
}

// strained reports whether so much was refused, for so long, that the connection is to be closed.
func (b *buckets) strained() bool { return uint32(b.strain)+uint32(b.over) >= maxStrain }

func add16(a uint16, b uint32) uint16 { return uint16(min(uint32(a)+b, 1<<16-1)) }

// admit counts one request, and answers it where it is too much.
func (c *conn) admit(req *request, size int) bool {
	l := c.loop
	if l.rates.off() {
		return true
	}
	wait, met := c.sent.take(&l.rates, l.ticks, size, req.op == contracts.OpJoin)
	if wait == 0 {
		return true
	}
	l.srv.metrics.limited[met].Inc()
	if c.strained() {
		return false
	}
	bad := contracts.NewError(contracts.CodeRateLimited, "too much in too little time").After(time.Duration(wait) * tick)
	if req.op == contracts.OpSend && req.room != "" && c.state == stateReady {
		c.refuseSend(req, bad)
	} else {
		c.fail(req, bad)
	}
	return false
}

// admitControl counts a ping or pong; a ping that is too much gets no pong.
func (c *conn) admitControl(size int) bool {
	l := c.loop
	if l.rates.off() {
		return true
	}
	wait, met := c.sent.take(&l.rates, l.ticks, size, false)
	if wait == 0 {
		return true
	}
	l.srv.metrics.limited[met].Inc()
	c.strained()
	return false
}

// strained closes a connection that goes on and on.
func (c *conn) strained() bool {
	if !c.sent.strained() {
		return false
	}
	c.loop.srv.metrics.limited[limitStrain].Inc()
	c.shut(contracts.CloseRateLimited, "too much for too long")
	return true
}
