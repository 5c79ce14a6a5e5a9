// Package ops is a process's second listener: health, metrics and profiles, for operators and never for clients.
package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check is one thing that must be well before the process is ready.
type Check struct {
	Name  string
	Ready func() error // nil: ready; an error says what is wrong and is shown to operators
}

// Config of the listener.
type Config struct {
	// Listen is the address. Defaults to 127.0.0.1:9100; "off" opens no listener.
	Listen string
	// Listener is used instead where it is not nil. It is open; the Server closes it.
	Listener net.Listener
}

// Server is the second listener. It is safe for concurrent use.
type Server struct {
	cfg      Config
	log      *slog.Logger
	registry *prometheus.Registry
	started  time.Time
	http     *http.Server
	ln       net.Listener

	mu     sync.Mutex // guards the rest
	checks []Check
	facts  map[string]string
	tells  map[string]func() string
}

// New makes a listener that is not open yet.
func New(cfg Config, log *slog.Logger) *Server {
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:9100"
	}
	s := &Server{cfg: cfg, log: log, registry: prometheus.NewRegistry(), started: time.Now(), facts: map[string]string{}, tells: map[string]func() string{}}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /debug/status", s.status)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	return s
}

// Registry is where the process's parts register their metrics.
func (s *Server) Registry() *prometheus.Registry { return s.registry }

// Add adds a check.
func (s *Server) Add(c Check) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks = append(s.checks, c)
}

// Fact adds or changes a fact, such as the durability class: /readyz?verbose and /debug/status show it.
func (s *Server) Fact(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.facts[name] = value
}

// Tell adds a fact that changes: value is called whenever facts are shown, on any goroutine.
func (s *Server) Tell(name string, value func() string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tells[name] = value
}

// Start opens the listener. The error names the address and what to do.
func (s *Server) Start() error {
	if s.cfg.Listen == "off" {
		return nil
	}
	ln := s.cfg.Listener
	if ln == nil {
		var err error
		if ln, err = net.Listen("tcp", s.cfg.Listen); err != nil {
			return fmt.Errorf("open the operators' port %s (choose another with --ops): %w", s.cfg.Listen, err)
		}
	}
	s.ln = ln
	go func() {
		if err := s.http.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("operators' port stopped", "err", err)
		}
	}()
	return nil
}

// Listener is the open listener; nil when off.
func (s *Server) Listener() net.Listener { return s.ln }

// Addr is the address that is listened on; empty when off.
func (s *Server) Addr() string {
	if s.ln == nil {
		return ""
	}
	return s.ln.Addr().String()
}

// Stop closes the listener.
func (s *Server) Stop(ctx context.Context) error {
	if s.ln == nil {
		return nil
	}
	return s.http.Shutdown(ctx)
}

type state struct {
	Ready  bool              `json:"ready"`
	Checks map[string]string `json:"checks"`
	Facts  map[string]string `json:"facts"`
}

func (s *Server) state() state {
	s.mu.Lock()
	checks := append([]Check(nil), s.checks...)
	st := state{Ready: true, Checks: map[string]string{}, Facts: map[string]string{}}
	for k, v := range s.facts {
		st.Facts[k] = v
	}
	tells := maps.Clone(s.tells)
	s.mu.Unlock()
	for name, value := range tells {
		st.Facts[name] = value()
	}
	for _, c := range checks {
		st.Checks[c.Name] = "ok"
		if err := c.Ready(); err != nil {
			st.Ready = false
			st.Checks[c.Name] = err.Error()
		}
	}
	return st
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	st := s.state()
	code := http.StatusOK
	if !st.Ready {
		code = http.StatusServiceUnavailable
	}
	if r.URL.Query().Has("verbose") {
		writeJSON(w, code, st)
		return
	}
	w.WriteHeader(code)
	if st.Ready {
		_, _ = w.Write([]byte("ready\n"))
		return
	}
	for name, what := range st.Checks {
		if what != "ok" {
			_, _ = fmt.Fprintf(w, "%s: %s\n", name, what)
		}
	}
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"state":      s.state(),
		"version":    version,
		"go":         runtime.Version(),
		"goroutines": runtime.NumGoroutine(),
		"uptime_s":   int(time.Since(s.started).Seconds()),
	})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}
