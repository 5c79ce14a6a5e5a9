package edge_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
)

var (
	modelSeed = flag.Uint64("model.seed", 0, "the only seed that TestModel walks; 0: several of its own")
	modelRuns = flag.Int("model.runs", 4, "how many seeds TestModel walks")
)

// TestModel walks at random: rooms get entries, the lanes lose, repeat and reorder them and fall silent, workers answer late, in part
// or not at all, and clients join, join again and leave. Whatever happens, each client must see exactly what follows its
// join's head, in order, or be told of a gap.
func TestModel(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		seeds := []uint64{*modelSeed}
		if *modelSeed == 0 {
			seeds = nil
			for range *modelRuns {
				seeds = append(seeds, rand.Uint64())
			}
		}
		for _, seed := range seeds {
			t.Run(fmt.Sprint(seed), func(t *testing.T) { walk(t, portable, seed) })
		}
	})
}

// model is the truth about the rooms, and what is on its way.
type model struct {
	*world
	t     *testing.T
	rand  *rand.Rand // the walk's
	rooms []contracts.RoomID

	mu    sync.Mutex // guards the rest
	heads map[contracts.RoomID]contracts.Seq
	lanes []contracts.Envelope // published, not delivered
	asked []*asked             // questions to workers
	calm  bool                 // answer everything at once and well
}

func walk(t *testing.T, portable bool, seed uint64) {
	m := &model{
		world: newWorld(t, portable), t: t, rand: rand.New(rand.NewPCG(seed, 1)),
		rooms: []contracts.RoomID{"a", "b", "c"}, heads: make(map[contracts.RoomID]contracts.Seq),
	}
	m.worker.script(contracts.OpJoin, m.ask)
	m.worker.script(contracts.OpRepair, m.ask)
	m.worker.script(opHeads, m.ask)
	var listeners []*listener
	var wg sync.WaitGroup
	for range 6 {
		l := &listener{client: m.connected(), rooms: make(map[contracts.RoomID]*position), changed: make(chan struct{}, 1)}
		listeners = append(listeners, l)
		wg.Go(func() { l.listen(t) })
	}
	for range 1500 {
		m.step(listeners)
	}
	m.settle(listeners)
	for _, l := range listeners {
		_ = l.nc.Close()
	}
	wg.Wait()
}

// ask takes a question, to be answered by some step.
func (m *model) ask(q *asked) {
	m.mu.Lock()
	calm := m.calm
	if !calm {
		m.asked = append(m.asked, q)
	}
	m.mu.Unlock()
	if calm {
		m.answer(q, func(n int) int { return n })
	}
}

// answer answers truly; of n entries, part says how many.
func (m *model) answer(q *asked, part func(n int) int) {
	m.mu.Lock()
	head := m.heads[q.Room]
	heads := make([]contracts.Head, len(q.heads))
	for i, room := range q.heads {
		heads[i].Seq = m.heads[room]
	}
	m.mu.Unlock()
	switch {
	case q.heads != nil:
		q.answer(contracts.Reply{Epoch: 1, Heads: heads})
	case q.Range != nil:
		to := min(q.Range.To, head)
		q.entries(q.Range.From, q.Range.From-1+contracts.Seq(part(int(to+1-q.Range.From))))
	default:
		q.joined(contracts.JoinComplete, 1, head)
	}
}

func (m *model) take(from *[]contracts.Envelope) (e contracts.Envelope, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(*from) == 0 {
		return e, false
	}
	i := 0 // mostly in order
	if m.rand.IntN(4) == 0 {
		i = m.rand.IntN(len(*from))
	}
	e = (*from)[i]
	if m.rand.IntN(8) > 0 { // else it comes again
		*from = append((*from)[:i:i], (*from)[i+1:]...)
	}
	return e, true
}

func (m *model) step(listeners []*listener) {
	room := m.rooms[m.rand.IntN(len(m.rooms))]
	switch n := m.rand.IntN(100); {
	case n < 30: // an entry, which may be lost at once
		m.mu.Lock()
		m.heads[room]++
		if m.rand.IntN(10) > 0 {
			m.lanes = append(m.lanes, entryOf(room, 1, m.heads[room]))
		}
		m.mu.Unlock()
	case n < 60:
		if e, ok := m.take(&m.lanes); ok {
			m.ear.publish(e)
		}
	case n < 65: // a head, maybe an old one
		m.mu.Lock()
		head := m.heads[room]
		m.mu.Unlock()
		m.ear.publish(headOf(room, 1, head-contracts.Seq(m.rand.IntN(int(head)+1))))
	case n < 85: // any question is answered, truly or not at all
		m.mu.Lock()
		if len(m.asked) == 0 {
			m.mu.Unlock()
			return
		}
		i := m.rand.IntN(len(m.asked))
		q := m.asked[i]
		m.asked = append(m.asked[:i:i], m.asked[i+1:]...)
		m.mu.Unlock()
		switch m.rand.IntN(6) {
		case 0:
			q.answer(rpc.ErrTimeout)
		case 1:
			m.answer(q, func(n int) int { return m.rand.IntN(n + 1) })
		default:
			m.answer(q, func(n int) int { return n })
		}
	case n < 95:
		l := listeners[m.rand.IntN(len(listeners))]
		if m.rand.IntN(3) > 0 {
			l.ask(m.t, "join", room)
		} else {
			l.ask(m.t, "leave", room)
		}
	case n < 97:
		m.ear.receiver.Down(contracts.LaneOf(room).Group())
	default:
		m.ear.receiver.Up(contracts.LaneOf(room).Group())
	}
}

