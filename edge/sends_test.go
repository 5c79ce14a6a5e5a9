package edge_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// key is a UUIDv7 with a number in it.
func key(n int) string { return fmt.Sprintf("01997c1e-5a00-7cc3-98c4-%012x", n) }

func (c *client) send(id int, room string, keyed int) {
	c.t.Helper()
	k := ""
	if keyed != 0 {
		k = fmt.Sprintf(`,"key":"%s"`, key(keyed))
	}
	c.say(`{"id":%d,"op":"send","room":"%s","text":"t%d"%s}`, id, room, id, k)
}

// texts are the texts of a send, single or a batch.
func (q *asked) texts(t *testing.T) (all []string) {
	t.Helper()
	for _, body := range append([]json.RawMessage{}, append(q.Batch, q.Body)...) {
		if len(body) == 0 {
			continue
		}
		var m struct{ Text string }
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		all = append(all, m.Text)
	}
	return all
}

func okBatch(n int) (a contracts.Answer) {
	for range n {
		a.Batch = append(a.Batch, contracts.Answer{OK: json.RawMessage(`{"time":1}`)})
	}
	return a
}

func errOf(code contracts.Code) contracts.Answer {
	return contracts.Answer{Err: contracts.NewError(code, "refused by the test")}
}

func TestSendsKeepTheirOrder(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		c.send(10, "a", 10)
		first := w.worker.next(t, contracts.OpSend)
		for id := 11; id < 16; id++ {
			c.send(id, "a", id)
		}
		c.send(20, "b", 0) // another room does not wait
		other := w.worker.next(t, contracts.OpSend)
		if other.Room != "b" {
			t.Fatalf("two batches of room %s are on their way", other.Room)
		}
		other.ok(`{}`)
		c.reply(20)
		if diff := cmp.Diff([]string{"t10"}, first.texts(t)); diff != "" {
			t.Error(diff)
		}
		first.ok(`{}`)
		c.reply(10)
		rest := w.worker.next(t, contracts.OpSend)
		if diff := cmp.Diff([]string{"t11", "t12", "t13", "t14", "t15"}, rest.texts(t)); diff != "" {
			t.Error(diff)
		}
		rest.answer(okBatch(5))
		for id := 11; id < 16; id++ {
			c.reply(uint64(id))
		}
	})
}

// TestSendsTogether: what a client writes at once is asked at once, before what follows it, and also if the client leaves
// right behind it.
func TestSendsTogether(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		c.write(slices.Concat(
			text(`{"op":"send","room":"a","text":"t1"}`), text(`{"op":"send","room":"a","text":"t2"}`), text(`{"op":"send","room":"b","text":"t3"}`),
			text(`{"id":4,"op":"rooms"}`), text(`{"op":"send","room":"c","text":"t5"}`), text(`{"op":"send","room":"c","text":"t6"}`),
			frame(0x88, nil)))
		for _, want := range [][]string{{"t1", "t2"}, {"t3"}, {"t5", "t6"}} {
			if diff := cmp.Diff(want, w.worker.next(t, contracts.OpSend).texts(t)); diff != "" {
				t.Error(diff)
			}
		}
		w.worker.next(t, contracts.OpRooms)
		c.closes(contracts.CloseNormal)
	})
}

func TestSendStops(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		c.send(1, "a", 0)
		first := w.worker.next(t, contracts.OpSend)
		c.send(2, "a", 2)
		c.send(3, "a", 3)
		c.send(4, "a", 0)
		c.quiet()
		first.ok(`{}`)
		c.reply(1)
		batch := w.worker.next(t, contracts.OpSend)
		c.send(5, "a", 5)
		c.quiet()
		a := okBatch(3)
		a.Batch[1], a.Batch[2] = errOf(contracts.CodeUnavailable), errOf(contracts.CodeUnavailable)
		batch.answer(a)
		c.reply(2)
		for id := 3; id <= 5; id++ { // 5 was queued behind it
			c.fails(uint64(id), contracts.CodeUnavailable)
		}
		c.send(6, "a", 6) // arrives later
		c.fails(6, contracts.CodeUnavailable)
		c.send(7, "a", 0)
		c.fails(7, contracts.CodeUnavailable)
		c.send(8, "b", 0) // another room goes on
		w.worker.next(t, contracts.OpSend).ok(`{}`)
		c.reply(8)

		c.send(9, "a", 3) // its key comes again
		q := w.worker.next(t, contracts.OpSend)
		c.send(10, "a", 5)
		if diff := cmp.Diff([]string{"t9"}, q.texts(t)); diff != "" {
			t.Error(diff)
		}
		c.quiet()
		q.ok(`{}`)
		c.reply(9)
		w.worker.next(t, contracts.OpSend).ok(`{}`)
		c.reply(10)

		// The same until the connection leaves the room.
		c.send(11, "a", 11)
		w.worker.next(t, contracts.OpSend).answer(rpc.ErrTimeout)
		c.fails(11, contracts.CodeUnavailable)
		c.send(12, "a", 12)
		c.fails(12, contracts.CodeUnavailable)
		c.say(`{"id":13,"op":"leave","room":"a"}`)
		c.reply(13)
		c.send(14, "a", 14)
		w.worker.next(t, contracts.OpSend).ok(`{}`)
		c.reply(14)
	})
}

