package dispatch_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/workers/dispatch"
)

func read(room string, epoch contracts.Epoch, from, to contracts.Seq) contracts.Question {
	return contracts.Question{Room: contracts.RoomID(room), Read: &contracts.Range{Epoch: epoch, From: from, To: to}, LeftMS: 1000}
}

func bodies(r contracts.Reply) (out []string) {
	for _, e := range r.Entries {
		out = append(out, string(e.JSON))
	}
	return out
}

// While the store is away, a room that needs it waits, and so do the questions about it; others go on.
func TestStoreAway(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		d, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		w.send("warm", "one")
		synctest.Wait()
		w.set(func() { w.storeErr = errAway })
		w.send("cold", "one", "two")
		w.send("warm", "two", "three")
		elapse(3 * time.Second)

		if got := w.entries(); len(got) != 3 {
			t.Errorf("told %v, want the warm room's three", got)
		}
		expectHead(t, w.head("warm"), 3, 1)
		expectCode(t, w.head("cold"), contracts.CodeUnavailable)
		expectCode(t, w.head("other"), contracts.CodeUnavailable)
		expectCode(t, <-w.ask(0, contracts.Question{Heads: []contracts.RoomID{"warm", "cold"}, LeftMS: 100}), contracts.CodeUnavailable)
		part := w.ask(0, contracts.Question{Heads: []contracts.RoomID{"cold", "warm", "other"}, Partly: true, LeftMS: 1000})
		synctest.Wait()
		select {
		case r := <-part:
			if want := []contracts.RoomID{"cold", "other"}; r.Err != nil || !cmp.Equal(r.Unsettled, want) || len(r.Heads) != 3 || r.Heads[1] != (contracts.Head{Seq: 3, Floor: 1}) {
				t.Errorf("asked for a part: %+v (%v), want all but %v", r, r.Err, want)
			}
		default:
			t.Error("who asks for a part waits for the rest")
		}
		if d.Ready() == nil {
			t.Error("Ready while records wait")
		}
		if c := w.commit(0); c == nil || c.Offset != 1 {
			t.Errorf("committed %+v, want to stand before the record that waits", c)
		}

		patient := w.ask(0, contracts.Question{Heads: []contracts.RoomID{"cold", "warm", "other"}, LeftMS: 8000})
		elapse(time.Second)
		w.set(func() { w.storeErr = nil })
		elapse(3 * time.Second)
		want := []contracts.Head{{Seq: 2, Floor: 1}, {Seq: 3, Floor: 1}, {Seq: 0, Floor: 1}}
		if r := <-patient; r.Err != nil || cmp.Diff(want, r.Heads) != "" {
			t.Errorf("the patient question: %+v %v", r.Heads, r.Err)
		}
		if diff := cmp.Diff(w.want(0, 0), w.entries()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		// What is asked for in part is looked up for the next time.
		for pass, unsettled := range [][]contracts.RoomID{{"new"}, nil} {
			r := <-w.ask(0, contracts.Question{Heads: []contracts.RoomID{"new"}, Partly: true, LeftMS: 1000})
			if r.Err != nil || !cmp.Equal(r.Unsettled, unsettled) {
				t.Errorf("pass %d: asked for a part of a room that is not held: %+v (%v), want %v unsettled", pass, r, r.Err, unsettled)
			}
			synctest.Wait()
		}
		elapse(3 * time.Second)
		if c := w.commit(0); c == nil || c.Offset != 5 {
			t.Errorf("committed %+v, want 5", c)
		}
		if err := d.Ready(); err != nil {
			t.Errorf("Ready: %v", err)
		}
	})
}

// A question about a room whose look-up is under way waits for the records that were read before it.
func TestHeadIncludesWhatWaits(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		_, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		hang := make(chan struct{})
		w.set(func() { w.storeHangs = hang })
		first := w.ask(0, contracts.Question{Heads: []contracts.RoomID{"a"}, LeftMS: 1000})
		w.send("a", texts(3)...)
		synctest.Wait()
		second := w.ask(0, contracts.Question{Heads: []contracts.RoomID{"a"}, LeftMS: 1000})
		synctest.Wait()
		w.set(func() { w.storeHangs = nil })
		close(hang)
		expectHead(t, <-first, 3, 1)
		expectHead(t, <-second, 3, 1)
	})
}

