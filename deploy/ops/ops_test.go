package ops_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/deploy/ops"
)

func start(t *testing.T, cfg ops.Config) *ops.Server {
	t.Helper()
	s := ops.New(cfg, slog.New(slog.DiscardHandler))
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	return s
}

func get(t *testing.T, s *ops.Server, path string) (code int, body string) {
	t.Helper()
	res, err := http.Get("http://" + s.Addr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestReadiness(t *testing.T) {
	s := start(t, ops.Config{Listen: "127.0.0.1:0"})
	var ready atomic.Bool
	s.Add(ops.Check{Name: "log", Ready: func() error {
		if ready.Load() {
			return nil
		}
		return errors.New("no broker answers")
	}})
	s.Fact("durability", "process")
	if code, body := get(t, s, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "log: no broker answers") {
		t.Errorf("not ready: %d %q", code, body)
	}
	if code, _ := get(t, s, "/livez"); code != http.StatusOK {
		t.Errorf("alive but not ready: /livez says %d", code)
	}
	ready.Store(true)
	if code, body := get(t, s, "/readyz"); code != http.StatusOK || body != "ready\n" {
		t.Errorf("ready: %d %q", code, body)
	}
	var state struct {
		Ready  bool
		Checks map[string]string
		Facts  map[string]string
	}
	_, body := get(t, s, "/readyz?verbose")
	if err := json.Unmarshal([]byte(body), &state); err != nil {
		t.Fatal(err)
	}
	if !state.Ready || state.Checks["log"] != "ok" || state.Facts["durability"] != "process" {
		t.Errorf("verbose: %+v", state)
	}
}

func TestTell(t *testing.T) {
	now := "closed"
	s := start(t, ops.Config{Listen: "127.0.0.1:0"})
	s.Tell("edge-1", func() string { return now })
	for _, now = range []string{"closed", "open"} {
		if _, body := get(t, s, "/readyz?verbose"); !strings.Contains(body, `"edge-1": "`+now+`"`) {
			t.Errorf("%s is not told: %s", now, body)
		}
	}
}

func TestMetricsAndStatus(t *testing.T) {
	s := start(t, ops.Config{Listen: "127.0.0.1:0"})
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "parley_test_things_total", Help: "Things."})
	s.Registry().MustRegister(c)
	c.Add(3)
	if code, body := get(t, s, "/metrics"); code != http.StatusOK || !strings.Contains(body, "parley_test_things_total 3") {
		t.Errorf("metrics: %d, %d bytes", code, len(body))
	}
	for _, path := range []string{"/debug/status", "/debug/pprof/goroutine?debug=1"} {
		if code, body := get(t, s, path); code != http.StatusOK || len(body) == 0 {
			t.Errorf("%s: %d", path, code)
		}
	}
	if code, _ := get(t, s, "/"); code != http.StatusNotFound {
		t.Errorf("/: %d", code)
	}
}

func TestOffAndTaken(t *testing.T) {
	if off := start(t, ops.Config{Listen: "off"}); off.Addr() != "" {
		t.Errorf("off listens on %s", off.Addr())
	}
	first := start(t, ops.Config{Listen: "127.0.0.1:0"})
	second := ops.New(ops.Config{Listen: first.Addr()}, slog.New(slog.DiscardHandler))
	if err := second.Start(); err == nil || !strings.Contains(err.Error(), first.Addr()) || !strings.Contains(err.Error(), "--ops") {
		t.Errorf("a taken port: %v", err)
	}
}
