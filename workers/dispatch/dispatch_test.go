package dispatch_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/workers/dispatch"
)

func TestEntriesInOrderOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		d, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		first := w.record("a", "one")
		w.append(first, w.record("b", "one"), first)
		w.set(func() { w.log(0).values = append(w.log(0).values, []byte("nobody can read this")) })
		w.append(w.record("a", "two"), first)
		w.send("b", texts(20)...)
		synctest.Wait()
		want := w.want(0, 0)
		if len(want) != 23 {
			t.Fatalf("%d entries in the reference", len(want))
		}
		if diff := cmp.Diff(want, w.entries()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		cached := make(map[contracts.RoomID][]string)
		w.look(func() {
			for _, e := range w.cached {
				cached[e.Room] = append(cached[e.Room], string(e.JSON))
			}
		})
		if diff := cmp.Diff(want, roomByRoom(cached)); diff != "" {
			t.Errorf("cached (-want +got):\n%s", diff)
		}
		expectHead(t, w.head("a"), 2, 1)
		expectHead(t, w.head("b"), 21, 1)
		expectHead(t, w.head("never"), 0, 1)
		if err := d.Ready(); err != nil {
			t.Errorf("Ready: %v", err)
		}
		if diff := cmp.Diff([]int32{0}, d.Owned()); diff != "" {
			t.Errorf("Owned: %s", diff)
		}
	})
}

// Each lane's message holds all of its entries; a lane of its own is another message.
func TestPartitionsAndLanes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.partitions = 4
		d, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		for i := range 40 {
			w.send(fmt.Sprintf("room-%d", i%10), fmt.Sprintf("text %d", i))
		}
		elapse(time.Second)
		total := 0
		for p := range int32(4) {
			total += len(w.want(p, 0))
		}
		if got := len(w.entries()); got != 40 || total != 40 {
			t.Errorf("told %d of %d entries, want 40", got, total)
		}
		for i := range 10 {
			expectHead(t, w.head(fmt.Sprintf("room-%d", i)), 4, 1)
		}
		if got := len(d.Owned()); got != 4 {
			t.Errorf("owns %d partitions, want 4", got)
		}
	})
}

// Wherever C and D are, the same bytes are told from D on, every room touched since min(C, D) is in the heads, and a
// late copy finds its first.
func TestTakeOverFromAnywhere(t *testing.T) {
	const n = 9
	fill := func(w *world) {
		var old contracts.Record
		for i := range n {
			r := w.record([]string{"a", "b"}[i%2], fmt.Sprint(i))
			switch i {
			case 0:
				old = r
			case 5, 8:
				r = old
			}
			w.append(r)
		}
	}
	for c := range int64(n + 1) {
		for dd := int64(-1); dd <= n; dd++ {
			t.Run(fmt.Sprintf("C=%d,D=%d", c, dd), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					fill(w)
					w.persist(0, c)
					from := int64(0)
					if dd >= 0 {
						w.set(func() { w.commits[0] = journal.Commit{Offset: dd, Epoch: 1} })
						from = dd
					}
					d, stop := w.run(dispatch.Config{})
					defer stop()
					elapse(2500 * time.Millisecond)
					if diff := cmp.Diff(w.want(0, from), w.entries()); diff != "" {
						t.Errorf("told (-want +got):\n%s", diff)
					}
					touched := map[contracts.RoomID]contracts.Seq{}
					w.look(func() {
						for _, e := range w.numbered(0) {
							if e.Offset >= min(c, from) {
								touched[e.Room] = e.Seq
							}
						}
					})
					for _, room := range []string{"a", "b"} {
						seq, want := touched[contracts.RoomID(room)]
						heads := w.heads(room)
						if want != (len(heads) > 0) || want && heads[0].Seq != seq {
							t.Errorf("room %s: heads %+v, want %v of %d", room, heads, want, seq)
						}
					}
					if err := d.Ready(); err != nil {
						t.Errorf("Ready: %v", err)
					}
				})
			})
		}
	}
}