// When too much waits for the store, the partition stops reading and later goes on from the log, without a loss.
func TestTooMuchWaits(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		_, stop := w.run(dispatch.Config{WaitingBytes: 4000})
		defer stop()
		elapse(time.Second)
		w.send("warm", "one")
		synctest.Wait()
		w.set(func() { w.storeErr = errAway })
		w.send("cold", texts(30)...)
		w.send("warm", texts(30)...)
		elapse(3 * time.Second)
		w.set(func() { w.storeErr = nil })
		elapse(3 * time.Second)
		w.send("cold", texts(5)...)
		w.send("warm", texts(5)...)
		elapse(3 * time.Second)
		if diff := cmp.Diff(w.want(0, 0), w.entries()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		expectHead(t, w.head("cold"), 35, 1)
		expectHead(t, w.head("warm"), 36, 1)
	})
}

// heldLog hands the end of the log over only after a while, the first time: by then it may have grown.
type heldLog struct {
	fakeLog
	once *sync.Once
	held chan chan struct{} // gets what lets that read return
}

func (l heldLog) Read(ctx context.Context, p int32, from int64, limit int) ([]journal.Record, error) {
	records, err := l.fakeLog.Read(ctx, p, from, limit)
	if len(records) == 0 {
		l.once.Do(func() {
			release := make(chan struct{})
			l.held <- release
			<-release
		})
	}
	return records, err
}

// What was polled, and dropped, while the log's end was being read, is read as well.
func TestGrowsWhileCatchingUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		held := make(chan chan struct{})
		_, stop := w.runWith(dispatch.Config{WaitingBytes: 2000}, func(deps *dispatch.Deps) {
			deps.Log = heldLog{fakeLog{w}, new(sync.Once), held}
		})
		defer stop()
		elapse(time.Second)
		w.set(func() { w.storeErr = errAway })
		w.send("a", texts(20)...)
		elapse(time.Second)
		w.set(func() { w.storeErr = nil })
		release := <-held
		w.send("a", "while it is read")
		synctest.Wait()
		close(release)
		synctest.Wait()
		w.send("a", "after")
		synctest.Wait()
		if diff := cmp.Diff(w.want(0, 0), w.entries()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}

// laggingLog gives out no record from an offset on, as a new leader does for a moment whose followers have not told it yet how
// far they are.
type laggingLog struct {
	fakeLog
	end *atomic.Int64 // -1: it gives out all
}

func (l laggingLog) Read(ctx context.Context, p int32, from int64, limit int) ([]journal.Record, error) {
	records, err := l.fakeLog.Read(ctx, p, from, limit)
	if end := l.end.Load(); end >= 0 {
		records = slices.DeleteFunc(records, func(r journal.Record) bool { return r.Offset >= end })
	}
	return records, err
}

// Where the log seems to end before what was polled and dropped, nothing behind it is numbered without that.
func TestLogSeemsToEnd(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var end atomic.Int64
		end.Store(-1)
		_, stop := w.runWith(dispatch.Config{WaitingBytes: 2000}, func(deps *dispatch.Deps) {
			deps.Log = laggingLog{fakeLog{w}, &end}
		})
		defer stop()
		elapse(time.Second)
		w.set(func() { w.storeErr = errAway })
		w.send("a", texts(20)...)
		elapse(time.Second)
		end.Store(15)
		w.set(func() { w.storeErr = nil })
		elapse(5 * time.Second)
		if got := len(w.entries()); got != 15 {
			t.Fatalf("told %d entries, want those that the log gives out", got)
		}
		end.Store(-1)
		w.send("a", "after")
		elapse(5 * time.Second)
		if diff := cmp.Diff(w.want(0, 0), w.entries()); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}

// That holds also for a room that is held, where a record's key must be looked up.
func TestHeadWaitsForAnOldKey(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		late := w.record("a", "late")
		w.send("a", "one")
		w.persist(0, 1)
		_, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		expectHead(t, w.head("a"), 1, 1)
		hang := make(chan struct{})
		w.set(func() { w.storeHangs = hang })
		w.append(late)
		synctest.Wait()
		r := w.ask(0, contracts.Question{Heads: []contracts.RoomID{"a"}, LeftMS: 1000})
		synctest.Wait()
		w.set(func() { w.storeHangs = nil })
		close(hang)
		expectHead(t, <-r, 2, 1)
	})
}

