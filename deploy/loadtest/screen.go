package loadtest

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// screen shows a run while it goes on: in place on a terminal, as lines elsewhere.
type screen struct {
	out   io.Writer
	live  bool
	drawn int // lines of the last picture
	notes []string
	lines int
	past  []Second // the last pastSeconds
}

// pastSeconds is how far back the live screen draws.
const pastSeconds = 40

func newScreen(out io.Writer, plain bool) *screen {
	return &screen{out: out, live: !plain && isTerminal(out)}
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

// view is what the screen shows.
type view struct {
	second   Second
	past     []Second
	now      Timing // deliveries of the last second
	connect  Timing
	wanted   int
	total    *tally
	watched  bool
	watchErr error
}

func (s *screen) head(lines []string) {
	for _, l := range lines {
		fmt.Fprintln(s.out, l)
	}
	fmt.Fprintln(s.out)
}

// note says something once, in between.
func (s *screen) note(text string) {
	if s.live {
		s.notes = append(s.notes, text)
		return
	}
	fmt.Fprintln(s.out, "note:", text)
}

func (s *screen) show(v view) {
	if !s.live {
		s.plain(v)
		return
	}
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	if s.past = append(s.past, v.second); len(s.past) > pastSeconds {
		s.past = s.past[1:]
	}
	v.past = s.past
	lines := v.picture(s.notes)
	b.WriteString("\x1b[?7l") // a narrow terminal cuts a line: a second one would spoil the picture
	for _, l := range lines {
		b.WriteString(l)
		b.WriteString("\x1b[K\n")
	}
	b.WriteString("\x1b[J\x1b[?7h")
	s.drawn = len(lines)
	io.WriteString(s.out, b.String())
}

// end leaves the last picture where it is and makes room.
func (s *screen) end() {
	if s.live && s.drawn > 0 || s.lines > 0 {
		fmt.Fprintln(s.out)
	}
}

const (
	dim    = "\x1b[2m"
	bold   = "\x1b[1m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	cyan   = "\x1b[36m"
	normal = "\x1b[0m"
)

// picture draws the live screen.
func (v view) picture(notes []string) []string {
	n, s := &v.total.counts, v.second
	row := func(label, format string, args ...any) string {
		return fmt.Sprintf("  %s%-12s%s ", dim, label, normal) + fmt.Sprintf(format, args...)
	}
	spark := func(of func(Second) float64) string { return sparks(v.past, of) }
	lines := []string{
		fmt.Sprintf("%s%s%s  %s", bold, clock24(s.At), normal, s.Phase),
		row("connections", "%s%s%s of %s  %s  connect p50 %s ms  p99 %s ms", bold, grouped(s.Listening), normal, grouped(int64(v.wanted)),
			bar(float64(s.Listening)/float64(v.wanted), 20), short(v.connect.P50), short(v.connect.P99)),
		row("messages", "%s%s%s sent/s  %s%s%s delivered/s of %s expected/s", bold, short(s.Sent), normal, bold, short(s.Delivered), normal, short(s.Expected)),
		row("", "%s", spark(func(s Second) float64 { return s.Delivered })),
		row("latency", "p50 %s  p90 %s  p99 %s%s%s  p99.9 %s  max %s ms", short(v.now.P50), short(v.now.P90), bold, short(v.now.P99), normal, short(v.now.P999), short(v.now.Max)),
		row("", "%s", spark(func(s Second) float64 { return s.P99 })),
		row("ledger", "%s  %s  %s  %s", verdictText("missing now", v.total.missing), verdictText("doubled", n[nDoubled]), verdictText("reordered", n[nReordered]), verdictText("foreign", n[nForeign])),
		row("generator", "%s %%  %s", short(100*s.GenCores), bytesize(float64(s.GenMemory))),
	}
	if v.watched {
		text := fmt.Sprintf("%s %%  %s", short(100*s.SrvCores), bytesize(float64(s.SrvMemory)))
		if s.Listening > 0 {
			text += fmt.Sprintf("  %s per connection, all included", bytesize(float64(s.SrvMemory)/float64(s.Listening)))
		}
		if v.watchErr != nil {
			text += "  " + red + v.watchErr.Error() + normal
		}
		lines = append(lines, row("servers", "%s", text))
	}
	for i, e := range topErrors(v.total.errors, 4) {
		label := "errors"
		if i > 0 {
			label = ""
		}
		lines = append(lines, row(label, "%s", e))
	}
	for _, note := range notes {
		lines = append(lines, row("note", "%s", note))
	}
	return lines
}

func verdictText(what string, n int64) string {
	colour := green
	if n > 0 {
		colour = red
	}
	return fmt.Sprintf("%s%s%s %s", colour, grouped(n), normal, what)
}

// bar draws a share.
func bar(share float64, width int) string {
	full := min(max(int(share*float64(width)), 0), width)
	return strings.Repeat("█", full) + dim + strings.Repeat("░", width-full) + normal
}

// sparks draws a figure over the last seconds, each as high as its share of the highest, and names that one.
func sparks(past []Second, of func(Second) float64) string {
	steps := []rune("▁▂▃▄▅▆▇█")
	highest := 0.0
	for _, s := range past {
		highest = max(highest, of(s))
	}
	var b strings.Builder
	for _, s := range past {
		step := 0
		if highest > 0 {
			step = min(int(of(s)/highest*float64(len(steps))), len(steps)-1)
		}
		b.WriteRune(steps[step])
	}
	return fmt.Sprintf("%s%s%s%s %shighest %s%s", cyan, b.String(), normal, strings.Repeat(" ", max(0, pastSeconds-len(past))), dim, short(highest), normal)
}

// clock24 writes seconds as a clock.
func clock24(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%02d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// plain writes one line: every second at first, later every ten.
func (s *screen) plain(v view) {
	s.lines++
	if s.lines > 30 && s.lines%10 != 0 {
		return
	}
	c := v.second
	line := fmt.Sprintf("%s %-10s %s conns  %s sent/s  %s/s of %s/s delivered  p50 %s p99 %s max %s ms  load %s %% %s",
		clock24(c.At), c.Phase, grouped(c.Listening), short(c.Sent), short(c.Delivered), short(c.Expected), short(c.P50), short(c.P99), short(c.Max),
		short(100*c.GenCores), bytesize(float64(c.GenMemory)))
	if v.watched {
		line += fmt.Sprintf("  servers %s %% %s", short(100*c.SrvCores), bytesize(float64(c.SrvMemory)))
	}
	if c.Missing > 0 {
		line += "  missing " + grouped(c.Missing)
	}
	if c.Errors > 0 {
		line += "  errors " + grouped(c.Errors) + ": " + worst(v.total.errors)
	}
	fmt.Fprintln(s.out, line)
}

// topErrors lists the most frequent causes.
func topErrors(errs map[string]int64, most int) (lines []string) {
	causes := make([]string, 0, len(errs))
	for c := range errs {
		causes = append(causes, c)
	}
	slices.SortFunc(causes, func(a, b string) int {
		if errs[a] != errs[b] {
			return int(errs[b] - errs[a])
		}
		return strings.Compare(a, b)
	})
	for i, c := range causes {
		if i == most {
			lines = append(lines, fmt.Sprintf("and %d further causes", len(causes)-most))
			break
		}
		lines = append(lines, fmt.Sprintf("%s × %s", grouped(errs[c]), c))
	}
	return lines
}
