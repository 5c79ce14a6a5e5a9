package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestReadySaysWhatIsMissing(t *testing.T) {
	answer := http.StatusServiceUnavailable
	process := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("asked %s", r.URL.Path)
		}
		w.WriteHeader(answer)
		_, _ = w.Write([]byte("nats: not connected\n"))
	}))
	defer process.Close()
	ops := strings.TrimPrefix(process.URL, "http://")
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"ready", "--ops", ops}, &stdout, &stderr); code == 0 || !strings.Contains(stderr.String(), "nats: not connected") {
		t.Errorf("not ready: exit %d, %q", code, stderr.String())
	}
	answer = http.StatusOK
	if code := run(t.Context(), []string{"ready", "--ops", ops}, &stdout, &stderr); code != 0 || stdout.String() != "ready\n" {
		t.Errorf("ready: exit %d, %q", code, stdout.String())
	}
	process.Close()
	if code := run(t.Context(), []string{"ready", "--ops", ops}, &stdout, &stderr); code == 0 {
		t.Error("nobody answers, yet it is ready")
	}
}
