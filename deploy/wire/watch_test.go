package wire_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/deploy/ops"
	"github.com/parley-chat/parley/deploy/wire"
	"github.com/parley-chat/parley/edge"
	"github.com/parley-chat/parley/persist/store"
)

// moody is a store that answers a Ping as it is told to.
type moody struct {
	store.Store
	ping atomic.Pointer[func(context.Context) error]
}

func (m *moody) Ping(ctx context.Context) error { return (*m.ping.Load())(ctx) }

func (m *moody) be(ping func(context.Context) error) { m.ping.Store(&ping) }

// TestIdleLossShows takes the store away from roles that nobody asks anything: operators read it, and that it is back.
// Each stays ready all the time.
func TestIdleLossShows(t *testing.T) {
	for role, graph := range map[string]func(wire.Settings) fx.Option{
		"worker":   func(s wire.Settings) fx.Option { return wire.Worker(s, worker, journal.DurabilityVolatile) },
		"dispatch": func(s wire.Settings) fx.Option { return wire.Dispatch(s, "w") },
		"persist":  func(s wire.Settings) fx.Option { return wire.Persist(s, "w") },
	} {
		t.Run(role, func(t *testing.T) {
			p := newParts(t, "idle")
			file := &moody{Store: p.settings.Store}
			fine := func(context.Context) error { return nil }
			file.be(fine)
			p.settings.Store = file
			p.operated()
			p.start(graph(p.settings))
			was := false // ready
			said := func(part string) func() bool {
				return func() bool {
					state := p.readyz()
					if ready := state.Checks["w"] == "ok"; was && !ready {
						t.Fatalf("it is not ready any more: %s", state.Checks["w"])
					} else {
						was = ready
					}
					return was && strings.Contains(state.Facts["w servers"], part)
				}
			}
			failed := func(server string) float64 { return p.metric("parley_server_ping_errors_total", server) }
			p.until("all is well", said("all answer"))
			file.be(func(context.Context) error { return errors.New("out for lunch") })
			p.until("the refusal shows", said("out for lunch"))
			before := failed("store")
			if before == 0 {
				t.Error("the metric did not move")
			}
			file.be(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			p.until("the silence shows", said("no answer in 2s"))
			if failed("store") <= before || failed("log") != 0 || failed("Redis") != 0 {
				t.Errorf("failed: store %v and before %v, log %v, Redis %v", failed("store"), before, failed("log"), failed("Redis"))
			}
			file.be(func(context.Context) error { <-time.After(150 * time.Millisecond); return nil })
			p.until("the slowness shows", said("store answers after 1"))
			if took := p.metric("parley_server_ping_seconds", "store"); took < 0.15 {
				t.Errorf("the metric says that the store answered after %v s", took)
			}
			file.be(fine)
			p.until("the store is back", said("all answer"))
		})
	}
}

// TestSilentNATSShows has NATS say nothing any more to roles that nobody asks anything.
func TestSilentNATSShows(t *testing.T) {
	for role, graph := range map[string]func(wire.Settings) fx.Option{
		"edge":     func(s wire.Settings) fx.Option { return wire.Edge(s, edge.Config{Node: "w", Listen: "127.0.0.1:0"}) },
		"worker":   func(s wire.Settings) fx.Option { return wire.Worker(s, worker, journal.DurabilityVolatile) },
		"dispatch": func(s wire.Settings) fx.Option { return wire.Dispatch(s, "w") },
	} {
		t.Run(role, func(t *testing.T) {
			p := newParts(t, "mute")
			link := bustest.NewProxy(t, strings.TrimPrefix(p.settings.NATS.URL, "nats://"))
			p.settings.NATS.URL = "nats://" + link.Addr()
			p.operated()
			p.start(graph(p.settings))
			said := func(part string) func() bool {
				return func() bool { return strings.Contains(p.readyz().Facts["w servers"], part) }
			}
			p.until("all is well", said("all answer"))
			link.Stall()
			p.until("the silence shows", said("NATS lost"))
			if p.metric("parley_server_ping_errors_total", "NATS") == 0 {
				t.Error("the metric did not move")
			}
			if took := p.metric("parley_server_ping_seconds", "NATS"); took < 2 {
				t.Errorf("the metric says that NATS answered after %v s", took)
			}
			if err := link.Resume(); err != nil {
				t.Fatal(err)
			}
			p.until("NATS is back", said("all answer"))
		})
	}
}

// TestStopIsNoLoss stops a dispatcher while a ping of NATS is under way: what comes of it is no news.
func TestStopIsNoLoss(t *testing.T) {
	p := newParts(t, "quiet")
	link := bustest.NewProxy(t, strings.TrimPrefix(p.settings.NATS.URL, "nats://"))
	p.settings.NATS.URL = "nats://" + link.Addr()
	var said lines
	p.settings.Log = slog.New(slog.NewTextHandler(io.MultiWriter(&said, bustest.Output(t)), nil))
	file := &moody{Store: p.settings.Store}
	file.be(func(context.Context) error { return nil })
	p.settings.Store = file
	app, err := wire.New(wire.Dispatch(p.settings, "w"))
	if err != nil {
		t.Fatal(err)
	}
	if err := wire.Start(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	p.until("it has begun", func() bool { return strings.Contains(said.String(), "partitions taken over") })
	asked := make(chan struct{}, 1)
	file.be(func(context.Context) error {
		select {
		case asked <- struct{}{}:
		default:
		}
		return nil
	})
	<-asked
	link.Stall()
	<-asked // and NATS at the same second
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), bustest.Patience)
	defer cancel()
	if err := app.Stop(ctx); err != nil {
		t.Error(err)
	}
	if text := said.String(); strings.Contains(text, "lost a server") {
		t.Errorf("it says of its own stop:\n%s", text)
	}
}

// lines keeps what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// operated gives the roles to come an operators' port.
func (p *parts) operated() {
	p.t.Helper()
	p.settings.Ops = ops.New(ops.Config{Listen: "127.0.0.1:0"}, p.settings.Log)
	if err := p.settings.Ops.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = p.settings.Ops.Stop(context.WithoutCancel(p.t.Context())) })
}

type readiness struct{ Facts, Checks map[string]string }

func (p *parts) readyz() (state readiness) {
	p.t.Helper()
	resp, err := http.Get("http://" + p.settings.Ops.Addr() + "/readyz?verbose")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(resp.Body).Decode(&state); err != nil {
		p.t.Fatal(err)
	}
	return state
}

// metric is what a role says of a server.
func (p *parts) metric(name, server string) float64 {
	p.t.Helper()
	families, err := p.settings.Ops.Registry().Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "server" && l.GetValue() == server {
					return m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
	}
	p.t.Fatalf("no %s of %s", name, server)
	return 0
}
