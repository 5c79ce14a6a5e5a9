package edge_test

import (
	"errors"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

const lobby contracts.RoomID = "lobby"

func (c *client) join(id int, room contracts.RoomID) {
	c.t.Helper()
	c.say(`{"id":%d,"op":"join","room":"%s"}`, id, room)
}

func TestJoinGoesLive(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		c.join(2, lobby)
		q := w.worker.next(t, contracts.OpJoin)
		if q.Passed != nil || q.Room != lobby || q.User == nil || q.User.ID != "u1" {
			t.Errorf("asked with %+v", q.Command)
		}
		w.say(lobby, 9) // old
		w.say(lobby, 11)
		w.say(lobby, 12)
		w.say(lobby, 11) // twice
		c.quiet()        // nothing before the reply
		q.joined(contracts.JoinComplete, 1, 10)
		c.reply(2)
		c.entry(11)
		c.entry(12)
		w.say(lobby, 10)
		w.say(lobby, 13)
		c.entry(13)
		if n := w.metric("entries_repeated_total"); n != 1 {
			t.Errorf("%v repeated entries counted", n)
		}
		// Somebody who comes now is told what was passed on.
		d := w.connected()
		d.join(2, lobby)
		q = w.worker.next(t, contracts.OpJoin)
		if q.Passed == nil || q.Passed.Epoch != 1 || q.Passed.Seq != 13 {
			t.Errorf("asked with %+v", q.Passed)
		}
		w.say(lobby, 14)
		q.joined(contracts.JoinComplete, 1, 13)
		d.reply(2)
		d.entry(14)
		c.entry(14)
		c.say(`{"id":3,"op":"leave","room":"lobby"}`)
		c.reply(3)
		w.say(lobby, 15)
		d.entry(15)
		c.quiet()
	})
}

func TestJoinHearsTheLaneFirst(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		gate, subscribing := make(chan error), make(chan struct{}, 9)
		w.ear.gate(func() error {
			subscribing <- struct{}{}
			return <-gate
		})
		c := w.connected()
		c.join(2, lobby)
		<-subscribing
		c.join(3, lobby)
		c.quiet()
		if n := len(w.worker.questions(contracts.OpJoin)); n != 0 {
			t.Fatalf("%d questions before the lane is heard", n)
		}
		w.ear.receiver.Receive(contracts.LaneOf(lobby), envelope(entryOf(lobby, 1, 11)))
		gate <- nil
		w.worker.next(t, contracts.OpJoin).joined(contracts.JoinComplete, 1, 10)
		c.reply(2)
		// The second join's question went out with what was passed on by then.
		q := w.worker.next(t, contracts.OpJoin)
		if q.Passed == nil || q.Passed.Seq != 11 {
			t.Errorf("asked with %+v", q.Passed)
		}
		q.joined(contracts.JoinComplete, 1, 11)
		m := c.get()
		if m.Seq == 11 { // live between the two joins, if it was in time
			m = c.get()
		}
		if m.ID != 3 {
			t.Fatalf("got %s instead of the reply", m.raw)
		}
		w.say(lobby, 12)
		c.entry(12)

		// A lane that cannot be heard fails the join and leaves nothing behind.
		c.join(4, "other")
		<-subscribing
		gate <- errors.New("away")
		c.fails(4, contracts.CodeUnavailable)
		until(t, "the room's end", func() bool { return w.metric("rooms") == 1 })
		c.join(5, "other")
		<-subscribing
		gate <- nil
		w.worker.next(t, contracts.OpJoin).joined(contracts.JoinComplete, 1, 0)
		c.reply(5)
	})
}

func envelope(e contracts.Envelope) []byte { return contracts.AppendEnvelope(nil, &e) }

