package edge_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

func TestConnectComesFirst(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.open()
		c.say(`{"id":7,"op":"join","room":"lobby"}`)
		c.fails(7, contracts.CodeUnauthorized)
		c.closes(contracts.CloseBadRequests)

		c = w.open()
		c.say(`nonsense`)
		c.fails(0, contracts.CodeBadRequest)
		c.closes(contracts.CloseBadRequests)
	})
}

func TestRequestsWaitForConnect(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.Ping = 0 })
		w.worker.script(contracts.OpConnect, nil)
		w.worker.script(contracts.OpSend, func(q *asked) { q.ok(`{"key":"k"}`) })
		c := w.open()
		c.say(`{"id":1,"op":"connect","guest":"Ada"}`)
		c.say(`{"id":2,"op":"ping"}`)
		c.say(`{"id":3,"op":"send","room":"lobby","text":"hi"}`)
		c.say(`{"id":4,"op":"connect","guest":"Ada"}`)
		q := w.worker.next(t, contracts.OpConnect)
		if q.User != nil || q.Conn == 0 || q.Node != "n1" || q.LeftMS <= 0 || !contains(string(q.Body), `"guest":"Ada"`) {
			t.Errorf("the worker was asked with %+v", q.Command)
		}
		q.answer(connectAnswer("u1", time.Hour))
		m := c.reply(1)
		if !contains(string(m.OK), `"node":"n1"`, `"ping":25`, `"frame_bytes":65536`, `"rooms":1000`, `"version":"devel"`) {
			t.Errorf("connect was answered with %s", m.raw)
		}
		c.reply(2)
		c.fails(4, contracts.CodeBadRequest)
		c.reply(3)
	})
}

func TestConnectRefused(t *testing.T) {
	for code, closing := range map[contracts.Code]contracts.CloseCode{
		contracts.CodeUnauthorized: contracts.CloseUnauthorized,
		contracts.CodeForbidden:    contracts.CloseBanned,
	} {
		t.Run(string(code), func(t *testing.T) {
			transports(t, func(t *testing.T, portable bool) {
				w := newWorld(t, portable)
				w.worker.script(contracts.OpConnect, func(q *asked) { q.err(code) })
				c := w.open()
				c.write(append(text(`{"id":1,"op":"connect","token":"x"}`), text(`{"id":2,"op":"ping"}`)...))
				c.fails(1, code)
				c.closes(closing)
			})
		})
	}
}

func TestConnectRetryable(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		w.worker.script(contracts.OpConnect, nil)
		c := w.open()
		c.say(`{"id":1,"op":"connect","token":"x"}`)
		q := w.worker.next(t, contracts.OpConnect)
		c.say(`{"id":2,"op":"ping"}`)
		c.write(frame(0x89, []byte("there?")))
		if m := c.get(); m.op != 10 {
			t.Fatalf("got %q instead of a pong", m.raw)
		}
		q.err(contracts.CodeUnavailable)
		c.fails(1, contracts.CodeUnavailable)
		c.fails(2, contracts.CodeUnavailable)
		c.say(`{"id":3,"op":"connect","token":"x"}`)
		w.worker.next(t, contracts.OpConnect).answer(connectAnswer("u1", time.Hour))
		c.reply(3)
		c.quiet()
	})
}

func TestConnectUnreadable(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		for _, answer := range []any{`}`, `{}`, contracts.Answer{Connected: &contracts.Connected{}}} {
			w.worker.script(contracts.OpConnect, func(q *asked) { q.answer(answer) })
			c := w.open()
			c.say(`{"id":1,"op":"connect","token":"x"}`)
			c.fails(1, contracts.CodeInternal)
		}
	})
}

func TestConnectTooLate(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.ConnectTime = 10 * time.Millisecond })
		c := w.open()
		c.closes(contracts.CloseNoConnect)
	})
}

func TestConnectTooLarge(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.open()
		c.say(`{"id":1,"op":"connect","token":"%s"}`, string(make([]byte, 13<<10)))
		c.closes(contracts.CloseTooBig)

		w.worker.script(contracts.OpConnect, nil)
		c = w.open()
		c.say(`{"id":1,"op":"connect","token":"x"}`)
		w.worker.next(t, contracts.OpConnect)
		for range 13 {
			c.say(`{"id":2,"op":"ping","pad":"%01000d"}`, 0)
		}
		c.closes(contracts.CloseTooBig)
	})
}

