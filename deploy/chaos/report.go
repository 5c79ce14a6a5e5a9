package chaos

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/parley-chat/parley/deploy/chaos/check"
)

// Report is what a run found.
type Report struct {
	Seed   uint64         `json:"seed"`
	Begun  time.Time      `json:"begun"`
	Took   float64        `json:"took_s"`
	Dir    string         `json:"dir"` // with the logs and, where something was found, the history and the data
	Faults map[string]int `json:"faults"`
	Load   Load           `json:"load"`
	Storm  *Storm         `json:"storm,omitempty"` // of the scenario edge-killed
	// Wrong is what the conductor saw itself: what did not come back, or came to the clients against the protocol.
	Wrong      []string      `json:"wrong,omitempty"`
	WrongTotal int           `json:"wrong_total"`
	Remarks    []string      `json:"remarks,omitempty"` // worth reading; no violations
	Notes      []string      `json:"notes,omitempty"`   // what could not be done here
	Verdict    *check.Report `json:"verdict"`
}

// Load is what the clients counted.
type Load struct {
	Attempts  int64 `json:"attempts"`
	Acked     int64 `json:"acked"` // attempts answered ok
	Stored    int64 `json:"told_stored"`
	Refused   int64 `json:"refused_or_unknown"`
	GaveUp    int64 `json:"gave_up"`
	Late      int64 `json:"not_begun"`
	Delivered int64 `json:"delivered_live"`
	Resumed   int64 `json:"delivered_by_resume"`
	Joins     int64 `json:"joins"`
	Connects  int64 `json:"connects"`
	Gaps      int64 `json:"gaps"`
	Resets    int64 `json:"resets"`
}

func (r *Report) finishLoad(t *tally) {
	r.Load = Load{
		Attempts: t.attempts.Load(), Acked: t.acked.Load(), Stored: t.stored.Load(), Refused: t.refused.Load(), GaveUp: t.gaveUp.Load(), Late: t.late.Load(),
		Delivered: t.delivered.Load(), Resumed: t.resumed.Load(), Joins: t.joins.Load(), Connects: t.connected.Load(),
		Gaps: t.gaps.Load(), Resets: t.resets.Load(),
	}
}

func (r *Report) finish(w *world) {
	r.Took = time.Since(r.Begun).Seconds()
	w.mu.Lock()
	defer w.mu.Unlock()
	r.Faults, r.Remarks = maps.Clone(w.done), slices.Clone(w.remarks)
	r.Wrong, r.WrongTotal = w.tally.violations(), int(w.tally.wrong.Load())
}

// Good reports whether no promise was broken and, where there were faults, nothing was left unchecked.
func (r *Report) Good() bool {
	return r.WrongTotal == 0 && r.Verdict != nil && r.Verdict.Good() && (len(r.Verdict.Absent) == 0 || len(r.Faults) == 0)
}

// WriteText writes the report for people. The error is out's.
func (r *Report) WriteText(out io.Writer) error {
	var b strings.Builder
	total := 0
	for _, n := range r.Faults {
		total += n
	}
	fmt.Fprintf(&b, "seed %d, %.0f s in all, %d faults of %d kinds\n", r.Seed, r.Took, total, len(r.Faults))
	l := &r.Load
	fmt.Fprintf(&b, "clients   %d sends acked of %d attempts, %d told stored, %d that the caller would not wait for, %d not begun as that user had too many under way; %d entries live, %d by resume; %d joins, %d connects, %d gaps, %d resets\n",
		l.Acked, l.Attempts, l.Stored, l.GaveUp, l.Late, l.Delivered, l.Resumed, l.Joins, l.Connects, l.Gaps, l.Resets)
	if s := r.Storm; s != nil {
		fmt.Fprintf(&b, "storm     %d of %d connections were those of the killed edge; half had resumed after %.1f s, %d after %.1f s; %d resumes, %d database reads\n",
			s.Affected, s.Connections, s.HalfS, s.Resumed, s.AllS, s.Resumes, s.Reads)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "note      %s\n", note)
	}
	for _, remark := range r.Remarks {
		fmt.Fprintf(&b, "remark    %s\n", remark)
	}
	if err := r.Verdict.WriteText(&b); err != nil {
		return err
	}
	for _, wrong := range r.Wrong {
		fmt.Fprintf(&b, "VIOLATED  %s\n", wrong)
	}
	if r.WrongTotal > len(r.Wrong) {
		fmt.Fprintf(&b, "VIOLATED  %d more of these\n", r.WrongTotal-len(r.Wrong))
	}
	verdict := "PASSED"
	if !r.Good() {
		verdict = "FAILED; everything that was seen is kept"
	}
	fmt.Fprintf(&b, "%s: %s\n", verdict, r.Dir)
	_, err := io.WriteString(out, b.String())
	return err
}

// write keeps the report as report.txt and report.json.
func (r *Report) write(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "report.json"), append(data, '\n'), 0o644)
	}
	var text strings.Builder
	if err == nil {
		err = r.WriteText(&text)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "report.txt"), []byte(text.String()), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
