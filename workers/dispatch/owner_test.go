package dispatch_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/workers/dispatch"
)

// The end hands over at once: what was announced is committed, and nothing is served any more.
func TestGracefulEnd(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		d, stop := w.run(dispatch.Config{})
		elapse(500 * time.Millisecond)
		w.send("a", "one")
		elapse(2600 * time.Millisecond)
		w.set(func() { delete(w.commits, 0) })
		w.send("a", "two")
		synctest.Wait()
		began := time.Now()
		stop()
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
		if c := w.commit(0); c == nil || c.Offset != 1 {
			t.Errorf("committed %+v, want what two heads said: 1", c)
		}
		if len(w.handlers) > 0 {
			t.Error("still served")
		}
		if d.Ready() == nil || len(d.Owned()) > 0 {
			t.Error("ready after the end")
		}
	})
}

func TestRevokedPartition(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.partitions = 2
		d, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		rooms := [2]string{}
		for i := 0; rooms[0] == "" || rooms[1] == ""; i++ {
			id := fmt.Sprintf("room-%d", i)
			rooms[contracts.LaneOf(contracts.RoomID(id)).Partition(2)] = id
		}
		w.send(rooms[0], "one")
		w.send(rooms[1], "one")
		elapse(3 * time.Second)
		w.set(func() { w.storeErr = errAway })
		parked := w.ask(1, contracts.Question{Read: &contracts.Range{}, Room: "x" + contracts.RoomID(rooms[1]), LeftMS: 9000})
		if contracts.LaneOf("x"+contracts.RoomID(rooms[1])).Partition(2) != 1 {
			parked = nil
		}
		synctest.Wait()
		w.set(func() { w.revoke = []int32{1} })
		synctest.Wait()
		if parked != nil {
			expectCode(t, <-parked, contracts.CodeUnavailable)
		}
		if diff := cmp.Diff([]int32{0}, d.Owned()); diff != "" {
			t.Errorf("Owned: %s", diff)
		}
		if c := w.commit(1); c == nil || c.Offset != 1 {
			t.Errorf("committed %+v, want 1", c)
		}
		expectCode(t, w.head(rooms[1]), contracts.CodeUnavailable)
		expectHead(t, w.head(rooms[0]), 1, 1)
	})
}

// A log that is not the one that the store was filled from is not told.
func TestLogIdentity(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(w *world)
		want  string // of Ready; empty: fine
	}{
		{"same", func(*world) {}, ""},
		{"another record", func(w *world) { c := w.checkpoints[0]; c.Last[0]++; w.checkpoints[0] = c }, "not the one that was stored"},
		{"shorter", func(w *world) { w.log(0).values = w.log(0).values[:2] }, "records are lost"},
		{"begins behind C", func(w *world) { w.log(0).start, w.log(0).values = 4, w.log(0).values[4:] }, "records are lost"},
		{"ends below what was told", func(w *world) { w.commits[0] = journal.Commit{Offset: 6, Epoch: 1} }, "was told"},
		{"ends below what was told in another epoch", func(w *world) { w.commits[0] = journal.Commit{Offset: 6, Epoch: 7} }, ""},
		{"trimmed to C", func(w *world) { w.log(0).start, w.log(0).values = 3, w.log(0).values[3:] }, ""},
		{"epoch raised", func(w *world) {
			c := w.checkpoints[0]
			c.Epoch, c.Offset, c.Last = 2, 0, contracts.Hash{}
			w.checkpoints[0] = c
		}, ""},
		{"newer rules", func(w *world) { c := w.checkpoints[0]; c.Sequencer++; w.checkpoints[0] = c }, "numbering rules"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.send("a", texts(5)...)
				w.persist(0, 3)
				w.set(func() { tt.spoil(w) })
				d, stop := w.run(dispatch.Config{})
				defer stop()
				elapse(2 * time.Second)
				err := d.Ready()
				if tt.want == "" {
					if err != nil || len(w.entries()) == 0 {
						t.Errorf("Ready: %v; told %v", err, w.entries())
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Ready: %v, want %q", err, tt.want)
				}
				if len(w.told) > 0 {
					t.Errorf("told %+v", w.told)
				}
				expectCode(t, w.head("a"), contracts.CodeUnavailable)
			})
		})
	}
}

