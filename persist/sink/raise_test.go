package sink_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/persist/store"
)

// mended waits until a partition is in an epoch and has stored its log, and compares the room with texts, in order.
func (w *world) mended(p *process, epoch contracts.Epoch, room contracts.RoomID, texts ...string) {
	w.t.Helper()
	_, end, _ := w.log.Bounds(w.t.Context(), 0)
	for range 300 {
		if st := p.Status(); len(st) == 1 && st[0].Epoch == epoch && st[0].Stored == end {
			break
		}
		pass(time.Second)
	}
	c, _, err := w.store.Checkpoint(w.t.Context(), 0)
	if err != nil || c.Epoch != epoch || c.Offset != end {
		w.t.Fatalf("checkpoint %+v, %v, want %d in epoch %d; %v\n%s", c, err, end, epoch, p.Ready(), w.logged.String())
	}
	if err := p.Ready(); err != nil {
		w.t.Errorf("ready: %v", err)
	}
	page, err := w.store.Page(w.t.Context(), room, 1, contracts.MaxInt, 1000, false)
	if err != nil {
		w.t.Fatal(err)
	}
	var got []string
	for i, e := range page {
		if e.Seq != contracts.Seq(i+1) {
			w.t.Errorf("row %d has seq %d", i, e.Seq)
		}
		got = append(got, e.Text)
	}
	if strings.Join(got, ",") != strings.Join(texts, ",") {
		w.t.Errorf("room %s holds %v, want %v", room, got, texts)
	}
}

// text is a message whose key follows from its text.
func text(room contracts.RoomID, ms int64, s string) []byte {
	return message(room, key(ms, uint32(s[0])), s)
}

// TestEpochRaised gives the persister a log that lost records or is another one. What is stored stays, what comes again
// is found, seqs go on.
func TestEpochRaised(t *testing.T) {
	room := roomsOf(0, 1)[0]
	old := [][]byte{text(room, 100, "a"), text(room, 200, "b"), text(room, 300, "c"), text(room, 150, "d")}
	for name, replace := range map[string]func(*memoryLog){
		"another one": func(l *memoryLog) {
			l.replace(0, 0, text(room, 250, "e"), old[1], old[3], text(room, 310, "f"), old[0])
		},
		"shorter": func(l *memoryLog) { l.replace(0, 0, old[0], text(room, 250, "e"), text(room, 310, "f")) },
		"cut and written on": func(l *memoryLog) {
			l.replace(0, 0, old[0], old[1], text(room, 250, "e"), text(room, 310, "f"), old[2])
		},
		"its beginning is gone": func(l *memoryLog) { l.replace(0, 2, text(room, 250, "e"), text(room, 310, "f"), old[1]) },
	} {
		first := func(w *world) *process {
			w.log.append(0, old...)
			p := w.start(0)
			w.caughtUp(p)
			return p
		}
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				first(w).stop()
				replace(w.log)
				p := w.start(0)
				pass(20 * time.Second)
				if c, _, _ := w.store.Checkpoint(t.Context(), 0); c.Epoch != 1 {
					t.Error("raised while an earlier owner's writes may still arrive")
				}
				if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "stopped") {
					t.Errorf("ready: %v", err)
				}
				if n, by := p.metric(t, "parley_persist_alarms"), p.metric(t, "parley_persist_stopped_partitions"); n != 1 || by != 1 {
					t.Errorf("%v alarms, %v by reason, want 1", n, by)
				}
				w.mended(p, 2, room, "a", "b", "c", "d", "e", "f")
				if n := p.metric(t, "parley_persist_epochs_raised_total"); n != 1 {
					t.Errorf("%v epochs raised, want 1", n)
				}
				if n := p.metric(t, "parley_persist_alarms"); n != 0 {
					t.Errorf("%v alarms, want none any more", n)
				}
			})
		})
		t.Run(name+", while it runs", func(t *testing.T) {
			inWorld(t, func(w *world) {
				p := first(w)
				replace(w.log)
				w.mended(p, 2, room, "a", "b", "c", "d", "e", "f")
				w.log.append(0, text(room, 400, "g"))
				w.mended(p, 2, room, "a", "b", "c", "d", "e", "f", "g")
				p.lint(t)
			})
		})
		t.Run(name+", twice", func(t *testing.T) {
			inWorld(t, func(w *world) {
				p := first(w)
				replace(w.log)
				w.mended(p, 2, room, "a", "b", "c", "d", "e", "f")
				w.log.replace(0, 0, text(room, 500, "h"), old[3])
				w.mended(p, 3, room, "a", "b", "c", "d", "e", "f", "h")
			})
		})
	}
}

