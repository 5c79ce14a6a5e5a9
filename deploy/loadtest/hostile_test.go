package loadtest_test

import (
	"testing"
	"time"

	"github.com/parley-chat/parley/deploy/loadtest"
)

// TestHostileCompanions are in the rooms, and in no figure.
func TestHostileCompanions(t *testing.T) {
	s := newLiar()
	c := small()
	c.URLs, c.Stall, c.Trickle, c.Duration = []string{s.listen(t)}, 3, 2, 200*time.Millisecond
	r := run(t, c)
	if code := r.ExitCode(); code != loadtest.ExitOK || r.Connections.Listening != int64(c.Rooms*c.Members) {
		t.Errorf("exit code %d, %d listen", code, r.Connections.Listening)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	joins := 0
	for _, room := range s.rooms {
		joins += room.joins
	}
	if want := c.Rooms*c.Members + 5; joins != want {
		t.Errorf("%d joins instead of %d", joins, want)
	}
}
