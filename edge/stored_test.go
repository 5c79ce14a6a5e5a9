package edge_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// storedReply is what the reply to a send with "ack":"stored" says.
type storedReply struct {
	Key   string
	State string
	Seq   contracts.Seq
}

func (c *client) sendStored(id int, room string, keyed int) {
	c.t.Helper()
	c.say(`{"id":%d,"op":"send","room":"%s","text":"t","ack":"stored","key":"%s"}`, id, room, key(keyed))
}

func (c *client) stored(id uint64) (r storedReply) {
	c.t.Helper()
	m := c.reply(id)
	if err := json.Unmarshal(m.OK, &r); err != nil {
		c.t.Fatalf("reply %s: %v", m.raw, err)
	}
	return r
}

func storedOf(t *testing.T, q *asked, room contracts.RoomID, keyed int, seq contracts.Seq) contracts.Envelope {
	t.Helper()
	k, err := contracts.ParseKey(key(keyed))
	if err != nil {
		t.Fatal(err)
	}
	return contracts.Envelope{
		Kind: contracts.EnvelopeStored, Room: room, Epoch: 1, Seq: seq, Key: k, Except: contracts.Conn{Node: q.Node, ID: q.Conn},
	}
}

func okOf(keyed int) string { return fmt.Sprintf(`{"key":"%s","time":1}`, key(keyed)) }

func TestStoredIsTheReply(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.StoredTime = time.Hour })
		c, other := w.connected(), w.connected()

		c.sendStored(10, "a", 1)
		q := w.worker.next(t, contracts.OpSend)
		until(t, "the lane is heard", func() bool { return w.ear.hears("a") })
		q.ok(okOf(1))
		c.quiet() // logged, but no reply yet
		w.ear.publish(storedOf(t, q, "b", 1, 5), storedOf(t, q, "a", 2, 5))
		c.quiet() // another room's, another key's
		told := storedOf(t, q, "a", 1, 7)
		stranger := told
		stranger.Except.Node = "n2"
		w.ear.publish(stranger)
		c.quiet()
		w.ear.publish(told, told)
		if got, want := c.stored(10), (storedReply{key(1), "stored", 7}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		c.quiet() // once
		other.quiet()

		// Told before the answer, and a retry that waits beside it.
		c.sendStored(11, "a", 3)
		q = w.worker.next(t, contracts.OpSend)
		c.sendStored(12, "a", 3)
		c.quiet()
		w.ear.publish(storedOf(t, q, "a", 3, 8))
		c.quiet()
		q.ok(okOf(3))
		if got, want := c.stored(11), (storedReply{key(3), "stored", 8}); got != want {
			t.Errorf("told early: got %+v, want %+v", got, want)
		}
		w.worker.next(t, contracts.OpSend).ok(okOf(3))
		if got, want := c.stored(12), (storedReply{key(3), "stored", 8}); got != want {
			t.Errorf("the retry: got %+v, want %+v", got, want)
		}
	})
}

func TestStoredFollowsAsEvent(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.StoredTime = 500 * time.Millisecond })
		c := w.connected()
		c.sendStored(10, "a", 1)
		q := w.worker.next(t, contracts.OpSend)
		q.ok(okOf(1))
		if got, want := c.stored(10), (storedReply{key(1), "logged", 0}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		ask := w.worker.next(t, contracts.OpStatus) // nothing was heard, so it is asked for
		if ask.Room != "a" || !contains(string(ask.Body), key(1)) || ask.User == nil || ask.User.ID != "u1" {
			t.Errorf("asked for %+v", ask.Command)
		}
		ask.ok(`{"state":"logged","seq":7}`)
		w.worker.next(t, contracts.OpStatus).err(contracts.CodeUnavailable)
		w.worker.next(t, contracts.OpStatus).ok(`{"state":"stored","seq":7}`)
		m := c.get()
		if m.Event != "stored" || m.Room != "a" || m.Seq != 7 || !contains(m.raw, key(1)) {
			t.Errorf("got %s", m.raw)
		}
		w.ear.publish(storedOf(t, q, "a", 1, 7))
		c.quiet() // once
	})
}

func TestStoredOfAKeyMadeByTheWorker(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.StoredTime = time.Hour })
		c := w.connected()
		c.say(`{"id":10,"op":"send","room":"a","text":"t","ack":"stored"}`)
		q := w.worker.next(t, contracts.OpSend)
		until(t, "the lane is heard", func() bool { return w.ear.hears("a") })
		q.ok(okOf(9))
		c.quiet()
		w.ear.publish(storedOf(t, q, "a", 9, 3))
		if got, want := c.stored(10), (storedReply{key(9), "stored", 3}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestStoredRefused(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.StoredTime = time.Hour })
		c := w.connected()
		const most = 256
		for i := range most {
			c.sendStored(10+i, "a", 10+i)
			w.worker.next(t, contracts.OpSend).answered(t)
		}
		c.quiet()
		c.sendStored(1000, "b", 1000)
		c.fails(1000, contracts.CodeOverloaded)
		c.send(1001, "b", 1001) // nothing may overtake it
		c.fails(1001, contracts.CodeOverloaded)
		c.send(1002, "b", 1000)
		w.worker.next(t, contracts.OpSend).ok(okOf(1000))
		c.reply(1002)

		// A refused one waits for nothing.
		fresh := w.connected()
		for i := range 2 * most {
			fresh.sendStored(10+i, "c", 10+i)
			w.worker.next(t, contracts.OpSend).err(contracts.CodeTooLarge)
			fresh.fails(uint64(10+i), contracts.CodeTooLarge)
		}
	})
}

// answered answers a single send or a batch with the keys of its bodies.
func (q *asked) answered(t *testing.T) {
	t.Helper()
	bodies := q.Batch
	if bodies == nil {
		bodies = []json.RawMessage{q.Body}
	}
	var a contracts.Answer
	for _, body := range bodies {
		var m struct{ Key string }
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		a.Batch = append(a.Batch, contracts.Answer{OK: fmt.Appendf(nil, `{"key":"%s","time":1}`, m.Key)})
	}
	if q.Batch == nil {
		a = a.Batch[0]
	}
	q.answer(a)
}