// settle lets everything arrive and waits until whoever listens has seen the last entry.
func (m *model) settle(listeners []*listener) {
	m.mu.Lock()
	m.calm = true
	waiting := m.asked
	m.asked = nil
	m.mu.Unlock()
	for _, q := range waiting {
		m.answer(q, func(n int) int { return n })
	}
	for _, e := range m.lanes {
		m.ear.publish(e)
	}
	// Heads are told again and again, as the dispatcher does, until nobody is behind.
	for end := time.Now().Add(patience); ; {
		behind := ""
		for _, l := range listeners {
			for _, room := range m.rooms {
				if p := l.at(room); p.asked > p.answered || p.listening && p.seq != m.heads[room] {
					behind = fmt.Sprintf("room %s at %+v of %d", room, p, m.heads[room])
				}
			}
		}
		if behind == "" {
			return
		}
		if time.Now().After(end) {
			m.t.Fatalf("a client is behind: %s", behind)
		}
		for _, room := range m.rooms {
			m.ear.publish(headOf(room, 1, m.heads[room]))
		}
		select {
		case <-listeners[0].changed:
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// listener is a client that checks what it sees.
type listener struct {
	*client
	changed chan struct{}

	mu     sync.Mutex // guards the rest
	lastID int
	rooms  map[contracts.RoomID]*position
	sent   map[uint64]wanted
}

type wanted struct {
	op   string
	room contracts.RoomID
}

// position is where a listener is in a room.
type position struct {
	listening       bool
	seq             contracts.Seq
	left            uint64 // the last leave that was answered
	asked, answered int
}

func (l *listener) at(room contracts.RoomID) position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *l.position(room)
}

func (l *listener) position(room contracts.RoomID) *position {
	if l.rooms[room] == nil {
		l.rooms[room] = &position{}
	}
	return l.rooms[room]
}

func (l *listener) ask(t *testing.T, op string, room contracts.RoomID) {
	l.mu.Lock()
	l.lastID++
	id := l.lastID
	if l.sent == nil {
		l.sent = make(map[uint64]wanted)
	}
	l.sent[uint64(id)] = wanted{op, room}
	l.position(room).asked++
	l.mu.Unlock()
	if _, err := l.nc.Write(text(`{"id":%d,"op":"%s","room":"%s"}`, id, op, room)); err != nil {
		t.Errorf("write: %v", err)
	}
}

func (l *listener) listen(t *testing.T) {
	for {
		m, err := l.next()
		if err != nil {
			return
		}
		if wrong := l.see(&m); wrong != "" {
			t.Errorf("%s: %s", wrong, m.raw)
			return
		}
		select {
		case l.changed <- struct{}{}:
		default:
		}
	}
}

// see takes one frame and says what is wrong with it.
func (l *listener) see(m *message) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case m.op != 1:
		return ""
	case m.ID != 0:
		w := l.sent[m.ID]
		p := l.position(w.room)
		p.answered++
		switch {
		case w.op == "leave":
			p.listening, p.left = false, m.ID
		case m.Error == nil && m.ID > p.left: // the leave may have overtaken a join that came before it
			var ok struct{ Head contracts.Seq }
			if err := json.Unmarshal(m.OK, &ok); err != nil {
				return err.Error()
			}
			p.listening, p.seq = true, ok.Head
		}
		delete(l.sent, m.ID)
		return ""
	case m.Event == "message":
		p := l.position(m.Room)
		if !p.listening {
			return "an entry of a room that is not listened to"
		}
		if m.Seq != p.seq+1 {
			return fmt.Sprintf("behind entry %d", p.seq)
		}
		p.seq++
		return ""
	case m.Event == "gap":
		p := l.position(m.Room)
		if !p.listening || m.from() != p.seq+1 || m.To < m.from() {
			return fmt.Sprintf("a gap behind entry %d", p.seq)
		}
		p.seq = m.To
		return ""
	}
	return "unexpected"
}
