package check

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/parley-chat/parley/deploy/chaos/history"
)

// input is a part of a history that some checks need.
type input string

const (
	inputRows      input = "rows of the store"
	inputLog       input = "records and ranges of the log"
	inputFaults    input = "faults"
	inputProbes    input = "probes"
	inputResources input = "probes of the phases baseline and final"
)

var inputs = []input{inputRows, inputLog, inputFaults, inputProbes, inputResources}

// Report is the verdict on one history.
type Report struct {
	// Violations lists up to Config.PerKind of each kind; Counts counts all.
	Violations []Violation  `json:"violations"`
	Counts     map[Kind]int `json:"counts"`
	// Absent names what the history lacks; what depends on it was not checked.
	Absent  []string `json:"absent,omitempty"`
	Figures Figures  `json:"figures"`

	inputs []input
}

// Figures says how much was judged: a verdict on nothing is worth nothing.
type Figures struct {
	Seconds     float64 `json:"seconds"` // from the first to the last event
	Clients     int     `json:"clients"`
	Connections int     `json:"connections"`
	Rooms       int     `json:"rooms"`
	Members     int     `json:"members"` // client and room, at rest at the end

	Messages int `json:"messages"` // different keys sent
	Acked    int `json:"acked"`    // of Messages
	Attempts int `json:"attempts"`
	OK       int `json:"ok"` // of Attempts; so the next two
	Rejected int `json:"rejected"`
	Unknown  int `json:"unknown"`

	Rows       int `json:"rows"`
	Records    int `json:"records"`
	Duplicates int `json:"duplicates"` // records that repeat a message
	Dead       int `json:"dead"`       // records that nobody can read

	Received int `json:"received"` // entries, live or in replies
	Live     int `json:"live"`
	Joins    int `json:"joins"`
	Resumes  int `json:"resumes"` // joins with a position that got what they lacked
	Resets   int `json:"resets"`
	Pages    int `json:"pages"` // of history
	Gaps     int `json:"gaps"`

	Faults map[string]int     `json:"faults,omitempty"`  // by kind
	ShownS map[string]float64 `json:"shown_s,omitempty"` // the longest that one of the kind took to show, in seconds; silent ones are left out
	Costs  map[string]*Cost   `json:"costs,omitempty"`   // by kind, of faults that no other overlapped

	QuietAttempts   int     `json:"quiet_attempts"` // outside fault windows
	QuietAcked      int     `json:"quiet_acked"`
	QuietDeliveries int     `json:"quiet_deliveries"`
	FanoutP50MS     float64 `json:"fanout_p50_ms"` // from first send to live delivery, of QuietDeliveries
	FanoutP99MS     float64 `json:"fanout_p99_ms"`
}

// Cost is the longest that clients waited in faults of one kind.
type Cost struct {
	Alone    int     `json:"alone"`     // how many faults are counted
	AckedS   float64 `json:"acked_s"`   // from the first attempt to send a message to the first ok, in seconds; of those acked
	ReachedS float64 `json:"reached_s"` // from the first attempt until a first client had it, in seconds; of those that one got
}

func (f *Figures) cost(kind string) *Cost {
	if f.Costs == nil {
		f.Costs = make(map[string]*Cost)
	}
	if f.Costs[kind] == nil {
		f.Costs[kind] = &Cost{}
	}
	return f.Costs[kind]
}

func (f *Figures) message(m *message) {
	if m.attempts == 0 {
		return
	}
	f.Messages++
	if m.acked != 0 {
		f.Acked++
	}
}

func (f *Figures) attempt(a *attempt) {
	f.Attempts++
	switch a.outcome {
	case history.OK:
		f.OK++
	case history.Rejected:
		f.Rejected++
	default:
		f.Unknown++
	}
}

func (f *Figures) fault(kind string, took time.Duration, shown bool) {
	if f.Faults == nil {
		f.Faults, f.ShownS = make(map[string]int), make(map[string]float64)
	}
	f.Faults[kind]++
	if shown {
		f.ShownS[kind] = max(f.ShownS[kind], took.Seconds())
	}
}

func (r *Report) got(in input) {
	if !r.has(in) {
		r.inputs = append(r.inputs, in)
	}
}