func TestJoinAnswersThatDoNotFit(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		a, b := w.connected(), w.connected()
		// Both ask while the room is unknown. The first answer starts it; the other is older than what was passed on.
		a.join(2, lobby)
		qa := w.worker.next(t, contracts.OpJoin)
		b.join(2, lobby)
		qb := w.worker.next(t, contracts.OpJoin)
		if qa.Passed != nil || qb.Passed != nil {
			t.Fatal("the room is known")
		}
		w.say(lobby, 11)
		qa.joined(contracts.JoinComplete, 1, 10)
		a.reply(2)
		a.entry(11)
		qb.joined(contracts.JoinComplete, 1, 9)
		qb = w.worker.next(t, contracts.OpJoin)
		if qb.Passed == nil || qb.Passed.Seq != 11 {
			t.Fatalf("asked again with %+v", qb.Passed)
		}
		w.say(lobby, 12)
		qb.joined(contracts.JoinComplete, 1, 12)
		b.reply(2)
		a.entry(12)
		w.say(lobby, 13)
		a.entry(13)
		b.entry(13)

		// The answer is ahead of what was passed on: the entries in between are the others' alone.
		d := w.connected()
		d.join(2, lobby)
		w.worker.next(t, contracts.OpJoin).joined(contracts.JoinComplete, 1, 15)
		d.reply(2)
		for seq := contracts.Seq(14); seq <= 16; seq++ {
			w.say(lobby, seq)
			a.entry(seq)
		}
		d.entry(16)

		// Answers that never fit end in an error, and nobody listens.
		e := w.connected()
		e.join(2, lobby)
		for range 5 {
			w.worker.next(t, contracts.OpJoin).joined(contracts.JoinComplete, 1, 1)
		}
		e.fails(2, contracts.CodeUnavailable)
		w.say(lobby, 17)
		a.entry(17)
		e.quiet()
	})
}

func TestJoinAgain(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		c.joined(w, lobby, 10)
		w.say(lobby, 11)
		c.entry(11)

		// Live pauses until the reply.
		c.join(3, lobby)
		q := w.worker.next(t, contracts.OpJoin)
		w.say(lobby, 12)
		w.say(lobby, 13)
		c.quiet()
		q.joined(contracts.JoinComplete, 1, 12)
		c.reply(3)
		c.entry(13)

		// After an error who listened goes on, without a hole.
		c.join(4, lobby)
		q = w.worker.next(t, contracts.OpJoin)
		w.say(lobby, 14)
		w.say(lobby, 15)
		c.quiet()
		q.err(contracts.CodeUnavailable)
		c.fails(4, contracts.CodeUnavailable)
		c.entry(14)
		c.entry(15)

		// More: nothing live until complete.
		c.join(5, lobby)
		w.worker.next(t, contracts.OpJoin).joined(contracts.JoinMore, 1, 5)
		c.reply(5)
		w.say(lobby, 16)
		c.quiet()
		c.join(6, lobby)
		w.worker.next(t, contracts.OpJoin).joined(contracts.JoinReset, 1, 16)
		c.reply(6)
		w.say(lobby, 17)
		c.entry(17)

		// Joins in a row are answered in their order; each makes its own question.
		for id := 7; id < 10; id++ {
			c.join(id, lobby)
		}
		for id := 7; id < 10; id++ {
			w.worker.next(t, contracts.OpJoin).joined(contracts.JoinComplete, 1, 17)
			c.reply(uint64(id))
		}
		w.say(lobby, 18)
		c.entry(18)
	})
}

func TestJoinQueueAndRooms(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.MaxRooms = 2 })
		c := w.connected()
		for id := 1; id <= 17; id++ {
			c.join(id, "a")
		}
		q := w.worker.next(t, contracts.OpJoin)
		c.join(18, "a")
		c.fails(18, contracts.CodeOverloaded)
		c.join(19, "b")
		w.worker.next(t, contracts.OpJoin).joined(contracts.JoinComplete, 1, 0)
		c.reply(19)
		c.join(20, "c")
		c.fails(20, contracts.CodeTooManyRooms)
		for id := 1; id <= 17; id++ {
			q.err(contracts.CodeNotFound)
			c.fails(uint64(id), contracts.CodeNotFound)
			if id < 17 {
				q = w.worker.next(t, contracts.OpJoin)
			}
		}
		c.join(21, "c") // a's place is free: the joins failed
		w.worker.next(t, contracts.OpJoin).joined(contracts.JoinComplete, 1, 0)
		c.reply(21)
	})
}

