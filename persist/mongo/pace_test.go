package mongo

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	var p pace
	now := time.Unix(1, 0)
	size := func(when string, want int) {
		t.Helper()
		if got := p.size(); got != want {
			t.Errorf("%s: %d, want %d", when, got, want)
		}
	}
	size("at first", mostPerFind)
	p.note(mostPerFind, 5*time.Second, now)
	size("after a query that took too long", mostPerFind/4)
	p.note(mostPerFind, 5*time.Second, now)
	size("after another of that size, under way meanwhile", mostPerFind/4)
	for range 10 {
		p.note(p.size(), 5*time.Second, now)
	}
	size("while nothing helps", 1)
	p.note(1, slowLeast, now.Add(paceStays-1))
	size("quick, but soon after a slow one", 1)
	p.note(1, slowLeast, now.Add(paceStays))
	size("quick, and none was slow for long", 2)
	p.note(2, slowLeast, now.Add(paceStays))
	size("right after that", 2)
	for i := range 10 {
		p.note(p.size(), time.Millisecond, now.Add(time.Duration(i+2)*paceStays))
	}
	size("in the end", mostPerFind)
}

// A server that scans its rows for each branch of an $or, but finds a single identity by its index: a Lookup fails if it
// takes longer than it may, so it must come to be quick and stay so.
func TestPaceOfScanningServer(t *testing.T) {
	const identities, lookups, may = 400, 30, 5 * time.Second
	var p pace
	now, failed := time.Unix(1, 0), 0
	for range lookups {
		var took time.Duration
		for left := identities; left > 0; {
			n := min(left, p.size())
			cost := time.Millisecond
			if n > 1 {
				cost = time.Duration(n) * 50 * time.Millisecond
			}
			cost = min(cost, may-took)
			took, now = took+cost, now.Add(cost)
			p.note(n, cost, now)
			left -= n
			if took == may {
				failed++
				break
			}
		}
	}
	if failed > 1 {
		t.Errorf("%d of %d look-ups failed, want at most the first", failed, lookups)
	}
}
