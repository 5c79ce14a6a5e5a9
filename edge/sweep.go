package edge

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// sweepTick is how often sweep looks.
	sweepTick = 500 * time.Millisecond
	// sweepLeast is how many connections a burst has at least.
	sweepLeast = 1000
)

// sweep gives the memory back that a burst of connections needed for its handshakes, logins and joins, once it is over: a
// connection at rest needs a fraction of that, and the runtime would keep the rest for minutes.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepTick)
	defer tick.Stop()
	var b burst
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if b.over(s.opened.Load(), s.open.Load()) {
				debug.FreeOSMemory()
			}
		}
	}
}

// burst tells when many connections have come and hardly any more come.
type burst struct {
	seen  int64 // opened at the last look
	swept int64 // opened when over was true last
}

// over is asked once per tick. opened are the connections that have ever been opened, held those that are open.
func (b *burst) over(opened, held int64) bool {
	came, since := opened-b.seen, opened-b.swept
	b.seen = opened
	if since < max(sweepLeast, held/8) || came > since/16 {
		return false
	}
	b.swept = opened
	return true
}
