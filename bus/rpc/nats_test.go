//go:build !lean

package rpc_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/goleak"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// broker starts an embedded server that ends with the test.
func broker(t testing.TB) *embedded.NATS {
	t.Helper()
	n, err := embedded.StartNATS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func connect(t testing.TB, cfg rpc.Config) *rpc.NATS {
	t.Helper()
	n, err := rpc.Connect(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// TestListening: a server for other processes is at one address through an outage.
func TestListening(t *testing.T) {
	n, err := embedded.ListenNATS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	before := n.URL()
	if err := n.Interrupt(); err != nil {
		t.Fatal(err)
	}
	if err := n.Resume(); err != nil {
		t.Fatal(err)
	}
	if n.URL() != before {
		t.Errorf("the server was at %s and is at %s", before, n.URL())
	}
	named := "nats://localhost" + before[strings.LastIndexByte(before, ':'):]
	for _, url := range []string{before, named} {
		if !connect(t, rpc.Config{URL: url}).Up() {
			t.Errorf("nobody answers at %s", url)
		}
	}
	if url := broker(t).URL(); url != "" {
		t.Errorf("a server that listens nowhere is at %q", url)
	}
}

func pair(t *testing.T, cfg rpc.Config) (rpc.Client, rpc.Server) {
	// The server is registered last to be closed first: its stops run before.
	return connect(t, cfg), connect(t, cfg)
}

func TestEmbedded(t *testing.T) {
	n := broker(t)
	bustest.RPC(t, func(t *testing.T) (rpc.Client, rpc.Server) { return pair(t, rpc.Config{InProcess: n}) })
}

func TestOneConnection(t *testing.T) {
	n := broker(t)
	bustest.RPC(t, func(t *testing.T) (rpc.Client, rpc.Server) {
		c := connect(t, rpc.Config{InProcess: n})
		return c, c
	})
}

func TestReal(t *testing.T) {
	url := os.Getenv("PARLEY_TEST_NATS_URL")
	if url == "" {
		t.Skip("PARLEY_TEST_NATS_URL is not set")
	}
	bustest.RPC(t, func(t *testing.T) (rpc.Client, rpc.Server) { return pair(t, rpc.Config{URL: url}) })
}

func TestOutage(t *testing.T) {
	n := broker(t)
	bustest.RPCOutage(t, func(t *testing.T) (rpc.Client, rpc.Server) { return pair(t, rpc.Config{InProcess: n}) },
		n.Interrupt, n.Resume)
}

// A role starts before its broker.
func TestBrokerComesLater(t *testing.T) {
	n := broker(t)
	if err := n.Interrupt(); err != nil {
		t.Fatal(err)
	}
	c := connect(t, rpc.Config{InProcess: n})
	if c.Up() {
		t.Fatal("Up() = true without a broker")
	}
	if _, err := c.Serve(rpc.Service{Name: "late", Version: "1.0.0", Endpoints: []rpc.Endpoint{
		{Name: "e", Subject: "late", Handler: func(r rpc.Request) { r.Answer([]byte("served")) }},
	}}); err != nil {
		t.Fatalf("Serve without a broker: %v", err)
	}
	if err := n.Resume(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(bustest.Patience); ; {
		reply := make(chan string, 1)
		c.Ask("late", nil, time.Second, func(b []byte, err error) {
			if err != nil {
				b = []byte(err.Error())
			}
			reply <- string(b)
		})
		got := <-reply
		if got == "served" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("Ask: %s", got)
		}
	}
}

// TestSaysWhereItIs: a broker that is away is named with the reason, without credentials, and so is one that has come.
func TestSaysWhereItIs(t *testing.T) {
	away, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := away.Addr().String()
	if err := away.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		cfg  rpc.Config
		want string
	}{
		{rpc.Config{URL: "nats://me:secret@" + addr}, `level=WARN msg="waiting for NATS" server=nats://` + addr + ` err="`},
		{rpc.Config{InProcess: broker(t)}, `level=INFO msg="connected to nats" server="in this process"`},
	} {
		out := newSignal(tt.want)
		c, err := rpc.Connect(tt.cfg, slog.New(slog.NewTextHandler(out, nil)))
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-out.seen:
		case <-time.After(bustest.Patience):
			t.Errorf("%q is not in the log:\n%s", tt.want, out.text())
		}
		if strings.Contains(out.text(), "secret") {
			t.Errorf("a credential is in the log:\n%s", out.text())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// signal is a log that tells when something is written to it.
type signal struct {
	want string
	seen chan struct{}

	mu  sync.Mutex
	all strings.Builder
}

func newSignal(want string) *signal { return &signal{want: want, seen: make(chan struct{})} }

func (s *signal) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := strings.Contains(s.all.String(), s.want)
	s.all.Write(b)
	if !before && strings.Contains(s.all.String(), s.want) {
		close(s.seen)
	}
	return len(b), nil
}

func (s *signal) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

// What `nats micro ls`, `info` and `stats` read must look as if the library had written it.
// A stop that the broker does not confirm ends anyway, and what it says later, or the end of the connection, does no harm.
func TestStopWhileBrokerIsSilent(t *testing.T) {
	b, err := embedded.ListenNATS()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	for name, after := range map[string]func(*bustest.Proxy) error{
		"it answers late": (*bustest.Proxy).Resume,
		"it is lost":      (*bustest.Proxy).Interrupt,
	} {
		t.Run(name, func(t *testing.T) {
			p := bustest.NewProxy(t, strings.TrimPrefix(b.URL(), "nats://"))
			n := connect(t, rpc.Config{URL: "nats://" + p.Addr()})
			service := rpc.Service{Name: "late", Version: "1.0.0", Endpoints: []rpc.Endpoint{{Name: "e", Subject: "late", Handler: func(rpc.Request) {}}}}
			stop, err := n.Serve(service)
			if err != nil {
				t.Fatal(err)
			}
			p.Stall()
			if err := stop(); err != nil {
				t.Errorf("stop: %v", err)
			}
			if err := after(p); err != nil {
				t.Error(err)
			}
			// The library ends the drain on a goroutine of its own, and tells nobody else.
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for drains() {
				<-tick.C
			}
		})
	}
}

// A broker that greets and then is silent ends nobody's start: it learns later whom it serves.
func TestStartBesideASilentBroker(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, `INFO {"server_id":"s","version":"2.12.6","max_payload":1048576,"headers":true}`+"\r\n")
			in := bufio.NewReader(c)
			for line := ""; line != "PING\r\n" && err == nil; {
				line, err = in.ReadString('\n')
			}
			_, _ = io.WriteString(c, "PONG\r\n")
			_, _ = io.Copy(io.Discard, in)
			_ = c.Close()
		}
	}()
	n := connect(t, rpc.Config{URL: "nats://" + l.Addr().String()})
	if !n.Up() {
		t.Error("it has not been greeted")
	}
	stop, err := n.Serve(rpc.Service{Name: "early", Version: "1.0.0", Endpoints: []rpc.Endpoint{{Name: "e", Subject: "early", Handler: func(rpc.Request) {}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestPing asks a broker for a sign of life while it is there, while it says nothing and while it is away.
func TestPing(t *testing.T) {
	b, err := embedded.ListenNATS()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	p := bustest.NewProxy(t, strings.TrimPrefix(b.URL(), "nats://"))
	n := connect(t, rpc.Config{URL: "nats://" + p.Addr()})
	ping := func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return n.Ping(ctx)
	}
	if err := ping(bustest.Patience); err != nil {
		t.Error(err)
	}
	p.Stall()
	if err := ping(100 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent broker: %v", err)
	}
	if err := p.Interrupt(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); n.Up(); <-tick.C {
		if time.Since(began) > bustest.Patience {
			t.Fatal("the broker still counts as connected")
		}
	}
	if err := ping(bustest.Patience); !errors.Is(err, rpc.ErrDown) {
		t.Errorf("a broker that is away: %v", err)
	}
}

// A broker that is silent holds up nobody who asks: neither what it does not take any more, nor the attempts to connect again.
func TestAskingASilentBroker(t *testing.T) {
	b, err := embedded.ListenNATS()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	p := bustest.NewProxy(t, strings.TrimPrefix(b.URL(), "nats://"))
	n := connect(t, rpc.Config{URL: "nats://" + p.Addr()})
	p.Stall()
	longest := time.Duration(0)
	var waiting sync.WaitGroup
	ask := func(body []byte) {
		began := time.Now()
		waiting.Add(1)
		n.Ask("silent", body, time.Hour, func([]byte, error) { waiting.Done() })
		longest = max(longest, time.Since(began))
	}
	body := make([]byte, 512<<10)
	for range 200 { // more than two sockets' buffers hold
		ask(body)
	}
	if longest > 30*time.Second { // a write that waits as long as it can: a minute
		t.Errorf("an asker waited %v for a broker that takes nothing", longest)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); n.Up(); ask(nil) {
		if <-tick.C; time.Since(began) > bustest.Patience {
			t.Fatal("the broker still counts as connected")
		}
	}
	waiting.Wait() // the connection's end is an answer to all
	bustest.Soon(t, "asking beside attempts to connect", time.Second, func() time.Duration {
		longest = 0
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); { // at least one attempt
			<-tick.C
			ask(nil)
		}
		return longest
	})
	waiting.Wait()
}

// drains reports whether a subscription is being drained.
func drains() bool {
	all := make([]byte, 1<<20)
	return bytes.Contains(all[:runtime.Stack(all, true)], []byte("checkDrained"))
}

func TestDiscovery(t *testing.T) {
	n := broker(t)
	c := connect(t, rpc.Config{InProcess: n})
	plain, err := nats.Connect("", nats.InProcessServer(n))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()

	var stops []func() error
	for _, subject := range []string{"d.1", "d.2"} {
		stop, err := c.Serve(rpc.Service{Name: "parley-dispatch", Version: "1.2.3", Queue: "q", Endpoints: []rpc.Endpoint{
			{Name: "partition", Subject: subject, Handler: func(r rpc.Request) { r.Answer(r.Body) }},
		}})
		if err != nil {
			t.Fatal(err)
		}
		stops = append(stops, stop)
	}
	reference, err := micro.AddService(plain, micro.Config{Name: "reference", Version: "1.2.3", QueueGroup: "q"})
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"d.1", "d.2"} {
		if err := reference.AddEndpoint("partition", micro.HandlerFunc(func(r micro.Request) { _ = r.Respond(r.Data()) }),
			micro.WithEndpointSubject("reference."+subject)); err != nil {
			t.Fatal(err)
		}
	}

	get := func(subject string, into any) map[string]any {
		t.Helper()
		m, err := plain.Request(subject, nil, bustest.Patience)
		if err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
		if err := json.Unmarshal(m.Data, into); err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
		var fields map[string]any
		if err := json.Unmarshal(m.Data, &fields); err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
		return fields
	}
	shape := func(fields map[string]any) map[string]any {
		keys := map[string]any{}
		for k, v := range fields {
			switch v := v.(type) {
			case []any:
				keys[k] = len(v)
			case string:
				keys[k] = "string"
			default:
				keys[k] = "other"
			}
		}
		return keys
	}
	for _, verb := range []micro.Verb{micro.PingVerb, micro.InfoVerb, micro.StatsVerb} {
		ours := get("$SRV."+verb.String()+".parley-dispatch", &struct{}{})
		theirs := get("$SRV."+verb.String()+".reference", &struct{}{})
		want := shape(theirs)
		if verb == micro.InfoVerb {
			delete(want, "description")
			delete(ours, "description")
		}
		if diff := cmp.Diff(want, shape(ours)); diff != "" {
			t.Errorf("%s (-library +ours):\n%s", verb, diff)
		}
	}

	if _, err := plain.Request("d.1", []byte("x"), bustest.Patience); err != nil {
		t.Fatal(err)
	}
	var ping micro.Ping
	get("$SRV.PING.parley-dispatch", &ping)
	var stats micro.Stats
	get("$SRV.STATS.parley-dispatch."+ping.ID, &stats)
	if len(stats.Endpoints) != 2 || stats.Endpoints[0].NumRequests != 1 || stats.Endpoints[1].NumRequests != 0 {
		t.Errorf("stats = %+v, want one request at the first endpoint", stats.Endpoints)
	}

	if err := stops[0](); err != nil {
		t.Fatal(err)
	}
	var info micro.Info
	get("$SRV.INFO.parley-dispatch", &info)
	want := []micro.EndpointInfo{{Name: "partition", Subject: "d.2", QueueGroup: "q"}}
	if diff := cmp.Diff(want, info.Endpoints); diff != "" {
		t.Errorf("endpoints after one was stopped (-want +got):\n%s", diff)
	}
	if err := stops[1](); err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Request("$SRV.PING.parley-dispatch", nil, bustest.Patience); err != nats.ErrNoResponders {
		t.Errorf("ping after the last endpoint was stopped: %v, want no responders", err)
	}
	if err := reference.Stop(); err != nil {
		t.Fatal(err)
	}
}

// A bare connection stands in for an asker and a server that know nothing of bundles.
func TestWithoutBundles(t *testing.T) {
	n := broker(t)
	old, err := nats.Connect("", nats.InProcessServer(n))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(old.Close)
	c := connect(t, rpc.Config{InProcess: n})
	echo := func(r rpc.Request) { r.Answer(r.Body) }
	if _, err := c.Serve(rpc.Service{Name: "s", Version: "1.0.0", Endpoints: []rpc.Endpoint{{Name: "e", Subject: "new", Handler: echo}}}); err != nil {
		t.Fatal(err)
	}
	if m, err := old.Request("new", []byte("hello"), bustest.Patience); err != nil || string(m.Data) != "hello" {
		t.Errorf("the old asker got %v, %v", m, err)
	}
	if _, err := old.Subscribe("old", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if err := old.Flush(); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	c.Ask("old", []byte("hello"), bustest.Patience, func(b []byte, err error) { got <- fmt.Sprint(string(b), err) })
	if got := <-got; got != "hello<nil>" {
		t.Errorf("the old server's answer arrived as %s", got)
	}
}

// What was answered before Close reaches its askers.
func TestAnswersBeforeClose(t *testing.T) {
	n := broker(t)
	server, client := connect(t, rpc.Config{InProcess: n}), connect(t, rpc.Config{InProcess: n})
	const asked = 100
	requests := make(chan rpc.Request, asked)
	if _, err := server.Serve(rpc.Service{Name: "s", Version: "1.0.0", Endpoints: []rpc.Endpoint{
		{Name: "e", Subject: "e", Handler: func(r rpc.Request) { requests <- r }},
	}}); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, asked)
	for range asked {
		client.Ask("e", nil, bustest.Patience, func(_ []byte, err error) { got <- err })
	}
	for range asked {
		(<-requests).Answer(nil)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	for range asked {
		if err := <-got; err != nil {
			t.Fatal(err)
		}
	}
}