func TestReadFromMemory(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		_, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		w.send("a", texts(20)...)
		w.send("b", "x")
		synctest.Wait()
		all := w.want(0, 0)
		for _, tt := range []struct {
			q     contracts.Question
			want  []string
			floor contracts.Seq
		}{
			{read("a", 1, 1, 20), all[:20], 1},
			{read("a", 1, 3, 5), all[2:5], 1},
			{read("a", 1, 19, 40), all[18:20], 1},
			{read("a", 1, 21, 40), nil, 1},
			{read("a", 1, 5, 3), nil, 1},
			{read("a", 2, 1, 20), nil, 1},
			{read("none", 1, 1, 20), nil, 1},
		} {
			r := <-w.ask(0, tt.q)
			if diff := cmp.Diff(tt.want, bodies(r)); diff != "" || r.Floor != tt.floor || r.Err != nil || r.Epoch != 1 {
				t.Errorf("%+v: floor %d, epoch %d, err %v (-want +got):\n%s", tt.q.Read, r.Floor, r.Epoch, r.Err, diff)
			}
		}
		if w.logReads > 0 {
			t.Errorf("read the log %d times for what is in memory", w.logReads)
		}
	})
}

// A reply holds at most 200 KiB, the oldest entries first, so that a reader can go on behind them.
func TestReadCutBySize(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		_, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		for range 30 {
			w.send("a", strings.Repeat("x", 16<<10))
		}
		synctest.Wait()
		var got []string
		for from := contracts.Seq(1); from <= 30; {
			r := <-w.ask(0, read("a", 1, from, 30))
			if n := len(r.Entries); n == 0 || n > 13 || r.Entries[0].Seq != from {
				t.Fatalf("from %d: %d entries (%v)", from, n, r.Err)
			}
			got = append(got, bodies(r)...)
			from = r.Entries[len(r.Entries)-1].Seq + 1
		}
		if diff := cmp.Diff(w.want(0, 0), got); diff != "" {
			t.Errorf("read (-want +got):\n%s", diff)
		}
	})
}

// What does not fit into memory is read from the log again while the store does not have it, and let go of after.
func TestRingDropsAndReadsAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		_, stop := w.run(dispatch.Config{RingBytes: 2000})
		defer stop()
		elapse(time.Second)
		for i := range 20 {
			w.send("a", fmt.Sprint(i))
			w.send("b", fmt.Sprint(i))
			synctest.Wait()
		}
		want := w.want(0, 0)
		for _, room := range []struct {
			id   string
			want []string
		}{{"a", want[:20]}, {"b", want[20:]}} {
			r := <-w.ask(0, read(room.id, 1, 1, 20))
			if diff := cmp.Diff(room.want, bodies(r)); diff != "" || r.Floor != 1 {
				t.Errorf("room %s: floor %d (-want +got):\n%s", room.id, r.Floor, diff)
			}
		}
		if w.logReads == 0 {
			t.Error("everything fit into memory")
		}

		for _, tt := range []struct {
			c     int64
			floor contracts.Seq
		}{
			{10, 6},  // offset 10 is entry 6
			{40, 15}, // the newest 13 are in memory
		} {
			w.persist(0, tt.c)
			elapse(2 * time.Second)
			r := <-w.ask(0, read("a", 1, 1, 20))
			if diff := cmp.Diff(want[tt.floor-1:20], bodies(r)); diff != "" || r.Floor != tt.floor {
				t.Errorf("C = %d: floor %d (-want +got):\n%s", tt.c, r.Floor, diff)
			}
			expectHead(t, w.head("a"), 20, tt.floor)
		}
		for range 20 {
			w.send("c", "x")
		}
		elapse(time.Second)
		expectHead(t, w.head("a"), 20, 21)
		expectHead(t, w.head("c"), 20, 1)
	})
}

func TestQuestionsThatCannotBe(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.partitions = 4
		_, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		elsewhere := contracts.RoomID("a")
		p := (contracts.LaneOf(elsewhere).Partition(4) + 1) % 4
		expectCode(t, <-w.askRaw(p, []byte("{")), contracts.CodeBadRequest)
		expectCode(t, <-w.ask(p, contracts.Question{Heads: []contracts.RoomID{elsewhere}, LeftMS: 1000}), contracts.CodeBadRequest)
		expectCode(t, <-w.ask(p, contracts.Question{Heads: []contracts.RoomID{"a.b>"}, LeftMS: 1000}), contracts.CodeBadRequest)
		expectCode(t, <-w.ask(p, contracts.Question{Find: &contracts.Identity{Room: elsewhere}, LeftMS: 1000}), contracts.CodeBadRequest)
		q := read("a", 1, 1, 2)
		expectCode(t, <-w.ask(p, q), contracts.CodeBadRequest)
		if r := <-w.ask(p, contracts.Question{}); r.Err != nil || r.Epoch != 1 || !r.Certain {
			t.Errorf("the empty question: %+v", r)
		}
	})
}

