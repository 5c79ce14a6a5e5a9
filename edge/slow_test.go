package edge_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// narrow makes sockets and budgets small, so that a client that does not read is noticed soon.
func narrow(c *edge.Config, _ *edge.Deps) { c.OutboundBytes, c.SendBuffer = 64<<10, 8<<10 }

// shout publishes an entry of 30 KiB.
func (w *world) shout(room contracts.RoomID, seq contracts.Seq) {
	e := entryOf(room, 1, seq)
	e.Body = fmt.Appendf(nil, `{"event":"message","room":"%s","seq":%d,"epoch":1,"text":"%s"}`, room, seq, strings.Repeat("x", 30<<10))
	w.ear.publish(e)
}

// TestSlowReader does not read for a while: it alone is told of a gap, in each of its rooms, and live goes on behind it.
func TestSlowReader(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, narrow)
		slow, quick := w.connected(), w.connected()
		slow.joined(w, lobby, 0)
		slow.joined(w, "alone", 0)
		quick.joined(w, lobby, 0)
		heads := make(map[contracts.RoomID]contracts.Seq)
		say := func() {
			heads[lobby]++
			w.shout(lobby, heads[lobby])
			quick.entry(heads[lobby])
		}
		for w.metric("behind_connections") == 0 {
			heads["alone"]++
			w.say("alone", heads["alone"])
			say()
		}
		for range 50 {
			say()
			// What the quick one has read may not be taken off yet.
			until(t, "no more waits than may", func() bool { return w.metric("outbound_bytes") <= 64<<10+onePiece })
		}
		at, told := make(map[contracts.RoomID]contracts.Seq), contracts.Seq(0)
		for at[lobby] != heads[lobby] || at["alone"] != heads["alone"] {
			switch m := slow.get(); {
			case m.Event == "message" && m.Seq == at[m.Room]+1:
				at[m.Room]++
			case m.Event == "gap" && m.from() == at[m.Room]+1 && m.To >= m.from() && m.To <= heads[m.Room]:
				at[m.Room] = m.To
				told += m.To - m.from() + 1
			default:
				t.Fatalf("behind %v: %.100s", at, m.raw)
			}
		}
		if told < 10 || w.metric("slow_gaps_total") == 0 || w.metric("dropped_total") != float64(told) {
			t.Errorf("%d entries were told as gaps; %v gaps and %v entries counted", told, w.metric("slow_gaps_total"), w.metric("dropped_total"))
		}
		say()
		slow.entry(heads[lobby])
		if n := w.metric("stuck_connections") + w.metric("behind_connections") + w.metric("outbound_bytes"); n != 0 {
			t.Errorf("something is left: %v", n)
		}
	})
}

// onePiece is how much may wait above the budget.
const onePiece = 32 << 10

// TestStalledReader takes nothing for a while: it is closed, and the close frame follows a whole frame.
func TestStalledReader(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, narrow, func(c *edge.Config, _ *edge.Deps) { c.Stall = time.Second })
		slow, quick := w.connected(), w.connected()
		slow.joined(w, lobby, 0)
		quick.joined(w, lobby, 0)
		seq := contracts.Seq(0)
		until(t, "the close", func() bool {
			seq++
			w.shout(lobby, seq)
			quick.entry(seq)
			return w.metric("closed_total") == 1
		})
		w.say(lobby, seq+1)
		quick.entry(seq + 1)
		var last contracts.Seq
		for {
			m := slow.get()
			if m.op == 8 {
				if m.closing != contracts.CloseTooSlow {
					t.Errorf("close code %d", m.closing)
				}
				break
			}
			switch {
			case m.Event == "message" && m.Seq == last+1:
				last = m.Seq
			case m.Event == "gap" && m.from() == last+1:
				last = m.To
			default:
				t.Fatalf("behind entry %d: %.100s", last, m.raw)
			}
		}
		if last == 0 {
			t.Error("no entry came")
		}
		if _, err := slow.next(); err != io.EOF {
			t.Errorf("behind the close frame: %v", err)
		}
		_ = slow.nc.Close()
		until(t, "the end", func() bool { return w.server.Connections() == 1 })
		if n := w.metric("stuck_connections") + w.metric("outbound_bytes"); n != 0 {
			t.Errorf("something is left: %v", n)
		}
	})
}

// TestSlowReaderIsNotRead asks without taking the answers: what it asks waits in its socket, and all is answered in the
// end.
func TestSlowReaderIsNotRead(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.SendBuffer = 8 << 10 })
		page := `"` + strings.Repeat("x", 20<<10) + `"`
		w.worker.script(contracts.OpHistory, func(q *asked) { q.ok(page) })
		c, other := w.connected(), w.connected()
		id := uint64(2)
		for ; w.metric("stuck_connections") == 0; id++ {
			before := w.metric("requests_total")
			c.say(`{"id":%d,"op":"history","room":"lobby"}`, id)
			until(t, "the question", func() bool { return w.metric("requests_total") > before })
			other.quiet()
		}
		until(t, "the answers", func() bool { return w.metric("requests_in_flight") == 0 })
		for range 200 {
			c.say(`{"id":%d,"op":"history","room":"lobby"}`, id)
			id++
		}
		other.quiet()
		for want := uint64(2); want < id; want++ {
			c.reply(want)
		}
		if n := w.metric("closed_total"); n != 0 {
			t.Errorf("%v closed", n)
		}
	})
}
