package edge_test

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

var (
	slowSeed = flag.Uint64("slow.seed", 0, "the only seed that TestSlowModel walks; 0: several of its own")
	slowRuns = flag.Int("slow.runs", 30, "how many seeds TestSlowModel walks")
)

// TestSlowModel walks at random over one loop: rooms get entries and ephemeral events, clients get replies, join again
// and leave, and read at their own pace or not at all. Each client must see every entry of its rooms once, or told in a
// gap once, in order; every reply in order; and who reads at once must have everything when the round ends.
func TestSlowModel(t *testing.T) {
	seeds := []uint64{*slowSeed}
	if *slowSeed == 0 {
		seeds = nil
		for range *slowRuns {
			seeds = append(seeds, rand.Uint64())
		}
	}
	happened := make(map[string]float64)
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { walkSlow(t, seed, happened) })
	}
	for _, what := range []string{"slow_gaps_total", "dropped_total", "closed_total"} {
		if len(seeds) > 5 && happened[what] == 0 {
			t.Errorf("no walk came to %s", what)
		}
	}
}

const slowBudget = 32 << 10

// slowWalk is the truth about the rooms.
type slowWalk struct {
	t     *testing.T
	rand  *rand.Rand
	bench *edge.Bench
	reg   *prometheus.Registry
	rooms []contracts.RoomID
	heads map[contracts.RoomID]contracts.Seq
	asked []func() // answers to joins that are not given yet
	body  []byte
	limit int64
}

// Ask keeps joins for some step of the walk.
func (w *slowWalk) Ask(_ string, body []byte, _ time.Duration, done func([]byte, error)) {
	var cmd contracts.Command
	if err := json.Unmarshal(body, &cmd); err != nil || cmd.Op != contracts.OpJoin {
		return
	}
	w.asked = append(w.asked, func() {
		answer := joinAnswer(contracts.JoinComplete, 1, w.heads[cmd.Room])
		if w.rand.IntN(4) == 0 {
			answer = contracts.Answer{Err: contracts.NewError(contracts.CodeUnavailable, "not now")}
		}
		reply, err := json.Marshal(answer)
		if err != nil {
			panic(err)
		}
		done(reply, nil)
	})
}

func (*slowWalk) MaxPayload() int { return 1 << 20 }
func (*slowWalk) Up() bool        { return true }
func (*slowWalk) Close() error    { return nil }

// reader is one client of the walk.
type reader struct {
	*edge.BenchConn
	pace   int // 0 reads everything at once, 1 a little at a time, 2 hardly ever
	stream []byte
	at     map[contracts.RoomID]*readerRoom
	lastID uint64            // of its own requests
	sent   map[uint64]wanted // its requests without an answer
	told   uint64            // the last reply that nobody asked for, given and seen
	seen   uint64
	closed contracts.CloseCode
}

type readerRoom struct {
	listening bool
	seq       contracts.Seq
	left      uint64 // the last leave that was answered: it may overtake a join that came before it
}

// repliesFrom is the first id of replies that nobody asked for.
const repliesFrom = 1 << 20

func walkSlow(t *testing.T, seed uint64, happened map[string]float64) {
	w := &slowWalk{
		t: t, rand: rand.New(rand.NewPCG(seed, 1)), reg: prometheus.NewRegistry(),
		rooms: []contracts.RoomID{"a", "b", "c", "d"}, heads: make(map[contracts.RoomID]contracts.Seq),
		limit: 1 << 30,
	}
	if w.rand.IntN(3) == 0 {
		w.limit = 3 * slowBudget
	}
	s, err := edge.New(edge.Config{Node: "n1", Partitions: 8, InFlight: 1 << 20, OutboundBytes: slowBudget, OutboundTotal: w.limit},
		edge.Deps{Ask: w, Log: slog.New(slog.DiscardHandler), Metrics: w.reg})
	if err != nil {
		t.Fatal(err)
	}
	w.bench = edge.NewBench(s)
	w.bench.HearAll()
	var readers []*reader
	for i := range 9 {
		r := &reader{pace: i % 3, at: make(map[contracts.RoomID]*readerRoom), sent: make(map[uint64]wanted), told: repliesFrom, seen: repliesFrom}
		r.BenchConn = w.bench.Member("a")
		r.at["a"] = &readerRoom{listening: true}
		readers = append(readers, r)
		for _, room := range w.rooms[1:] {
			w.ask(r, "join", room)
		}
	}
	w.round(readers)
	for range 2500 {
		w.step(readers)
		if t.Failed() {
			return
		}
	}
	w.finish(readers)
	for _, what := range []string{"slow_gaps_total", "dropped_total", "closed_total"} {
		happened[what] += (&world{t: t, registry: w.reg}).metric(what)
	}
}

