package edge_test

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

func TestBreaker(t *testing.T) {
	for _, row := range []struct {
		name string
		// steps: + answered, - not answered, s a second passes, O must be open, C must be closed, P a probe is let
		// through, p it is answered, x it is not, m a message of 32 questions is lost, M it is answered, i one fails at once,
		// y the probe does, h 250 ms pass
		steps string
	}{
		{"answers", "++++++++++++++++++++++++++++++C"},
		{"too few to judge", "-------------------C"},
		{"twenty", "--------------------O"},
		{"half", "+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-C"},
		{"more than half", "+--+--+--+--+--+--+C-O"},
		{"long ago", "-------------------CssssssssssC-C"},
		{"not so long ago", "-------------------Csssssssss-O"},
		{"stays open", "--------------------OsO"},
		{"probe answered", "--------------------OssPOpC"},
		{"probe not answered", "--------------------OssPOsssssOxOsOsPpC"},
		{"late answers decide nothing", "--------------------O++++++++++O---OssPpC"},
		{"one lost message", "mC"},
		{"twenty lost messages", "mmmmmmmmmmmmmmmmmmmC-O"},
		{"one of three workers hangs", "MmMMmMMmMMmMMmMMmMMmMMmMMmMMmMC"},
		{"answered messages outweigh no others", "MMMMMMMMMM---------C--O"},
		{"nobody to be asked", "iiiiiiiiiiiiiiiiiiiiOhPyOhPpC"},
		{"hangs, then is gone", "--------------------OihPpC"},
		{"starts anew", "--------------------OssPp-------------------C-O"},
	} {
		t.Run(row.name, func(t *testing.T) {
			now := time.Unix(1_800_000_000, 0)
			b := edge.NewBreaker(2 * time.Second)
			for at, step := range row.steps {
				switch step {
				case '+':
					b.Note(now, false, false, 1)
				case '-':
					b.Note(now, false, true, 1)
				case 'm', 'M':
					for range 32 {
						b.Note(now, false, step == 'm', 1./32)
					}
				case 's':
					now = now.Add(time.Second)
				case 'h':
					now = now.Add(250 * time.Millisecond)
				case 'i', 'y':
					b.Note(now, step == 'y', true, 1)
					b.Soon(now)
				case 'p':
					b.Note(now, true, false, 1)
				case 'x':
					b.Note(now, true, true, 1)
				default:
					ok, probe := b.Allow(now)
					if ok != (step != 'O') || probe != (step == 'P') {
						t.Fatalf("step %d (%c): allowed %v, as a probe %v", at, step, ok, probe)
					}
				}
			}
		})
	}
	b := edge.NewBreaker(0)
	for range 1000 {
		b.Note(time.Now(), false, true, 1)
	}
	if ok, _ := b.Allow(time.Now()); !ok {
		t.Error("a breaker that is off has opened")
	}
}

// TestBreakerOpens: who asks while it is open is answered at once and nobody is asked; a probe closes it.
func TestBreakerOpens(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		w.worker.script(contracts.OpHistory, func(q *asked) { q.answer(rpc.ErrNoServer) })
		c := w.connected()
		history := func(id int) message {
			c.say(`{"id":%d,"op":"history","room":"a"}`, id)
			return c.reply(uint64(id))
		}
		until(t, "the open breaker", func() bool {
			if m := history(1); m.Error == nil || m.Error.Code != contracts.CodeUnavailable || !m.Error.Retry {
				t.Fatalf("got %s", m.raw)
			}
			return w.metric("breaker_open") == 1
		})
		if s := w.server.State(); !contains(s, "breaker open") {
			t.Errorf("operators are told %q", s)
		}
		var asks atomic.Int64
		w.worker.script(contracts.OpHistory, func(q *asked) {
			asks.Add(1)
			q.ok(`{}`)
		})
		var took []time.Duration
		for id := range 100 {
			begin := time.Now()
			if m := history(id + 2); m.Error == nil || m.Error.Code != contracts.CodeUnavailable || m.Error.RetryAfterMS == 0 {
				break // it may have closed on a slow machine
			}
			took = append(took, time.Since(begin))
		}
		if len(took) > 0 {
			if least := slices.Min(took); least > 100*time.Millisecond {
				t.Errorf("an answer took %s at least", least)
			}
			if n := w.metricOf("limited_total", "breaker"); n < float64(len(took)) {
				t.Errorf("%v counted", n)
			}
		}
		until(t, "an answer", func() bool { return history(1).OK != nil })
		if w.metric("breaker_open") != 0 || asks.Load() == 0 || !contains(w.server.State(), "breaker closed") {
			t.Errorf("%v open, %d asked, %s", w.metric("breaker_open"), asks.Load(), w.server.State())
		}
	})
}

// TestBreakerCountsMessages: what is lost in one message counts once.
func TestBreakerCountsMessages(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		w.worker.script(contracts.OpHistory, func(q *asked) { q.answer(rpc.ErrTimeout) })
		const each = 8
		lose := func() {
			var all []byte
			for id := range each {
				all = append(all, text(`{"id":%d,"op":"history","room":"a"}`, id+2)...)
			}
			c.write(all)
			for id := range each {
				c.fails(uint64(id+2), contracts.CodeUnavailable)
			}
		}
		for range 5 {
			lose()
		}
		if n := w.worker.together.Load(); n < 4*each {
			t.Skipf("%d questions left together", n)
		}
		if w.metric("breaker_open") != 0 {
			t.Error("five messages opened the breaker")
		}
		until(t, "the open breaker", func() bool { lose(); return w.metric("breaker_open") == 1 })
	})
}

