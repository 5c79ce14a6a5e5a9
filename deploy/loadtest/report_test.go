package loadtest_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/deploy/loadtest"
)

func TestExitCode(t *testing.T) {
	tests := map[string]struct {
		change func(r *loadtest.Report)
		want   int
	}{
		"as asked for":       {func(*loadtest.Report) {}, loadtest.ExitOK},
		"interrupted":        {func(r *loadtest.Report) { r.Ended = "interrupted" }, loadtest.ExitOK},
		"lost":               {func(r *loadtest.Report) { r.Ledger.Lost = 1 }, loadtest.ExitLedger},
		"lost and cut short": {func(r *loadtest.Report) { r.Ledger.LostAccepted, r.Ended = 1, "gone" }, loadtest.ExitLedger},
		"cut short":          {func(r *loadtest.Report) { r.Ended = "gone" }, loadtest.ExitPartial},
		"too few came":       {func(r *loadtest.Report) { r.Connections.Listening = 9 }, loadtest.ExitPartial},
		"away at the end":    {func(r *loadtest.Report) { r.Ledger.Unjudged = 10 }, loadtest.ExitPartial},
		"nothing accepted":   {func(r *loadtest.Report) { r.Traffic.TotalAccepted = 0 }, loadtest.ExitPartial},
		"goal missed":        {func(r *loadtest.Report) { r.SLO = []loadtest.Goal{{}} }, loadtest.ExitSLO},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := loadtest.Report{Setup: loadtest.Setup{Connections: 10}, Connections: loadtest.Connections{Listening: 10}}
			r.Traffic.TotalSent, r.Traffic.TotalAccepted = 5, 5
			tt.change(&r)
			if got := r.ExitCode(); got != tt.want {
				t.Errorf("exit code %d, want %d", got, tt.want)
			}
		})
	}
}

func TestParseSLO(t *testing.T) {
	got, err := loadtest.ParseSLO("p99<50ms, ack.p99.9<=1s,loss=0,delivered>=9900")
	want := []loadtest.Goal{
		{Figure: "p99", Op: "<", Want: 50}, {Figure: "ack.p99.9", Op: "<=", Want: 1000},
		{Figure: "loss", Op: "=", Want: 0}, {Figure: "delivered", Op: ">=", Want: 9900},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("goals (-want +got):\n%s%v", diff, err)
	}
	for _, bad := range []string{"p99", "p98<1ms", "p99<5", "loss=none", "<1ms"} {
		if _, err := loadtest.ParseSLO(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestGoalWithoutMeasurement: where nothing was measured, no goal about it is met.
func TestGoalWithoutMeasurement(t *testing.T) {
	c := small()
	c.Rate, c.SLO, c.URLs = "0", "p99<50ms,loss=0", []string{newLiar().listen(t)}
	r := run(t, c)
	if r.SLO[0].Met || !r.SLO[1].Met {
		t.Errorf("goals %+v", r.SLO)
	}
}

func TestReportsAreWrittenAndCompared(t *testing.T) {
	c := small()
	c.URLs = []string{newLiar().listen(t)}
	r := run(t, c)
	file := filepath.Join(t.TempDir(), "r.json")
	if err := r.WriteJSON(file); err != nil {
		t.Fatal(err)
	}
	back, err := loadtest.ReadJSON(file)
	if err != nil {
		t.Fatal(err)
	}
	if back.Traffic != r.Traffic || back.Timings["delivery"] != r.Timings["delivery"] {
		t.Errorf("read %+v, wrote %+v", back.Traffic, r.Traffic)
	}
	back.Traffic.Delivered = r.Traffic.Delivered / 2
	var out strings.Builder
	if err := loadtest.Compare(&out, r, back); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, "delivered/s") {
			if !strings.Contains(line, "-50.0 %") || !strings.Contains(line, "WORSE") {
				t.Errorf("row %q", line)
			}
			return
		}
	}
	t.Errorf("no row for the deliveries:\n%s", out.String())
}
