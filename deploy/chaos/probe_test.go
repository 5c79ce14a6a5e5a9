package chaos

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/deploy/chaos/history"
	"github.com/parley-chat/parley/deploy/local"
)

// TestMeasure: who does not say what it holds is named, since nothing can be found wrong with it.
func TestMeasure(t *testing.T) {
	role := func(ready, metrics int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			code := ready
			if r.URL.Path == "/metrics" {
				code = metrics
			}
			w.WriteHeader(code)
			if code == http.StatusOK {
				fmt.Fprint(w, "# HELP go_goroutines x\ngo_goroutines 41\nprocess_resident_memory_bytes 5e+06\nparley_edge_connections{a=\"b\"} 2\n"+
					"parley_server_ping_errors_total{node=\"n\",server=\"log\"} 3\nparley_server_ping_errors_total{node=\"n\",server=\"store\"} 4\n")
			}
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	p := &plant{
		ops: map[string]string{
			"edge-1": role(200, 200), "edge-2": strings.TrimPrefix(gone.URL, "http://"), "worker-1": role(503, 200), "worker-2": role(200, 500),
		},
		procs: make(map[string]*local.Process),
	}
	for name := range p.ops {
		p.procs[name] = &local.Process{}
	}
	var file strings.Builder
	out := history.NewWriter(&file)
	all, silent := newProber(p, out).measure(t.Context(), history.Final)
	if diff := cmp.Diff([]string{"edge-2", "worker-2"}, silent); diff != "" {
		t.Errorf("silent (-want +got):\n%s", diff)
	}
	if len(all) != 4 || all[0].Process != "edge-1" || all[0].Goroutines != 41 || all[0].Memory != 5e6 || all[0].Metrics["parley_edge_connections"] != 2 ||
		all[0].Metrics[logSilent] != 3 || all[0].Metrics[storeSilent] != 4 {
		t.Errorf("measured %+v", all)
	}
	if err := out.Flush(); err != nil || strings.Count(file.String(), `"phase":"final"`) != 4 {
		t.Errorf("written down (%v):\n%s", err, file.String())
	}
	if diff := cmp.Diff([]string{"edge-2", "worker-1"}, newProber(p, out).probe(t.Context())); diff != "" {
		t.Errorf("not ready (-want +got):\n%s", diff)
	}
}

func TestMoved(t *testing.T) {
	was := map[int32]bounds{0: {start: 3, end: 9, epoch: 1, checkpoint: 9}, 1: {}}
	for name, tt := range map[string]struct {
		now  bounds
		want bool
	}{
		"as before":   {bounds{start: 3, end: 9, epoch: 1, checkpoint: 9}, false},
		"stored more": {bounds{start: 3, end: 9, epoch: 1, checkpoint: 8}, false},
		"written to":  {bounds{start: 3, end: 10, epoch: 1, checkpoint: 9}, true},
		"trimmed":     {bounds{start: 4, end: 9, epoch: 1, checkpoint: 9}, true},
	} {
		if got := moved(was, map[int32]bounds{0: tt.now, 1: {}}); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestCrashed(t *testing.T) {
	for script, want := range map[string]bool{"exit 0": false, "exit 1": false, "exit 2": true, "kill -9 $$": true} {
		err := exec.Command("sh", "-c", script).Run()
		if err != nil {
			err = fmt.Errorf("stop edge-1: %w", err)
		}
		if got := crashed(err); got != want {
			t.Errorf("%s (%v): %v", script, err, got)
		}
	}
}
