package edge

import "time"

const (
	// breakSeconds is how far back the breaker looks, and breakLeast how many answers it judges at least.
	breakSeconds = 10
	breakLeast   = 20
	// breakShort is how long the breaker stays open where asking fails at once: that costs next to nothing, and when the broker or
	// a worker is back nobody should wait for more than that.
	breakShort = 250 * time.Millisecond
)

// breaker gives up asking workers that do not answer: it opens when more than half of at least breakLeast messages of
// the last breakSeconds got no answer, and lets one question through after a while, whose fate decides. What is asked in one
// message goes to one worker, and says no more of the workers than one question: each counts as its share of the message. Its
// clock is that of its callers, who hold its lock.
type breaker struct {
	pause time.Duration // how long it stays open; 0: it never opens

	seconds [breakSeconds]struct{ asked, failed float64 } // in messages
	last    int64                                         // Unix second of the newest of seconds
	open    bool
	until   time.Time // open until then at least
	probing bool      // the question that decides is under way
}

// allow reports whether a question may be asked now; a probe's answer must be noted as such.
func (b *breaker) allow(now time.Time) (ok, probe bool) {
	switch {
	case !b.open:
		return true, false
	case b.probing || now.Before(b.until):
		return false, false
	}
	b.probing = true
	return true, true
}

// note takes the fate of a question, which is a share of its message, and reports whether the breaker has opened or closed
// because of it.
func (b *breaker) note(now time.Time, probe, failed bool, share float64) (turned bool) {
	if b.pause <= 0 {
		return false
	}
	if b.open {
		if !probe {
			return false // asked before it opened
		}
		b.probing = false
		if failed {
			b.until = now.Add(b.pause)
			return false
		}
		*b = breaker{pause: b.pause}
		return true
	}
	b.wind(now)
	s := &b.seconds[b.last%breakSeconds]
	s.asked += share
	if !failed {
		return false
	}
	s.failed += share
	asked, bad := 0.0, 0.0
	for _, s := range b.seconds {
		asked += s.asked
		bad += s.failed
	}
	if asked < breakLeast || 2*bad <= asked {
		return false
	}
	b.open, b.until = true, now.Add(b.pause)
	return true
}

// soon has an open breaker try again soon: the question whose fate was noted last has failed at once.
func (b *breaker) soon(now time.Time) {
	if again := now.Add(breakShort); b.open && again.Before(b.until) {
		b.until = again
	}
}

// wind forgets the seconds that are too long ago.
func (b *breaker) wind(now time.Time) {
	second := now.Unix()
	for n := min(second-b.last, breakSeconds); n > 0; n-- {
		b.seconds[(second-n+1)%breakSeconds] = struct{ asked, failed float64 }{}
	}
	b.last = max(b.last, second)
}
