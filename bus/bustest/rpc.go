package bustest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
)

// outcome is what an asker was told.
type outcome struct {
	reply []byte
	err   error
}

// ask asks and returns the channel that gets the outcome.
func ask(c rpc.Client, subject string, body []byte, timeout time.Duration) <-chan outcome {
	ch := make(chan outcome, 2)
	c.Ask(subject, body, timeout, func(reply []byte, err error) { ch <- outcome{reply, err} })
	return ch
}

// await returns the next value of ch, or fails the test.
func await[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	timer := time.NewTimer(Patience)
	defer timer.Stop()
	select {
	case v := <-ch:
		return v
	case <-timer.C:
		t.Fatalf("nothing came within %s: %s", Patience, what)
		panic("unreachable")
	}
}

// serve registers one endpoint and stops it with the test.
func serve(t *testing.T, s rpc.Server, queue, subject string, h rpc.Handler) (stop func() error) {
	t.Helper()
	stop, err := s.Serve(rpc.Service{
		Name: "bustest", Version: "1.0.0", Queue: queue,
		Endpoints: []rpc.Endpoint{{Name: "test", Subject: subject, Handler: h}},
	})
	if err != nil {
		t.Fatalf("Serve(%s): %v", subject, err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("stop serving %s: %v", subject, err)
		}
	})
	return stop
}

