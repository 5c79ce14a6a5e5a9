package sink_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

// lanes is the fanout.Publisher of a process.
type lanes struct {
	mu   sync.Mutex // guards the rest
	said []string
	err  error
	hold chan struct{} // not nil: Publish waits for it
}

func (l *lanes) Publish(ctx context.Context, messages []fanout.Message) error {
	l.mu.Lock()
	hold := l.hold
	l.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	for _, m := range messages {
		e, rest, err := contracts.NextEnvelope(m.Body)
		if err != nil || len(rest) > 0 || m.Lane != contracts.LaneOf(e.Room) || e.Kind != contracts.EnvelopeStored {
			return fmt.Errorf("a strange message %q: %w", m.Body, err)
		}
		l.said = append(l.said, fmt.Sprintf("%s/%d %s %d", e.Except.Node, e.Except.ID, e.Key, e.Seq))
	}
	return nil
}

func (l *lanes) heard() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.said)
}

// asking is a message whose sender wants to be told.
func asking(t *testing.T, room contracts.RoomID, k contracts.Key, conn uint64) []byte {
	t.Helper()
	value, err := contracts.EncodeRecord(&contracts.Record{
		Kind: contracts.KindMessage, Room: room, From: contracts.Person{ID: "ada"}, Key: k, Stamp: k.Time(), Text: "safe?",
		Told: contracts.Conn{Node: "n1", ID: conn},
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestTellsWhatIsStored: everybody who asked, also for a copy, with the seq of the first, and nobody before it is stored.
func TestTellsWhatIsStored(t *testing.T) {
	inWorld(t, func(w *world) {
		room := roomsOf(1, 1)[0]
		first, second := key(10, 1), key(11, 2)
		p := w.start(1)
		w.log.append(1, messages([]contracts.RoomID{room}, 1, 3)...)
		w.log.append(1, asking(t, room, first, 7), asking(t, room, first, 8), asking(t, room, second, 9))
		pass(20 * time.Millisecond)
		if said := p.lanes.heard(); len(said) > 0 {
			t.Errorf("told before anything was stored: %v", said)
		}
		w.caughtUp(p)
		pass(time.Second)
		want := []string{fmt.Sprintf("n1/7 %s 4", first), fmt.Sprintf("n1/8 %s 4", first), fmt.Sprintf("n1/9 %s 5", second)}
		if diff := cmp.Diff(want, p.lanes.heard()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		p.stop()
	})
}

// TestTellingIsInNobodysWay: with Redis away, or hanging, everything is stored all the same.
func TestTellingIsInNobodysWay(t *testing.T) {
	inWorld(t, func(w *world) {
		room := roomsOf(1, 1)[0]
		p := w.start(1)
		p.lanes.err = errors.New("away")
		w.log.append(1, asking(t, room, key(10, 1), 7))
		w.caughtUp(p)
		pass(time.Second)
		if n := p.metric(t, "parley_persist_untold_total"); n != 1 {
			t.Errorf("%v counted as not told, want 1", n)
		}
		hold := make(chan struct{})
		p.lanes.mu.Lock()
		p.lanes.err, p.lanes.hold = nil, hold
		p.lanes.mu.Unlock()
		for i := range 10_000 {
			w.log.append(1, asking(t, room, key(20, uint32(i)), 7))
		}
		w.caughtUp(p)
		close(hold)
		pass(time.Minute)
		told, untold := float64(len(p.lanes.heard())), p.metric(t, "parley_persist_untold_total")
		if told+untold != 10_001 || told < 4096 {
			t.Errorf("%v told, %v not, of 10,001", told, untold)
		}
		p.stop()
	})
}
