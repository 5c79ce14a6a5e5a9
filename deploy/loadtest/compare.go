package loadtest

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// figures are the rows of a comparison, and what is better.
var figures = []struct {
	name   string
	better int // −1: less, 1: more, 0: neither
	of     func(r *Report) float64
}{
	{"connections", 1, func(r *Report) float64 { return float64(r.Connections.Listening) }},
	{"connects/s", 1, func(r *Report) float64 { return r.Connections.PerSecond }},
	{"sent/s", 1, func(r *Report) float64 { return r.Traffic.Sent }},
	{"accepted/s", 1, func(r *Report) float64 { return r.Traffic.Accepted }},
	{"delivered/s", 1, func(r *Report) float64 { return r.Traffic.Delivered }},
	{"deliveries per read", 0, func(r *Report) float64 { return r.Traffic.PerRead }},
	{"delivery p50 ms", -1, timingFigure("delivery", func(t Timing) float64 { return t.P50 })},
	{"delivery p90 ms", -1, timingFigure("delivery", func(t Timing) float64 { return t.P90 })},
	{"delivery p99 ms", -1, timingFigure("delivery", func(t Timing) float64 { return t.P99 })},
	{"delivery p99.9 ms", -1, timingFigure("delivery", func(t Timing) float64 { return t.P999 })},
	{"delivery max ms", -1, timingFigure("delivery", func(t Timing) float64 { return t.Max })},
	{"accepted p50 ms", -1, timingFigure("ack", func(t Timing) float64 { return t.P50 })},
	{"accepted p99 ms", -1, timingFigure("ack", func(t Timing) float64 { return t.P99 })},
	{"connect p99 ms", -1, timingFigure("connect", func(t Timing) float64 { return t.P99 })},
	{"join p99 ms", -1, timingFigure("join", func(t Timing) float64 { return t.P99 })},
	{"history p99 ms", -1, timingFigure("history", func(t Timing) float64 { return t.P99 })},
	{"resume p99 ms", -1, timingFigure("resume", func(t Timing) float64 { return t.P99 })},
	{"lost", -1, func(r *Report) float64 { return float64(r.Ledger.Lost + r.Ledger.LostAccepted) }},
	{"doubled", -1, func(r *Report) float64 { return float64(r.Ledger.Doubled) }},
	{"out of order", -1, func(r *Report) float64 { return float64(r.Ledger.Reordered) }},
	{"of foreign rooms", -1, func(r *Report) float64 { return float64(r.Ledger.Foreign) }},
	{"errors", -1, func(r *Report) float64 { n, _ := r.figure("errors"); return n }},
	{"server cores", -1, serverFigure(func(s *Servers) float64 { return s.Cores })},
	{"server bytes/connection", -1, serverFigure(func(s *Servers) float64 { return s.BytesPerConnection })},
	{"deliveries/server CPU-s", 1, serverFigure(func(s *Servers) float64 { return s.PerCPUSecond })},
	{"connects/server CPU-s", 1, serverFigure(func(s *Servers) float64 { return s.ConnectsPerCPU })},
	{"generator cores", 0, func(r *Report) float64 { return r.Generator.Cores }},
}

func timingFigure(name string, of func(Timing) float64) func(*Report) float64 {
	return func(r *Report) float64 { return of(r.Timings[name]) }
}

func serverFigure(of func(*Servers) float64) func(*Report) float64 {
	return func(r *Report) float64 {
		if r.Servers == nil {
			return 0
		}
		return of(r.Servers)
	}
}

// noise is the ratio below which two runs are called equal: machines differ from minute to minute.
const noise = 1.25

// Compare writes a table with the change in each figure. Figures that neither run has are left out.
func Compare(out io.Writer, before, after Report) error {
	if a, b := before.Setup.comparable(before.Scenario), after.Setup.comparable(after.Scenario); a != b {
		fmt.Fprintf(out, "note: the runs differ in what was asked for:\n  before %s\n  after  %s\n\n", a, b)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tbefore\tafter\tchange\t\t")
	for _, f := range figures {
		a, b := f.of(&before), f.of(&after)
		if a == 0 && b == 0 {
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t\n", f.name, short(a), short(b), change(a, b), judgement(a, b, f.better))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the comparison: %w", err)
	}
	fmt.Fprintf(out, "\nChanges by less than a factor of %g are noise unless they repeat.\n", noise)
	return nil
}

func (s Setup) comparable(scenario Scenario) string {
	return fmt.Sprintf("%s, %d connections, %d rooms, rate %s, window %d, %d senders, %d bytes", scenario, s.Connections, s.Rooms, s.Rate, s.Window, s.Senders, s.Size)
}

func change(a, b float64) string {
	switch {
	case a == b:
		return "="
	case a == 0:
		return "new"
	case b/a >= 10 || b/a <= 0.1:
		return fmt.Sprintf("× %s", short(b/a))
	}
	return fmt.Sprintf("%+.1f %%", 100*(b-a)/a)
}

func judgement(a, b float64, better int) string {
	switch {
	case better == 0 || a == b:
		return ""
	case a > 0 && b > 0 && math.Max(a/b, b/a) < noise:
		return "noise"
	case (b > a) == (better > 0):
		return "better"
	}
	return "WORSE"
}