// Somebody deletes records that are stored and that nobody was told. It shows, and numbers go on.
func TestDeletedBeforeTold(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.send("a", texts(5)...)
		w.persist(0, 4)
		w.set(func() {
			w.commits[0] = journal.Commit{Offset: 1, Epoch: 1}
			l := w.log(0)
			w.older = w.numbered(0)[:3]
			l.start, l.values = 3, l.values[3:]
		})
		reg := prometheus.NewPedanticRegistry()
		d, stop := w.runWith(dispatch.Config{}, func(deps *dispatch.Deps) { deps.Registerer = reg })
		defer stop()
		elapse(2 * time.Second)
		if err := d.Ready(); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(w.want(0, 3), w.entries()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		expectHead(t, w.head("a"), 5, 4)
		const want = `
# HELP parley_dispatch_untold_records_total Records that somebody deleted from the log before they were told, found at take-overs; the store has them.
# TYPE parley_dispatch_untold_records_total counter
parley_dispatch_untold_records_total 2
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "parley_dispatch_untold_records_total"); err != nil {
			t.Error(err)
		}
	})
}

// A record of a newer release stops its partition; what is before it stays served.
func TestNewerVersion(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		d, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		w.send("a", "one")
		w.set(func() { w.log(0).values = append(w.log(0).values, []byte{'P', contracts.LogVersion + 1, '{', '}'}) })
		w.send("a", "two")
		elapse(5 * time.Second)
		if got := w.entries(); len(got) != 1 {
			t.Errorf("told %v", got)
		}
		expectHead(t, w.head("a"), 1, 1)
		if err := d.Ready(); err == nil || !strings.Contains(err.Error(), "newer") {
			t.Errorf("Ready: %v", err)
		}
		if c := w.commit(0); c == nil || c.Offset != 1 {
			t.Errorf("committed %+v, want 1", c)
		}
	})
}

// When the log lost records, nothing is answered until the store has the new epoch; then the rooms learn it and numbers
// go on from the newest stored.
func TestEpochRaised(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		d, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		w.send("a", texts(4)...)
		w.send("quiet", "one")
		elapse(4 * time.Second)
		w.persist(0, 5)
		w.set(func() {
			w.older = w.numbered(0)
			w.logs[0] = &partitionLog{} // the log was replaced
		})
		elapse(2 * time.Second)
		expectCode(t, w.head("a"), contracts.CodeUnavailable)
		if d.Ready() == nil {
			t.Error("ready with another log")
		}
		w.send("a", "five")
		before := len(w.told)
		w.set(func() { w.checkpoints[0] = contracts.Checkpoint{Epoch: 2, Sequencer: 1, KeyTime: w.keyTime} })
		elapse(3 * time.Second)
		r := w.head("a")
		expectHead(t, r, 5, 5)
		if r.Epoch != 2 {
			t.Errorf("epoch %d, want 2", r.Epoch)
		}
		for _, room := range []struct {
			id  string
			seq contracts.Seq
		}{{"a", 5}, {"quiet", 1}} {
			heads := w.heads(room.id)
			if h := heads[len(heads)-1]; h.Epoch != 2 || h.Seq != room.seq {
				t.Errorf("room %s: last head %+v, want %d of epoch 2", room.id, h, room.seq)
			}
		}
		entries := 0
		for _, e := range w.told[before:] {
			if e.Kind == contracts.EnvelopeEntry {
				entries++
				if e.Epoch != 2 || e.Seq != 5 {
					t.Errorf("told %+v", e)
				}
			}
		}
		if entries != 1 {
			t.Errorf("told %d entries of the new epoch, want 1", entries)
		}
		if err := d.Ready(); err != nil {
			t.Errorf("Ready: %v", err)
		}
	})
}

// Records above C that were told are lost, which the persister need not notice: it learns it from D. The numbers are used
// up, so nothing is told until the next epoch, whatever is written on.
func TestLossAboveTheCheckpoint(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		d, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		w.send("a", texts(5)...)
		w.persist(0, 2)
		elapse(time.Second)
		w.set(func() { w.log(0).values = w.log(0).values[:3] })
		elapse(time.Second)
		w.send("a", "six", "seven", "eight", "nine")
		before := len(w.told)
		elapse(10 * time.Second)
		expectCode(t, w.head("a"), contracts.CodeUnavailable)
		if err := d.Ready(); err == nil || !strings.Contains(err.Error(), "was told") {
			t.Errorf("Ready: %v", err)
		}
		if len(w.told) > before {
			t.Errorf("told %+v", w.told[before:])
		}
		if c := w.commit(0); c == nil || c.Epoch != 1 || c.Offset < 1<<40 {
			t.Errorf("committed %+v, want an offset beyond any log's end", c)
		}
		w.set(func() {
			w.older = w.numbered(0)[:2]
			w.checkpoints[0] = contracts.Checkpoint{Epoch: 2, Sequencer: 1, KeyTime: w.keyTime}
		})
		elapse(5 * time.Second)
		if r := w.head("a"); r.Epoch != 2 || r.Err != nil || r.Heads[0].Seq < 3 {
			t.Errorf("%+v", r)
		}
		if err := d.Ready(); err != nil {
			t.Errorf("Ready: %v", err)
		}
	})
}

// The epoch can also change while the partition is read without trouble.
func TestEpochRaisedByHand(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		d, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		w.send("a", texts(4)...)
		elapse(time.Second)
		w.persist(0, 4)
		w.set(func() {
			w.older = w.numbered(0)
			c := w.checkpoints[0]
			c.Epoch, c.Offset, c.Last = 2, 0, contracts.Hash{}
			w.checkpoints[0] = c
		})
		w.send("a", "five")
		elapse(5 * time.Second)
		if r := w.head("a"); r.Epoch != 2 || r.Err != nil || r.Heads[0].Seq != 5 {
			t.Errorf("%+v", r)
		}
		if err := d.Ready(); err != nil {
			t.Errorf("Ready: %v", err)
		}
	})
}

func TestMetrics(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		reg := prometheus.NewPedanticRegistry()
		_, stop := w.runWith(dispatch.Config{}, func(deps *dispatch.Deps) { deps.Registerer = reg })
		elapse(time.Second)
		r := w.record("a", "one")
		w.append(r, r)
		elapse(2 * time.Second)
		expectHead(t, w.head("a"), 1, 1)
		const want = `
# HELP parley_dispatch_duplicates_total Records that repeat an earlier one.
# TYPE parley_dispatch_duplicates_total counter
parley_dispatch_duplicates_total 1
# HELP parley_dispatch_entries_total Records of the log that got a number, take-overs included.
# TYPE parley_dispatch_entries_total counter
parley_dispatch_entries_total 1
# HELP parley_dispatch_partitions Partitions owned.
# TYPE parley_dispatch_partitions gauge
parley_dispatch_partitions 1
# HELP parley_dispatch_published_total Entries that Redis took.
# TYPE parley_dispatch_published_total counter
parley_dispatch_published_total 1
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "parley_dispatch_duplicates_total",
			"parley_dispatch_entries_total", "parley_dispatch_partitions", "parley_dispatch_published_total"); err != nil {
			t.Error(err)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		problems, err := promlint.NewWithMetricFamilies(families).Lint()
		if err != nil || len(problems) > 0 {
			t.Errorf("%v %v", problems, err)
		}
		stop()
		if n, err := testutil.GatherAndCount(reg); err != nil || n != 0 {
			t.Errorf("%d metrics left registered (%v)", n, err)
		}
	})
}