func (r *Report) has(in input) bool { return slices.Contains(r.inputs, in) }

// Good reports whether no promise was broken. Look at Absent and Figures too.
func (r *Report) Good() bool { return len(r.Counts) == 0 }

// Has reports whether a kind of violation was found.
func (r *Report) Has(kind Kind) bool { return r.Counts[kind] > 0 }

func (r *Report) finish(c *Checker) {
	for _, in := range inputs {
		if !r.has(in) {
			r.Absent = append(r.Absent, string(in))
		}
	}
	r.Figures.Rooms = len(c.rooms)
	r.Figures.Seconds = time.Duration(c.to - c.from).Seconds()
}

// WriteText writes the report for people. The error is out's.
func (r *Report) WriteText(out io.Writer) error {
	var b strings.Builder
	f := &r.Figures
	fmt.Fprintf(&b, "%.0f s, %d clients on %d connections, %d rooms\n", f.Seconds, f.Clients, f.Connections, f.Rooms)
	fmt.Fprintf(&b, "sent      %d messages in %d attempts: %d ok, %d rejected, %d unknown; %d messages acked\n", f.Messages, f.Attempts, f.OK, f.Rejected, f.Unknown, f.Acked)
	fmt.Fprintf(&b, "kept      %d rows of %d records, %d of them repeats, %d dead\n", f.Rows, f.Records, f.Duplicates, f.Dead)
	fmt.Fprintf(&b, "received  %d entries, %d live; %d joins, %d resumes, %d resets, %d gaps, %d pages of history; %d members at the end\n", f.Received, f.Live, f.Joins, f.Resumes, f.Resets, f.Gaps, f.Pages, f.Members)
	fmt.Fprintf(&b, "at rest   %d of %d attempts acked; ", f.QuietAcked, f.QuietAttempts)
	if f.QuietDeliveries > 0 {
		fmt.Fprintf(&b, "%d deliveries, p50 %.1f ms, p99 %.1f ms\n", f.QuietDeliveries, f.FanoutP50MS, f.FanoutP99MS)
	} else {
		b.WriteString("no rest was long enough to time deliveries\n")
	}
	for _, kind := range slices.Sorted(maps.Keys(f.Faults)) {
		fmt.Fprintf(&b, "fault     %s × %d", kind, f.Faults[kind])
		if took, ok := f.ShownS[kind]; ok {
			fmt.Fprintf(&b, ", showed within %.1f s", took)
		}
		if cost := f.Costs[kind]; cost != nil {
			fmt.Fprintf(&b, "; of %d alone: acked within %.1f s, with a client within %.1f s", cost.Alone, cost.AckedS, cost.ReachedS)
		}
		b.WriteByte('\n')
	}
	for _, in := range r.Absent {
		fmt.Fprintf(&b, "unchecked the history has no %s\n", in)
	}
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "VIOLATED  %s\n", v)
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Counts)) {
		fmt.Fprintf(&b, "count     %s × %d\n", kind, r.Counts[kind])
	}
	if r.Good() {
		b.WriteString("every promise checked was kept\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// shownEvidence is how many places a violation's line names.
const shownEvidence = 6

// String is the violation in one line.
func (v Violation) String() string {
	var b strings.Builder
	b.WriteString(string(v.Kind))
	if v.Room != "" {
		fmt.Fprintf(&b, " room %s", v.Room)
	}
	if v.Seq != 0 {
		fmt.Fprintf(&b, " seq %d", v.Seq)
	}
	if !v.Key.IsZero() {
		fmt.Fprintf(&b, " key %v", v.Key)
	}
	if v.Client != "" {
		fmt.Fprintf(&b, " client %s", v.Client)
	}
	fmt.Fprintf(&b, ": %s", v.What)
	if evidence := slices.DeleteFunc(slices.Clone(v.Evidence), func(s string) bool { return s == "" }); len(evidence) > 0 {
		if more := len(evidence) - shownEvidence; more > 0 {
			evidence = append(evidence[:shownEvidence], fmt.Sprintf("and %d more", more))
		}
		fmt.Fprintf(&b, " [%s]", strings.Join(evidence, ", "))
	}
	return b.String()
}
