package edge_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

func TestShutdown(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		idle, busy, joining, fresh, half := w.connected(), w.connected(), w.connected(), w.open(), w.dial()
		idle.joined(w, lobby, 10)
		busy.send(2, "a", 2)
		send := w.worker.next(t, contracts.OpSend)
		joining.join(2, lobby)
		join := w.worker.next(t, contracts.OpJoin)
		half.write([]byte(upgradeHead[:20]))
		down := make(chan error)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			down <- w.server.Shutdown(ctx)
		}()
		idle.closes(contracts.CloseRestart)
		fresh.closes(contracts.CloseRestart)
		if b, err := half.r.ReadByte(); err == nil {
			t.Errorf("half a head was answered with %q", b)
		}
		if nc, err := net.Dial("tcp", w.server.Addr()); err == nil {
			_ = nc.SetReadDeadline(time.Now().Add(patience))
			if _, err := nc.Read(make([]byte, 1)); err == nil {
				t.Error("a new connection is served")
			}
			_ = nc.Close()
		}
		if w.server.Ready() == nil {
			t.Error("ready while stopping")
		}
		send.ok(`{"key":"k"}`)
		busy.reply(2)
		busy.closes(contracts.CloseRestart)
		join.joined(contracts.JoinComplete, 1, 10)
		joining.reply(2)
		joining.closes(contracts.CloseRestart)
		if err := <-down; err != nil {
			t.Error(err)
		}
		if err := w.server.Shutdown(context.Background()); err != nil {
			t.Errorf("again: %v", err)
		}
	})
}

func TestShutdownInAHurry(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		hanging, deaf := w.connected(), w.connected()
		hanging.send(2, "a", 2)
		w.worker.next(t, contracts.OpSend)
		deaf.send(2, "a", 2)
		w.worker.next(t, contracts.OpSend)
		begin := time.Now()
		down := make(chan error)
		go func() { down <- w.server.Shutdown(context.Background()) }()
		hanging.closes(contracts.CloseRestart)
		if err := <-down; err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took < 2900*time.Millisecond || took > patience {
			t.Errorf("it took %s", took)
		}
	})
}

func TestShutdownAtOnce(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		c.join(2, lobby)
		w.worker.next(t, contracts.OpJoin)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		begin := time.Now()
		if err := w.server.Shutdown(ctx); err != context.Canceled {
			t.Errorf("shut down: %v", err)
		}
		if took := time.Since(begin); took > patience {
			t.Errorf("it took %s", took)
		}
	})
}

// TestShutdownBesideWorkers: where all stop together the edge warns of no workers that do not answer.
func TestShutdownBesideWorkers(t *testing.T) {
	log := &bytes.Buffer{} // the handler locks it, and nobody writes behind the stop
	w := newWorld(t, false, func(_ *edge.Config, d *edge.Deps) { d.Log = slog.New(slog.NewTextHandler(log, nil)) })
	var all []*asked
	c := w.connected()
	for id := range 30 {
		c.say(`{"id":%d,"op":"history","room":"a"}`, id+2)
		all = append(all, w.worker.next(t, contracts.OpHistory))
	}
	down := make(chan error)
	go func() { down <- w.server.Shutdown(context.Background()) }()
	until(t, "the stop", func() bool { return w.server.Ready() != nil })
	for _, q := range all {
		q.answer(rpc.ErrNoServer)
	}
	_ = c.nc.Close()
	if err := <-down; err != nil {
		t.Error(err)
	}
	if strings.Contains(log.String(), "workers") {
		t.Errorf("it logged %s", log)
	}
}

func TestShutdownWithoutStart(t *testing.T) {
	w := build(t, "n1", false)
	if w.server.Ready() == nil {
		t.Error("ready before the start")
	}
	if err := w.server.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestPortInUse(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		other := build(t, "n2", portable, func(c *edge.Config, _ *edge.Deps) { c.Listen = w.server.Addr() })
		if err := other.server.Start(context.Background()); err == nil || !contains(err.Error(), w.server.Addr(), "--listen") {
			t.Errorf("start: %v", err)
		}
	})
}

