package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	// gcRoom is about how much an edge allocates from one collection to the next, at least. What lives is mostly its
	// connections, at a few hundred bytes each: with some thousands a collection at twice as much would come several
	// times a second.
	gcRoom = 16 << 20
	// gcLook is how often that is looked at.
	gcLook = time.Second
	// gcMost bounds GOGC where hardly anything lives: the runtime's smallest heap, 4 MiB at 100, grows with it.
	gcMost = 400
)

// paceGC keeps GOGC where gcRoom fits, and never below Go's own 100, until stop is called.
func paceGC() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	before := debug.SetGCPercent(100)
	var wg sync.WaitGroup
	wg.Go(func() {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		tick := time.NewTicker(gcLook)
		defer tick.Stop()
		for set := 100; ; {
			metrics.Read(live)
			// A change stops the world for a moment, so that small ones are let be.
			if percent := gcPercent(live[0].Value.Uint64()); percent*4 < set*3 || percent*3 > set*4 {
				debug.SetGCPercent(percent)
				set = percent
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
		debug.SetGCPercent(before)
	}
}

// gcPercent is the GOGC by which gcRoom is allocated beside so many bytes that live.
func gcPercent(live uint64) int {
	return int(min(max(gcRoom*100/max(live, 1), 100), gcMost))
}