// RPC checks what package rpc promises. start returns a connected pair, which may be one object, and closes it with the test.
func RPC(t *testing.T, start func(t *testing.T) (client rpc.Client, server rpc.Server)) {
	t.Run("reply", func(t *testing.T) {
		client, server := start(t)
		subject := "bustest." + rand.Text()
		serve(t, server, "q", subject+".*", func(r rpc.Request) {
			go r.Answer(append([]byte(r.Subject+" "), r.Body...))
		})
		body := []byte("hello")
		ch := ask(client, subject+".7", body, Patience)
		clear(body) // Ask must have copied it
		got := await(t, "reply", ch)
		if want := subject + ".7 hello"; got.err != nil || string(got.reply) != want {
			t.Errorf("Ask = %q, %v; want %q", got.reply, got.err, want)
		}
		if !client.Up() {
			t.Error("Up() = false while connected")
		}
	})

	t.Run("empty reply", func(t *testing.T) {
		client, server := start(t)
		subject := "bustest." + rand.Text()
		serve(t, server, "q", subject, func(r rpc.Request) { r.Answer(nil) })
		if got := await(t, "reply", ask(client, subject, nil, Patience)); got.err != nil || len(got.reply) != 0 {
			t.Errorf("Ask = %q, %v; want an empty reply", got.reply, got.err)
		}
	})

	t.Run("no server", func(t *testing.T) {
		client, _ := start(t)
		// At once: the timeout would be much later.
		got := await(t, "refusal", ask(client, "bustest."+rand.Text(), nil, time.Hour))
		if !errors.Is(got.err, rpc.ErrNoServer) {
			t.Errorf("Ask without a server: %v, want ErrNoServer", got.err)
		}
	})

	t.Run("timeout", func(t *testing.T) {
		client, server := start(t)
		subject := "bustest." + rand.Text()
		requests := make(chan rpc.Request, 1)
		serve(t, server, "q", subject, func(r rpc.Request) { requests <- r })
		const timeout = 60 * time.Millisecond
		began := time.Now()
		ch := ask(client, subject, nil, timeout)
		got := await(t, "timeout", ch)
		if !errors.Is(got.err, rpc.ErrTimeout) {
			t.Errorf("Ask without an answer: %v, want ErrTimeout", got.err)
		}
		if d := time.Since(began); d < timeout {
			t.Errorf("ErrTimeout came after %s, want at least %s", d, timeout)
		}
		await(t, "request", requests).Answer([]byte("late"))
		// A reply that is late must not reach the callback; a later request's does, on the same connection.
		go func() { r := <-requests; r.Answer(nil) }()
		if got := await(t, "reply", ask(client, subject, nil, Patience)); got.err != nil {
			t.Errorf("Ask after a timeout: %v", got.err)
		}
		if len(ch) != 0 {
			t.Error("done was called twice")
		}
	})

	t.Run("first answer counts", func(t *testing.T) {
		client, server := start(t)
		subject := "bustest." + rand.Text()
		serve(t, server, "q", subject, func(r rpc.Request) {
			r.Answer([]byte("1"))
			r.Answer([]byte("2"))
		})
		for range 20 {
			ch := ask(client, subject, nil, Patience)
			if got := await(t, "reply", ch); got.err != nil || string(got.reply) != "1" {
				t.Fatalf("Ask = %q, %v; want the first answer", got.reply, got.err)
			}
		}
	})

	t.Run("too large", func(t *testing.T) {
		client, server := start(t)
		subject := "bustest." + rand.Text()
		serve(t, server, "q", subject, func(r rpc.Request) { r.Answer(r.Body[:1]) })
		if client.MaxPayload() < 64<<10 {
			t.Fatalf("MaxPayload() = %d, want at least 64 KiB", client.MaxPayload())
		}
		if got := await(t, "refusal", ask(client, subject, make([]byte, client.MaxPayload()+1), Patience)); !errors.Is(got.err, rpc.ErrTooLarge) {
			t.Errorf("Ask above MaxPayload: %v, want ErrTooLarge", got.err)
		}
		if got := await(t, "reply", ask(client, subject, make([]byte, client.MaxPayload()), Patience)); got.err != nil {
			t.Errorf("Ask at MaxPayload: %v", got.err)
		}
	})

	t.Run("many at once", func(t *testing.T) {
		client, server := start(t)
		subject := "bustest." + rand.Text()
		serve(t, server, "q", subject, func(r rpc.Request) { r.Answer(r.Body) })
		const callers, each = 16, 200
		var wg sync.WaitGroup
		wrong := make(chan string, callers*each)
		for caller := range callers {
			wg.Go(func() {
				for i := range each {
					want := fmt.Sprintf("%d/%d", caller, i)
					got := <-ask(client, subject, []byte(want), Patience)
					if got.err != nil || string(got.reply) != want {
						wrong <- fmt.Sprintf("Ask(%s) = %q, %v", want, got.reply, got.err)
					}
				}
			})
		}
		wg.Wait()
		close(wrong)
		for w := range wrong {
			t.Error(w)
		}
	})

	t.Run("together", func(t *testing.T) {
		client, server := start(t)
		together, ok := client.(rpc.Gatherer)
		if !ok {
			t.Skip("this client asks each question alone")
		}
		subject := "bustest." + rand.Text()
		service := rpc.Service{Name: "bustest", Version: "1.0.0", Queue: "q", Gathered: subject + ".together", Endpoints: []rpc.Endpoint{
			{Name: "test", Subject: subject + ".a.*", Handler: func(r rpc.Request) { r.Answer(append([]byte(r.Subject+" "), r.Body...)) }},
		}}
		const asked = 100
		askAll := func(what string, rounds int, check func(asked, subject string, got outcome, together int)) {
			for round := range rounds {
				questions, ended := make([]rpc.Question, asked), make(chan func(), asked+1)
				for i := range questions {
					q := rpc.Question{Subject: fmt.Sprintf("%s.a.%d", subject, i), Body: fmt.Appendf(nil, "%d/%d", round, i), Timeout: Patience}
					if i%10 == 9 {
						q.Subject = subject + ".other" // which nobody serves
					}
					want := string(q.Body)
					q.Done = func(reply []byte, err error) {
						n := questions[i].Together
						ended <- func() { check(want, q.Subject, outcome{reply, err}, n) }
					}
					questions[i] = q
				}
				bodies := make([][]byte, asked)
				for i := range questions {
					bodies[i] = questions[i].Body
				}
				together.AskTogether(service.Gathered, questions)
				for _, body := range bodies {
					clear(body) // AskTogether must have copied it
				}
				for range asked {
					await(t, what, ended)()
				}
				if len(ended) > 0 {
					t.Error("a question ended twice")
				}
			}
		}
		refused := func(_, on string, got outcome, n int) {
			if !errors.Is(got.err, rpc.ErrNoServer) || n < 1 || n > asked {
				t.Errorf("a question on %s ended with %q, %v, as one of %d; want ErrNoServer", on, got.reply, got.err, n)
			}
		}
		for range 2 {
			stop, err := server.Serve(service)
			if err != nil {
				t.Fatalf("Serve: %v", err)
			}
			most := 0
			check := func(body, on string, got outcome, n int) {
				most = max(most, n)
				if on == subject+".other" {
					refused(body, on, got, n)
				} else if want := on + " " + body; got.err != nil || string(got.reply) != want || n < 1 || n > asked {
					t.Errorf("a question ended with %q, %v, as one of %d; want %q", got.reply, got.err, n, want)
				}
			}
			askAll("reply", 20, check)
			for deadline := time.Now().Add(Patience); most < 2; askAll("reply", 1, check) { // a client may have to learn that somebody takes them so
				if time.Now().After(deadline) {
					t.Fatal("no questions were asked together")
				}
			}
			if err := stop(); err != nil {
				t.Errorf("stop: %v", err)
			}
			askAll("refusal after stop", 20, refused)
		}
	})

	t.Run("queue", func(t *testing.T) {
		client, server := start(t)
		shared, all := "bustest."+rand.Text(), "bustest."+rand.Text()
		taken, told := make(chan int, 1000), make(chan int, 1000)
		for i := range 2 {
			serve(t, server, "q", shared, func(r rpc.Request) { taken <- i; r.Answer(nil) })
			serve(t, server, "", all, func(r rpc.Request) { told <- i; r.Answer(nil) })
		}
		const n = 100
		for range n {
			if got := await(t, "reply", ask(client, shared, nil, Patience)); got.err != nil {
				t.Fatalf("Ask: %v", got.err)
			}
		}
		if len(taken) != n {
			t.Errorf("%d of %d requests were served by the two servers of one queue", len(taken), n)
		}
		by := map[int]int{}
		for range len(taken) {
			by[<-taken]++
		}
		if by[0] == 0 || by[1] == 0 {
			t.Errorf("requests served per server: %v, want both to get some", by)
		}
		ask(client, all, nil, Patience)
		if a, b := await(t, "first server", told), await(t, "second server", told); a == b {
			t.Errorf("servers without a queue: %d served twice, want each once", a)
		}
	})

	t.Run("stop", func(t *testing.T) {
		client, server := start(t)
		subject := "bustest." + rand.Text()
		entered, release := make(chan struct{}, 1), make(chan struct{})
		stop := serve(t, server, "q", subject, func(r rpc.Request) {
			select {
			case entered <- struct{}{}:
			default:
			}
			<-release
			r.Answer(nil)
		})
		var asked []<-chan outcome
		for range 50 {
			asked = append(asked, ask(client, subject, nil, Patience))
		}
		await(t, "first request", entered)
		stopped := make(chan error, 1)
		go func() { stopped <- stop() }()
		select {
		case <-stopped:
			t.Error("stop returned while the handler ran")
		default:
		}
		close(release)
		if err := await(t, "stop", stopped); err != nil {
			t.Errorf("stop: %v", err)
		}
		served := 0
		for _, ch := range asked {
			switch got := await(t, "outcome", ch); {
			case got.err == nil:
				served++
			case !errors.Is(got.err, rpc.ErrNoServer):
				t.Errorf("a request during stop ended with %v, want a reply or ErrNoServer", got.err)
			}
		}
		if served == 0 {
			t.Error("no request was served")
		}
		if got := await(t, "refusal", ask(client, subject, nil, Patience)); !errors.Is(got.err, rpc.ErrNoServer) {
			t.Errorf("Ask after stop: %v, want ErrNoServer", got.err)
		}
		serve(t, server, "q", subject, func(r rpc.Request) { r.Answer(nil) })
		if got := await(t, "reply", ask(client, subject, nil, Patience)); got.err != nil {
			t.Errorf("Ask after serving again: %v", got.err)
		}
	})

	t.Run("close", func(t *testing.T) {
		client, server := start(t)
		subject := "bustest." + rand.Text()
		serve(t, server, "q", subject, func(rpc.Request) {})
		var asked []<-chan outcome
		for range 50 {
			asked = append(asked, ask(client, subject, nil, time.Hour))
		}
		if err := client.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		for _, ch := range asked {
			select {
			case got := <-ch:
				if !errors.Is(got.err, rpc.ErrDown) {
					t.Errorf("a waiting request ended with %v, want ErrDown", got.err)
				}
			default:
				t.Fatal("a request still waits after Close")
			}
		}
		if got := await(t, "refusal", ask(client, subject, nil, time.Hour)); !errors.Is(got.err, rpc.ErrDown) {
			t.Errorf("Ask after Close: %v, want ErrDown", got.err)
		}
		if client.Up() {
			t.Error("Up() = true after Close")
		}
	})
}