// TestShare deals the WebSockets of one port to three nodes, in turn; one of them stops before the others.
func TestShare(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		var worlds []*world
		for i := range 3 {
			worlds = append(worlds, build(t, contracts.NodeID(fmt.Sprintf("n%d", i)), portable))
		}
		edge.Share(worlds[0].server, worlds[1].server, worlds[2].server)
		first := worlds[0]
		first.start() // it does not wait for the others
		first.connected()
		for _, w := range worlds[1:] {
			w.start()
			if w.server.Addr() != "" {
				t.Error("another listens too")
			}
		}
		nodes := make(map[string]int)
		dial := func() {
			t.Helper()
			c := first.open()
			c.say(`{"id":1,"op":"connect","guest":"Ada"}`)
			m := c.reply(1)
			for i := range worlds {
				if name := fmt.Sprintf("n%d", i); contains(string(m.OK), `"node":"`+name+`"`) {
					nodes[name]++
				}
			}
			c.say(`{"id":2,"op":"ping"}`)
			c.reply(2)
		}
		for range 9 {
			dial()
		}
		if len(nodes) != 3 || nodes["n0"] != 3 || nodes["n1"] != 3 || nodes["n2"] != 3 {
			t.Errorf("dealt %v", nodes)
		}
		// With a request behind the handshake, and behind HTTP.
		for range 3 {
			c := first.dial()
			c.write(append([]byte(upgradeHead), text(`{"id":1,"op":"connect","guest":"Ada"}`)...))
			c.switched()
			c.reply(1)
			c = first.dial()
			c.write([]byte("GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n"))
			c.answer()
			c.write(append([]byte(upgradeHead), text(`{"id":1,"op":"connect","guest":"Ada"}`)...))
			c.switched()
			c.reply(1)
		}
		if err := worlds[1].server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		clear(nodes)
		for range 4 {
			dial()
		}
		if nodes["n1"] != 0 || nodes["n0"] == 0 || nodes["n2"] == 0 {
			t.Errorf("dealt %v", nodes)
		}
		// The first ends while another holds sockets that it had accepted.
		if err := first.server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if n := worlds[2].server.Connections(); n == 0 {
			t.Error("the other's connections ended with the first")
		}
	})
}

// TestNobodySeesAnothersBytes opens and closes quickly, so that descriptors are given out again at once; each client
// must see its own nonce and nothing else.
func TestNobodySeesAnothersBytes(t *testing.T) {
	total := 2000
	if testing.Short() {
		total = 200
	}
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		w.worker.script(contracts.OpHistory, func(q *asked) { q.ok(string(q.Body)) })
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				for i := range total / 8 {
					nc, err := net.Dial("tcp", w.server.Addr())
					if err != nil {
						t.Error(err)
						return
					}
					nonce := worker*total + i + 1
					c := &client{t: t, nc: nc, r: nil}
					c.exchange(t, nonce, i%4 == 0)
					_ = nc.Close()
				}
			})
		}
		wg.Wait()
		until(t, "the ends", func() bool { return w.server.Connections() == 0 })
	})
}

func TestNothingIsLeft(t *testing.T) {
	if testing.Short() {
		t.Skip("counts what the whole process holds")
	}
	// Not parallel: it counts what the whole process holds.
	for _, portable := range []bool{false, true} {
		w := newWorld(t, portable)
		w.connected() // whatever is made once is made now
		goroutines, files := runtime.NumGoroutine(), descriptors(t)
		clients := make([]*client, 0, 50)
		var late []*asked
		for i := range 50 {
			c := w.connected()
			clients = append(clients, c)
			c.joined(w, lobby, 10)
			switch i % 5 {
			case 0: // requests that are answered later
				c.say(`{"id":3,"op":"history","room":"lobby"}`)
				late = append(late, w.worker.next(t, contracts.OpHistory))
			case 1:
				c.join(4, lobby)
				late = append(late, w.worker.next(t, contracts.OpJoin))
			case 2:
				c.write(text(`{"id":3}`)[:5])
			case 3:
				h := w.dial()
				h.write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
				h.answer()
				clients = append(clients, h)
			}
		}
		for _, c := range clients {
			_ = c.nc.Close()
		}
		for _, q := range late {
			q.answer(rpc.ErrTimeout)
		}
		until(t, "what was there before", func() bool {
			return w.server.Connections() == 1 && runtime.NumGoroutine() <= goroutines && descriptors(t) <= files
		})
		if n := w.metric("rooms"); n != 0 {
			t.Errorf("%v rooms", n)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc")
	}
	return len(files)
}

func TestMetrics(t *testing.T) {
	w := newWorld(t, false)
	c := w.connected()
	c.say(`{"id":1,"op":"unknown"}`)
	c.get()
	h := w.dial()
	h.write([]byte("GET /v1/ws HTTP/1.1\r\nHost: a\r\n\r\n"))
	if resp, _ := h.answer(); resp.StatusCode != http.StatusUpgradeRequired {
		t.Fatal(resp.Status)
	}
	families, err := w.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for name, want := range map[string]float64{"connections": 1, "accepted_total": 2, "errors_total": 1, "refused_total": 1, "requests_total": 1} {
		if got := w.metric(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}