// TestEpochRaisedWhileReading replaces the log between the check at the take-over and the first read: its records must
// not be taken for those that follow the checkpoint.
func TestEpochRaisedWhileReading(t *testing.T) {
	inWorld(t, func(w *world) {
		room := roomsOf(0, 1)[0]
		w.log.append(0, text(room, 100, "a"), text(room, 200, "b"))
		p := w.start(0)
		w.caughtUp(p)
		p.stop()
		p = &process{store: &moodyStore{Store: w.store}}
		p.between = func() {
			w.log.replace(0, 0, text(room, 300, "c"), text(room, 310, "d"), text(room, 320, "e"), text(room, 330, "f"))
		}
		w.launch(p, 0)
		w.mended(p, 2, room, "a", "b", "c", "d", "e", "f")
	})
}

// TestRowsAboveTheCheckpoint has rows above the checkpoint, as after a persister that died within a bulk, with key times
// above K and a hole between them. One of the messages comes again in the new epoch.
func TestRowsAboveTheCheckpoint(t *testing.T) {
	inWorld(t, func(w *world) {
		room := roomsOf(0, 1)[0]
		w.log.append(0, text(room, 100, "a"))
		p := w.start(0)
		w.caughtUp(p)
		p.stop()
		c, _, _ := w.store.Checkpoint(t.Context(), 0)
		var above []store.Entry
		for seq, value := range map[contracts.Seq][]byte{3: text(room, 900, "b"), 5: text(room, 890, "c")} {
			record, err := contracts.DecodeRecord(value, 0, partitions)
			if err != nil {
				t.Fatal(err)
			}
			above = append(above, store.Entry{Record: record, Seq: seq, Epoch: 1, Offset: int64(seq), Hash: contracts.HashRecord(value)})
		}
		if err := w.store.Append(t.Context(), above, c, c); err != nil {
			t.Fatal(err)
		}
		w.log.replace(0, 0, text(room, 900, "b"), text(room, 950, "d"), text(room, 900, "b"))
		// A lost entry has no text.
		w.mended(w.start(0), 2, room, "a", "", "b", "", "c", "d")
	})
}

// TestOutOfRangeRaises reads beyond the end of a log that was cut above the checkpoint: what was read, and perhaps told,
// is gone, though the checkpoint's record is there.
func TestOutOfRangeRaises(t *testing.T) {
	inWorld(t, func(w *world) {
		room := roomsOf(0, 1)[0]
		w.log.append(0, text(room, 100, "a"))
		p := w.start(0)
		w.caughtUp(p)
		p.store.away.Store(true)
		w.log.append(0, text(room, 200, "b"), text(room, 300, "c"))
		pass(time.Second)
		w.log.replace(0, 0, text(room, 100, "a"), text(room, 400, "d"))
		pass(5 * time.Second)
		if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "does not hold") {
			t.Errorf("not noticed at once: %v", err)
		}
		p.store.away.Store(false)
		w.mended(p, 2, room, "a", "d")
	})
}

// TestDispatcherWasFurther cuts the log below what the dispatchers have told, above the checkpoint.
func TestDispatcherWasFurther(t *testing.T) {
	inWorld(t, func(w *world) {
		room := roomsOf(0, 1)[0]
		w.log.append(0, text(room, 100, "a"), text(room, 200, "b"))
		w.log.commit(names.DispatchGroup(), map[int32]journal.Commit{0: {Offset: 4, Epoch: 1}})
		p := w.start(0)
		w.caughtUp(p)
		w.mended(p, 2, room, "a", "b")
	})
}

