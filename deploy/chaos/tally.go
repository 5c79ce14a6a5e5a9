package chaos

import (
	"sync"
	"sync/atomic"
)

// mostOdd bounds the violations that are kept; all are counted.
const mostOdd = 200

// tally counts what the clients of a run saw, for the screen, and keeps what is wrong for certain at once. It is safe
// for concurrent use.
type tally struct {
	attempts, acked, refused atomic.Int64 // sends
	stored                   atomic.Int64 // messages whose sender was told that they are stored
	delivered, resumed       atomic.Int64 // entries live, and in replies to joins with a position
	joins, resumes           atomic.Int64 // answered; resumes with a position
	gaps, resets             atomic.Int64
	connected, closed        atomic.Int64 // connections
	gaveUp                   atomic.Int64 // sends whose caller stopped waiting
	late                     atomic.Int64 // sends that were not begun, because too many of that user were under way
	wrong                    atomic.Int64 // violations

	mu   sync.Mutex // guards odds
	odds []string
}

// odd notes a violation.
func (t *tally) odd(what string) {
	t.wrong.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.odds) < mostOdd {
		t.odds = append(t.odds, what)
	}
}

func (t *tally) violations() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.odds...)
}
