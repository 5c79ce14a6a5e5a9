package chaos

import (
	"testing"

	"github.com/parley-chat/parley/deploy/chaos/check"
)

// TestGood: a run passes only with everything checked.
func TestGood(t *testing.T) {
	faults := map[string]int{"kill-edge": 1}
	for name, tt := range map[string]struct {
		r    Report
		want bool
	}{
		"all checked":      {Report{Faults: faults, Verdict: &check.Report{}}, true},
		"no faults":        {Report{Verdict: &check.Report{Absent: []string{"faults"}}}, true},
		"no verdict":       {Report{Faults: faults}, false},
		"violated":         {Report{Faults: faults, Verdict: &check.Report{Counts: map[check.Kind]int{check.Lost: 1}}}, false},
		"wrong at once":    {Report{Faults: faults, Verdict: &check.Report{}, WrongTotal: 1}, false},
		"no dump of a log": {Report{Faults: faults, Verdict: &check.Report{Absent: []string{"records and ranges of the log"}}}, false},
	} {
		if got := tt.r.Good(); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