// TestNotRaised leaves the epoch alone where somebody deleted what was not stored, unless told otherwise.
func TestNotRaised(t *testing.T) {
	room := roomsOf(0, 1)[0]
	for name, replace := range map[string]func(*memoryLog){
		"begins later": func(l *memoryLog) { l.replace(0, 3, text(room, 300, "c")) },
		"empty":        func(l *memoryLog) { l.replace(0, 100) },
	} {
		run := func(test func(w *world, p *process)) func(*testing.T) {
			return func(t *testing.T) {
				inWorld(t, func(w *world) {
					w.log.append(0, text(room, 100, "a"), text(room, 200, "b"))
					p := w.start(0)
					w.caughtUp(p)
					test(w, p)
				})
			}
		}
		t.Run(name, run(func(w *world, p *process) {
			before, _, _ := w.store.Checkpoint(t.Context(), 0)
			p.stop()
			replace(w.log)
			p = w.start(0)
			pass(3 * time.Minute)
			w.stopped(p, before)
		}))
		t.Run(name+", while it runs", run(func(w *world, p *process) {
			before, _, _ := w.store.Checkpoint(t.Context(), 0)
			replace(w.log)
			pass(3 * time.Minute)
			if got, _, _ := w.store.Checkpoint(t.Context(), 0); got != before {
				t.Errorf("checkpoint %+v, want %+v", got, before)
			}
			if st := p.Status()[0]; st.Why != "log_trimmed" {
				t.Errorf("stopped because of %q: %s", st.Why, st.Alarm)
			}
		}))
		t.Run(name+", accepted", run(func(w *world, p *process) {
			p.stop()
			replace(w.log)
			w.cfg.AcceptLoss = true
			texts := []string{"a", "b"}
			if name == "begins later" {
				texts = append(texts, "c")
			}
			w.mended(w.start(0), 2, room, texts...)
		}))
	}
}

// TestTrimmedUnderAZombie lets a persister that does not know that it lost its partition read where the new owner's
// trimming has been: nothing is lost.
func TestTrimmedUnderAZombie(t *testing.T) {
	inWorld(t, func(w *world) {
		rooms := roomsOf(0, 2)
		w.log.append(0, messages(rooms, 1, 20)...)
		zombie := w.start(0)
		w.caughtUp(zombie)
		zombie.later(func(context.Context) { delete(zombie.next, 0) }) // reads nothing for a while
		pass(2 * time.Second)
		owner := w.start(0)
		w.log.append(0, messages(rooms, 5000, 20)...)
		w.caughtUp(owner)
		if err := w.log.Trim(t.Context(), 0, 35); err != nil {
			t.Fatal(err)
		}
		zombie.later(func(context.Context) { zombie.next[0] = 20 })
		pass(5 * time.Minute)
		if c, _, _ := w.store.Checkpoint(t.Context(), 0); c.Epoch != 1 || c.Offset != 40 {
			t.Errorf("checkpoint %+v, want 40 in epoch 1\n%s", c, w.logged.String())
		}
	})
}

// TestTwoRaise has two persisters find the loss at the same time: the epoch rises by one.
func TestTwoRaise(t *testing.T) {
	inWorld(t, func(w *world) {
		room := roomsOf(0, 1)[0]
		w.log.append(0, text(room, 100, "a"), text(room, 200, "b"))
		one, other := w.start(0), w.start(0)
		w.caughtUp(one, other)
		w.log.replace(0, 0, text(room, 300, "c"))
		w.mended(one, 2, room, "a", "b", "c")
		w.mended(other, 2, room, "a", "b", "c")
	})
}

// TestNoWriteWithoutTheGroup writes nothing while the group has not confirmed the persister for a session timeout.
func TestNoWriteWithoutTheGroup(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cfg.SessionTimeout = 5 * time.Second
		rooms := roomsOf(0, 2)
		w.log.append(0, messages(rooms, 1, 20)...)
		p := w.start(0)
		w.caughtUp(p)
		p.mute.Store(time.Now().UnixNano())
		pass(2 * time.Second)
		if err := p.Ready(); err != nil {
			t.Errorf("ready with a group silent for 2 s: %v", err)
		}
		pass(2 * time.Second)
		if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "silent") {
			t.Errorf("ready with a group silent for 4 s: %v", err)
		}
		pass(2 * time.Second)
		w.log.append(0, messages(rooms, 1000, 20)...)
		pass(time.Minute)
		if c, _, _ := w.store.Checkpoint(t.Context(), 0); c.Offset != 20 {
			t.Errorf("checkpoint %d, want 20", c.Offset)
		}
		p.mute.Store(0)
		w.caughtUp(p)
		w.stored(0)
	})
}

func TestRaiseAfterCoversLateWrites(t *testing.T) {
	if err := (sink.Config{RaiseAfter: time.Second}).Validate(); err == nil {
		t.Error("a RaiseAfter within which an earlier owner may still write is accepted")
	}
}
