package sim_test

import (
	"testing"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/deploy/chaos/sim"
)

// The parts in memory pass the suites that the real ones pass.

func TestNATS(t *testing.T) {
	bustest.RPC(t, func(t *testing.T) (rpc.Client, rpc.Server) {
		n, p := sim.NewNATS(sim.NewDice(1)), &sim.Proc{}
		c := n.Client(p)
		t.Cleanup(func() { _ = c.Close() })
		return c, n.Server(p)
	})
}

func TestRecent(t *testing.T) {
	bustest.Recent(t, 100, func(*testing.T) recent.Cache {
		return sim.NewRedis(sim.NewDice(1)).For(&sim.Proc{})
	})
}