func TestCommitOfAnotherEpochDoesNotCount(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.send("a", texts(4)...)
		w.persist(0, 4)
		w.set(func() { w.commits[0] = journal.Commit{Offset: 3, Epoch: 7} })
		_, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		if diff := cmp.Diff(w.want(0, 0), w.entries()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}

// D passes an entry only after Redis took two heads messages, of different seconds, that say it.
func TestCommitWaitsForTwoHeads(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		headsTaken, allow := 0, 0
		w.publish = func(kinds []contracts.EnvelopeKind) error {
			for _, k := range kinds {
				if k == contracts.EnvelopeHead {
					if headsTaken == allow {
						return errAway
					}
					headsTaken++
				}
			}
			return nil
		}
		_, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		w.send("a", "one", "two")
		for n := range 3 {
			w.set(func() { allow = n })
			elapse(5 * time.Second)
			c := w.commit(0)
			if got := c != nil && c.Offset == 2 && c.Epoch == 1; got != (n == 2) {
				t.Errorf("after %d heads messages: committed %+v", n, c)
			}
		}
	})
}

func TestHeadsFiveTimes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		_, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(500 * time.Millisecond)
		w.send("a", "one")
		elapse(20 * time.Second)
		heads := w.heads("a")
		if len(heads) != 5 {
			t.Fatalf("%d heads, want 5", len(heads))
		}
		for i, h := range heads {
			if h.Seq != 1 || h.Epoch != 1 || i > 0 && h.at.Sub(heads[i-1].at) != time.Second {
				t.Errorf("head %d: %+v", i, h)
			}
		}
		w.send("a", "two")
		elapse(2500 * time.Millisecond)
		w.send("a", "three")
		elapse(20 * time.Second)
		var seqs []contracts.Seq
		for _, h := range w.heads("a")[5:] {
			seqs = append(seqs, h.Seq)
		}
		if len(seqs) < 6 || seqs[0] != 2 || cmp.Diff(seqs[len(seqs)-5:], []contracts.Seq{3, 3, 3, 3, 3}) != "" {
			t.Errorf("heads after two more changes: %v", seqs)
		}
	})
}

// lateRedis takes the first publication with heads late.
type lateRedis struct {
	*world
	late *time.Duration
}

func (l lateRedis) Publish(ctx context.Context, messages []fanout.Message) error {
	if len(messages) == 1 && contracts.EnvelopeKind(messages[0].Body[0]) == contracts.EnvelopeHead {
		<-time.After(*l.late)
		*l.late = 0
	}
	return l.world.Publish(ctx, messages)
}

// What loses one heads message must not lose the next with it, also where the first one took long.
func TestHeadsApart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		late := 950 * time.Millisecond
		_, stop := w.runWith(dispatch.Config{}, func(deps *dispatch.Deps) { deps.Publisher = lateRedis{w, &late} })
		defer stop()
		elapse(500 * time.Millisecond)
		w.send("a", "one")
		elapse(4 * time.Second)
		heads := w.heads("a")
		if len(heads) < 2 {
			t.Fatalf("%d heads", len(heads))
		}
		if apart := heads[1].at.Sub(heads[0].at); apart < 500*time.Millisecond {
			t.Errorf("the first two heads stand %v apart", apart)
		}
	})
}

// Entries that Redis did not take are not repeated; their heads are, until five were taken.
func TestRedisLosesEntries(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		_, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		w.set(func() { w.publish = func([]contracts.EnvelopeKind) error { return errAway } })
		w.send("a", "lost")
		elapse(10 * time.Second)
		expectHead(t, w.head("a"), 1, 1)
		if c := w.commit(0); c != nil && c.Offset > 0 {
			t.Errorf("committed %+v while Redis was away", c)
		}
		w.set(func() { w.publish = nil })
		w.send("a", "heard")
		elapse(10 * time.Second)
		if diff := cmp.Diff(w.want(0, 1), w.entries()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		if heads := w.heads("a"); len(heads) != 5 || heads[0].Seq != 2 {
			t.Errorf("heads %+v, want five of 2", heads)
		}
		if c := w.commit(0); c == nil || c.Offset != 2 {
			t.Errorf("committed %+v, want 2", c)
		}
	})
}

