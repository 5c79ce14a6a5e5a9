package check_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/check"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// mutation breaks a good history in one way. spoil returns nil where the history has nothing to break so.
type mutation struct {
	name  string
	want  []check.Kind // one of them must be found
	spoil func(m *mutant) []history.Event
}

func is(kinds ...check.Kind) []check.Kind { return kinds }

var mutations = []mutation{
	{"a stored row dropped", is(check.Hole, check.Tail, check.Lost), func(m *mutant) []history.Event { return m.drop(m.kind(history.Row)) }},
	{"an acked message dropped from the store", is(check.Lost), func(m *mutant) []history.Event {
		i := m.acked()
		if i < 0 {
			return nil
		}
		e := m.events[i]
		return m.drop(m.row(e.Room, e.User, e.Key))
	}},
	{"an acked message lost without a trace", is(check.Lost, check.Unlogged), func(m *mutant) []history.Event {
		i := m.acked()
		if i < 0 {
			return nil
		}
		e := m.events[i]
		return m.removeMessage(e.Room, m.events[m.row(e.Room, e.User, e.Key)].Seq, true)
	}},
	{"a record that was not numbered", is(check.Numbering), func(m *mutant) []history.Event {
		i := m.kind(history.Record)
		if i < 0 {
			return nil
		}
		e := m.events[i]
		j := m.row(e.Room, e.Sender, e.Key)
		if j < 0 || m.events[j].Epoch != m.epoch(e.Partition) {
			return nil
		}
		return m.removeMessage(e.Room, m.events[j].Seq, false)
	}},
	{"the newest row doubled under the next seq", is(check.Doubled), func(m *mutant) []history.Event {
		i := m.kind(history.Row)
		if i < 0 {
			return nil
		}
		e := m.events[i]
		for _, o := range m.events {
			if o.Kind == history.Row && o.Room == e.Room {
				e.Seq = max(e.Seq, o.Seq+1)
			}
		}
		e.Offset += 1 << 40
		return m.insert(len(m.events), e)
	}},
	{"a row twice", is(check.Doubled), func(m *mutant) []history.Event {
		i := m.kind(history.Row)
		if i < 0 {
			return nil
		}
		return m.insert(len(m.events), m.events[i])
	}},
	{"two rows' seqs swapped", is(check.Numbering, check.Order), func(m *mutant) []history.Event {
		i := m.kind(history.Row)
		if i < 0 {
			return nil
		}
		j := m.next(i, func(e *history.Event) bool {
			return e.Kind == history.Row && e.Room == m.events[i].Room && e.Seq == m.events[i].Seq+1 && e.Change == ""
		})
		if j < 0 {
			return nil
		}
		m.events[i].Seq, m.events[j].Seq = m.events[j].Seq, m.events[i].Seq
		return m.events
	}},
	{"a room numbered from 2", is(check.Hole), func(m *mutant) []history.Event {
		for i := range m.events {
			if e := &m.events[i]; e.Room == "room-0" && e.Kind == history.Row {
				e.Seq++
			}
		}
		return m.events
	}},
	{"a row that no record made", is(check.Ghost), func(m *mutant) []history.Event {
		i := m.kind(history.Row)
		if i < 0 {
			return nil
		}
		e := m.events[i]
		e.Key[15] ^= 0xff
		e.Key[14] ^= 0xff
		e.Seq += 1 << 20
		return m.insert(len(m.events), e)
	}},
	{"a row with another body", is(check.Body), func(m *mutant) []history.Event {
		return m.change(m.kind(history.Row), func(e *history.Event) { e.Hash = "changed" })
	}},
	{"a row of another record", is(check.Body), func(m *mutant) []history.Event {
		return m.change(m.any(func(_ int, e *history.Event) bool {
			return e.Kind == history.Row && e.Epoch == m.epoch(e.Partition)
		}), func(e *history.Event) { e.Record = "changed" })
	}},
	{"a row in another epoch", is(check.Epoch, check.Numbering), func(m *mutant) []history.Event {
		return m.change(m.kind(history.Row), func(e *history.Event) { e.Epoch += 7 })
	}},
	{"an ack without a record", is(check.Lost), func(m *mutant) []history.Event {
		i := m.kind(history.Sent)
		if i < 0 {
			return nil
		}
		e := m.events[i]
		e.Key[15] ^= 0xff
		e.Key[14] ^= 0xff
		e.Conn = 99
		m.events = m.insert(i, e)
		e.Kind, e.Outcome = history.Answered, history.OK
		return m.insert(i+1, e)
	}},
	{"a rejected message appears", is(check.Appeared), func(m *mutant) []history.Event {
		return m.change(m.acked(), func(e *history.Event) { e.Outcome, e.Code = history.Rejected, "forbidden" })
	}},
	{"acked before the other was sent, numbered behind it", is(check.Order), func(m *mutant) []history.Event {
		i := m.acked()
		if i < 0 {
			return nil
		}
		e := &m.events[i]
		seq := m.events[m.row(e.Room, e.User, e.Key)].Seq
		// The sender of the message before it had not sent it when this one was acked.
		k := slices.IndexFunc(m.events, func(o history.Event) bool {
			return o.Kind == history.Row && o.Room == e.Room && o.Seq+1 == seq && o.Change == ""
		})
		if k < 0 {
			return nil
		}
		before := m.events[k]
		found := false
		for j := range m.events {
			if o := &m.events[j]; o.Kind == history.Sent && o.Room == before.Room && o.User == before.Sender && o.Key == before.Key {
				o.At, found = max(o.At, e.At+1), true
			}
		}
		if !found {
			return nil
		}
		return m.events
	}},
	{"seen before the other was sent, numbered behind it", is(check.Order), func(m *mutant) []history.Event {
		i := m.live(history.Received)
		if i < 0 {
			return nil
		}
		e := m.events[i]
		j := m.next(i, m.same(&e))
		after := m.events[j]
		if k := m.row(after.Room, after.Sender, after.Key); k < 0 || m.events[k].Change != "" {
			return nil
		}
		at := int64(-1)
		for k := range m.events {
			if o := &m.events[k]; o.Kind == history.Sent && o.Room == e.Room && o.User == e.Sender && o.Key == e.Key {
				if at < 0 {
					at = after.At + int64(time.Hour)
				}
				o.At = at
			}
		}
		if at < 0 {
			return nil
		}
		return m.events
	}},
	{"pipelined sends change places", is(check.Pipeline), func(m *mutant) []history.Event {
		i := m.acked()
		if i < 0 {
			return nil
		}
		e := m.events[i]
		same := func(o *history.Event, k history.Kind) bool {
			return o.Kind == k && o.Client == e.Client && o.Conn == e.Conn && o.Room == e.Room
		}
		// The next message of this connection and room that was acked at its first attempt.
		j := m.next(i, func(o *history.Event) bool {
			return same(o, history.Answered) && o.Outcome == history.OK && m.attempts(o.Key) == 1
		})
		if j < 0 {
			return nil
		}
		// Their sends change places in the file; the times stay, so that only the order on the connection is wrong.
		a := slices.IndexFunc(m.events, func(o history.Event) bool { return same(&o, history.Sent) && o.Key == e.Key })
		b := slices.IndexFunc(m.events, func(o history.Event) bool { return same(&o, history.Sent) && o.Key == m.events[j].Key })
		if b > i {
			return nil // sent after the ack: that is the real-time order
		}
		m.events[a].Key, m.events[b].Key = m.events[b].Key, m.events[a].Key
		m.events[a].Hash, m.events[b].Hash = m.events[b].Hash, m.events[a].Hash
		return m.events
	}},
	{"a receiver got another key", is(check.Disagreement), func(m *mutant) []history.Event {
		i, j := m.live(history.Received), -1
		if i >= 0 {
			j = m.any(func(_ int, e *history.Event) bool {
				return e.Kind == history.Received && e.Room == m.events[i].Room && e.Key != m.events[i].Key
			})
		}
		if j < 0 {
			return nil
		}
		return m.change(i, func(e *history.Event) {
			e.Key, e.Sender, e.Hash = m.events[j].Key, m.events[j].Sender, m.events[j].Hash
		})
	}},
	{"a receiver got another body", is(check.Body), func(m *mutant) []history.Event {
		return m.change(m.any(func(_ int, e *history.Event) bool { return e.Kind == history.Received && e.Hash != "" }), func(e *history.Event) { e.Hash = "changed" })
	}},
	{"a receiver got what nobody sent", is(check.Ghost), func(m *mutant) []history.Event {
		return m.change(m.any(func(_ int, e *history.Event) bool { return e.Kind == history.Received && e.Room != "room-3" }), func(e *history.Event) { e.Key[15] ^= 0xff; e.Key[14] ^= 0xff })
	}},
	{"a live entry of another epoch", is(check.Epoch), func(m *mutant) []history.Event {
		return m.change(m.live(history.Received), func(e *history.Event) { e.Epoch += 3 })
	}},
	{"a live entry left out", is(check.Missing), func(m *mutant) []history.Event {
		// The second of two: before the first one nothing may be owed.
		return m.drop(m.any(func(i int, e *history.Event) bool {
			if e.Kind != history.Received || !e.Live || e.Room == "room-3" {
				return false
			}
			j := m.next(i, m.same(e))
			return j >= 0 && m.events[j].Kind == history.Received && m.events[j].Live && m.before(i)
		}))
	}},
	{"an entry of a reply left out", is(check.Missing), func(m *mutant) []history.Event {
		return m.change(m.any(func(_ int, e *history.Event) bool {
			return e.Kind == history.Joined && e.Room != "room-3" && len(e.Entries) > 2
		}), func(e *history.Event) { e.Entries = slices.Delete(slices.Clone(e.Entries), 1, 2) })
	}},
	{"an entry of a page left out", is(check.Missing), func(m *mutant) []history.Event {
		return m.change(m.page(), func(e *history.Event) { e.Entries = slices.Delete(slices.Clone(e.Entries), 1, 2) })
	}},
	{"a page that ends too soon", is(check.Missing), func(m *mutant) []history.Event {
		return m.change(m.page(), func(e *history.Event) { e.Entries = e.Entries[:len(e.Entries)-1] })
	}},
	{"an empty page", is(check.Missing), func(m *mutant) []history.Event {
		return m.change(m.page(), func(e *history.Event) { e.Entries = nil })
	}},
	{"a page that goes on", is(check.Backwards), func(m *mutant) []history.Event {
		return m.change(m.any(func(_ int, e *history.Event) bool {
			return e.Kind == history.Page && len(e.Entries) > 2 && e.Before > 0
		}), func(e *history.Event) { e.Before-- })
	}},
	{"a page that conceals that there is more", is(check.Missing), func(m *mutant) []history.Event {
		return m.change(m.any(func(_ int, e *history.Event) bool { return e.Kind == history.Page && e.More }), func(e *history.Event) { e.More = false })
	}},
	{"a page in another order", is(check.Backwards), func(m *mutant) []history.Event {
		return m.change(m.page(), func(e *history.Event) {
			e.Entries = slices.Clone(e.Entries)
			slices.Reverse(e.Entries)
		})
	}},
	{"another body in a page", is(check.Body, check.Disagreement), func(m *mutant) []history.Event {
		return m.change(m.page(), func(e *history.Event) {
			e.Entries = slices.Clone(e.Entries)
			e.Entries[0].Hash = "changed"
		})
	}},
	{"another message in a page", is(check.Ghost), func(m *mutant) []history.Event {
		return m.change(m.page(), func(e *history.Event) {
			e.Entries = slices.Clone(e.Entries)
			e.Entries[0].Key[15] ^= 0xff
			e.Entries[0].Key[14] ^= 0xff
		})
	}},
	{"the last entry of a reply left out", is(check.Missing), func(m *mutant) []history.Event {
		return m.change(m.any(func(_ int, e *history.Event) bool {
			return e.Kind == history.Joined && e.State == contracts.JoinComplete && e.Room != "room-3" && len(e.Entries) > 2 && e.Entries[len(e.Entries)-1].Seq == e.Head
		}), func(e *history.Event) { e.Entries = e.Entries[:len(e.Entries)-1] })
	}},
	{"the newest entry missing at the end", is(check.Tail, check.Missing), func(m *mutant) []history.Event {
		return m.drop(m.live(history.Ended))
	}},
	{"the whole tail missing at the end", is(check.Tail), func(m *mutant) []history.Event {
		i := m.live(history.Ended)
		if i < 0 {
			return nil
		}
		e := m.events[i]
		n := 0
		for j := i; j >= 0 && n < 3; j-- {
			if o := m.events[j]; o.Client == e.Client && o.Room == e.Room && o.Kind == history.Received && o.Live {
				m.events = slices.Delete(m.events, j, j+1)
				n++
			}
		}
		return m.events
	}},
	{"an entry delivered twice", is(check.Repeated), func(m *mutant) []history.Event {
		i := m.live(history.Received)
		if i < 0 {
			return nil
		}
		return m.insert(i+1, m.events[i])
	}},
	{"two deliveries change places", is(check.Backwards, check.Missing), func(m *mutant) []history.Event {
		i := m.live(history.Received)
		if i < 0 {
			return nil
		}
		j := m.next(i, m.same(&m.events[i]))
		m.events[i], m.events[j] = m.events[j], m.events[i]
		return m.events
	}},
	{"an entry after leaving", is(check.Leak), func(m *mutant) []history.Event {
		i := m.live(history.Left)
		if i < 0 {
			return nil
		}
		e := m.events[i]
		return m.insert(m.next(i, m.same(&e))+1, e)
	}},
	{"an entry to somebody who never joined", is(check.Leak), func(m *mutant) []history.Event {
		i := m.kind(history.Received)
		if i < 0 {
			return nil
		}
		e := m.events[i]
		e.Client = "stranger"
		return m.insert(i, e)
	}},
	{"an entry on a connection that did not join", is(check.Leak), func(m *mutant) []history.Event {
		return m.change(m.kind(history.Received), func(e *history.Event) { e.Conn += 50 })
	}},
	{"a private entry to somebody who was no member then", is(check.Leak), func(m *mutant) []history.Event {
		first := m.rowAt("room-3", 1)
		m.insertAll(
			history.Event{Kind: history.Connected, Client: "client-9", Conn: 1, At: 1, User: "user-4"},
			history.Event{Kind: history.Joining, Client: "client-9", Conn: 1, Room: "room-3", At: 1},
			history.Event{Kind: history.Received, Client: "client-9", Conn: 1, Room: "room-3", At: 1, Seq: 1, Epoch: first.Epoch, Key: first.Key, Sender: first.Sender},
		)
		return m.events
	}},
	{"a gap that is not pulled", is(check.Unpulled), func(m *mutant) []history.Event {
		// In place of the last live entry a gap is told.
		i := m.live(history.Ended)
		if i < 0 {
			return nil
		}
		return m.change(i, func(e *history.Event) { e.Kind, e.From, e.To = history.Gap, e.Seq, e.Seq })
	}},
	{"a gap that is not told", is(check.Missing, check.Backwards, check.Repeated, check.Malformed), func(m *mutant) []history.Event {
		return m.drop(m.any(func(i int, e *history.Event) bool {
			j := m.next(i, m.same(e))
			return e.Kind == history.Gap && m.events[j].Kind == history.Received
		}))
	}},
	{"a reset that was not needed", is(check.BadReset), func(m *mutant) []history.Event {
		return m.change(m.any(func(_ int, e *history.Event) bool {
			return e.Kind == history.Joined && e.Since != nil && e.State == contracts.JoinComplete && e.Since.Seq+1 >= e.First
		}), func(e *history.Event) { e.State = contracts.JoinReset })
	}},
	{"a reset in the same epoch", is(check.BadReset), func(m *mutant) []history.Event {
		i := m.any(func(_ int, e *history.Event) bool {
			return e.Kind == history.Joined && e.State == contracts.JoinComplete
		})
		if i < 0 {
			return nil
		}
		e := m.events[i]
		return m.insert(i+1, history.Event{Kind: history.Reset, At: e.At, Client: e.Client, Conn: e.Conn, Room: e.Room, Epoch: e.Epoch, Head: e.Head})
	}},
	{"a reply complete below the position", is(check.Missing), func(m *mutant) []history.Event {
		return m.change(m.any(func(_ int, e *history.Event) bool {
			return e.Kind == history.Joined && e.Since != nil && e.State == contracts.JoinComplete && e.Since.Seq > 1
		}), func(e *history.Event) { e.Head = e.Since.Seq - 1 })
	}},
	{"stored was told with another seq", is(check.BadStored), func(m *mutant) []history.Event {
		i := m.acked()
		if i < 0 {
			return nil
		}
		e := m.events[i]
		seq := m.events[m.row(e.Room, e.User, e.Key)].Seq + 1
		e.Kind, e.Outcome, e.Seq = history.Stored, "", seq
		return m.insert(i, e)
	}},
	{"a checkpoint short of the end", is(check.Unsettled), func(m *mutant) []history.Event {
		return m.change(m.any(func(_ int, e *history.Event) bool { return e.Kind == history.Checkpoint && e.Offset > 0 }), func(e *history.Event) { e.Offset-- })
	}},
	{"a checkpoint of an old epoch", is(check.Unsettled), func(m *mutant) []history.Event {
		return m.change(m.kind(history.Checkpoint), func(e *history.Event) { e.Epoch += 2 })
	}},
	{"a dead letter that is not there", is(check.Unburied), func(m *mutant) []history.Event {
		return m.drop(m.kind(history.Letter))
	}},
	{"a dead letter of another record", is(check.Unburied), func(m *mutant) []history.Event {
		return m.change(m.kind(history.Letter), func(e *history.Event) { e.Record = "changed" })
	}},
	{"a dead letter twice", is(check.Unburied), func(m *mutant) []history.Event {
		i := m.kind(history.Letter)
		if i < 0 {
			return nil
		}
		return m.insert(i+1, m.events[i])
	}},
	{"a dead letter of a good record", is(check.Unburied), func(m *mutant) []history.Event {
		i := m.any(func(_ int, e *history.Event) bool { return e.Kind == history.Record && !e.Dead })
		if i < 0 {
			return nil
		}
		e := m.events[i]
		return m.insert(i+1, history.Event{Kind: history.Letter, Partition: e.Partition, Epoch: m.epoch(e.Partition), Offset: e.Offset, Record: e.Record})
	}},
	{"a dead letter of nothing", is(check.Unburied), func(m *mutant) []history.Event {
		return m.change(m.kind(history.Letter), func(e *history.Event) { e.Offset += 1_000_000 })
	}},
	{"goroutines leaked", is(check.Goroutines), func(m *mutant) []history.Event {
		return m.change(m.final(), func(e *history.Event) { e.Goroutines *= 3 })
	}},
	{"descriptors leaked", is(check.Descriptors), func(m *mutant) []history.Event {
		return m.change(m.final(), func(e *history.Event) { e.Descriptors += 40 })
	}},
	{"memory leaked", is(check.Memory), func(m *mutant) []history.Event {
		return m.change(m.final(), func(e *history.Event) { e.Memory *= 4 })
	}},
	{"a fault that nobody saw", is(check.Unseen), func(m *mutant) []history.Event {
		i := m.any(func(_ int, e *history.Event) bool { return e.Kind == history.Fault && !e.Silent })
		if i < 0 {
			return nil
		}
		for j := range m.events {
			if e := &m.events[j]; e.Kind == history.Probe {
				// What may change is not enough where a value is named.
				e.Up, e.Ready, e.Metrics = true, true, map[string]float64{"parley_persist_lag": 0, "parley_ping_seconds": 0.001 + 0.09*m.rnd.Float64()}
				if e.Process == "edge-1" {
					e.Metrics["parley_ping_seconds"] = 0.3
				}
			}
		}
		return m.events
	}},
	{"slow at rest", is(check.Slow), func(m *mutant) []history.Event {
		for i := range m.events {
			if e := &m.events[i]; e.Kind == history.Received && e.Live && e.Room == "room-0" {
				e.At += int64(300 * time.Millisecond)
			}
		}
		return m.events
	}},
	{"sends at rest fail", is(check.Unanswered), func(m *mutant) []history.Event {
		n := 0
		for i := len(m.events) - 1; i >= 0 && n < 10; i-- {
			if e := &m.events[i]; e.Kind == history.Answered && e.Outcome == history.OK {
				e.Outcome, e.Code = history.Unknown, "unavailable"
				n++
			}
		}
		return m.events
	}},
	{"an answer to nothing", is(check.Malformed), func(m *mutant) []history.Event {
		i := m.kind(history.Answered)
		if i < 0 {
			return nil
		}
		return m.insert(i+1, m.events[i])
	}},
	{"a kind that nobody knows", is(check.Malformed), func(m *mutant) []history.Event {
		return m.change(m.kind(history.Ended), func(e *history.Event) { e.Kind = "endde" })
	}},
}

// TestMutationsAreFlagged breaks good histories in each way, and each is found for what it is.
func TestMutationsAreFlagged(t *testing.T) {
	const seeds = 20
	good := make([][]history.Event, seeds)
	for seed := range good {
		good[seed] = generate(uint64(seed), 600)
	}
	for _, mu := range mutations {
		t.Run(mu.name, func(t *testing.T) {
			t.Parallel()
			applied := 0
			for seed := range uint64(seeds) {
				m := &mutant{rnd: rand.New(rand.NewPCG(seed, 5)), events: slices.Clone(good[seed])}
				broken := mu.spoil(m)
				if broken == nil {
					continue
				}
				applied++
				r := judge(broken)
				if !slices.ContainsFunc(mu.want, r.Has) {
					t.Fatalf("seed %d: want one of %v; the report says\n%s", seed, mu.want, text(t, r))
				}
			}
			if applied < seeds/5 {
				t.Errorf("only %d of %d histories could be broken so", applied, seeds)
			}
		})
	}
}
