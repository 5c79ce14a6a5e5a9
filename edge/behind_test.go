package edge_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// slowBench is a Bench with small budgets.
type slowBench struct {
	*edge.Bench
	reg  *prometheus.Registry
	seqs map[contracts.RoomID]contracts.Seq
}

func newSlowBench(t *testing.T, total int64, ask rpc.Client) *slowBench {
	t.Helper()
	b := &slowBench{reg: prometheus.NewRegistry(), seqs: make(map[contracts.RoomID]contracts.Seq)}
	s, err := edge.New(edge.Config{Node: "n1", Partitions: 8, OutboundBytes: slowBudget, OutboundTotal: total},
		edge.Deps{Ask: ask, Log: slog.New(slog.DiscardHandler), Metrics: b.reg})
	if err != nil {
		t.Fatal(err)
	}
	b.Bench = edge.NewBench(s)
	return b
}

// entry delivers an entry of a size.
func (b *slowBench) entry(room contracts.RoomID, size int) {
	b.seqs[room]++
	e := entryOf(room, 1, b.seqs[room])
	e.Body = fmt.Appendf(nil, `{"event":"message","room":"%s","seq":%d,"epoch":1,"text":"%s"}`, room, b.seqs[room], strings.Repeat("x", size))
	b.Receive(room, contracts.AppendEnvelope(nil, &e))
	b.Round()
}

func (b *slowBench) event(room contracts.RoomID) {
	e := contracts.Envelope{Kind: contracts.EnvelopeEvent, Room: room, Body: []byte(`{"event":"typing","room":"` + string(room) + `"}`)}
	b.Receive(room, contracts.AppendEnvelope(nil, &e))
	b.Round()
}

// stick fills the connection's socket until something waits.
func (b *slowBench) stick(c *edge.BenchConn) {
	for id := uint64(1); ; id++ {
		if n, _ := c.Queued(); n > 0 {
			return
		}
		c.Reply(id, []byte(`"`+strings.Repeat("r", 900)+`"`))
		b.Round()
	}
}

// seen reads everything and returns the events, entries as their seq, and close frames as their code.
func seen(t *testing.T, c *edge.BenchConn) (all []string) {
	t.Helper()
	var stream []byte
	for taken := c.Take(1 << 30); len(taken) > 0; taken = c.Take(1 << 30) {
		stream = append(stream, taken...)
	}
	for {
		op, payload, rest, ok := unframe(stream)
		if !ok {
			break
		}
		stream = rest
		if op == 8 {
			all = append(all, fmt.Sprint("close ", int(payload[0])<<8|int(payload[1])))
			continue
		}
		var m message
		if err := json.Unmarshal(payload, &m); err != nil {
			t.Fatal(err)
		}
		switch m.Event {
		case "":
		case "message":
			all = append(all, fmt.Sprint(m.Room, " ", m.Seq))
		case "gap":
			all = append(all, fmt.Sprint(m.Room, " gap ", m.from(), "…", m.To))
		default:
			all = append(all, m.Event)
		}
	}
	if len(stream) > 0 {
		t.Errorf("half a frame at the end: %q", stream)
	}
	return all
}

// TestOrderOfSacrifice lets one thing after the other not fit.
func TestOrderOfSacrifice(t *testing.T) {
	b := newSlowBench(t, 1<<30, mute{})
	c, other := b.Member("a"), b.Member("b")
	c.Enter("b")
	b.Listen(c, "b")
	b.stick(c)
	b.event("a") // below a quarter
	b.entry("b", 100)
	for n, _ := c.Queued(); n < slowBudget/4; n, _ = c.Queued() {
		b.entry("a", 500)
	}
	if !c.Paused() {
		t.Error("a stuck connection is still read")
	}
	b.event("a") // dropped
	b.entry("a", 500)
	whole := b.seqs["a"]
	if _, behind := c.Queued(); behind != 0 {
		t.Fatal("behind although only events need have gone")
	}
	for range 100 { // a alone has enough to give up
		b.entry("a", 500)
	}
	b.entry("b", 100)
	if _, behind := c.Queued(); behind != 1 {
		t.Fatalf("behind in %d rooms", behind)
	}
	got := seen(t, c)
	// The first event gave way with the entries.
	want := []string{"b 1", "b 2", fmt.Sprint("a gap 1…", b.seqs["a"])}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("saw %v instead of %v (%d entries fitted)", got, want, whole)
	}
	b.entry("a", 1)
	b.event("a")
	if got := seen(t, c); fmt.Sprint(got) != fmt.Sprint([]string{fmt.Sprint("a ", b.seqs["a"]), "typing"}) {
		t.Errorf("behind the gap: %v", got)
	}
	if got := seen(t, other); fmt.Sprint(got) != "[b 1 b 2]" {
		t.Errorf("the other saw %v", got)
	}
}

// TestRepliesThatDoNotFit end the connection: they are never dropped.
func TestRepliesThatDoNotFit(t *testing.T) {
	b := newSlowBench(t, 1<<30, mute{})
	c, other := b.Member("a"), b.Member("a")
	b.stick(c)
	b.entry("a", 3000)
	for id := uint64(1000); c.Ready(); id++ {
		if n, _ := c.Queued(); n > slowBudget {
			t.Fatalf("%d bytes wait", n)
		}
		c.Reply(id, []byte(`"`+strings.Repeat("r", 900)+`"`))
	}
	b.entry("a", 10)
	if got := seen(t, c); fmt.Sprint(got) != "[close 4440]" {
		t.Errorf("saw %v", got)
	}
	if got := seen(t, other); fmt.Sprint(got) != "[a 1 a 2]" {
		t.Errorf("the other saw %v", got)
	}
	if n, stuck := b.Waiting(); n != 0 || stuck != 0 {
		t.Errorf("%d bytes in %d connections are left", n, stuck)
	}
}