// A head is never ahead of what was told before it, or an edge would ask for what is about to come.
func TestHeadsBehindEntries(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		_, stop := w.run(dispatch.Config{})
		defer stop()
		for i := range 200 {
			w.send("a", strings.Repeat("x", 1+i%50), "y")
			elapse(37 * time.Millisecond)
		}
		last := contracts.Seq(0)
		heads := 0
		w.look(func() {
			for _, e := range w.told {
				switch e.Kind {
				case contracts.EnvelopeEntry:
					last = e.Seq
				case contracts.EnvelopeHead:
					heads++
					if e.Seq != last {
						t.Errorf("head %d after entry %d", e.Seq, last)
					}
				}
			}
		})
		if heads < 5 {
			t.Errorf("%d heads in 7 seconds", heads)
		}
	})
}

// While Redis does not answer, the log is read, questions are answered, and what waits is bounded.
func TestRedisHangs(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		hang := make(chan struct{})
		slow := slowRedis{world: w, hang: hang}
		_, stop := w.runWith(dispatch.Config{QueueBytes: 2000, PublishTimeout: time.Minute}, func(deps *dispatch.Deps) { deps.Publisher = slow })
		defer stop()
		elapse(time.Second)
		w.send("a", texts(100)...)
		elapse(time.Second)
		expectHead(t, w.head("a"), 100, 1)
		close(hang)
		elapse(10 * time.Second)
		if got := len(w.entries()); got == 0 || got > 40 {
			t.Errorf("told %d entries, want the first and the newest", got)
		}
		if heads := w.heads("a"); len(heads) == 0 || heads[len(heads)-1].Seq != 100 {
			t.Errorf("heads %+v, want the last of 100", heads)
		}
		if c := w.commit(0); c == nil || c.Offset != 100 {
			t.Errorf("committed %+v, want 100", c)
		}
	})
}

// While the cache does not answer, the rooms are told; what waits for it is bounded, and the newest goes there.
func TestCacheHangs(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		hang := make(chan struct{})
		_, stop := w.runWith(dispatch.Config{QueueBytes: 2000, PublishTimeout: time.Minute}, func(deps *dispatch.Deps) { deps.Recent = slowCache{w, hang} })
		defer stop()
		elapse(time.Second)
		for _, text := range texts(100) {
			w.send("a", text)
			synctest.Wait()
		}
		if diff := cmp.Diff(w.want(0, 0), w.entries()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		close(hang)
		synctest.Wait()
		w.look(func() {
			last := contracts.Seq(0)
			for _, e := range w.cached {
				if e.Seq <= last {
					t.Errorf("cached %d behind %d", e.Seq, last)
				}
				last = e.Seq
			}
			if last != 100 || len(w.cached) > 40 {
				t.Errorf("cached %d entries up to %d, want the first and the newest", len(w.cached), last)
			}
		})
	})
}

// What partitions have to tell at the same time is one round trip.
func TestPartitionsShareRoundTrips(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.partitions = 4
		_, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		for round := range 2 {
			before := w.publications
			var records []contracts.Record
			for i := range 8 {
				records = append(records, w.record(fmt.Sprintf("room-%d", i), "x"))
			}
			w.append(records...)
			synctest.Wait()
			n, told := w.publications-before, len(w.entries())
			if told != 8*(round+1) || n != 1 && round > 0 { // first the store is asked about each room
				t.Errorf("told %d entries, the last in %d round trips, want %d, in one", told, n, 8*(round+1))
			}
			elapse(100 * time.Millisecond)
		}
	})
}

// Where the lane groups are on several servers, one that hangs silences its own rooms only.
func TestOneServerHangs(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.partitions = 16
		slow := slowRedis{world: w, hang: make(chan struct{}), sharded: true, group: 3}
		_, stop := w.runWith(dispatch.Config{}, func(deps *dispatch.Deps) { deps.Publisher = slow })
		defer stop()
		elapse(1100 * time.Millisecond)
		began, want := time.Now(), 0
		for range 2 {
			for i := range 100 {
				room := fmt.Sprintf("room-%d", i)
				w.send(room, "x")
				if contracts.LaneOf(contracts.RoomID(room)).Group() != slow.group {
					want++
				}
			}
			synctest.Wait()
		}
		w.look(func() {
			for _, e := range w.told {
				if !e.at.Equal(began) {
					t.Errorf("entry %d of room %s came %v late", e.Seq, e.Room, e.at.Sub(began))
				}
			}
		})
		if got := len(w.entries()); got != want || want == 200 {
			t.Errorf("told %d entries, want %d of 200", got, want)
		}
	})
}