func TestLeaveDuringJoin(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		left := make(chan *asked, 100)
		w.worker.script(contracts.OpGone, func(q *asked) {
			if len(q.Gone) > 0 {
				left <- q
			}
			q.ok(`{}`)
		})
		c := w.connected()
		c.join(2, lobby)
		q := w.worker.next(t, contracts.OpJoin)
		c.join(3, lobby)
		c.say(`{"id":4,"op":"leave","room":"lobby"}`)
		c.reply(4)
		// The worker hears of it; it may hear of the joining later, so it is told again.
		if g := (<-left).Gone; len(g) != 1 || g[0].Room != lobby || g[0].User.ID != "u1" {
			t.Errorf("told %+v", g)
		}
		q.joined(contracts.JoinComplete, 1, 10)
		c.reply(2)
		c.fails(3, contracts.CodeUnavailable)
		<-left
		w.say(lobby, 11)
		c.quiet()
		if n := w.metric("rooms"); n != 0 {
			t.Errorf("%v rooms", n)
		}

		// Left and joined anew while the first join is under way.
		c.join(5, lobby)
		q = w.worker.next(t, contracts.OpJoin)
		c.say(`{"id":6,"op":"leave","room":"lobby"}`)
		c.reply(6)
		c.join(7, lobby)
		again := w.worker.next(t, contracts.OpJoin)
		q.joined(contracts.JoinComplete, 1, 11)
		c.reply(5)
		w.say(lobby, 12)
		c.quiet()
		again.joined(contracts.JoinComplete, 1, 11)
		c.reply(7)
		c.entry(12)

		// The connection ends while a join is under way.
		c.join(8, "other")
		q = w.worker.next(t, contracts.OpJoin)
		_ = c.nc.Close()
		until(t, "the end", func() bool { return w.server.Connections() == 0 })
		q.joined(contracts.JoinComplete, 1, 11)
		until(t, "the rooms' end", func() bool { return w.metric("rooms") == 0 })
	})
}

// TestKeptOverflow joins while more comes than a loop keeps: the join fails to fit, and who listened is told of a gap.
func TestKeptOverflow(t *testing.T) {
	const many = 5000
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c, d := w.connected(), w.connected()
		c.joined(w, lobby, 0)
		d.joined(w, lobby, 0)
		c.join(3, lobby)
		q := w.worker.next(t, contracts.OpJoin)
		for seq := contracts.Seq(1); seq <= many; seq++ {
			w.say(lobby, seq)
			if seq%100 == 0 {
				for s := seq - 99; s <= seq; s++ {
					d.entry(s)
				}
			}
		}
		c.quiet()
		q.joined(contracts.JoinComplete, 1, 0)
		q = w.worker.next(t, contracts.OpJoin)
		if q.Passed == nil || q.Passed.Seq != many {
			t.Fatalf("asked again with %+v", q.Passed)
		}
		q.err(contracts.CodeUnavailable)
		c.fails(3, contracts.CodeUnavailable)
		m := c.get()
		if m.Event != "gap" || m.from() != 1 || m.To != many-4096 {
			t.Fatalf("got %s instead of a gap", m.raw)
		}
		for seq := m.To + 1; seq <= many; seq++ {
			c.entry(seq)
		}
	})
}

func TestEpoch(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		for name, news := range map[string]contracts.Envelope{"entry": entryOf("entry", 2, 6), "head": headOf("head", 2, 5)} {
			room := contracts.RoomID(name)
			a, b := w.connected(), w.connected()
			a.joined(w, room, 10)
			b.joined(w, room, 10)
			w.ear.publish(entryOf(room, 1, 11), news)
			for _, c := range []*client{a, b} {
				c.entry(11)
				if m := c.get(); m.Event != "reset" || m.Room != room || m.Epoch != 2 || m.Head != news.Seq {
					t.Fatalf("got %s instead of a reset", m.raw)
				}
			}
			w.ear.publish(entryOf(room, 2, 7), entryOf(room, 1, 12))
			a.quiet()
			a.join(6, room)
			q := w.worker.next(t, contracts.OpJoin)
			w.ear.publish(entryOf(room, 2, 6), entryOf(room, 2, 7), entryOf(room, 1, 13))
			q.joined(contracts.JoinComplete, 1, 12) // an answer of before
			q = w.worker.next(t, contracts.OpJoin)
			q.joined(contracts.JoinComplete, 2, 5)
			a.reply(6)
			a.entry(6)
			a.entry(7)
			b.quiet()
		}
	})
}