func (w *slowWalk) ask(r *reader, op string, room contracts.RoomID) {
	if !r.Ready() {
		return
	}
	r.lastID++
	r.sent[r.lastID] = wanted{op, room}
	r.Received(text(`{"id":%d,"op":"%s","room":"%s"}`, r.lastID, op, room))
}

func (w *slowWalk) step(readers []*reader) {
	room := w.rooms[w.rand.IntN(len(w.rooms))]
	r := readers[w.rand.IntN(len(readers))]
	switch n := w.rand.IntN(100); {
	case n < 50:
		w.heads[room]++
		e := entryOf(room, 1, w.heads[room])
		e.Body = fmt.Appendf(nil, `{"event":"message","room":"%s","seq":%d,"epoch":1,"text":"%s"}`, room, w.heads[room], strings.Repeat("x", w.size()))
		w.publish(e)
	case n < 65:
		e := contracts.Envelope{Kind: contracts.EnvelopeEvent, Room: room, Body: []byte(`{"event":"typing","room":"` + string(room) + `"}`)}
		if w.rand.IntN(2) == 0 {
			e.Except = contracts.Conn{Node: "n1", ID: r.ID()}
		}
		w.publish(e)
	case n < 70:
		many := 1
		if r.pace > 0 && w.rand.IntN(50) == 0 {
			many = w.rand.IntN(150)
		}
		for ; many > 0 && r.Ready(); many-- {
			r.told++
			r.Reply(r.told, []byte(`"`+strings.Repeat("y", w.size())+`"`))
		}
	case n < 74:
		if !r.Paused() {
			w.ask(r, "join", room)
		}
	case n < 75:
		if !r.Paused() {
			w.ask(r, "leave", room)
		}
	case n < 82:
		if i := len(w.asked); i > 0 {
			i = w.rand.IntN(i)
			answer := w.asked[i]
			w.asked = append(w.asked[:i:i], w.asked[i+1:]...)
			answer()
		}
	case n < 83: // "a" always has members, so that the node knows where it is
		w.heads["a"] += 3
		w.bench.GiveUp("a", 3)
	case n < 85:
		r.read(w.t, w.rand.IntN(64<<10))
	default:
		w.round(readers)
	}
}

// size is mostly small.
func (w *slowWalk) size() int {
	if w.rand.IntN(8) == 0 {
		return w.rand.IntN(8000)
	}
	return w.rand.IntN(400)
}

func (w *slowWalk) publish(e contracts.Envelope) {
	w.body = contracts.AppendEnvelope(w.body[:0], &e)
	w.bench.Receive(e.Room, w.body)
}

// round ends a round of the loop; those who read at once have everything then.
func (w *slowWalk) round(readers []*reader) {
	w.bench.Round()
	for _, r := range readers {
		if queued, _ := r.Queued(); queued > slowBudget+16<<10 {
			w.t.Errorf("%d bytes wait for one connection", queued)
		}
		switch r.pace {
		case 0:
			for r.read(w.t, 1<<30) > 0 {
			}
			if !r.Ready() {
				w.t.Error("a client that reads at once was closed")
			}
			for room, p := range r.at {
				if p.listening && !r.joins(room) && p.seq != w.heads[room] {
					w.t.Errorf("a client that reads at once is at %d of %d in room %s", p.seq, w.heads[room], room)
				}
			}
		case 1:
			r.read(w.t, w.rand.IntN(3000))
		default:
			if w.rand.IntN(40) == 0 {
				r.read(w.t, w.rand.IntN(100<<10))
			}
		}
	}
	if held, _ := w.bench.Waiting(); held > w.limit+16<<10 {
		w.t.Errorf("%d bytes wait, more than %d", held, w.limit)
	}
}

func (r *reader) joins(room contracts.RoomID) bool {
	for _, s := range r.sent {
		if s.room == room {
			return true
		}
	}
	return false
}