// TestOwnErrorsBreakNothing: a worker that refuses has answered.
func TestOwnErrorsBreakNothing(t *testing.T) {
	w := newWorld(t, false)
	codes := []contracts.Code{contracts.CodeNotFound, contracts.CodeUnavailable, contracts.CodeOverloaded, contracts.CodeInternal}
	c := w.connected()
	for id := 1; id <= 200; id++ {
		code := codes[id%len(codes)]
		w.worker.script(contracts.OpHistory, func(q *asked) { q.err(code) })
		c.say(`{"id":%d,"op":"history","room":"a"}`, id)
		c.fails(uint64(id), code)
	}
	w.worker.script(contracts.OpHistory, func(q *asked) { q.answer(rpc.ErrTooLarge) })
	for id := 1; id <= 200; id++ {
		c.say(`{"id":%d,"op":"history","room":"a"}`, id)
		c.fails(uint64(id), contracts.CodeTooLarge)
	}
	if w.metric("breaker_open") != 0 {
		t.Error("the breaker is open")
	}
}

// TestBreakerEmptiesTheQueue: when workers hang, those who wait for their turn do not wait for their time's end.
func TestBreakerEmptiesTheQueue(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.InFlight = 20 })
		clients := make([]*client, 12) // fewer than what is not answered below
		for i := range clients {
			clients[i] = w.connected()
		}
		for _, c := range clients {
			for range 5 {
				c.say(`{"id":7,"op":"history","room":"a"}`)
			}
		}
		until(t, "a queue", func() bool { return w.waiting() >= 40 })
		var begun []*asked
		for range 20 {
			begun = append(begun, w.worker.next(t, contracts.OpHistory))
		}
		for _, q := range begun[:14] {
			q.answer(errors.New("hung"))
		}
		w.worker.script(contracts.OpHistory, func(q *asked) { q.answer(errors.New("hung")) })
		for _, q := range begun[14:] {
			q.answer(errors.New("hung"))
		}
		for len(w.worker.questions(contracts.OpHistory)) > 0 { // got their turn before it opened
			w.worker.next(t, contracts.OpHistory).answer(errors.New("hung"))
		}
		for _, c := range clients {
			for range 5 {
				c.fails(7, contracts.CodeUnavailable)
			}
		}
	})
}

// TestShedding: with workers that do not keep up, what can be done without is refused first, clients are read from more
// slowly, and nothing that was promised an answer goes without one.
func TestShedding(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.InFlight = 1 })
		blocker := w.connected()
		probe := w.connected()
		var crowd []*client
		for range 128 {
			crowd = append(crowd, w.connected())
		}
		blocker.say(`{"id":1,"op":"join","room":"a"}`)
		first := w.worker.next(t, contracts.OpJoin)
		for i, c := range crowd[:64] {
			c.say(`{"id":1,"op":"send","room":"r%d","text":"x"}`, i)
		}
		until(t, "a crowd", func() bool { return w.waiting() >= 64 })
		probe.say(`{"id":1,"op":"typing","room":"a","on":true}`)
		probe.fails(1, contracts.CodeOverloaded)
		for i, c := range crowd[64:128] {
			c.say(`{"id":1,"op":"send","room":"q%d","text":"x"}`, i)
		}
		until(t, "a larger crowd", func() bool { return w.waiting() >= 128 })
		probe.say(`{"id":2,"op":"history","room":"a"}`)
		probe.fails(2, contracts.CodeOverloaded)
		if n := w.metricOf("limited_total", "requests_waiting"); n != 2 {
			t.Errorf("%v counted", n)
		}
		// A client that has one unanswered request is not read from until it is answered.
		c := crowd[0]
		for id := range 50 {
			c.say(`{"id":%d,"op":"send","room":"r0","text":"x"}`, id+2)
		}
		probe.say(`{"id":3,"op":"typing","room":"a","on":true}`)
		probe.fails(3, contracts.CodeOverloaded)
		if n := w.waiting(); n > 135 { // the edge itself asks now and then
			t.Errorf("%d wait", n)
		}
		// The workers recover: everybody gets an answer.
		var mu sync.Mutex
		sends := 0
		w.worker.script(contracts.OpSend, func(q *asked) {
			n := max(1, len(q.Batch))
			mu.Lock()
			sends += n
			mu.Unlock()
			if n == 1 {
				q.ok(`{}`)
			} else {
				q.answer(okBatch(n))
			}
		})
		first.joined(contracts.JoinComplete, 1, 5)
		blocker.reply(1)
		for i, c := range crowd[:128] {
			if m := c.reply(1); m.OK == nil {
				t.Fatalf("client %d: %s", i, m.raw)
			}
		}
		for id := range 50 {
			if m := c.reply(uint64(id + 2)); m.OK == nil {
				t.Fatalf("send %d: %s", id, m.raw)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if sends != 178 {
			t.Errorf("%d sends reached the workers", sends)
		}
	})
}
