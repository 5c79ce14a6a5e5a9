package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

// FanoutFixture makes the parts of one fan-out, which nobody else uses, and closes them with the test.
type FanoutFixture struct {
	Publisher  fanout.Publisher
	Subscriber func(node contracts.NodeID, r fanout.Receiver) fanout.Subscriber
	// Interrupt makes the broker unreachable until Resume; Stall makes it silent until Resume. nil: that cannot be done,
	// and what needs it is skipped.
	Interrupt, Resume func() error
	Stall             func()
}

// heard is one call of a Receiver.
type heard struct {
	what  string // message, down or up
	lane  contracts.Lane
	group int
	body  string
}

// ear is a Receiver that keeps every call.
type ear chan heard

func newEar() ear { return make(ear, 1<<16) }

func (e ear) Receive(lane contracts.Lane, body []byte) {
	e <- heard{what: "message", lane: lane, group: lane.Group(), body: string(body)}
	clear(body) // the body is the receiver's: nobody else may see this
}
func (e ear) Down(group int) { e <- heard{what: "down", group: group} }
func (e ear) Up(group int)   { e <- heard{what: "up", group: group} }

// Lanes of three groups, two of them in the same one.
var testLanes = []contracts.Lane{5, 5 + contracts.LaneGroups, 6, 4095}

// Fanout checks what package fanout promises of a Publisher and its Subscribers.
func Fanout(t *testing.T, start func(t *testing.T) FanoutFixture) {
	t.Run("in order", func(t *testing.T) { testLanesInOrder(t, start(t)) })
	t.Run("unsubscribe", func(t *testing.T) { testUnsubscribe(t, start(t)) })
	t.Run("subscribe in parallel", func(t *testing.T) { testParallelSubscribe(t, start(t)) })
	t.Run("cancelled subscribe", func(t *testing.T) { testCancelledSubscribe(t, start(t)) })
	t.Run("close", func(t *testing.T) { testCloseSubscriber(t, start(t)) })
	t.Run("outage", func(t *testing.T) { testLanesOutage(t, start(t)) })
	t.Run("silence", func(t *testing.T) { testLanesSilence(t, start(t)) })
}

func subscribe(t *testing.T, s fanout.Subscriber, lanes ...contracts.Lane) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if err := s.Subscribe(ctx, lanes...); err != nil {
		t.Fatalf("Subscribe(%v): %v", lanes, err)
	}
}

func publish(t *testing.T, p fanout.Publisher, messages ...fanout.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if err := p.Publish(ctx, messages); err != nil {
		t.Fatalf("Publish: %v", err)
	}
}

func message(lane contracts.Lane, body string) fanout.Message {
	return fanout.Message{Lane: lane, Body: []byte(body)}
}

func testLanesInOrder(t *testing.T, f FanoutFixture) {
	ears := []ear{newEar(), newEar()}
	for i, e := range ears {
		s := f.Subscriber(contracts.NodeID(fmt.Sprintf("node%d", i)), e)
		subscribe(t, s, testLanes...)
		subscribe(t, s, testLanes[0]) // costs nothing, and doubles nothing
		if !s.Healthy() {
			t.Error("Healthy() = false with all lanes subscribed")
		}
	}
	publish(t, f.Publisher)
	const batches, size = 20, 50
	want := make(map[contracts.Lane][]string)
	for b := range batches {
		var batch []fanout.Message
		for i := range size {
			lane := testLanes[(b+i)%len(testLanes)]
			body := fmt.Sprintf("%d/%d \x00\r\n\xff", b, i)
			batch = append(batch, message(lane, body), message(7, "nobody has this lane"))
			want[lane] = append(want[lane], body)
		}
		publish(t, f.Publisher, batch...)
	}
	for i, e := range ears {
		got := make(map[contracts.Lane][]string)
		for range batches * size {
			h := await(t, "message", e)
			if h.what != "message" {
				t.Fatalf("subscriber %d heard %+v", i, h)
			}
			got[h.lane] = append(got[h.lane], h.body)
		}
		for lane, bodies := range want {
			if !slices.Equal(got[lane], bodies) {
				t.Errorf("subscriber %d, lane %d: heard %d messages other than the %d published, or in another order",
					i, lane, len(got[lane]), len(bodies))
			}
		}
		if len(e) > 0 {
			t.Errorf("subscriber %d heard %+v besides", i, <-e)
		}
	}
}