// TestEpochDuringJoins has two joiners while the epoch changes: the answer of the slower one must reach to where the
// room began anew.
func TestEpochDuringJoins(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		a, b := w.connected(), w.connected()
		a.joined(w, lobby, 3)
		b.join(2, lobby)
		qb := w.worker.next(t, contracts.OpJoin) // with the old epoch's position
		a.join(3, lobby)
		qa := w.worker.next(t, contracts.OpJoin)
		qa.joined(contracts.JoinReset, 2, 10) // the first to tell of the new epoch
		a.reply(3)
		w.ear.publish(entryOf(lobby, 2, 11))
		a.entry(11)
		qb.joined(contracts.JoinComplete, 2, 8) // 9 and 10 were never passed on here
		qb = w.worker.next(t, contracts.OpJoin)
		if qb.Passed == nil || qb.Passed.Epoch != 2 || qb.Passed.Seq != 11 {
			t.Fatalf("asked again with %+v", qb.Passed)
		}
		qb.joined(contracts.JoinComplete, 2, 11)
		b.reply(2)
		w.ear.publish(entryOf(lobby, 2, 12))
		a.entry(12)
		b.entry(12)
	})
}

func TestEvents(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		a, b := w.connected(), w.connected()
		a.joined(w, lobby, 10)
		b.joined(w, lobby, 10)
		a.say(`{"id":6,"op":"typing","room":"lobby","on":true}`)
		q := w.worker.next(t, contracts.OpTyping)
		q.ok(`{}`)
		a.reply(6)
		typing := contracts.Envelope{Kind: contracts.EnvelopeEvent, Room: lobby, Body: []byte(`{"event":"typing"}`)}
		typing.Except = contracts.Conn{Node: "n1", ID: q.Conn}
		w.ear.publish(typing, entryOf(lobby, 1, 11))
		if m := b.get(); m.Event != "typing" {
			t.Fatalf("got %s", m.raw)
		}
		b.entry(11)
		a.entry(11)
		typing.Except.Node = "n2" // another node's connection of that number
		w.ear.publish(typing)
		for _, c := range []*client{a, b} {
			if m := c.get(); m.Event != "typing" {
				t.Fatalf("got %s", m.raw)
			}
		}
	})
}

func TestMalformedLaneMessages(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		c.joined(w, lobby, 10)
		lane := contracts.LaneOf(lobby)
		bad := [][]byte{{1}, {1, 200}, []byte("garbage on the lane"), envelope(entryOf("elsewhere", 1, 1))}
		for _, b := range bad {
			w.ear.receiver.Receive(lane, b)
		}
		unknown := headOf(lobby, 1, 99)
		unknown.Kind = 77
		w.ear.publish(unknown)
		w.ear.receiver.Receive(lane, append(envelope(entryOf(lobby, 1, 11)), 1))
		c.entry(11)
		if n := w.metric("lane_malformed_total"); n != float64(len(bad)+1) {
			t.Errorf("%v counted", n)
		}
		c.quiet()
	})
}

// TestLeft: who gives up the membership stops listening on all other connections too, and others do not.
func TestLeft(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		here, there := w.connected(), w.connected()
		w.worker.script(contracts.OpConnect, func(q *asked) { q.answer(connectAnswer("u2", time.Hour)) })
		other := w.connected()
		for _, c := range []*client{here, there, other} {
			c.joined(w, lobby, 10)
		}
		here.say(`{"id":6,"op":"leave","room":"lobby","quit":true}`)
		q := w.worker.next(t, contracts.OpLeave)
		w.ear.publish(entryOf(lobby, 1, 11), contracts.Envelope{
			Kind: contracts.EnvelopeLeft, Room: lobby, User: "u1", Except: contracts.Conn{Node: "n1", ID: q.Conn}, Body: []byte(`{"event":"left","room":"lobby"}`),
		}, entryOf(lobby, 1, 12))
		q.ok(`{}`)
		here.reply(6)
		there.entry(11)
		if m := there.get(); m.Event != "left" {
			t.Fatalf("got %s", m.raw)
		}
		other.entry(11)
		other.entry(12)
		here.quiet()
		there.quiet()
	})
}

// TestLanesWithoutRooms are dropped after a while, and heard anew for who comes then.
func TestLanesWithoutRooms(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		c.joined(w, lobby, 10)
		c.joined(w, "other", 10)
		c.say(`{"id":6,"op":"leave","room":"lobby"}`)
		c.reply(6)
		w.server.DropLanes()
		if !w.ear.hears("other") || w.ear.hears(lobby) {
			t.Errorf("hears other: %v, lobby: %v", w.ear.hears("other"), w.ear.hears(lobby))
		}
		c.joined(w, lobby, 10)
		w.say(lobby, 11)
		c.entry(11)
		w.server.DropLanes()
		if !w.ear.hears(lobby) {
			t.Error("a lane with a room was dropped")
		}
	})
}
