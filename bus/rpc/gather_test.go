//go:build !lean

package rpc_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/rpc"
)

// askTogether asks and returns the answers, in the order of the questions.
func askTogether(c rpc.Gatherer, bodies map[string][]string) map[string]string {
	var questions []rpc.Question
	type answer struct{ of, is string }
	answers := make(chan answer, 100)
	for subject, all := range bodies {
		for _, body := range all {
			of := subject + " " + body
			if len(of) > 20 {
				of = of[:20]
			}
			questions = append(questions, rpc.Question{Subject: subject, Body: []byte(body), Timeout: bustest.Patience, Done: func(b []byte, err error) {
				is := string(b)
				switch {
				case errors.Is(err, rpc.ErrNoServer):
					is = "no server"
				case err != nil:
					is = err.Error()
				case len(is) > 20:
					is = is[:20]
				}
				answers <- answer{of, is}
			}})
		}
	}
	c.AskTogether("all", questions)
	for i := range questions {
		clear(questions[i].Body) // AskTogether has copied it
	}
	got := make(map[string]string)
	for range questions {
		a := <-answers
		got[a.of] = a.is
	}
	return got
}

// Questions to one service travel together once it is known that it takes them so, and alone before, behind and beside that.
func TestAskTogether(t *testing.T) {
	n := broker(t)
	spy, err := nats.Connect("", nats.InProcessServer(n))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(spy.Close)
	var together atomic.Int64
	spying, err := spy.QueueSubscribe("all", "spies", func(m *nats.Msg) {
		if len(m.Data) > 0 {
			together.Add(1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	server, client := connect(t, rpc.Config{InProcess: n}), connect(t, rpc.Config{InProcess: n})
	busy := make(chan struct{}, 1) // a handler runs once at a time
	echo := func(r rpc.Request) {
		busy <- struct{}{}
		body := bytes.Clone(r.Body)
		<-busy
		go r.Answer(append([]byte(r.Subject+"="), body...))
	}
	service := rpc.Service{Name: "s", Version: "1.0.0", Queue: "q", Endpoints: []rpc.Endpoint{
		{Name: "a", Subject: "s.a.*", Handler: echo}, {Name: "b", Subject: "s.b", Handler: func(r rpc.Request) { r.Answer(r.Body) }},
	}}
	large := strings.Repeat("x", 20<<10)
	bodies := map[string][]string{"s.a.1": {"one", "two", ""}, "s.a.2": {"three"}, "s.b": {"four", large}, "s.c": {"five"}, "s.a.1.2": {"six"}}
	want := map[string]string{
		"s.a.1 one": "s.a.1=one", "s.a.1 two": "s.a.1=two", "s.a.1 ": "s.a.1=", "s.a.2 three": "s.a.2=three", "s.b four": "four",
		("s.b " + large)[:20]: large[:20], "s.c five": "no server", "s.a.1.2 six": "no server",
	}
	none := make(map[string]string)
	for of := range want {
		none[of] = "no server"
	}
	check := func(what string, want map[string]string) {
		t.Helper()
		if diff := cmp.Diff(want, askTogether(client, bodies)); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	check("nobody serves", none)
	stop, err := server.Serve(service)
	if err != nil {
		t.Fatal(err)
	}
	check("served alone", want)
	if together.Load() > 0 {
		t.Error("questions came together that nobody takes")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	service.Gathered = "all"
	if stop, err = server.Serve(service); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(bustest.Patience); together.Load() == 0; {
		check("served", want)
		if time.Now().After(deadline) {
			t.Fatal("questions never came together")
		}
	}
	check("served together", want)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(spying.Unsubscribe(), spy.Flush()); err != nil {
		t.Fatal(err)
	}
	check("nobody serves any more", none)
	service.Gathered = ""
	if _, err = server.Serve(service); err != nil {
		t.Fatal(err)
	}
	check("served alone again", want)
	if client.Gathers("all") {
		t.Error("questions came together that nobody takes any more")
	}
	client.AskTogether("all", []rpc.Question{{Subject: "s.b", Timeout: time.Second, Done: func([]byte, error) {}}})
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	for of, is := range askTogether(client, bodies) {
		if is != rpc.ErrDown.Error() {
			t.Errorf("%s after Close: %s", of, is)
		}
	}
}

func FuzzUngather(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 3, 's', '.', 'b', 3, 'o', 'n', 'e', 2, 1, 's', 0})
	f.Add([]byte{1, 3, 's', '.', 'b', 4, 'o', 'n', 'e'})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		size := 0
		_ = rpc.Ungather(body, func(_ uint64, subject string, question []byte) { size += len(subject) + len(question) + 3 })
		if size > len(body) {
			t.Error(fmt.Sprint(size, " bytes out of ", len(body)))
		}
	})
}