func TestFind(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		_, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		w.send("a", "one")
		r := w.record("a", "two")
		id := r.Identity()
		if got := <-w.ask(0, contracts.Question{Find: &id, LeftMS: 1000}); got.Err != nil || got.Found != 0 {
			t.Errorf("before: %+v", got)
		}
		w.append(r)
		synctest.Wait()
		if got := <-w.ask(0, contracts.Question{Find: &id, LeftMS: 1000}); got.Err != nil || got.Found != 2 {
			t.Errorf("after: %+v", got)
		}
	})
}

// Certain waits until everything is numbered that was in the log at the take-over.
func TestCertain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.send("a", texts(3)...)
		w.send("b", "one")
		hang := make(chan struct{})
		w.set(func() { w.storeHangs = hang })
		d, stop := w.run(dispatch.Config{})
		defer stop()
		elapse(time.Second)
		if r := <-w.ask(0, contracts.Question{LeftMS: 1000}); r.Err != nil || r.Certain || d.Ready() == nil {
			t.Errorf("while records wait: %+v, Ready %v", r, d.Ready())
		}
		close(hang)
		synctest.Wait()
		if r := <-w.ask(0, contracts.Question{LeftMS: 1000}); r.Err != nil || !r.Certain || d.Ready() != nil {
			t.Errorf("after: %+v, Ready %v", r, d.Ready())
		}
	})
}

func TestTooManyQuestions(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		_, stop := w.run(dispatch.Config{Questions: 3})
		defer stop()
		elapse(time.Second)
		w.set(func() { w.storeErr = errAway })
		codes := make(map[contracts.Code]int)
		var replies []<-chan contracts.Reply
		for i := range 5 {
			replies = append(replies, w.ask(0, contracts.Question{Heads: []contracts.RoomID{contracts.RoomID(fmt.Sprint(i))}, LeftMS: 500}))
			synctest.Wait()
		}
		for _, r := range replies {
			codes[(<-r).Err.Code]++
		}
		if diff := cmp.Diff(map[contracts.Code]int{contracts.CodeUnavailable: 3, contracts.CodeOverloaded: 2}, codes); diff != "" {
			t.Error(diff)
		}
	})
}

// heldConsumer gives what it has read only once it is let go.
type heldConsumer struct {
	journal.Consumer
	letGo <-chan struct{}
}

func (c heldConsumer) Poll(ctx context.Context, wait time.Duration) ([]journal.Batch, error) {
	batches, err := c.Consumer.Poll(ctx, wait)
	for _, b := range batches {
		if len(b.Records) > 0 {
			select {
			case <-c.letGo:
			case <-ctx.Done():
			}
			break
		}
	}
	return batches, err
}

// Below D nothing is published again, so a head from there would leave who asked without what follows it.
func TestNoHeadBelowD(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.send("a", texts(3)...)
		_, stop := w.run(dispatch.Config{})
		elapse(10 * time.Second)
		stop()
		if c := w.commit(0); c == nil || c.Offset != 3 {
			t.Fatalf("committed %+v, want all three", c)
		}
		letGo := make(chan struct{})
		_, stop = w.runWith(dispatch.Config{}, func(deps *dispatch.Deps) {
			consume := deps.Consume
			deps.Consume = func(o journal.Owner) (journal.Consumer, error) {
				c, err := consume(o)
				return heldConsumer{Consumer: c, letGo: letGo}, err
			}
		})
		defer stop()
		elapse(time.Second)
		expectCode(t, <-w.ask(0, contracts.Question{Heads: []contracts.RoomID{"a"}, LeftMS: 500}), contracts.CodeUnavailable)
		patient := w.ask(0, contracts.Question{Heads: []contracts.RoomID{"a", "untouched"}, LeftMS: 8000})
		elapse(time.Second)
		close(letGo)
		r := <-patient
		if want := []contracts.Head{{Seq: 3, Floor: 1}, {Seq: 0, Floor: 1}}; r.Err != nil || !cmp.Equal(r.Heads, want) {
			t.Errorf("got %+v, want heads %v", r, want)
		}
	})
}