func testUnsubscribe(t *testing.T, f FanoutFixture) {
	e := newEar()
	s := f.Subscriber("node", e)
	gone, stays := testLanes[0], testLanes[1] // of one group: one after the other on any connection
	subscribe(t, s, gone, stays)
	if err := s.Unsubscribe(t.Context(), gone); err != nil {
		t.Fatalf("Unsubscribe: %v", err)
	}
	// A message under way may still come, so this asks until none does.
	for deadline, round := time.Now().Add(Patience), 0; ; round++ {
		publish(t, f.Publisher, message(gone, "gone"), message(stays, "stays"))
		first := await(t, "message", e)
		if first.lane == stays {
			break
		}
		await(t, "message", e)
		if time.Now().After(deadline) {
			t.Fatalf("lane %d is still heard after %d rounds", gone, round)
		}
	}
	// Back, and for good: the unsubscription must not overtake the subscription.
	for i := range 50 {
		if err := s.Unsubscribe(t.Context(), gone); err != nil {
			t.Fatalf("Unsubscribe: %v", err)
		}
		subscribe(t, s, gone)
		want := fmt.Sprint("back ", i)
		publish(t, f.Publisher, message(gone, want))
		if h := await(t, "message after subscribing again", e); h.body != want {
			t.Fatalf("heard %+v, want %q", h, want)
		}
	}
	// The last lane goes, and one comes again: also for adapters that hang up in between.
	for i := range 20 {
		if err := s.Unsubscribe(t.Context(), testLanes...); err != nil {
			t.Fatalf("Unsubscribe: %v", err)
		}
		subscribe(t, s, testLanes[2])
		want := fmt.Sprint("again ", i)
		publish(t, f.Publisher, message(testLanes[2], want))
		if h := await(t, "message after hanging up", e); h.body != want {
			t.Fatalf("heard %+v, want %q", h, want)
		}
	}
}

func testParallelSubscribe(t *testing.T, f FanoutFixture) {
	e := newEar()
	s := f.Subscriber("node", e)
	const n = 64
	errs := make(chan error, n)
	for i := range n {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), Patience)
			defer cancel()
			lane := contracts.Lane(100 + i/2) // two ask for each
			if err := s.Subscribe(ctx, lane, 99); err != nil {
				errs <- err
				return
			}
			errs <- f.Publisher.Publish(ctx, []fanout.Message{message(lane, fmt.Sprint(i))})
		}()
	}
	for range n {
		if err := await(t, "subscription", errs); err != nil {
			t.Fatalf("Subscribe or Publish: %v", err)
		}
	}
	seen := make(map[string]bool)
	for range n {
		seen[await(t, "message", e).body] = true
	}
	if len(seen) != n {
		t.Errorf("heard %d different messages, want %d", len(seen), n)
	}
}

func testCancelledSubscribe(t *testing.T, f FanoutFixture) {
	e := newEar()
	s := f.Subscriber("node", e)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		if err := s.Subscribe(ctx, testLanes[0]); err == nil {
			continue // it was faster
		}
		subscribe(t, s, testLanes[1])
		publish(t, f.Publisher, message(testLanes[1], "kept"))
		if h := await(t, "message", e); h.body != "kept" {
			t.Fatalf("heard %+v", h)
		}
	}
	subscribe(t, s, testLanes[0])
	publish(t, f.Publisher, message(testLanes[0], "after all"))
	if h := await(t, "message", e); h.body != "after all" {
		t.Fatalf("heard %+v", h)
	}
}

func testCloseSubscriber(t *testing.T, f FanoutFixture) {
	e := newEar()
	s := f.Subscriber("node", e)
	subscribe(t, s, testLanes...)
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if err := s.Subscribe(t.Context(), 1); err == nil {
		t.Error("Subscribe after Close succeeded")
	}
	publish(t, f.Publisher, message(testLanes[0], "late"))
	if len(e) > 0 {
		t.Errorf("heard %+v after Close", <-e)
	}
}

