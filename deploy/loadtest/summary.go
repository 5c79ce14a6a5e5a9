package loadtest

import (
	"fmt"
	"io"
	"strings"
)

// WriteText writes the summary that a run ends with.
func (r Report) WriteText(out io.Writer) {
	row := func(label, format string, args ...any) {
		fmt.Fprintf(out, "  %-12s %s\n", label, fmt.Sprintf(format, args...))
	}
	c, t := r.Connections, r.Traffic
	ms := func(x Timing) string {
		if x.Count == 0 {
			return "–"
		}
		return fmt.Sprintf("p50 %s  p90 %s  p99 %s  p99.9 %s  max %s ms", short(x.P50), short(x.P90), short(x.P99), short(x.P999), short(x.Max))
	}
	if r.Ended != "" {
		row("ended early", "%s", r.Ended)
	}
	row("connections", "%s of %s in %s s (%s/s)  connect %s", grouped(c.Listening), grouped(int64(r.Setup.Connections)), short(c.RampS), short(c.PerSecond), ms(r.Timings["connect"]))
	row("messages", "%s/s sent  %s/s accepted  %s/s delivered of %s/s expected", short(t.Sent), short(t.Accepted), short(t.Delivered), short(t.Expected))
	row("delivery", "%s", ms(r.Timings["delivery"]))
	row("accepted", "%s", ms(r.Timings["ack"]))
	if h := r.Timings["history"]; h.Count > 0 {
		row("history", "%s", ms(h))
	}
	if c.Lost > 0 {
		row("returns", "%s connections ended, %s rooms resumed (%s), %s entries recovered, %s resets skipped %s entries",
			grouped(c.Lost), grouped(c.Resumes), ms(r.Timings["resume"]), grouped(c.Recovered), grouped(c.Resets), grouped(c.Skipped))
	}
	if c.Moved > 0 {
		row("moved", "%s connections, as their server asked", grouped(c.Moved))
	}
	if c.Gaps > 0 {
		row("gaps", "%s announced by the server, %s entries in them", grouped(c.Gaps), grouped(c.GapEntries))
	}
	if s := r.Storm; s != nil {
		back := "not all came back"
		if s.BackMS > 0 {
			back = fmt.Sprintf("all listened again after %s s", short(s.BackMS/1000))
		}
		row("storm", "%s connections cut at once, %s", grouped(s.Cut), back)
	}
	row("ledger", "%s", r.Ledger.words())
	for i, g := range r.Ledger.Findings {
		if i == 5 {
			row("", "and %s, in the JSON report", plural(int64(len(r.Ledger.Findings)-5), "further finding"))
			break
		}
		row("", "%s", g.words())
	}
	if t.Unsent > 0 {
		row("unsent", "%s messages: their sender was away or had %d under way", grouped(t.Unsent), r.Setup.Window)
	}
	g := r.Generator
	row("generator", "%s cores, %s (%s per connection), %s", short(g.Cores), bytesize(float64(g.MemoryBytes)), bytesize(g.BytesPerConnection), lateness(r))
	if g.Bottleneck != "" {
		row("", "THE LOAD TESTER WAS THE BOTTLENECK: %s", g.Bottleneck)
	}
	if s := r.Servers; s != nil {
		row("servers", "%s cores, %s (%s per connection), %s deliveries and %s connects per CPU-second",
			short(s.Cores), bytesize(float64(s.MemoryBytes)), bytesize(s.BytesPerConnection), short(s.PerCPUSecond), short(s.ConnectsPerCPU))
	}
	for _, l := range r.LimitsMet {
		row("limit", "%s", l)
	}
	for i, e := range topErrors(r.Errors, 8) {
		label := "errors"
		if i > 0 {
			label = ""
		}
		row(label, "%s", e)
	}
	for _, goal := range r.SLO {
		word := "met"
		if !goal.Met {
			word = "MISSED"
		}
		row("goal", "%s  %s", word, goal)
	}
}

func lateness(r Report) string {
	late := r.Timings[timingNames[tBehind]]
	if r.Setup.Rate == RateMax || late.Count == 0 {
		return "no schedule to be late for"
	}
	return fmt.Sprintf("late with its sends by p99 %s ms, max %s ms", short(late.P99), short(late.Max))
}

func (l Ledger) words() string {
	parts := []string{
		grouped(l.Lost) + " lost", grouped(l.LostAccepted) + " accepted and lost", grouped(l.Doubled) + " doubled",
		grouped(l.Reordered) + " out of order", grouped(l.Foreign) + " of foreign rooms",
	}
	for _, more := range []struct {
		n    int64
		what string
	}{{l.Malformed, "malformed frames"}, {l.Unanswered, "without an answer"}, {l.Unjudged, "connections away at the end"}} {
		if more.n > 0 {
			parts = append(parts, grouped(more.n)+" "+more.what)
		}
	}
	return strings.Join(parts, ", ")
}

func (g Gap) words() string {
	what := fmt.Sprintf("%d", g.From)
	if g.To != g.From {
		what = fmt.Sprintf("%d to %d", g.From, g.To)
	}
	return fmt.Sprintf("room %s, connection %d: %s: %s", g.Room, g.Conn, what, g.Kind)
}
