package sink_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

// TestRestartAnywhere ends the persister after each of its writes in turn, before it has heard that the store took it,
// and lets another one go on from there.
func TestRestartAnywhere(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cfg.BulkEntries = 5
		rooms := roomsOf(3, 4)
		first := messages(rooms, 1000, 40)
		w.log.append(3, first...)
		w.log.append(3, first[10:25]...)
		w.log.append(3, []byte("nobody can read this"))
		w.log.append(3, messages(rooms, 2000, 20)...)
		_, end, _ := w.log.Bounds(t.Context(), 3)
		for restarts := 0; ; restarts++ {
			if restarts > 100 {
				t.Fatalf("no progress:\n%s", w.logged.String())
			}
			p := &process{store: &moodyStore{Store: w.store}}
			died := make(chan struct{})
			p.store.fail(nil, func(contracts.Checkpoint) error {
				p.store.fail(func(contracts.Checkpoint) error { return errAway }, nil)
				close(died)
				return errAway
			})
			w.launch(p, 3)
			select {
			case <-died:
			case <-time.After(time.Minute):
			}
			p.kill(3)
			w.check(true, 3)
			if c, _, _ := w.store.Checkpoint(t.Context(), 3); c.Offset == end {
				if restarts < 5 {
					t.Errorf("only %d restarts", restarts)
				}
				break
			}
		}
		w.stored(3)
		if letters, err := w.store.DeadLetters(t.Context(), 3, contracts.Position{}, 10); err != nil || len(letters) != 1 {
			t.Errorf("dead letters: %v, %v", letters, err)
		}
	})
}

// TestLostAnswers repeats writes that the store had taken.
func TestLostAnswers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.log.append(0, messages(roomsOf(0, 4), 1, 100)...)
		p := &process{store: &moodyStore{Store: w.store}}
		n := 0
		p.store.fail(nil, func(contracts.Checkpoint) error {
			if n++; n%2 == 1 {
				return errAway
			}
			return nil
		})
		w.launch(p, 0)
		w.caughtUp(p)
		w.stored(0)
		if p.metric(t, "parley_persist_conflicts_total") != 0 {
			t.Error("a repeated write counts as somebody else's")
		}
	})
}

// TestTwoAtOnce lets two persisters own the same partition, as when one has not noticed that it lost it.
func TestTwoAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cfg.BulkEntries = 3
		rooms := roomsOf(0, 5)
		var both []*process
		for range 2 {
			p := &process{store: &moodyStore{Store: w.store}}
			p.store.fail(func(contracts.Checkpoint) error { // now one is faster, now the other
				<-time.After(time.Duration(rand.IntN(300)) * time.Millisecond)
				return nil
			}, nil)
			w.launch(p, 0)
			both = append(both, p)
		}
		a, b := both[0], both[1]
		first := messages(rooms, 1000, 50)
		for i := range 50 {
			w.log.append(0, first[i], first[i/2])
			pass(time.Duration(rand.IntN(200)) * time.Millisecond)
			w.check(false, 0)
		}
		w.caughtUp(a, b)
		w.stored(0)
		if n := a.metric(t, "parley_persist_conflicts_total") + b.metric(t, "parley_persist_conflicts_total"); n == 0 {
			t.Error("they never met")
		}
		for _, p := range both {
			if err := p.Ready(); err != nil {
				t.Errorf("ready: %v", err)
			}
		}
	})
}

