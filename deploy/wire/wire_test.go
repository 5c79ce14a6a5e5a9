package wire_test

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/deploy/ops"
	"github.com/parley-chat/parley/deploy/wire"
	"github.com/parley-chat/parley/edge"
	"github.com/parley-chat/parley/persist/store"
	"github.com/parley-chat/parley/workers"
)

// TestGraphs checks that every role's graph has what its parts need. Nothing is constructed.
func TestGraphs(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	s := wire.Settings{Partitions: 8, Ops: ops.New(ops.Config{Listen: "off"}, log), Log: log, Store: noStore{}}
	page := fx.Provide(func() http.Handler { return http.NotFoundHandler() })
	for name, graph := range map[string]fx.Option{
		"edge":              wire.Edge(s, edge.Config{Node: "e"}, page),
		"edge without page": wire.Edge(s, edge.Config{Node: "e"}),
		"worker":            wire.Worker(s, workers.Config{Node: "w"}, journal.DurabilityProcess),
		"auditing worker":   wire.Worker(s, workers.Config{Node: "w"}, journal.DurabilityProcess, wire.Audit(s, time.Second)),
		"dispatch":          wire.Dispatch(s, "d"),
		"persist":           wire.Persist(s, "p"),
	} {
		if err := fx.ValidateApp(graph); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := fx.ValidateApp(fx.Invoke(func(store.Store) {})); err == nil {
		t.Error("a graph that lacks something passes")
	}
}

// noStore is a store that nobody calls.
type noStore struct{ store.Store }
