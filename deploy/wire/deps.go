package wire

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/workers/dispatch"
)

// edgeNeeds is what an edge's graph must have.
type edgeNeeds struct {
	fx.In

	Config edge.Config
	Names  contracts.Names
	Ask    rpc.Client
	Redis  redis.UniversalClient
	Page   http.Handler `optional:"true"`
	Log    *slog.Logger
	Reg    prometheus.Registerer
}

func edgeDeps(n edgeNeeds) edge.Deps {
	return edge.Deps{
		Ask: n.Ask,
		Hear: func(r fanout.Receiver) fanout.Subscriber {
			return fanout.NewSubscriber(n.Redis, n.Names, n.Config.Node, r, n.Log)
		},
		Page:    n.Page,
		Log:     n.Log,
		Metrics: n.Reg,
	}
}

// dispatchNeeds is what a dispatcher's graph must have.
type dispatchNeeds struct {
	fx.In

	Names     contracts.Names
	Kafka     journal.Config
	Log       journal.Log
	Store     dispatch.Store
	Recent    recent.Cache
	Publisher fanout.Publisher
	Server    rpc.Server
	Logger    *slog.Logger
	Reg       prometheus.Registerer
}

func dispatchDeps(n dispatchNeeds) dispatch.Deps {
	return dispatch.Deps{
		Log: n.Log,
		Consume: func(o journal.Owner) (journal.Consumer, error) {
			return journal.NewConsumer(n.Kafka, n.Names.DispatchGroup(), o, n.Logger)
		},
		Store: n.Store, Recent: n.Recent, Publisher: n.Publisher, Server: n.Server, Logger: n.Logger, Registerer: n.Reg,
	}
}

// sinkNeeds is what a persister's graph must have.
type sinkNeeds struct {
	fx.In

	Names  contracts.Names
	Kafka  journal.Config
	Log    journal.Log
	Store  sink.Store
	Tell   fanout.Publisher
	Logger *slog.Logger
	Reg    prometheus.Registerer
}

func sinkDeps(n sinkNeeds) sink.Deps {
	return sink.Deps{
		Log: n.Log,
		Consume: func(o journal.Owner) (journal.Consumer, error) {
			return journal.NewConsumer(n.Kafka, n.Names.PersistGroup(), o, n.Logger)
		},
		Store: n.Store, Publisher: n.Tell, Logger: n.Logger, Registerer: n.Reg,
	}
}
