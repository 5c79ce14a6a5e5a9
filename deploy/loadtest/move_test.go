package loadtest_test

import (
	"testing"
	"time"

	"github.com/parley-chat/parley/deploy/loadtest"
)

// TestMovesWhenAsked has a server ask everybody to move, and asks the same of those that moved: nothing new is started on the
// old connection, which ends only once the new one is in the room; nothing is missing, and nothing of it is an error.
func TestMovesWhenAsked(t *testing.T) {
	s := newLiar()
	s.refuse = func(n int) string {
		if n == 40 || n == 90 {
			s.drain(200 * time.Millisecond)
		}
		return ""
	}
	c := small()
	c.Duration = 3 * time.Second
	inMemory(t, s, c, func(r loadtest.Report) {
		if r.Connections.Moved != 24 || r.Connections.Lost != 0 || len(r.Errors) != 0 || r.ExitCode() != loadtest.ExitOK {
			t.Errorf("%d moved, %d lost, exit code %d, errors %v, %+v", r.Connections.Moved, r.Connections.Lost, r.ExitCode(), r.Errors, r.Ledger)
		}
		if s.spoke != 0 || s.early != 0 {
			t.Errorf("%d messages were begun on a connection that was to move, %d connections ended before the new one was there", s.spoke, s.early)
		}
	})
}

// TestMovesOnTheNetwork is the same on the network's own connections, without the server's time.
func TestMovesOnTheNetwork(t *testing.T) {
	s := newLiar()
	s.refuse = func(n int) string {
		if n == 40 {
			s.drain(200 * time.Millisecond)
		}
		return ""
	}
	c := small()
	c.URLs = []string{s.listen(t)}
	r := run(t, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Connections.Moved != 12 || r.Connections.Lost != 0 || len(r.Errors) != 0 || r.ExitCode() != loadtest.ExitOK || s.early != 0 {
		t.Errorf("%d moved, %d lost, exit code %d, %d too early, errors %v, %+v", r.Connections.Moved, r.Connections.Lost, r.ExitCode(), s.early, r.Errors, r.Ledger)
	}
}

// TestMovesToNobody has everybody end instead where the new connections are refused: that is counted as an end.
func TestMovesToNobody(t *testing.T) {
	s := newLiar()
	s.full = 13 // with the probe, all who come
	s.refuse = func(n int) string {
		if n == 40 {
			s.drain(100 * time.Millisecond)
		}
		return ""
	}
	c := small()
	c.URLs = []string{s.listen(t)}
	r := run(t, c)
	if r.Connections.Moved != 0 || r.Connections.Lost != 12 || r.ExitCode() == loadtest.ExitOK {
		t.Errorf("%d moved, %d lost, exit code %d, errors %v", r.Connections.Moved, r.Connections.Lost, r.ExitCode(), r.Errors)
	}
}
