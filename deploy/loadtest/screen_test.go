package loadtest

import (
	"strings"
	"testing"
)

// TestSparks: the highest second fills its place, nothing at all is the lowest, and the width does not change with time.
func TestSparks(t *testing.T) {
	past := []Second{{P99: 0}, {P99: 5}, {P99: 10}}
	of := func(s Second) float64 { return s.P99 }
	got := sparks(past, of)
	if want := cyan + "▁▅█" + normal + strings.Repeat(" ", pastSeconds-3); !strings.HasPrefix(got, want) || !strings.Contains(got, "highest 10") {
		t.Errorf("%q", got)
	}
	if got := sparks(past[:1], of); !strings.HasPrefix(got, cyan+"▁"+normal) {
		t.Errorf("nothing is drawn as %q", got)
	}
}

// TestLiveScreenStaysInPlace: each picture begins where the one before did, and no line is broken by a narrow terminal.
func TestLiveScreenStaysInPlace(t *testing.T) {
	var out strings.Builder
	s := &screen{out: &out, live: true}
	for range 3 {
		s.show(view{total: newTally(), wanted: 10})
	}
	pictures := strings.SplitAfter(out.String(), "\x1b[?7h")
	lines := strings.Count(pictures[0], "\n")
	if len(pictures) != 4 || lines < 5 {
		t.Fatalf("%d pictures, %d lines", len(pictures)-1, lines)
	}
	for _, p := range pictures[1:3] {
		if strings.Count(p, "\n") != lines || !strings.HasPrefix(p, "\x1b["+grouped(int64(lines))+"A\x1b[?7l") {
			t.Errorf("a picture begins with %q", p[:min(len(p), 12)])
		}
	}
}
