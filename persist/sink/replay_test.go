package sink_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/persist/store"
)

// logWriter appends to a memoryLog.
type logWriter struct {
	journal.Writer // nil: what is not overridden is not called
	log            *memoryLog
	err            error
}

func (l *logWriter) Append(partition int32, _ string, value []byte, done func(int64, error)) {
	if l.err == nil {
		l.log.append(partition, value)
	}
	done(0, l.err)
}

// TestReplay buries records that an earlier release could not read, next to garbage and to a copy of what is stored.
func TestReplay(t *testing.T) {
	inWorld(t, func(w *world) {
		t := w.t
		room := roomsOf(1, 1)[0]
		bury := func(offset int64, value []byte) {
			t.Helper()
			d := store.DeadLetter{Partition: 1, Position: contracts.Position{Epoch: 1, Offset: offset}, Reason: "of old", Value: value}
			if err := w.store.Bury(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
		known, lost := message(room, key(5, 1), "known"), message(room, key(6, 2), "lost")
		w.log.append(1, known)
		p := w.start(1)
		w.caughtUp(p)
		for i := range int64(60) { // more than one page
			bury(100+i, []byte{0xff})
		}
		bury(200, lost)
		bury(201, known)
		bury(202, lost)
		out := &logWriter{log: w.log, err: journal.ErrUnknown}
		replay := func() (said []string) {
			t.Helper()
			err := sink.EachDead(t.Context(), w.store, partitions, func(d store.DeadLetter) error {
				switch r, err := sink.Replay(t.Context(), w.store, out, partitions, d); {
				case errors.Is(err, contracts.ErrUndecodable):
				case err != nil:
					said = append(said, "not")
				default:
					said = append(said, fmt.Sprint(d.Position.Offset, " ", r.Text))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return said
		}
		if diff := cmp.Diff([]string{"not", "not", "not"}, replay()); diff != "" {
			t.Errorf("with a log that does not confirm (-want +got):\n%s", diff)
		}
		out.err = nil
		if diff := cmp.Diff([]string{"200 lost", "201 known", "202 lost"}, replay()); diff != "" {
			t.Errorf("replayed (-want +got):\n%s", diff)
		}
		if said := replay(); len(said) > 0 {
			t.Errorf("replayed again: %v", said)
		}
		w.caughtUp(p)
		w.stored(1)
		rows, err := w.store.Page(t.Context(), room, 1, 10, 10, false)
		if err != nil || len(rows) != 2 || rows[1].Text != "lost" {
			t.Errorf("stored: %+v, %v", rows, err)
		}
		p.stop()

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		silent := &silentWriter{}
		d := store.DeadLetter{Partition: 1, Value: lost}
		if _, err := sink.Replay(ended, w.store, silent, partitions, d); !errors.Is(err, context.Canceled) {
			t.Errorf("while the log is silent: %v", err)
		}
	})
}

// silentWriter never confirms.
type silentWriter struct{ journal.Writer }

func (*silentWriter) Append(int32, string, []byte, func(int64, error)) {}
