package mongo

import (
	"sync"
	"time"
)

const (
	// mostPerFind bounds the branches of one $or.
	mostPerFind = 100
	// slowPerIdentity is what one identity of a query may cost, slowLeast what any query may.
	slowPerIdentity = 10 * time.Millisecond
	slowLeast       = 30 * time.Millisecond
	// paceStays is how long no query must have been slow until the next asks for twice as many.
	paceStays = time.Minute
)

// pace decides how many identities one query asks for. A server that is slow at many, as one that scans for an $or is, gets
// fewer in each: otherwise every attempt would take longer than it may, the server would go on working for attempts that
// nobody waits for any more, and a partition that needs the answers would stand still for good. It is slow in trying more
// again, as one Lookup takes many queries and fails with any of them. The zero value begins with mostPerFind. It is safe
// for concurrent use.
type pace struct {
	mu    sync.Mutex // guards what follows
	fewer int        // mostPerFind less what may be asked
	since time.Time  // of the last slow query or change
}

// size is how many identities the next query may ask for.
func (p *pace) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return mostPerFind - p.fewer
}

// note takes how long a query for so many identities took, or how long it was waited for in vain. now is when it ended.
func (p *pace) note(asked int, took time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	may := mostPerFind - p.fewer
	switch {
	case took > max(slowLeast, time.Duration(asked)*slowPerIdentity):
		p.since = now
		p.fewer = mostPerFind - min(may, max(1, asked/4))
	case p.fewer > 0 && now.Sub(p.since) >= paceStays:
		p.since = now
		p.fewer = mostPerFind - min(mostPerFind, 2*may)
	}
}
