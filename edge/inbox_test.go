package edge_test

import (
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// TestInboxIsBounded: while loops do not keep up, events are dropped and entries wait where they can be read again; once
// they do, members get every entry, in order.
func TestInboxIsBounded(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.OutboundBytes, c.OutboundTotal = 256<<20, 1<<30 })
		w.worker.script(contracts.OpRepair, func(q *asked) {
			a := contracts.Answer{OK: []byte("{}")}
			for seq := q.Range.From; seq <= q.Range.To; seq++ {
				a.Entries = append(a.Entries, contracts.NumberedJSON{Seq: seq, JSON: entryJSON(lobby, 1, seq)})
			}
			q.answer(a)
		})
		c := w.connected()
		c.joined(w, lobby, 0)
		const bound, all = 16 << 10, 20_000
		release := w.server.Block()
		for seq := contracts.Seq(1); seq <= all; seq++ {
			w.say(lobby, seq)
		}
		for range 100 {
			w.ear.publish(contracts.Envelope{Kind: contracts.EnvelopeEvent, Room: lobby, Body: []byte(`{"event":"typing"}`)})
		}
		if n := w.server.Inboxes(); n > bound+100 {
			t.Errorf("%d wait", n)
		}
		if n := w.metricOf("limited_total", "loop_inbox"); n < 101 {
			t.Errorf("%v counted", n)
		}
		release()
		for seq := contracts.Seq(1); seq <= all; seq++ {
			if seq%1000 == 1 {
				_ = c.nc.SetDeadline(time.Now().Add(3 * patience))
			}
			c.entry(seq)
		}
		w.say(lobby, all+1)
		c.entry(all + 1)
	})
}

// TestCrowdedIsNotGivenUp: a repair that is overdue while the loops take nothing tells no gap of what is there, and keeps the room
// locked no longer than it takes: the loops may be waiting for it.
func TestCrowdedIsNotGivenUp(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.OutboundBytes, c.OutboundTotal = 256<<20, 1<<30 })
		c := w.connected()
		c.joined(w, lobby, 0)
		const bound = 16 << 10
		release := w.server.Block()
		for seq := contracts.Seq(1); seq <= bound+2; seq++ {
			w.say(lobby, seq)
		}
		q := w.worker.next(t, contracts.OpRepair)
		w.server.Overdue(lobby)
		taken := make(chan struct{})
		go func() {
			q.answer(rpc.ErrNoServer)
			close(taken)
		}()
		select {
		case <-taken:
		case <-time.After(patience):
			t.Fatal("the repair does not end")
		}
		if n := w.server.Inboxes(); n > bound+100 {
			t.Errorf("%d wait", n)
		}
		release()
		for seq := contracts.Seq(1); seq <= bound+2; seq++ {
			if seq%1000 == 1 {
				_ = c.nc.SetDeadline(time.Now().Add(3 * patience))
			}
			c.entry(seq)
		}
		if n := w.metric("gaps_total"); n != 0 {
			t.Errorf("%v gaps", n)
		}
	})
}