// TestRandomFaults is a random walk of records, retries, late copies, failing writes, lost answers, outages, kills and
// zombies. After each step the store holds every record below its checkpoint, and in the end the whole log.
func TestRandomFaults(t *testing.T) {
	walks := 40
	switch {
	case testing.Short():
		walks = 10
	case raceEnabled: // each takes five times as long; all 40 run without the detector, in the step real of .ci/run
		walks = 12
	}
	for seed := range uint64(walks) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, func(w *world) { randomWalk(w, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func randomWalk(w *world, r *rand.Rand) {
	w.cfg.BulkEntries, w.cfg.BacklogBytes = 1+r.IntN(30), 4<<10+r.IntN(64<<10)
	rooms := roomsOf(1, 6)
	var sent [][]byte
	var alive []*process
	clock := int64(1_000_000)
	moody := func() *process {
		p := &process{store: &moodyStore{Store: w.store}}
		sometimes := func(contracts.Checkpoint) error {
			if rand.IntN(8) == 0 {
				return errAway
			}
			return nil
		}
		p.store.fail(sometimes, sometimes)
		return p
	}
	for range 60 {
		switch n := r.IntN(12); {
		case n < 5: // new records, some with keys of long ago
			for range 1 + r.IntN(40) {
				clock++
				ms := clock
				if r.IntN(20) == 0 {
					ms = 1 + r.Int64N(clock)
				}
				sent = append(sent, message(rooms[r.IntN(len(rooms))], key(ms, uint32(len(sent))), "text"))
				w.log.append(1, sent[len(sent)-1])
			}
		case n < 7 && len(sent) > 0: // copies, near and late
			for range 1 + r.IntN(10) {
				w.log.append(1, sent[r.IntN(len(sent))])
			}
		case n < 8:
			w.log.append(1, []byte("nobody can read this"))
		case n < 9 && len(alive) < 3: // the next owner; those before it are zombies
			p := moody()
			w.launch(p, 1)
			alive = append(alive, p)
		case n < 10 && len(alive) > 0:
			at := r.IntN(len(alive))
			if r.IntN(2) == 0 {
				alive[at].kill(1)
			} else {
				alive[at].stop()
			}
			alive = append(alive[:at], alive[at+1:]...)
		case n < 11 && len(alive) > 0:
			p := alive[r.IntN(len(alive))]
			p.store.away.Store(!p.store.away.Load())
		}
		pass(time.Duration(r.IntN(3000)) * time.Millisecond)
		w.check(false, 1)
	}
	for _, p := range alive {
		p.kill(1)
	}
	p := w.start(1)
	w.caughtUp(p)
	w.stored(1)
	_, want := w.numbered(1, p.Status()[0].End)
	if got, err := w.store.DeadLetters(w.t.Context(), 1, contracts.Position{}, 1000); err != nil || len(got) != len(want) {
		w.t.Errorf("%d dead letters, %v, want %d", len(got), err, len(want))
	}
}

// stopped checks that a partition stands still with an alarm and that its checkpoint has not moved.
func (w *world) stopped(p *process, want contracts.Checkpoint) {
	w.t.Helper()
	if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "stopped") {
		w.t.Errorf("ready: %v", err)
	}
	if p.CaughtUp() {
		w.t.Error("a stopped partition counts as caught up")
	}
	if n := p.metric(w.t, "parley_persist_alarms"); n != 1 {
		w.t.Errorf("%v alarms, want 1", n)
	}
	if n := strings.Count(w.logged.String(), "level=ERROR"); n != 1 {
		w.t.Errorf("%d errors logged:\n%s", n, w.logged.String())
	}
	if got, _, err := w.store.Checkpoint(w.t.Context(), want.Partition); err != nil || got != want {
		w.t.Errorf("checkpoint %+v, %v, want %+v", got, err, want)
	}
}

// TestTrimmedLogIsFine begins where the record before the checkpoint is gone.
func TestTrimmedLogIsFine(t *testing.T) {
	inWorld(t, func(w *world) {
		rooms := roomsOf(0, 2)
		w.log.append(0, messages(rooms, 1, 20)...)
		p := w.start(0)
		w.caughtUp(p)
		p.stop()
		w.log.replace(0, 20, messages(rooms, 5000, 10)...)
		p = w.start(0)
		w.caughtUp(p)
		if c := p.Status()[0]; c.Stored != 30 {
			t.Errorf("checkpoint %d, want 30", c.Stored)
		}
		page, err := w.store.Page(t.Context(), rooms[0], 1, contracts.MaxInt, 100, false)
		if err != nil || len(page) != 15 || page[14].Seq != 15 {
			t.Errorf("%d rows, %v, want 15 without a gap", len(page), err)
		}
	})
}

// TestTripwireStopsThePartition meets a row that another log must have written.
func TestTripwireStopsThePartition(t *testing.T) {
	inWorld(t, func(w *world) {
		room := roomsOf(0, 1)[0]
		w.log.append(0, messages([]contracts.RoomID{room}, 1, 20)...)
		p := w.start(0)
		w.caughtUp(p)
		c, _, _ := w.store.Checkpoint(t.Context(), 0)
		next := c
		next.KeyTime++
		foreign := store.Entry{
			Record: contracts.Record{Kind: contracts.KindMessage, Room: room, From: contracts.Person{ID: "bob"}, Key: key(77, 77), Text: "foreign"},
			Seq:    21, Epoch: 1, Offset: 20,
		}
		if err := w.store.Append(t.Context(), []store.Entry{foreign}, c, next); err != nil {
			t.Fatal(err)
		}
		w.log.append(0, messages([]contracts.RoomID{room}, 500, 3)...)
		pass(time.Minute)
		w.stopped(p, next)
	})
}

func TestOtherRulesStopThePartition(t *testing.T) {
	inWorld(t, func(w *world) {
		c := contracts.Checkpoint{Partition: 0, Epoch: 1, Offset: 0, Sequencer: roomlog.Version + 1}
		if err := w.store.Append(t.Context(), nil, contracts.Checkpoint{}, c); err != nil {
			t.Fatal(err)
		}
		w.log.append(0, messages(roomsOf(0, 2), 1, 20)...)
		p := w.start(0)
		pass(time.Minute)
		w.stopped(p, c)
	})
}

func TestTrim(t *testing.T) {
	for name, c := range map[string]struct {
		told *journal.Commit
		keep int64
		want int64
	}{
		"dispatcher behind":              {&journal.Commit{Offset: 60, Epoch: 1}, 10, 49},
		"dispatcher at the end":          {&journal.Commit{Offset: 100, Epoch: 1}, 10, 89},
		"nothing to spare":               {&journal.Commit{Offset: 60, Epoch: 1}, 59, 0},
		"dispatcher never committed":     {nil, 10, 0},
		"committed in another epoch":     {&journal.Commit{Offset: 60, Epoch: 2}, 10, 0},
		"committed without saying which": {&journal.Commit{Offset: 60}, 10, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.cfg.KeepRecords = c.keep
				w.log.append(0, messages(roomsOf(0, 3), 1, 100)...)
				if c.told != nil {
					w.log.commit(names.DispatchGroup(), map[int32]journal.Commit{0: *c.told})
				}
				p := w.start(0)
				w.caughtUp(p)
				pass(30 * time.Second)
				if start, _, _ := w.log.Bounds(t.Context(), 0); start != 0 && start != c.want {
					t.Errorf("the log starts at %d before a minute has passed", start)
				}
				for range 3 {
					pass(time.Minute)
				}
				if start, _, _ := w.log.Bounds(t.Context(), 0); start != c.want {
					t.Errorf("the log starts at %d, want %d", start, c.want)
				}
				if err := p.Ready(); err != nil {
					t.Errorf("ready: %v", err)
				}
				// It goes on from what is left.
				p.kill(0)
				p = w.start(0)
				w.log.append(0, messages(roomsOf(0, 3), 1000, 10)...)
				w.caughtUp(p)
				if st := p.Status()[0]; st.Stored != 110 {
					t.Errorf("checkpoint %d, want 110", st.Stored)
				}
			})
		})
	}
}

