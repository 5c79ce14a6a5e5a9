package loadtest

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"math"
	"os"
	"strings"
)

//go:embed report.tmpl.html
var reportPage string

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"grouped": grouped, "short": short, "bytesize": bytesize, "plural": func(n int, noun string) string { return plural(int64(n), noun) }, "percent": func(x float64) string { return short(100 * x) },
}).Parse(reportPage))

// WriteHTML writes the report as one page that needs nothing else: inline styles and drawings, light and dark.
func (r Report) WriteHTML(file string) error {
	var page bytes.Buffer
	if err := reportTemplate.Execute(&page, r.page()); err != nil {
		return fmt.Errorf("draw the report: %w", err)
	}
	if err := os.WriteFile(file, page.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// page is what the template is filled with.
type page struct {
	Report
	Verdict     string // good, bad or partial
	Headline    string
	Subline     string
	LedgerWords string
	Lateness    string
	ErrorLines  []string
	Rows        []pageRow
	Charts      []chart
}

type pageRow struct {
	Name string
	Timing
}

func (r Report) page() page {
	p := page{Report: r, Verdict: "good", Headline: "Every message accounted for", LedgerWords: r.Ledger.words(), Lateness: lateness(r), ErrorLines: topErrors(r.Errors, 12)}
	switch r.ExitCode() {
	case ExitLedger:
		p.Verdict, p.Headline = "bad", "The ledger does not add up"
	case ExitPartial:
		p.Verdict, p.Headline = "partial", "Not what was asked for"
	case ExitSLO:
		p.Verdict, p.Headline = "bad", "A goal was missed"
	}
	p.Subline = fmt.Sprintf("%s · %s in %s · %s", r.Scenario, plural(int64(r.Setup.Connections), "connection"), plural(int64(r.Setup.Rooms), "room"), strings.Join(r.URLs, ", "))
	for _, name := range timingNames[tDelivery:] {
		if t := r.Timings[name]; t.Count > 0 {
			p.Rows = append(p.Rows, pageRow{Name: name, Timing: t})
		}
	}
	p.Charts = r.charts()
	return p
}

// The size of a drawing and of its margins, in its own units.
const (
	chartWidth, chartHeight = 640.0, 240.0
	left, right, top, floor = 62.0, 20.0, 12.0, 32.0
)

// chart is one drawing, ready for the template.
type chart struct {
	Title, Unit, Note string
	Lines             []chartLine
	Bands             []chartBand
	XTicks, YTicks    []tick
	Width, Height     float64
	Left, Right       float64 // edges of the plot
	Top, Bottom       float64
}

type chartLine struct {
	Name   string
	Class  string // a or b
	Points string
}

// chartBand marks a phase.
type chartBand struct {
	X, Width float64
	Name     string
}

type tick struct {
	At    float64
	Label string
}

func newChart(title, unit, note string) chart {
	return chart{
		Title: title, Unit: unit, Note: note, Width: chartWidth, Height: chartHeight,
		Left: left, Right: chartWidth - right, Top: top, Bottom: chartHeight - floor,
	}
}

func (r Report) charts() (charts []chart) {
	if len(r.Curve) > 1 {
		charts = append(charts, r.ninesChart())
	}
	if len(r.Timeline) < 2 {
		return charts
	}
	of := func(f func(Second) float64) []float64 {
		values := make([]float64, len(r.Timeline))
		for i, s := range r.Timeline {
			values[i] = f(s)
		}
		return values
	}
	charts = append(charts,
		r.timeChart("Deliveries", "per second", "Expected: what the accepted messages make, given who listened.",
			series{"delivered", "a", of(func(s Second) float64 { return s.Delivered }), false},
			series{"expected", "b", of(func(s Second) float64 { return s.Expected }), false}),
		r.timeChart("Latency over time", "ms", "From the intended send time to delivery, each second by itself.",
			series{"p99", "a", of(func(s Second) float64 { return s.P99 }), true},
			series{"p50", "b", of(func(s Second) float64 { return s.P50 }), true}),
		r.timeChart("Connections in their rooms", "", "",
			series{"listening", "a", of(func(s Second) float64 { return float64(s.Listening) }), false}))
	cores := []series{{"generator", "b", of(func(s Second) float64 { return s.GenCores }), false}}
	memory := []series{{"generator", "b", of(func(s Second) float64 { return float64(s.GenMemory) / (1 << 20) }), false}}
	if r.Servers != nil {
		cores = append([]series{{"servers", "a", of(func(s Second) float64 { return s.SrvCores }), false}}, cores...)
		memory = append([]series{{"servers", "a", of(func(s Second) float64 { return float64(s.SrvMemory) / (1 << 20) }), false}}, memory...)
	}
	return append(charts, r.timeChart("Processors", "cores", "", cores...), r.timeChart("Memory", "MiB", "", memory...))
}

type series struct {
	name, class string
	values      []float64
	blankZero   bool // 0 means that there was nothing to measure
}

// timeChart draws seconds from left to right.
func (r Report) timeChart(title, unit, note string, all ...series) chart {
	c := newChart(title, unit, note)
	end := r.Timeline[len(r.Timeline)-1].At
	start := 0.0
	most := 0.0
	for _, s := range all {
		for _, v := range s.values {
			most = math.Max(most, v)
		}
	}
	step := niceStep(most / 4)
	most = math.Max(step, math.Ceil(most/step)*step)
	x := func(at float64) float64 { return c.Left + (at-start)/math.Max(end-start, 1e-9)*(c.Right-c.Left) }
	y := func(v float64) float64 { return c.Bottom - v/most*(c.Bottom-c.Top) }
	for _, s := range all {
		var b strings.Builder
		for i, v := range s.values {
			if s.blankZero && v == 0 {
				continue
			}
			fmt.Fprintf(&b, "%.1f,%.1f ", x(r.Timeline[i].At), y(v))
		}
		c.Lines = append(c.Lines, chartLine{Name: s.name, Class: s.class, Points: b.String()})
	}
	for v := 0.0; v <= most*1.0001; v += step {
		c.YTicks = append(c.YTicks, tick{At: y(v), Label: axisLabel(v)})
	}
	xStep := math.Max(1, niceStep((end-start)/8))
	for at := math.Ceil(start/xStep) * xStep; at <= end; at += xStep {
		c.XTicks = append(c.XTicks, tick{At: x(at), Label: short(at) + " s"})
	}
	c.Bands = r.bands(x)
	return c
}

// bands marks the phases in which nothing is measured.
func (r Report) bands(x func(float64) float64) (bands []chartBand) {
	for i := 0; i < len(r.Timeline); {
		j := i
		for j+1 < len(r.Timeline) && r.Timeline[j+1].Phase == r.Timeline[i].Phase {
			j++
		}
		from := x(0)
		if i > 0 {
			from = x(r.Timeline[i-1].At)
		}
		if phase := r.Timeline[i].Phase; phase != "measuring" && phase != "storm" && x(r.Timeline[j].At) > from {
			bands = append(bands, chartBand{X: from, Width: x(r.Timeline[j].At) - from, Name: phase})
		}
		i = j + 1
	}
	return bands
}

// ninesChart draws latency by percentile on an axis of nines: 0, 90, 99, 99.9 … are equally far apart.
func (r Report) ninesChart() chart {
	c := newChart("Latency by percentile", "ms", "From the intended send time to delivery, over the measured window; each step to the right is one more nine.")
	count := float64(r.Timings[timingNames[tDelivery]].Count)
	nines := math.Max(2, math.Min(6, math.Ceil(math.Log10(count))-0.5))
	low, high := math.Inf(1), 0.0
	for _, p := range r.Curve {
		if p.MS > 0 {
			low, high = math.Min(low, p.MS), math.Max(high, p.MS)
		}
	}
	lowest, highest := math.Floor(math.Log10(low)), math.Ceil(math.Log10(high)+1e-9)
	if highest <= lowest {
		highest = lowest + 1
	}
	x := func(percent float64) float64 {
		n := nines
		if percent < 100 {
			n = math.Min(nines, -math.Log10(1-percent/100))
		}
		return c.Left + n/nines*(c.Right-c.Left)
	}
	y := func(ms float64) float64 {
		return c.Bottom - (math.Log10(math.Max(ms, low))-lowest)/(highest-lowest)*(c.Bottom-c.Top)
	}
	var b strings.Builder
	for _, p := range r.Curve {
		fmt.Fprintf(&b, "%.1f,%.1f ", x(p.Percent), y(p.MS))
	}
	c.Lines = []chartLine{{Name: "delivery", Class: "a", Points: b.String()}}
	for e := lowest; e <= highest; e++ {
		at := c.Bottom - (e-lowest)/(highest-lowest)*(c.Bottom-c.Top)
		c.YTicks = append(c.YTicks, tick{At: at, Label: axisLabel(math.Pow(10, e))})
	}
	for _, p := range []float64{0, 50, 90, 99, 99.9, 99.99, 99.999, 99.9999} {
		if -math.Log10(1-p/100) <= nines {
			c.XTicks = append(c.XTicks, tick{At: x(p), Label: strings.TrimSuffix(fmt.Sprintf("%g", p), ".0")})
		}
	}
	return c
}

// niceStep is the next of 1, 2, 5, 10, 20, 50 … from x on.
func niceStep(x float64) float64 {
	if x <= 0 {
		return 1
	}
	magnitude := math.Pow(10, math.Floor(math.Log10(x)))
	for _, m := range [...]float64{1, 2, 5, 10} {
		if m*magnitude >= x*(1-1e-9) {
			return m * magnitude
		}
	}
	return 10 * magnitude
}

// axisLabel writes a round number shortly: 0.1, 20, 5k, 1.5M. On one axis thousands look alike.
func axisLabel(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", math.Round(v/1e5)/10)
	case v >= 1e3:
		return fmt.Sprintf("%gk", math.Round(v/100)/10)
	}
	return fmt.Sprintf("%g", math.Round(v*1e6)/1e6)
}

// PlotHeight is the height of the plot without its margins.
func (c chart) PlotHeight() float64 { return c.Bottom - c.Top }

// LabelX is where the labels of the vertical axis end.
func (c chart) LabelX() float64 { return c.Left - 8 }

// LabelY is the line of the labels of the horizontal axis.
func (c chart) LabelY() float64 { return c.Bottom + 18 }