// groupsOf returns the groups of lanes, sorted.
func groupsOf(lanes []contracts.Lane) []int {
	var groups []int
	for _, l := range lanes {
		groups = append(groups, l.Group())
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}

// awaitGroups waits until what was called once for each of the groups.
func awaitGroups(t *testing.T, e ear, what string, groups []int) {
	t.Helper()
	var got []int
	for len(got) < len(groups) {
		h := await(t, what, e)
		if h.what != what {
			t.Fatalf("heard %+v, want only %s", h, what)
		}
		got = append(got, h.group)
	}
	slices.Sort(got)
	if !slices.Equal(got, groups) {
		t.Fatalf("%s of groups %v, want %v", what, got, groups)
	}
}

func testLanesOutage(t *testing.T, f FanoutFixture) {
	if f.Interrupt == nil {
		t.Skip("the broker cannot be interrupted")
	}
	e := newEar()
	s := f.Subscriber("node", e)
	subscribe(t, s, testLanes...)
	round := 0
	// outage plays one, and says how long Down took behind the connection's end.
	outage := func() (down time.Duration) {
		round++
		if err := f.Interrupt(); err != nil {
			t.Fatalf("interrupt: %v", err)
		}
		began := time.Now()
		awaitGroups(t, e, "down", groupsOf(testLanes))
		down = time.Since(began)
		if s.Healthy() {
			t.Error("Healthy() = true while the broker is away")
		}
		if err := s.Subscribe(t.Context(), 1000); !errors.Is(err, fanout.ErrAway) { // at once: it was not tried
			t.Errorf("Subscribe while the broker is away: %v, want ErrAway", err)
		}
		if err := s.Subscribe(t.Context(), testLanes[0]); err != nil {
			t.Errorf("Subscribe to a lane that comes back by itself: %v", err)
		}
		if err := f.Publisher.Publish(t.Context(), []fanout.Message{message(testLanes[0], "lost")}); err == nil {
			t.Error("Publish succeeded while the broker is away")
		}
		if err := f.Resume(); err != nil {
			t.Fatalf("resume: %v", err)
		}
		awaitGroups(t, e, "up", groupsOf(testLanes))
		if !s.Healthy() {
			t.Error("Healthy() = false after Up")
		}
		for _, lane := range testLanes {
			want := fmt.Sprint(round, " again ", lane)
			publish(t, f.Publisher, message(lane, want))
			if h := await(t, "message after the outage", e); h.body != want {
				t.Fatalf("heard %+v, want %q", h, want)
			}
		}
		publish(t, f.Publisher, message(1000, "refused lane"), message(testLanes[0], "mark"))
		if h := await(t, "message", e); h.body != "mark" {
			t.Errorf("heard %+v of a lane whose Subscribe failed", h)
		}
		return down
	}
	outage()
	// With the connection, and not only when the canary stays away. It is the second outage, at least.
	Soon(t, "Down after the connection's end", 2*time.Second, outage)
}

func testLanesSilence(t *testing.T, f FanoutFixture) {
	if f.Stall == nil {
		t.Skip("the broker cannot be silenced")
	}
	e := newEar()
	s := f.Subscriber("node", e)
	subscribe(t, s, testLanes...)
	round := 0
	Soon(t, "Down, where about 3 s of silence are to be enough,", 6*time.Second, func() (down time.Duration) {
		round++
		began := time.Now()
		f.Stall()
		awaitGroups(t, e, "down", groupsOf(testLanes))
		down = time.Since(began)
		if s.Healthy() {
			t.Error("Healthy() = true while the broker is silent")
		}
		if err := f.Resume(); err != nil {
			t.Fatalf("resume: %v", err)
		}
		awaitGroups(t, e, "up", groupsOf(testLanes))
		want := fmt.Sprint("heard ", round)
		publish(t, f.Publisher, message(testLanes[0], want))
		if h := await(t, "message after the silence", e); h.body != want {
			t.Errorf("heard %+v, want %q", h, want)
		}
		return down
	})
}