func TestSendGoesOnAfter(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		for _, row := range []struct {
			keyed  int
			answer any
			code   contracts.Code
		}{
			{1, errOf(contracts.CodeTooLarge), contracts.CodeTooLarge}, // final
			{0, errOf(contracts.CodeUnavailable), contracts.CodeUnavailable},
			{0, `{}`, contracts.CodeInternal},
			{0, `nonsense`, contracts.CodeInternal},
			{0, rpc.ErrNoServer, contracts.CodeUnavailable},
			{1, rpc.ErrTooLarge, contracts.CodeTooLarge},
		} {
			c.send(5, "a", row.keyed)
			w.worker.next(t, contracts.OpSend).answer(row.answer)
			c.fails(5, row.code)
			c.send(6, "a", 6)
			w.worker.next(t, contracts.OpSend).ok(`{}`)
			c.reply(6)
		}
		// A batch with too few answers is one with none.
		c.send(1, "a", 0)
		first := w.worker.next(t, contracts.OpSend)
		c.send(2, "a", 0)
		c.send(3, "a", 0)
		c.quiet()
		first.ok(`{}`)
		c.reply(1)
		w.worker.next(t, contracts.OpSend).answer(okBatch(1))
		c.fails(2, contracts.CodeInternal)
		c.fails(3, contracts.CodeInternal)
	})
}

func TestSendsToManyStoppedRooms(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.MaxRooms = 3 })
		w.worker.script(contracts.OpSend, func(q *asked) { q.answer(rpc.ErrNoServer) })
		c := w.connected()
		for i := range 3 {
			c.send(i+1, fmt.Sprintf("r%d", i), i+1)
			c.fails(uint64(i+1), contracts.CodeUnavailable)
		}
		c.send(9, "r9", 9)
		c.fails(9, contracts.CodeTooManyRooms)
		c.say(`{"id":10,"op":"leave","room":"r0"}`)
		c.reply(10)
		c.send(11, "r9", 9)
		c.fails(11, contracts.CodeUnavailable)
	})
}

// TestPause pipelines far more than may be unanswered: all of it is answered, in order, and no more than the bound is
// asked at a time.
func TestPause(t *testing.T) {
	const total, most = 3000, 32 // pages of history count for eight requests each
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		var all []byte
		for id := 1; id <= total; id++ {
			all = append(all, text(`{"id":%d,"op":"history","room":"a"}`, id)...)
		}
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			_, _ = c.nc.Write(all)
		}()
		questions := w.worker.questions(contracts.OpHistory)
		until(t, "as many questions as are allowed", func() bool { return len(questions) == most })
		for id := 1; id <= total; id++ {
			if n := len(questions); n > most {
				t.Fatalf("%d questions are unanswered", n)
			}
			w.worker.next(t, contracts.OpHistory).ok(`{"entries":[]}`)
			c.reply(uint64(id))
		}
		<-wrote
		c.quiet()
	})
}

func TestPausedClientHangsUp(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		for id := 1; id <= 300; id++ {
			c.say(`{"id":%d,"op":"history","room":"a"}`, id)
		}
		questions := w.worker.questions(contracts.OpHistory)
		until(t, "as many questions as are allowed", func() bool { return len(questions) == 32 })
		_ = c.nc.Close()
		w.worker.script(contracts.OpHistory, func(q *asked) { q.ok(`{"entries":[]}`) }) // what was read before its end is found
		for range 32 {
			w.worker.next(t, contracts.OpHistory).ok(`{"entries":[]}`)
		}
		until(t, "the end", func() bool { return w.server.Connections() == 0 })
	})
}

func TestQuestionsInFlight(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.InFlight, c.AskTime = 2, 2*time.Second })
		w.worker.script(contracts.OpGone, func(q *asked) { q.ok(`{}`) })
		c := w.connected()
		for id := 1; id <= 5; id++ {
			c.say(`{"id":%d,"op":"history","room":"a"}`, id)
		}
		q := w.worker.next(t, contracts.OpHistory)
		w.worker.next(t, contracts.OpHistory)
		c.quiet()
		if n := len(w.worker.questions(contracts.OpHistory)); n != 0 {
			t.Errorf("%d questions too many", n)
		}
		q.ok(`{}`)
		c.reply(1)
		w.worker.next(t, contracts.OpHistory)
		seen := make(map[uint64]bool) // the others run out of time, in flight or waiting
		for range 4 {
			m := c.get()
			if m.Error == nil || m.Error.Code != contracts.CodeUnavailable || seen[m.ID] {
				t.Errorf("got %s", m.raw)
			}
			seen[m.ID] = true
		}
	})
}

// waiting is how many questions wait for their turn.
func (w *world) waiting() (n int) {
	var state string
	var asking int
	_, _ = fmt.Sscanf(w.server.State(), "breaker %s %d questions unanswered, %d waiting", &state, &asking, &n)
	return n
}

// TestManyWaitingQuestions run out of time or find nobody while they wait: as many as there are must not make the stack
// as deep.
func TestManyWaitingQuestions(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.InFlight, c.BreakTime = 1, -1 })
		clients := make([]*client, 20)
		for i := range clients {
			clients[i] = w.connected()
		}
		for _, c := range clients {
			for id := range 200 {
				c.say(`{"id":%d,"op":"status","room":"a"}`, id+1)
			}
		}
		until(t, "a queue", func() bool { return w.waiting() >= 64 })
		first := w.worker.next(t, contracts.OpStatus)
		var mu sync.Mutex // guards deepest: both loops ask
		deepest := 0
		w.worker.script(contracts.OpStatus, func(q *asked) {
			depth := runtime.Callers(0, make([]uintptr, 500))
			mu.Lock()
			deepest = max(deepest, depth)
			mu.Unlock()
			q.answer(rpc.ErrNoServer)
		})
		first.ok(`{}`)
		for _, c := range clients {
			for range 200 {
				c.get()
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if deepest > 100 {
			t.Errorf("the stack was %d calls deep", deepest)
		}
	})
}