// finish lets everybody read; then nobody may miss anything.
func (w *slowWalk) finish(readers []*reader) {
	for range 3 {
		for len(w.asked) > 0 {
			answer := w.asked[0]
			w.asked = w.asked[1:]
			answer()
			w.bench.Round()
		}
		w.bench.Round()
		for _, r := range readers {
			for r.read(w.t, 1<<30) > 0 {
			}
		}
	}
	for i, r := range readers {
		if len(r.stream) > 0 {
			w.t.Errorf("client %d: half a frame at the end", i)
		}
		if !r.Ready() {
			if r.closed != contracts.CloseTooSlow {
				w.t.Errorf("client %d: closed with code %d", i, r.closed)
			}
			continue
		}
		if r.seen != r.told {
			w.t.Errorf("client %d: saw reply %d of %d", i, r.seen, r.told)
		}
		for room, p := range r.at {
			if p.listening && p.seq != w.heads[room] {
				w.t.Errorf("client %d: at %d of %d in room %s", i, p.seq, w.heads[room], room)
			}
		}
		if queued, behind := r.Queued(); queued != 0 || behind != 0 {
			w.t.Errorf("client %d: %d bytes wait, behind in %d rooms", i, queued, behind)
		}
	}
	if held, stuck := w.bench.Waiting(); held != 0 || stuck != 0 {
		w.t.Errorf("%d bytes in %d connections are left", held, stuck)
	}
}

// read takes bytes and looks at the frames in them.
func (r *reader) read(t *testing.T, n int) int {
	taken := r.Take(n)
	r.stream = append(r.stream, taken...)
	for {
		op, payload, rest, ok := unframe(r.stream)
		if !ok {
			return len(taken)
		}
		if wrong := r.see(op, payload); wrong != "" {
			t.Fatalf("%s: %.200s", wrong, payload)
		}
		r.stream = rest
	}
}

// unframe takes one unmasked frame off a stream.
func unframe(b []byte) (op byte, payload, rest []byte, ok bool) {
	if len(b) < 10 && (len(b) < 2 || len(b) < 2+int(b[1])) {
		return 0, nil, b, false
	}
	head, size := 2, int(b[1])
	switch size {
	case 126:
		head, size = 4, int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		head, size = 10, int(binary.BigEndian.Uint64(b[2:]))
	}
	if len(b) < head+size {
		return 0, nil, b, false
	}
	return b[0] & 0xF, b[head : head+size], b[head+size:], true
}

// see takes one frame and says what is wrong with it.
func (r *reader) see(op byte, payload []byte) string {
	if r.closed != 0 {
		return "something behind the close frame"
	}
	if op == 8 {
		r.closed = contracts.CloseCode(binary.BigEndian.Uint16(payload))
		return ""
	}
	var m message
	if err := json.Unmarshal(payload, &m); err != nil {
		return err.Error()
	}
	p := r.at[m.Room]
	if p == nil {
		p = &readerRoom{}
		r.at[m.Room] = p
	}
	switch {
	case m.ID >= repliesFrom:
		if m.ID != r.seen+1 {
			return fmt.Sprintf("behind reply %d", r.seen)
		}
		r.seen++
	case m.ID != 0:
		asked := r.sent[m.ID]
		delete(r.sent, m.ID)
		p := r.at[asked.room]
		if p == nil {
			p = &readerRoom{}
			r.at[asked.room] = p
		}
		switch {
		case asked.op == "leave":
			p.listening, p.left = false, m.ID
		case m.Error == nil && m.ID > p.left:
			var ok struct{ Head contracts.Seq }
			if err := json.Unmarshal(m.OK, &ok); err != nil {
				return err.Error()
			}
			p.listening, p.seq = true, ok.Head
		}
	case m.Event == "typing":
		if !p.listening {
			return "an event of a room that is not listened to"
		}
	case m.Event == "message":
		if !p.listening || m.Seq != p.seq+1 {
			return fmt.Sprintf("behind entry %d", p.seq)
		}
		p.seq++
	case m.Event == "gap":
		if !p.listening || m.from() != p.seq+1 || m.To < m.from() {
			return fmt.Sprintf("a gap behind entry %d", p.seq)
		}
		p.seq = m.To
	default:
		return "unexpected"
	}
	return ""
}
