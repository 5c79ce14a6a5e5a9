//go:build !lean

package main

import (
	"context"
	"errors"
	"net"
	"strings"
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
	if !nats.ReadyForConnections(10 * time.Second) {
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
		if code, took := p.stop(); code != 0 || took > 12*time.Second {
			t.Errorf("the drained edge ended with code %d after %s", code, took)
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