// TestLookupWaitsAlone parks one room whose answer does not come, and sees the others decided meanwhile: what is behind
// it is read and numbered, and stored as soon as the answer is there.
func TestLookupWaitsAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		rooms := roomsOf(0, 3)
		w.log.append(0, messages(rooms, 1_000_000, 30)...)
		p := w.start(0)
		w.caughtUp(p)
		p.store.away.Store(true)
		w.log.append(0, message(rooms[0], key(5, 5), "older than K"))
		w.log.append(0, messages(rooms, 2_000_000, 30)...)
		pass(10 * time.Second)
		st := p.Status()[0]
		if st.Stored != 30 || st.Read != 61 {
			t.Errorf("stored %d, read %d, want 30 and 61", st.Stored, st.Read)
		}
		if n, s := p.metric(t, "parley_persist_lag_records"), p.metric(t, "parley_persist_lag_seconds"); n != 31 || s < 10 {
			t.Errorf("the lag is %v records and %v seconds", n, s)
		}
		p.store.away.Store(false)
		w.caughtUp(p)
		if n, s := p.metric(t, "parley_persist_lag_records"), p.metric(t, "parley_persist_lag_seconds"); n != 0 || s != 0 {
			t.Errorf("the lag is %v records and %v seconds", n, s)
		}
		w.stored(0)
		synctest.Wait()
	})
}

// TestSlowCallsShow: a call that goes on is counted long before it is given up.
func TestSlowCallsShow(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.start(0)
		release := make(chan struct{})
		p.store.fail(func(contracts.Checkpoint) error { <-release; return nil }, nil)
		w.log.append(0, messages(roomsOf(0, 1), 1, 3)...)
		pass(2900 * time.Millisecond)
		if n := p.metric(t, "parley_persist_slow_calls_total"); n != 0 {
			t.Errorf("%v calls slow before 3 s", n)
		}
		pass(300 * time.Millisecond)
		if n := p.metric(t, "parley_persist_slow_calls_total"); n != 1 {
			t.Errorf("%v calls slow after 3 s, want 1", n)
		}
		close(release)
		w.caughtUp(p)
	})
}