func TestConfigRefused(t *testing.T) {
	for _, cfg := range []dispatch.Config{{Partitions: 3}, {RingBytes: -1}, {HeadsEvery: -1}} {
		if err := dispatch.New(cfg, dispatch.Deps{}).Run(t.Context()); err == nil {
			t.Errorf("%+v is fine", cfg)
		}
	}
}

// Whoever takes over in an epoch of which nothing was committed yet does not know whose rooms are in the one before, so every lane
// is told. D is of the new epoch only when Redis took it often enough; then nobody tells it again.
func TestEveryLaneLearnsTheEpoch(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.partitions = 2
		w.set(func() {
			w.checkpoints[1] = contracts.Checkpoint{Partition: 1, Epoch: 2, Sequencer: 1}
			w.commits[1] = journal.Commit{Offset: 7, Epoch: 1}
			w.publish = func([]contracts.EnvelopeKind) error { return errAway }
		})
		epochs := func() (times map[time.Time]int) {
			times = make(map[time.Time]int)
			w.look(func() {
				for _, e := range w.told {
					if e.Kind != contracts.EnvelopeEpoch {
						continue
					}
					if e.Epoch != 2 || e.Room != "" {
						t.Errorf("told %+v", e.Envelope)
					}
					times[e.at]++
				}
			})
			return times
		}
		_, stop := w.run(dispatch.Config{})
		elapse(5 * time.Second)
		w.set(func() { w.publish = nil })
		elapse(2500 * time.Millisecond)
		if n := len(epochs()); n == 0 || n >= 5 {
			t.Fatalf("told %d times in 2.5 s", n)
		}
		if c := w.commit(1); c.Epoch != 1 {
			t.Errorf("committed %+v before it was told often enough", c)
		}
		stop() // the next one begins anew
		if c := w.commit(1); c.Epoch != 1 {
			t.Errorf("committed %+v at the end, before it was told often enough", c)
		}
		before := len(epochs())
		_, stop = w.run(dispatch.Config{})
		elapse(10 * time.Second)
		for at, lanes := range epochs() {
			if lanes != contracts.Lanes/2 {
				t.Errorf("%d lanes were told at %v", lanes, at)
			}
		}
		if n := len(epochs()) - before; n != 5 {
			t.Errorf("told %d times, want 5", n)
		}
		if c := w.commit(1); c.Epoch != 2 || c.Offset != 0 {
			t.Errorf("committed %+v, want 0 of epoch 2", c)
		}
		stop()
		before = len(epochs())
		_, stop = w.run(dispatch.Config{})
		defer stop()
		elapse(5 * time.Second)
		if n := len(epochs()) - before; n != 0 {
			t.Errorf("told %d times more, although it is committed", n)
		}
	})
}
