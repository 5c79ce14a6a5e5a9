//go:build linux

package edge_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// installation is a predecessor, its successors, and one room after the other that is published to all of them, with a
// dispatcher that knows the heads and a worker that reads whatever was lost.
type installation struct {
	t      *testing.T
	path   string
	old    *world
	change []func(*edge.Config, *edge.Deps)

	mu     sync.Mutex // guards the rest
	worlds []*world
	heads  map[contracts.RoomID]contracts.Seq
}

func newInstallation(t *testing.T, change ...func(*edge.Config, *edge.Deps)) *installation {
	t.Helper()
	in := &installation{t: t, path: filepath.Join(t.TempDir(), "edge.sock"), change: change, heads: make(map[contracts.RoomID]contracts.Seq)}
	in.old = newWorld(t, false, change...)
	in.script(in.old)
	if err := in.old.server.Offer(edge.HandoverConfig{Path: in.path}); err != nil {
		t.Fatal(err)
	}
	return in
}

func (in *installation) script(w *world) {
	in.mu.Lock()
	in.worlds = append(in.worlds, w)
	in.mu.Unlock()
	w.worker.script(opHeads, func(q *asked) {
		in.mu.Lock()
		defer in.mu.Unlock()
		reply := contracts.Reply{Epoch: 1, Certain: true}
		for _, room := range q.heads {
			reply.Heads = append(reply.Heads, contracts.Head{Seq: in.heads[room]})
		}
		q.answer(reply)
	})
	w.worker.script(contracts.OpRepair, func(q *asked) { q.entries(q.Range.From, q.Range.To) })
	w.worker.script(contracts.OpJoin, func(q *asked) {
		in.mu.Lock()
		defer in.mu.Unlock()
		head := in.heads[q.Room]
		if q.Passed != nil {
			head = max(head, q.Passed.Seq)
		}
		q.joined(contracts.JoinComplete, 1, head)
	})
}

// say publishes the next entry of a room to every edge that hears it.
func (in *installation) say(room contracts.RoomID) {
	in.mu.Lock()
	in.heads[room]++
	seq, worlds := in.heads[room], in.worlds
	in.mu.Unlock()
	for _, w := range worlds {
		w.say(room, seq)
	}
}

// successor makes an edge that is to take over. It asks the same worker, so that a test finds every question there.
func (in *installation) successor(change ...func(*edge.Config, *edge.Deps)) (*world, error) {
	in.t.Helper()
	cfg := edge.Config{Node: "n1", Partitions: 8, Listen: "127.0.0.1:0", Version: "next"}
	for _, f := range change {
		f(&cfg, &edge.Deps{})
	}
	p, err := edge.CallPredecessor(context.Background(), in.path, cfg)
	if err != nil {
		return nil, err
	}
	asks := in.old.worker
	w := build(in.t, p.Node(), false, append(change, func(c *edge.Config, d *edge.Deps) { c.Predecessor, c.Loops, d.Ask = p, 3, asks })...)
	w.worker = asks
	in.script(w)
	w.start()
	return w, nil
}

// takeOver hands everything to a successor and ends the predecessor.
func (in *installation) takeOver() (*world, edge.TakeOverReport) {
	in.t.Helper()
	w, err := in.successor(in.change...)
	if err != nil {
		in.t.Fatal(err)
	}
	report, err := w.server.TakeOver(context.Background())
	if err != nil {
		in.t.Fatal(err)
	}
	select {
	case <-in.old.server.HandedOver():
	case <-time.After(patience):
		in.t.Fatal("the predecessor does not end")
	}
	if err := in.old.server.Shutdown(context.Background()); err != nil {
		in.t.Errorf("shut the predecessor down: %v", err)
	}
	return w, report
}

// join joins a room whatever its head is, and returns that.
func (c *client) joinAny(room contracts.RoomID) {
	c.t.Helper()
	c.say(`{"id":5,"op":"join","room":"%s"}`, room)
	if m := c.reply(5); m.OK == nil {
		c.t.Fatalf("join: %s", m.raw)
	}
}

// follow reads entries until one has the seq last, and fails unless they are from … last, each once. Other frames are skipped.
func (c *client) follow(from, last contracts.Seq) {
	for next := from; next <= last; {
		m, err := c.next()
		switch {
		case err != nil:
			c.t.Errorf("waiting for entry %d: %v", next, err)
			return
		case m.Event != "message":
			if m.Event == "gap" || m.Event == "reset" || m.op == 8 {
				c.t.Errorf("waiting for entry %d: got %s (close code %d)", next, m.raw, m.closing)
				return
			}
		case m.Seq != next:
			c.t.Errorf("got entry %d instead of %d", m.Seq, next)
			return
		default:
			next++
		}
	}
}
