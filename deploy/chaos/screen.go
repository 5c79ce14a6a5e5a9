package chaos

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// screen shows how a run goes: a line a second, or one that is drawn anew.
type screen struct {
	w                *world
	begun            time.Time
	acked, delivered int64
	drawn            bool
}

func (s *screen) draw() {
	t := s.w.tally
	acked, delivered := t.acked.Load(), t.delivered.Load()
	s.w.mu.Lock()
	stage := s.w.stage
	if len(s.w.inForce) > 0 {
		stage = strings.Join(s.w.inForce, " + ")
	}
	s.w.mu.Unlock()
	line := fmt.Sprintf("%4.0f s  %6d acked %+5d/s  %8d delivered %+6d/s  %d violations  %s",
		time.Since(s.begun).Seconds(), acked, acked-s.acked, delivered, delivered-s.delivered, t.wrong.Load(), stage)
	s.acked, s.delivered = acked, delivered
	if s.w.cfg.Live {
		if len(line) > 150 {
			line = line[:150]
		}
		line = "\r\x1b[2K" + line
		s.drawn = true
	} else {
		line += "\n"
	}
	_, _ = io.WriteString(s.w.cfg.Out, line)
}

// end leaves the line that is drawn anew.
func (s *screen) end() {
	if s.drawn {
		_, _ = io.WriteString(s.w.cfg.Out, "\n")
	}
}
