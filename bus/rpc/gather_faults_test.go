//go:build !lean

package rpc_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/rpc"
)

// limited starts a broker with a limit of its own for one message.
func limited(t *testing.T, most int32) rpc.Config {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, MaxPayload: most, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(bustest.Patience) {
		t.Fatal("the broker does not start")
	}
	return rpc.Config{URL: s.ClientURL()}
}

// serveTogether serves subject a, questions that come together included unless gathered is empty.
func serveTogether(t *testing.T, s rpc.Server, gathered string, h rpc.Handler) (stop func() error) {
	t.Helper()
	stop, err := s.Serve(rpc.Service{
		Name: "s", Version: "1.0.0", Queue: "q", Gathered: gathered, Endpoints: []rpc.Endpoint{{Name: "a", Subject: "a", Handler: h}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return stop
}

// gathers waits until c knows that somebody takes questions together.
func gathers(t *testing.T, c *rpc.NATS) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(bustest.Patience); !c.Gathers("all"); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("questions never come together")
		}
	}
}

// ends asks n questions together and counts how they ended.
func ends(c rpc.Gatherer, n int, body string, timeout time.Duration) map[error]int {
	ended := make(chan error, n)
	questions := make([]rpc.Question, n)
	for i := range questions {
		questions[i] = rpc.Question{Subject: "a", Body: []byte(body), Timeout: timeout, Done: func(reply []byte, err error) {
			if err == nil && string(reply) != body {
				err = errors.New("another question's answer")
			}
			ended <- err
		}}
	}
	c.AskTogether("all", questions)
	got := make(map[error]int)
	for range n {
		got[<-ended]++
	}
	return got
}

func echo(r rpc.Request) { r.Answer(r.Body) }

// A message that nobody takes any more has its questions asked alone: an older server takes them.
func TestTogetherThenAlone(t *testing.T) {
	n := broker(t)
	client := connect(t, rpc.Config{InProcess: n})
	serveTogether(t, connect(t, rpc.Config{InProcess: n}), "", echo)
	stop := serveTogether(t, connect(t, rpc.Config{InProcess: n}), "all", echo)
	gathers(t, client)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := ends(client, 320, "x", bustest.Patience); got[nil] != 320 {
		t.Errorf("the questions ended with %v", got)
	}
	if client.Gathers("all") {
		t.Error("questions still go together")
	}
}

// A message that ends in silence is the last until somebody says again that he takes them.
func TestTogetherInSilence(t *testing.T) {
	n := broker(t)
	client := connect(t, rpc.Config{InProcess: n})
	serveTogether(t, connect(t, rpc.Config{InProcess: n}), "all", func(r rpc.Request) {
		if len(r.Body) == 0 {
			r.Answer(nil)
		}
	})
	gathers(t, client)
	if got := ends(client, 5, "", bustest.Patience); got[nil] != 5 || !client.Gathers("all") {
		t.Fatalf("the questions ended with %v", got)
	}
	if got := ends(client, 5, "hang", 50*time.Millisecond); got[rpc.ErrTimeout] != 5 {
		t.Errorf("the questions ended with %v", got)
	}
	if client.Gathers("all") {
		t.Error("questions still go together")
	}
	gathers(t, client)
}

// No message is above the broker's limit, also where that is lower than it was.
func TestTogetherWithinTheLimit(t *testing.T) {
	for _, forgotten := range []bool{false, true} {
		cfg := limited(t, 16<<10)
		s, c := connect(t, cfg), connect(t, cfg)
		serveTogether(t, s, "all", echo)
		gathers(t, c)
		if forgotten {
			s.ForgetLimit()
			c.ForgetLimit()
		}
		for size, want := range map[int]error{1000: nil, 5000: nil, 7000: nil, 16000: nil, 17000: rpc.ErrTooLarge} {
			if got := ends(c, 32, strings.Repeat("x", size), bustest.Patience); got[want] != 32 {
				t.Errorf("limit forgotten %v: 32 questions of %d bytes ended with %v", forgotten, size, got)
			}
		}
	}
	cfg := limited(t, 4<<10)
	s, c := connect(t, cfg), connect(t, cfg)
	serveTogether(t, s, "all", echo)
	gathers(t, c)
	c.ForgetLimit()
	if got := ends(c, 3, strings.Repeat("x", 5000), bustest.Patience); got[rpc.ErrTooLarge] != 3 {
		t.Errorf("questions above the limit ended with %v", got)
	}
}