// A commit that takes long holds up no entry, and none is under way when the partition goes to somebody else.
func TestSlowCommit(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.commitTakes = 400 * time.Millisecond
		d, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		w.send("a", "one")
		for committing := false; !committing; {
			elapse(10 * time.Millisecond)
			w.look(func() { committing = w.committing })
		}
		began := time.Now()
		w.send("a", "two")
		synctest.Wait()
		w.look(func() {
			if last := w.told[len(w.told)-1]; last.Seq != 2 || !last.at.Equal(began) {
				t.Errorf("told %+v last, want 2 at once", last)
			}
		})
		w.set(func() { w.revoke = []int32{0} })
		elapse(time.Second)
		if c := w.commit(0); len(d.Owned()) > 0 || c == nil || c.Offset != 1 {
			t.Errorf("owns %v, committed %+v, want nothing and 1", d.Owned(), c)
		}
	})
}

// A group that takes no commits, though it counts the dispatcher as a member, shows in a metric, and gets all once it takes them.
func TestCommitsFail(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reg := prometheus.NewPedanticRegistry()
		_, stop := w.runWith(dispatch.Config{}, func(deps *dispatch.Deps) { deps.Registerer = reg })
		defer stop()
		w.set(func() { w.commitErr = errAway })
		w.send("a", "one")
		elapse(10 * time.Second)
		if c := w.commit(0); c != nil {
			t.Fatalf("committed %+v", c)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		failed := 0.0
		for _, f := range families {
			if f.GetName() == "parley_dispatch_commit_errors_total" {
				failed = f.GetMetric()[0].GetCounter().GetValue()
			}
		}
		if failed == 0 {
			t.Error("no metric tells of the commits that failed")
		}
		w.set(func() { w.commitErr = nil })
		elapse(5 * time.Second)
		if c := w.commit(0); c == nil || c.Offset != 1 {
			t.Errorf("committed %+v at last, want 1", c)
		}
	})
}

// A dispatcher whose heartbeats ended tells nothing and answers nothing, until they are back.
func TestSilentWithoutHeartbeat(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		d, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		w.send("a", "one")
		elapse(time.Second)
		expectHead(t, w.head("a"), 1, 1)
		w.set(func() { w.lastBeat = time.Now() })
		elapse(2900 * time.Millisecond)
		if err := d.Ready(); err != nil {
			t.Errorf("ready with a group silent for 2.9 s: %v", err)
		}
		elapse(2 * time.Second)
		if err := d.Ready(); err == nil || !strings.Contains(err.Error(), "silent") {
			t.Errorf("ready with a group silent for 4.9 s: %v", err)
		}
		expectHead(t, w.head("a"), 1, 1)
		elapse(200 * time.Millisecond)
		before := len(w.told)
		w.send("a", "two")
		elapse(3 * time.Second)
		expectCode(t, w.head("a"), contracts.CodeUnavailable)
		if len(w.told) != before {
			t.Errorf("told %+v without a heartbeat", w.told[before:])
		}
		w.set(func() { w.lastBeat = time.Time{} })
		elapse(time.Second)
		expectHead(t, w.head("a"), 2, 1)
		if diff := cmp.Diff(w.want(0, 0), w.entries()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}

// Entries are told at once where nothing else goes on.
func TestNoDelayWhenIdle(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		_, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second + 100*time.Millisecond)
		began := time.Now()
		w.send("a", "one")
		synctest.Wait()
		if len(w.entries()) != 1 || !w.told[0].at.Equal(began) {
			t.Errorf("told %+v, want one at once", w.told)
		}
	})
}

var _ recent.Cache = slowCache{}
