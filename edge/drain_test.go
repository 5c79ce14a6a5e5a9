package edge_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// told is the next frame, which must be the event that asks to move.
func (c *client) told() {
	c.t.Helper()
	if m := c.get(); m.Event != "reconnect" || !strings.Contains(m.raw, `"after_ms":`) {
		c.t.Fatalf("got %s instead of reconnect", m.raw)
	}
}

// leaves closes the connection as a client does that has moved.
func (c *client) leaves() {
	c.t.Helper()
	c.write(frame(0x88, []byte{3, 232}))
	if m := c.get(); m.op != 8 || m.closing != contracts.CloseNormal {
		c.t.Fatalf("got %d %q instead of a close frame", m.op, m.raw)
	}
	_ = c.nc.Close()
}

type drained struct {
	report edge.DrainReport
	err    error
}

func (w *world) drain(ctx context.Context, cfg edge.DrainConfig) chan drained {
	done := make(chan drained, 1)
	go func() {
		report, err := w.server.Drain(ctx, cfg)
		done <- drained{report, err}
	}()
	return done
}

func TestDrain(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		idle, busy, half := w.connected(), w.connected(), w.dial()
		idle.joined(w, lobby, 10)
		idle.quiet() // all before is finished, and does not count
		busy.quiet()
		busy.send(2, "a", 2)
		send := w.worker.next(t, contracts.OpSend)
		half.write([]byte(upgradeHead[:20]))
		until(t, "half a head is read", func() bool { return w.metric("accepted_total") == 3 })
		done := w.drain(context.Background(), edge.DrainConfig{})
		idle.told()
		busy.told()
		if err := w.server.Ready(); err == nil || !strings.Contains(err.Error(), "drain") {
			t.Errorf("ready while draining: %v", err)
		}
		if _, err := half.r.ReadByte(); err == nil {
			t.Error("half a head was answered")
		}
		if nc, err := net.Dial("tcp", w.server.Addr()); err == nil {
			_ = nc.SetReadDeadline(time.Now().Add(patience))
			if _, err := nc.Read(make([]byte, 1)); err == nil {
				t.Error("a new connection is served")
			}
			_ = nc.Close()
		}
		w.say(lobby, 11) // live goes on until they leave
		idle.entry(11)
		idle.leaves()
		send.ok(`{"key":"k"}`)
		busy.reply(2)
		busy.leaves()
		d := <-done
		if r := d.report; d.err != nil || r.Held != 2 || r.Told != 2 || r.Left != 2 || r.Closed != 0 || r.Answered != 1 {
			t.Errorf("drained: %+v", d)
		}
		if _, err := w.server.Drain(context.Background(), edge.DrainConfig{}); err == nil {
			t.Error("drained twice")
		}
	})
}

// TestDrainBeforeConnect has clients whose connect has not come, or cannot be answered.
func TestDrainBeforeConnect(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		w.worker.script(contracts.OpConnect, nil)
		silent, refused := w.open(), w.open()
		refused.say(`{"id":1,"op":"connect","guest":"Ada"}`)
		connect := w.worker.next(t, contracts.OpConnect)
		done := w.drain(context.Background(), edge.DrainConfig{})
		silent.closes(contracts.CloseDraining)
		connect.err(contracts.CodeUnavailable)
		refused.fails(1, contracts.CodeUnavailable)
		refused.closes(contracts.CloseDraining)
		if r := (<-done).report; r.Held != 2 || r.Told != 0 || r.Closed != 2 {
			t.Errorf("drained: %+v", r)
		}
	})
}

// TestDrainStubborn has clients that do not leave: at the limit those without requests are closed, the others when answered.
func TestDrainStubborn(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		idle, busy := w.connected(), w.connected()
		idle.quiet() // all before is finished, and does not count
		busy.quiet()
		busy.send(2, "a", 2)
		send := w.worker.next(t, contracts.OpSend)
		done := w.drain(context.Background(), edge.DrainConfig{Limit: 300 * time.Millisecond})
		idle.told()
		busy.told()
		idle.closes(contracts.CloseDraining)
		send.ok(`{"key":"k"}`)
		busy.reply(2)
		busy.closes(contracts.CloseDraining)
		if d := <-done; d.err != nil || d.report.Left != 0 || d.report.Closed != 2 || d.report.Answered != 1 {
			t.Errorf("drained: %+v", d)
		}
	})
}

func TestDrainHurried(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		ctx, hurry := context.WithCancel(context.Background())
		began := time.Now()
		done := w.drain(ctx, edge.DrainConfig{Notice: time.Hour, Limit: 2 * time.Hour})
		until(t, "it is not ready", func() bool { return w.server.Ready() != nil })
		c.quiet()
		late := w.connected() // during the notice clients are still taken
		late.quiet()
		hurry()
		for _, c := range []*client{c, late} {
			c.told() // the first batch is told in any case
			c.closes(contracts.CloseDraining)
		}
		if d := <-done; d.err != nil || d.report.Held != 2 || d.report.Closed != 2 || time.Since(began) > patience {
			t.Errorf("drained: %+v", d)
		}
	})
}

// TestDrainPaced sees that clients are not all told at once.
func TestDrainPaced(t *testing.T) {
	w := newWorld(t, false)
	clients := make([]*client, 60)
	for i := range clients {
		clients[i] = w.connected()
	}
	began := time.Now()
	done := w.drain(context.Background(), edge.DrainConfig{Rate: 40, Window: time.Millisecond})
	at := make(chan time.Duration, len(clients))
	for _, c := range clients {
		go func() {
			if m, err := c.next(); err != nil || m.Event != "reconnect" {
				t.Errorf("got %s, %v instead of reconnect", m.raw, err)
			}
			at <- time.Since(began)
			_ = c.nc.Close()
		}()
	}
	early := 0
	var last time.Duration
	for range clients {
		last = max(last, <-at)
		if last < 500*time.Millisecond {
			early++
		}
	}
	if early > 40 || last < time.Second {
		t.Errorf("%d of %d were told within half a second, the last after %s", early, len(clients), last)
	}
	if d := <-done; d.err != nil || d.report.Told != len(clients) || d.report.Left != len(clients) {
		t.Errorf("drained: %+v", d)
	}
}