// Answers that have no room in one message of a broker whose limit is lower than it was come alone.
func TestAnswersWithinTheLimit(t *testing.T) {
	cfg := limited(t, 16<<10)
	s, c := connect(t, cfg), connect(t, cfg)
	const asked = 20
	requests := make(chan rpc.Request, asked)
	serveTogether(t, s, "all", func(r rpc.Request) { requests <- r })
	gathers(t, c)
	s.ForgetLimit()
	body := strings.Repeat("x", 3000)
	go func() {
		var all []rpc.Request
		for range asked {
			all = append(all, <-requests)
		}
		for _, r := range all {
			r.Answer(r.Body)
		}
	}()
	if got := ends(c, asked, body, bustest.Patience); got[nil] != asked {
		t.Errorf("the questions ended with %v", got)
	}
}

// Two servers of one queue share the messages, and one that stops meanwhile loses none.
func TestTogetherOverTwoServers(t *testing.T) {
	n := broker(t)
	client := connect(t, rpc.Config{InProcess: n})
	taken := make(chan int, 1<<16)
	serve := func(i int) func() error {
		return serveTogether(t, connect(t, rpc.Config{InProcess: n}), "all", func(r rpc.Request) { taken <- i; r.Answer(r.Body) })
	}
	serve(0)
	stop := serve(1)
	gathers(t, client)
	const messages, each = 100, 32
	stopped := make(chan error, 1)
	for i := range messages {
		if i == messages/2 {
			go func() { stopped <- stop() }()
		}
		if got := ends(client, each, "x", bustest.Patience); got[nil] != each {
			t.Fatalf("message %d: its questions ended with %v", i, got)
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	by := map[int]int{}
	for range len(taken) {
		by[<-taken]++
	}
	if by[0]+by[1] != messages*each || by[1] == 0 || by[0] < messages/2*each/4 {
		t.Errorf("the two servers took %v", by)
	}
}

// A message that is under way when the connection is lost ends as its questions would alone, once each.
func TestTogetherThroughAnOutage(t *testing.T) {
	b, err := embedded.ListenNATS()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	p := bustest.NewProxy(t, strings.TrimPrefix(b.URL(), "nats://"))
	client := connect(t, rpc.Config{URL: "nats://" + p.Addr()})
	taken := make(chan struct{}, 100)
	serveTogether(t, connect(t, rpc.Config{URL: b.URL()}), "all", func(r rpc.Request) {
		if len(r.Body) == 0 {
			r.Answer(nil)
		}
		taken <- struct{}{}
	})
	gathers(t, client)
	got := make(chan map[error]int, 1)
	go func() { got <- ends(client, 32, "hang", time.Hour) }()
	for range 32 {
		<-taken
	}
	if err := p.Interrupt(); err != nil {
		t.Fatal(err)
	}
	if got := <-got; got[rpc.ErrDown] != 32 {
		t.Errorf("the questions ended with %v", got)
	}
	if got := ends(client, 32, "", time.Hour); got[rpc.ErrDown] != 32 {
		t.Errorf("questions while away ended with %v", got)
	}
	if err := p.Resume(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(bustest.Patience); ends(client, 32, "", 10*time.Second)[nil] != 32; {
		if time.Now().After(deadline) {
			t.Fatal("questions are not answered after the outage")
		}
	}
}