// TestSharedFramesCountOnce for the edge, and for each connection.
func TestSharedFramesCountOnce(t *testing.T) {
	b := newSlowBench(t, 1<<30, mute{})
	members := make([]*edge.BenchConn, 50)
	for i := range members {
		members[i] = b.Member("a")
		b.stick(members[i])
	}
	before, _ := b.Waiting()
	one, _ := members[0].Queued()
	b.entry("a", 8000)
	after, stuck := b.Waiting()
	if more := after - before; stuck != 50 || more < 8000 || more > 8000+50*100 {
		t.Errorf("an entry of 8,000 bytes for %d members holds %d", stuck, more)
	}
	if n, _ := members[0].Queued(); n < one+8000 {
		t.Errorf("%d bytes count for one member, %d before", n, one)
	}
}

// TestEdgeIsFull makes those with the most waiting give up first.
func TestEdgeIsFull(t *testing.T) {
	b := newSlowBench(t, 40_000, mute{})
	large, small := b.Member("a"), b.Member("b")
	b.stick(large)
	b.stick(small)
	b.entry("b", 3000)
	for range 5 {
		b.entry("a", 4000)
	}
	for range 7 { // above 80 % now
		b.entry("b", 1500)
	}
	if _, behind := large.Queued(); behind != 1 {
		t.Error("who holds the most gave up nothing")
	}
	if _, behind := small.Queued(); behind != 0 {
		t.Error("who holds less gave up something")
	}
	for _, c := range []*edge.BenchConn{large, small} { // what cannot be told as a gap counts too
		for id := uint64(1000); id < 1015 && c.Ready(); id++ {
			c.Reply(id, []byte(`"`+strings.Repeat("r", 1500)+`"`))
		}
		b.Round()
	}
	if n, _ := b.Waiting(); n > 40_000 || large.Ready() && small.Ready() {
		t.Errorf("%d bytes wait", n)
	}
}

// TestBehindCostsNothing per delivery, in bytes and allocations.
func TestBehindCostsNothing(t *testing.T) {
	b := newSlowBench(t, 1<<30, mute{})
	members := make([]*edge.BenchConn, 20)
	for i := range members {
		members[i] = b.Member("a")
		if i%2 == 0 {
			b.stick(members[i])
		}
	}
	drain := func() {
		for i := 1; i < len(members); i += 2 {
			members[i].Discard()
		}
	}
	for range 100 {
		b.entry("a", 500)
		drain()
	}
	before, stuck := b.Waiting()
	if _, behind := members[0].Queued(); behind != 1 || stuck != 10 {
		t.Fatalf("behind in %d rooms, %d stuck", behind, stuck)
	}
	frame, seq := make([]byte, 500), b.seqs["a"]
	copy(frame, "\x81\x7e\x01\xf0")
	if n := testing.AllocsPerRun(1000, func() {
		seq++
		b.Inject("a", seq, frame)
		b.Round()
		drain()
	}); n != 0 {
		t.Errorf("%v allocations for a delivery", n)
	}
	if after, _ := b.Waiting(); after != before {
		t.Errorf("%d bytes wait, %d before", after, before)
	}
}

// later is an rpc.Client that keeps the last question for the test.
type later struct {
	mute
	done func([]byte, error)
}

func (l *later) Ask(_ string, _ []byte, _ time.Duration, done func([]byte, error)) { l.done = done }

// TestJoinWhileBehind joins the room in which it is behind: until the answer comes nothing of the room does; behind an
// answer live goes on at once, behind an error only with a gap.
func TestJoinWhileBehind(t *testing.T) {
	for name, fails := range map[string]bool{"complete": false, "unavailable": true} {
		t.Run(name, func(t *testing.T) {
			ask := &later{}
			b := newSlowBench(t, 1<<30, ask)
			b.HearAll()
			c := b.Member("a")
			b.stick(c)
			for _, behind := c.Queued(); behind == 0; _, behind = c.Queued() {
				b.entry("a", 900)
			}
			c.Received(text(`{"id":5,"op":"join","room":"a"}`))
			b.Round()
			if got := seen(t, c); len(got) != 0 {
				t.Errorf("before the answer: %v", got)
			}
			head := b.seqs["a"]
			b.entry("a", 10)
			answer := joinAnswer(contracts.JoinComplete, 1, head)
			want := fmt.Sprintf("[a %d a %d]", head+1, head+2)
			if fails {
				answer = contracts.Answer{Err: contracts.NewError(contracts.CodeUnavailable, "not now")}
				want = fmt.Sprintf("[a gap 1…%d a %d]", head+1, head+2)
			}
			reply, err := json.Marshal(answer)
			if err != nil {
				t.Fatal(err)
			}
			ask.done(reply, nil)
			b.Round()
			b.entry("a", 10)
			if got := fmt.Sprint(seen(t, c)); got != want {
				t.Errorf("saw %s instead of %s", got, want)
			}
		})
	}
}
