package workers_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/fx"
	"go.uber.org/fx/fxtest"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/workers"
)

// server keeps what is registered.
type server struct {
	services map[string]rpc.Service
	refuse   bool
}

func (s *server) Serve(service rpc.Service) (func() error, error) {
	if s.refuse {
		return nil, errAway
	}
	s.services[service.Name] = service
	return func() error { delete(s.services, service.Name); return nil }, nil
}

func TestModuleServesFromStartToStop(t *testing.T) {
	f := newWorld(t, nil)
	s := &server{services: map[string]rpc.Service{}}
	app := fxtest.New(t, fx.NopLogger, workers.Module(), fx.Provide(
		func() workers.Config { return workers.Config{Node: "w", Secret: secret} },
		func() rpc.Client { return (*fakeAsk)(f) },
		func() rpc.Server { return s },
		func() journal.Writer { return (*fakeLog)(f) },
		func() workers.Extents { return nil },
		func() recent.Cache { return (*fakeRecent)(f) },
		func() fanout.Publisher { return (*fakePublisher)(f) },
		func() fanout.Roster { return (*fakeRoster)(f) },
		func() workers.Store { return (*fakeStore)(f) },
		func() *slog.Logger { return slog.New(slog.DiscardHandler) },
		func() prometheus.Registerer { return prometheus.NewRegistry() },
	))
	app.RequireStart()
	service := s.services["parley-worker"]
	if service.Queue != "parley-workers" || len(service.Endpoints) != 14 {
		t.Errorf("registered %+v", service)
	}
	app.RequireStop()
	if len(s.services) != 0 {
		t.Error("still registered after the stop")
	}
}

func TestServeTellsWhyNot(t *testing.T) {
	f := newWorld(t, nil)
	if _, err := f.w.Serve(&server{refuse: true}); !errors.Is(err, errAway) {
		t.Errorf("got %v", err)
	}
	if err := f.w.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if err := f.w.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
