//go:build !lean

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/edge/client"
)

// edges is a `parley dev` whose NATS and Redis listen on ports, so that edges of their own can share them with it.
type edges struct {
	t   *testing.T
	env []string
}

func newEdges(t *testing.T) *edges {
	t.Helper()
	nats, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	t.Cleanup(func() { nats.Shutdown(); nats.WaitForShutdown() })
	if !nats.ReadyForConnections(patience) {
		t.Fatal("NATS does not start")
	}
	redis, err := embedded.StartRedis()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = redis.Close() })
	e := &edges{t: t, env: []string{
		"PARLEY_NATS_URL=" + nats.ClientURL(), "PARLEY_REDIS_URL=" + redis.URL(), "PARLEY_PARTITIONS=8", "PARLEY_LOG_FORMAT=json",
	}}
	ops := freeAddr(t)
	dev := newProc(t, "dev", e.env, "dev", "--ephemeral", "--listen", freeAddr(t), "--ops", ops, "--log-level", "warn")
	dev.start()
	dev.ready(ops)
	return e
}

// edge makes an edge that is not started yet.
func (e *edges) edge(name, addr, ops string, more ...string) *proc {
	return newProc(e.t, name, e.env, append([]string{"edge", "--listen", addr, "--ops", ops}, more...)...)
}

// balancer dials the first address that accepts, beginning with the next one each time.
func balancer(addrs ...string) func(*client.Config) {
	turn := make(chan int, 1)
	turn <- 0
	return func(cfg *client.Config) {
		cfg.NetDial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			n := <-turn
			turn <- n + 1
			var errs []error
			for i := range addrs {
				nc, err := (&net.Dialer{}).DialContext(ctx, network, addrs[(n+i)%len(addrs)])
				if err == nil {
					return nc, nil
				}
				errs = append(errs, err)
			}
			return nil, errors.Join(errs...)
		}
	}
}

// TestEdgeDrained stops one of two edges under load: everybody moves, nothing is lost or comes twice.
func TestEdgeDrained(t *testing.T) {
	e := newEdges(t)
	addrs, opsAddrs := []string{freeAddr(t), freeAddr(t)}, []string{freeAddr(t), freeAddr(t)}
	var procs []*proc
	for i, name := range []string{"edge-a", "edge-b"} {
		p := e.edge(name, addrs[i], opsAddrs[i], "--node", name, "--drain-notice", "200ms", "--drain-window", "1s")
		p.start()
		p.ready(opsAddrs[i])
		procs = append(procs, p)
	}
	const clients, rooms, messages = 40, 4, 60
	tr := newTraffic(t, []string{"ws://" + addrs[0] + "/v1/ws"}, clients, rooms, balancer(addrs...))
	goal := int64(clients * rooms * messages)
	tr.run(messages, map[int64]func(){goal / 4: func() {
		p := procs[0]
		if code := p.stop(); code != 0 {
			t.Errorf("the drained edge ended with code %d", code)
		}
		if out := p.printed(); !strings.Contains(out, `"msg":"drained"`) || !strings.Contains(out, `"left":20,"closed":0`) {
			t.Errorf("the drained edge printed:\n%s", out)
		}
	}})
	tr.check()
	for i, l := range tr.clients {
		if node := l.Session().Server.Node; node != "edge-b" {
			t.Errorf("client %d is on %s", i, node)
		}
	}
}

// TestEdgeTakenOver replaces an edge by a new process, twice, under load: no connection ends, nothing is lost or comes twice.
func TestEdgeTakenOver(t *testing.T) {
	e := newEdges(t)
	addr, opsAddr, socket := freeAddr(t), freeAddr(t), filepath.Join(t.TempDir(), "edge.sock")
	edge := e.edge("edge-1", addr, opsAddr, "--node", "edge-1", "--handover", socket, "--no-limits")
	edge.start()
	edge.ready(opsAddr)
	const clients, rooms, messages, idle = 100, 2, 5, 900
	var mu sync.Mutex
	var ended []string
	watch := func(cfg *client.Config) {
		cfg.OnState = func(s client.State) {
			if s.Phase == client.Waiting {
				mu.Lock()
				defer mu.Unlock()
				ended = append(ended, fmt.Sprint(s.Phase, " ", s.Err))
			}
		}
	}
	url := "ws://" + addr + "/v1/ws"
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	for range idle {
		cfg := client.Config{URL: url, Guest: "idle"}
		watch(&cfg)
		c, err := client.Dial(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
	}
	tr := newTraffic(t, []string{url}, clients, rooms, watch)
	goal := int64(clients * rooms * messages)
	again := func() {
		next := e.edge("successor", addr, opsAddr, "--take-over", socket, "--handover", socket, "--no-limits")
		next.start()
		select {
		case <-edge.done:
		case <-time.After(patience):
			t.Errorf("the old edge does not end; the new one printed:\n%s", next.printed())
			return
		}
		if code := edge.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("the old edge ended with code %d:\n%s", code, edge.printed())
		}
		next.ready(opsAddr)
		for line := range strings.SplitSeq(next.printed(), "\n") {
			if strings.Contains(line, `"msg":"taken over"`) {
				t.Log(line)
			}
		}
		edge = next
	}
	tr.run(messages, map[int64]func(){goal / 4: again})
	again()
	mu.Lock()
	if len(ended) > 0 {
		t.Errorf("%d connections ended, such as: %s", len(ended), ended[0])
	}
	mu.Unlock()
	tr.check()
	for i, l := range tr.clients {
		if node := l.Session().Server.Node; node != "edge-1" {
			t.Fatalf("client %d is on %s", i, node)
		}
	}
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("the successor offers nothing: %v", err)
	}
}