// RPCOutage checks what package rpc promises of a broker that goes away and comes back. start returns a connected pair.
func RPCOutage(t *testing.T, start func(t *testing.T) (client rpc.Client, server rpc.Server), interrupt, resume func() error) {
	client, server := start(t)
	subject := "bustest." + rand.Text()
	requests := make(chan rpc.Request, 100)
	serve(t, server, "q", subject, func(r rpc.Request) { requests <- r })
	// outage plays one, and says how long a request that waits for its answer did not learn of it.
	outage := func() (unknown time.Duration) {
		waits := ask(client, subject, nil, time.Hour)
		await(t, "request", requests)
		if err := interrupt(); err != nil {
			t.Fatalf("interrupt: %v", err)
		}
		began := time.Now()
		if got := await(t, "end of the waiting request", waits); !errors.Is(got.err, rpc.ErrDown) {
			t.Errorf("a waiting request ended with %v, want ErrDown", got.err)
		}
		unknown = time.Since(began)
		for client.Up() {
			if time.Since(began) > Patience {
				t.Fatal("Up() stays true without a broker")
			}
		}
		if got := await(t, "refusal", ask(client, subject, nil, time.Hour)); !errors.Is(got.err, rpc.ErrDown) {
			t.Errorf("Ask while away: %v, want ErrDown", got.err)
		}
		stop := serve(t, server, "q", subject+".new", func(r rpc.Request) { r.Answer(nil) })
		if err := resume(); err != nil {
			t.Fatalf("resume: %v", err)
		}
		for _, s := range []string{subject, subject + ".new"} {
			// The broker may still learn of the endpoint: each refusal comes over the network, so this is no busy loop.
			for deadline := time.Now().Add(Patience); ; {
				ch := ask(client, s, nil, Patience)
				answered := make(chan struct{})
				if s == subject {
					go func() {
						select {
						case r := <-requests:
							r.Answer(nil)
						case <-answered:
						}
					}()
				}
				got := await(t, "outcome", ch)
				close(answered)
				if got.err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("Ask(%s) after the outage: %v", s, got.err)
				}
			}
		}
		if !client.Up() {
			t.Error("Up() = false after the outage")
		}
		if err := stop(); err != nil {
			t.Errorf("stop what was served during the outage: %v", err)
		}
		return unknown
	}
	// With the connection, and not only when a broker that is silent counts as lost.
	Soon(t, "the end of a waiting request", 2*time.Second, outage)
}
