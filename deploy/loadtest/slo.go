package loadtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Goal is one condition of an SLO.
type Goal struct {
	// Figure is p50, p90, p99, p99.9, max or mean of the delivery; the same after ack., connect., join., history. or
	// resume.; or loss, doubled, reordered, foreign, errors, unsent, connected, sent, delivered (both per second).
	Figure string `json:"figure"`
	// Op is <, <=, =, >= or >.
	Op string `json:"op"`
	// Want is in milliseconds where the figure is a duration.
	Want float64 `json:"want"`
	// Got and Met are filled in by the run.
	Got float64 `json:"got"`
	Met bool    `json:"met"`
}

// ParseSLO reads goals such as "p99<50ms,ack.p99<=25ms,loss=0,delivered>=9900".
func ParseSLO(s string) ([]Goal, error) {
	var goals []Goal
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		at := strings.IndexAny(part, "<>=")
		if at < 0 {
			return nil, fmt.Errorf("--slo %q: a goal looks like p99<50ms or loss=0", part)
		}
		g := Goal{Figure: strings.TrimSpace(part[:at]), Op: part[at : at+1]}
		rest := part[at+1:]
		if g.Op != "=" && strings.HasPrefix(rest, "=") {
			g.Op, rest = g.Op+"=", rest[1:]
		}
		if _, ok := (&Report{}).figure(g.Figure); !ok {
			return nil, fmt.Errorf("--slo %q: there is no figure %q", part, g.Figure)
		}
		var err error
		if g.Want, err = parseWant(strings.TrimSpace(rest), isDuration(g.Figure)); err != nil {
			return nil, fmt.Errorf("--slo %q: %w", part, err)
		}
		goals = append(goals, g)
	}
	return goals, nil
}

func parseWant(s string, duration bool) (float64, error) {
	if duration {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, fmt.Errorf("%q is no duration such as 50ms", s)
		}
		return float64(d) / float64(time.Millisecond), nil
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no number", s)
	}
	return n, nil
}

// isDuration reports whether a figure of an SLO is in milliseconds.
func isDuration(figure string) bool {
	_, quantile, ok := strings.Cut(figure, ".")
	if ok && slices.Contains(quantileNames, quantile) {
		return true
	}
	return slices.Contains(quantileNames, figure)
}

var quantileNames = []string{"p50", "p90", "p99", "p99.9", "max", "mean"}

// judge compares a goal with the report.
func (g *Goal) judge(r *Report) {
	g.Got, _ = r.figure(g.Figure)
	switch g.Op {
	case "<":
		g.Met = g.Got < g.Want
	case "<=":
		g.Met = g.Got <= g.Want
	case "=":
		g.Met = g.Got == g.Want
	case ">=":
		g.Met = g.Got >= g.Want
	case ">":
		g.Met = g.Got > g.Want
	}
	if isDuration(g.Figure) && !r.measured(g.Figure) {
		g.Met = false // nothing was measured, so nothing was shown
	}
}

// String words the goal and how it went.
func (g Goal) String() string {
	unit := ""
	if isDuration(g.Figure) {
		unit = " ms"
	}
	return fmt.Sprintf("%s %s %s%s: got %s%s", g.Figure, g.Op, short(g.Want), unit, short(g.Got), unit)
}
