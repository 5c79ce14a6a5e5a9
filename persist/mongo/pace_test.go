package mongo

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	var p pace
	if got := p.size(); got != mostPerFind {
		t.Fatalf("begins with %d, want %d", got, mostPerFind)
	}
	p.note(mostPerFind, 5*time.Second)
	if got := p.size(); got != mostPerFind/4 {
		t.Errorf("after a query that took too long: %d, want %d", got, mostPerFind/4)
	}
	// What was under way meanwhile with more at once says nothing good about more.
	p.note(mostPerFind, 5*time.Second)
	if got := p.size(); got != mostPerFind/4 {
		t.Errorf("after another of that size: %d, want %d", got, mostPerFind/4)
	}
	for range 10 {
		p.note(p.size(), 5*time.Second)
	}
	if got := p.size(); got != 1 {
		t.Errorf("while nothing helps: %d, want 1", got)
	}
	for range quickInRow - 1 {
		p.note(1, slowLeast)
	}
	if got := p.size(); got != 1 {
		t.Errorf("before %d were quick: %d, want 1", quickInRow, got)
	}
	p.note(1, slowLeast)
	if got := p.size(); got != 2 {
		t.Errorf("after %d were quick: %d, want 2", quickInRow, got)
	}
	for range 10 * quickInRow {
		p.note(p.size(), time.Millisecond)
	}
	if got := p.size(); got != mostPerFind {
		t.Errorf("in the end: %d, want %d", got, mostPerFind)
	}
}

// A server that scans its rows for each branch of an $or, but finds a single identity by its index: the calls that a
// Lookup makes must come to be quick.
func TestPaceOfScanningServer(t *testing.T) {
	cost := func(n int) time.Duration {
		if n == 1 {
			return time.Millisecond
		}
		return time.Duration(n) * 20 * time.Millisecond
	}
	var p pace
	const identities = 2000
	var took time.Duration
	for left := identities; left > 0; {
		n := min(left, p.size())
		p.note(n, cost(n))
		took += cost(n)
		left -= n
	}
	if most := 10 * time.Second; took > most {
		t.Errorf("%d identities took %v, want at most %v", identities, took, most)
	}
}