func TestToken(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		w.worker.script(contracts.OpConnect, func(q *asked) { q.answer(connectAnswer("u1", 50*time.Second)) })
		w.worker.script(contracts.OpRefresh, func(q *asked) {
			if q.User == nil || q.User.ID != "u1" {
				t.Errorf("refresh came from %+v", q.User)
			}
			a := connectAnswer("u1", 2*time.Second)
			a.Connected.OK = nil
			a.OK = []byte(`{"expires":1}`)
			q.answer(a)
		})
		c := w.open()
		c.say(`{"id":1,"op":"connect","token":"x"}`)
		c.reply(1)
		if m := c.get(); m.Event != "token" {
			t.Fatalf("got %s instead of a reminder", m.raw)
		}
		begin := time.Now()
		c.say(`{"id":2,"op":"refresh","token":"y"}`)
		c.reply(2)
		if m := c.get(); m.Event != "token" {
			t.Fatalf("got %s instead of another reminder", m.raw)
		}
		c.closes(contracts.CloseUnauthorized) // the old one would hold for much longer
		if d := time.Since(begin); d < 1900*time.Millisecond {
			t.Errorf("the new token held for %s", d)
		}
	})
}

func TestRequests(t *testing.T) {
	long := string(make([]byte, 0))
	for range 65 {
		long += "x"
	}
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		w.worker.script(contracts.OpRooms, func(q *asked) { q.answer(`{}`) })
		w.worker.script(contracts.OpHistory, func(q *asked) { q.err(contracts.CodeNotFound) })
		c := w.connected()
		for _, row := range []struct {
			frame string
			id    uint64
			code  contracts.Code
		}{
			{``, 0, contracts.CodeBadRequest},
			{`null`, 0, contracts.CodeBadRequest},
			{`[]`, 0, contracts.CodeBadRequest},
			{`{"op":"ping"} x`, 0, contracts.CodeBadRequest},
			{`{"id":1e2,"op":"ping"}`, 0, contracts.CodeBadRequest},
			{`{"id":-1,"op":"ping"}`, 0, contracts.CodeBadRequest},
			{`{"id":0,"op":"ping"}`, 0, contracts.CodeBadRequest},
			{`{"id":9007199254740992,"op":"ping"}`, 0, contracts.CodeBadRequest},
			{`{"id":"7","op":"ping"}`, 0, contracts.CodeBadRequest},
			{`{"id":7}`, 7, contracts.CodeBadRequest},
			{`{"id":7,"op":1}`, 7, contracts.CodeBadRequest},
			{`{"id":7,"op":"gone"}`, 7, contracts.CodeUnknownOp},
			{`{"id":7,"op":"repair"}`, 7, contracts.CodeUnknownOp},
			{`{"id":7,"op":"` + long + `"}`, 7, contracts.CodeUnknownOp},
			{`{"op":"` + long + `"}`, 0, contracts.CodeUnknownOp},
			{`{"id":7,"op":"join"}`, 7, contracts.CodeBadRequest},
			{`{"id":7,"op":"join","room":5}`, 7, contracts.CodeBadRequest},
			{`{"id":7,"op":"join","room":""}`, 7, contracts.CodeBadRoom},
			{`{"id":7,"op":"join","room":"a.b"}`, 7, contracts.CodeBadRoom},
			{`{"id":7,"op":"send","room":"*","text":"x"}`, 7, contracts.CodeBadRoom},
			{`{"id":7,"op":"join","room":"` + long + `"}`, 7, contracts.CodeBadRoom},
			{`{"id":7,"op":"leave","room":"a","quit":1}`, 7, contracts.CodeBadRequest},
			{`{"id":7,"op":"connect","guest":"Ada"}`, 7, contracts.CodeBadRequest},
			{`{"id":7,"op":"rooms"}`, 7, contracts.CodeInternal},
			{`{"id":7,"op":"history","room":"a"}`, 7, contracts.CodeNotFound},
			{`{"op":"history","room":"a"}`, 0, contracts.CodeNotFound},
		} {
			c.say("%s", row.frame)
			c.fails(row.id, row.code)
		}
		c.say(`{"op":"leave","room":"a"}`) // without id and without failure: no reply
		c.quiet()
	})
}

// TestAskTogether: what is asked in one round leaves together, in its order.
func TestAskTogether(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		var all []byte
		for id := range 3 {
			all = append(all, text(`{"id":%d,"op":"history","room":"r%d"}`, id+2, id)...)
		}
		c.write(all)
		for id := range 3 {
			q := w.worker.next(t, contracts.OpHistory)
			if want := fmt.Sprint("r", id); string(q.Room) != want {
				t.Errorf("question %d is of %s, want %s", id, q.Room, want)
			}
			q.ok(`{}`)
			c.reply(uint64(id + 2))
		}
		if n := w.worker.together.Load(); n != 3 {
			t.Errorf("%d questions left together, want 3", n)
		}
	})
}
