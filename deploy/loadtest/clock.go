package loadtest

import "time"

// clock tells nanoseconds on a scale that all processes of a run share. Reading it is as cheap as time.Now.
type clock struct {
	start time.Time
	base  int64
}

func newClock() clock { return clock{start: time.Now(), base: sharedNow()} }

func (c clock) now() int64 { return c.base + int64(time.Since(c.start)) }
