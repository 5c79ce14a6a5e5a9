package roomlog_test

import (
	"flag"
	"math/rand/v2"
	"testing"
)

var (
	seed = flag.Uint64("model.seed", 0, "run the model with this seed only")
	runs = flag.Int("model.runs", 0, "runs of the model (default 20,000; 1,500 with -short or -race)")
)

// action is one thing that can happen next.
type action struct {
	name   string
	weight int
	do     func(w *world)
}

var actions = []action{
	{"write", 30, func(w *world) {
		for range 1 + w.rand.IntN(3) {
			w.write()
		}
	}},
	{"persister reads", 60, func(w *world) {
		if p := pick(w, w.persisters); p != nil {
			for range 1 + w.rand.IntN(4) {
				w.push(&p.reader)
			}
			p.take(w)
		}
	}},
	{"persister looks up", 70, func(w *world) {
		if p := pick(w, w.persisters); p != nil {
			for range 1 + w.rand.IntN(4) {
				p.look(w)
				p.take(w)
			}
		}
	}},
	{"persister writes", 45, func(w *world) {
		if p := pick(w, w.persisters); p != nil {
			p.bulk(w)
		}
	}},
	{"persister checkpoints", 40, func(w *world) {
		if p := pick(w, w.persisters); p != nil && !p.checkpoint(w, p.stored()) {
			w.persisters = without(w.persisters, p)
		}
	}},
	{"persister forgets", 25, func(w *world) {
		if p := pick(w, w.persisters); p != nil {
			p.forget(w)
		}
	}},
	{"persister starts", 30, func(w *world) {
		if n := len(w.persisters); n == 0 || n == 1 && w.chance(10) {
			w.startPersister()
		}
	}},
	{"persister crashes", 1, func(w *world) { w.persisters = without(w.persisters, pick(w, w.persisters)) }},
	{"dispatcher reads", 60, func(w *world) {
		if d := pick(w, w.dispatchers); d != nil {
			for range 1 + w.rand.IntN(4) {
				w.push(&d.reader)
			}
			d.take(w)
		}
	}},
	{"dispatcher looks up", 70, func(w *world) {
		if d := pick(w, w.dispatchers); d != nil {
			for range 1 + w.rand.IntN(4) {
				d.look(w)
				d.take(w)
			}
		}
	}},
	{"dispatcher is asked", 9, func(w *world) {
		if d := pick(w, w.dispatchers); d != nil {
			d.Want(roomNames[w.rand.IntN(rooms)])
		}
	}},
	{"dispatcher tells heads", 25, func(w *world) {
		if d := pick(w, w.dispatchers); d != nil {
			d.heads(w)
		}
	}},
	{"dispatcher commits", 25, func(w *world) {
		if d := pick(w, w.dispatchers); d != nil {
			d.commit(w)
		}
	}},
	{"dispatcher forgets", 25, func(w *world) {
		if d := pick(w, w.dispatchers); d != nil {
			d.forget(w)
		}
	}},
	{"dispatcher starts", 60, func(w *world) {
		if n := len(w.dispatchers); n == 0 || n == 1 && w.chance(10) {
			w.startDispatcher()
		}
	}},
	{"dispatcher crashes", 4, func(w *world) { w.dispatchers = without(w.dispatchers, pick(w, w.dispatchers)) }},
	{"member connects or loses its connection", 10, func(w *world) { w.members[w.rand.IntN(members)].toggle() }},
	{"member repairs", 20, func(w *world) { w.members[w.rand.IntN(members)].repair(w) }},
	{"log loses records", 2, func(w *world) { w.lose() }},
	{"store goes or comes", 2, func(w *world) { w.storeAway = !w.storeAway && w.chance(50) }},
	{"Redis goes or comes", 2, func(w *world) { w.redisDown = !w.redisDown && w.chance(50) }},
}

func (m *member) toggle() {
	m.connected = !m.connected
	m.ask = m.connected
}

func pick[T any](w *world, from []*T) *T {
	if len(from) == 0 {
		return nil
	}
	return from[w.rand.IntN(len(from))]
}

func without[T any](from []*T, one *T) []*T {
	for i, x := range from {
		if x == one {
			return append(from[:i:i], from[i+1:]...)
		}
	}
	return from
}

func newWorld(seed uint64, wrong rule) *world {
	w := &world{rand: rand.New(rand.NewPCG(seed, 0)), rule: wrong}
	w.checkpoint.epoch, w.committed.epoch = 1, 1
	for i := range w.members {
		w.members[i] = &member{connected: true, epoch: [rooms]int{1, 1, 1}}
	}
	return w
}

// run walks one world and returns what went wrong.
func run(seed uint64, wrong rule) string {
	w := newWorld(seed, wrong)
	w.rooms, w.skew = 1+w.rand.IntN(rooms), w.rand.IntN(200)
	w.speed, w.loss = 5+w.rand.IntN(60), w.rand.IntN(80)
	w.lossy = w.chance(40)
	// In each world some things happen much more often than in others, and some never.
	var weights [64]int
	total := 0
	for i, a := range actions {
		weights[i] = a.weight * [...]int{0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 4, 4, 4, 8}[w.rand.IntN(20)]
		total += weights[i]
	}
	steps := 100 + w.rand.IntN(900)
	for w.step = range steps {
		n := w.rand.IntN(total)
		i := 0
		for n >= weights[i] {
			n -= weights[i]
			i++
		}
		actions[i].do(w)
		w.sweep()
		if w.broken != "" {
			return w.broken
		}
	}
	w.heal()
	return w.broken
}

// heal lets everything come back and checks that everything comes right.
func (w *world) heal() {
	w.storeAway, w.redisDown, w.speed = false, false, 100
	for _, m := range w.members {
		if !m.connected {
			m.toggle()
		}
	}
	for len(w.persisters) > 1 {
		w.persisters = without(w.persisters, pick(w, w.persisters))
	}
	owner := w.owner()
	w.dispatchers = nil
	if owner != nil && w.chance(50) {
		w.dispatchers = append(w.dispatchers, owner)
	}
	for range 100 {
		w.step++
		w.sweep()
		if len(w.persisters) == 0 {
			w.startPersister()
		}
		if len(w.dispatchers) == 0 {
			w.startDispatcher()
		}
		if len(w.persisters) > 0 {
			p := w.persisters[0]
			for w.push(&p.reader); p.Next() < w.end() && !p.out; {
				w.push(&p.reader)
			}
			for range 20 {
				p.look(w)
				p.take(w)
			}
			p.bulk(w)
			if !p.checkpoint(w, p.stored()) {
				w.persisters = nil
			}
		}
		if len(w.dispatchers) > 0 {
			d := w.dispatchers[0]
			for w.push(&d.reader); d.Next() < w.end() && !d.out; {
				w.push(&d.reader)
			}
			for range 20 {
				d.look(w)
				d.take(w)
			}
			d.heads(w)
			d.commit(w)
		}
		for _, m := range w.members {
			m.repair(w)
		}
		if w.broken != "" {
			return
		}
		if w.checkpoint.c == w.end() && w.committed == (commit{w.checkpoint.epoch, w.end()}) && w.settled() {
			break
		}
	}
	if w.checkpoint.c != w.end() || w.committed != (commit{w.checkpoint.epoch, w.end()}) {
		w.fail("C is %d and D is %+v, and the log ends at %d", w.checkpoint.c, w.committed, w.end())
	}
	w.compare()
}

// settled reports whether nothing more will happen by itself.
func (w *world) settled() bool {
	for _, m := range w.members {
		for room := range roomNames {
			if m.epoch[room] == w.checkpoint.epoch && m.has[room] != m.want[room] {
				return false
			}
		}
		if m.ask {
			return false
		}
	}
	return len(w.dispatchers) > 0 && len(w.dispatchers[0].announce) == 0
}

// TestModel walks many worlds by the rules and finds nothing wrong.
func TestModel(t *testing.T) {
	if *seed != 0 {
		if broken := run(*seed, right); broken != "" {
			t.Errorf("seed %d: %s", *seed, broken)
		}
		return
	}
	n := *runs
	if n == 0 {
		n = 20_000
		if testing.Short() || raceEnabled {
			n = 1_500
		}
	}
	for s := range uint64(n) {
		if broken := run(s+1, right); broken != "" {
			t.Fatalf("%s\nrepeat it with: go test -run 'TestModel$' -model.seed=%d", broken, s+1)
		}
	}
}

// TestModelFindsWrongRules breaks one rule at a time: the model must notice.
func TestModelFindsWrongRules(t *testing.T) {
	const most = 20_000
	for wrong, name := range wrongRules {
		if wrong == answersBelowD {
			continue // see TestModelHeadsBelowD
		}
		t.Run(name, func(t *testing.T) {
			for s := range uint64(most) {
				if broken := run(s+1, wrong); broken != "" {
					t.Logf("run %d: %s", s+1, broken)
					return
				}
			}
			t.Errorf("%d runs found nothing wrong with it", most)
		})
	}
}

// TestModelHeadsBelowD is a walk that chance takes once in 100,000: an edge reconnects while the new dispatcher is still
// below D, is told an old head, and the dispatcher dies before it comes back to D. Nobody announces the entry between
// again, so a dispatcher must not answer before it has come back to D.
func TestModelHeadsBelowD(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rule  rule
		wrong bool
	}{{"waits for D", right, false}, {"answers at once", answersBelowD, true}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(1, tt.rule)
			w.rooms, w.speed, w.loss = 1, 100, 100
			edge := w.members[0]
			dispatch := func(records int) *dispatcher {
				d := w.owner()
				for range records {
					w.push(&d.reader)
				}
				for d.Low() < d.Next() {
					d.look(w)
				}
				d.take(w)
				return d
			}
			for range 2 {
				w.create(1000)
				w.append(len(w.messages) - 1)
			}
			w.startDispatcher()
			dispatch(1).heads(w)
			edge.repair(w)
			edge.toggle() // loses its connection, and hears nothing of the second entry
			d := dispatch(1)
			for range 4 {
				d.heads(w)
			}
			d.commit(w)

			w.startDispatcher() // at C = 0, below D = 2
			dispatch(1)
			edge.toggle()
			for range 10 {
				edge.repair(w)
				w.owner().look(w)
			}
			w.dispatchers = nil

			w.startPersister()
			p := w.persisters[0]
			for range 2 {
				w.push(&p.reader)
			}
			for w.checkpoint.c < 2 {
				p.look(w)
				p.take(w)
				p.bulk(w)
				p.checkpoint(w, p.stored())
			}
			w.startDispatcher() // at C = D = 2
			w.heal()
			if wrong := w.broken != ""; wrong != tt.wrong {
				t.Errorf("found wrong: %v (%s), want %v", wrong, w.broken, tt.wrong)
			}
		})
	}
}

// BenchmarkModel shows what a run costs, and in how many of the runs each wrong rule is found.
func BenchmarkModel(b *testing.B) {
	for wrong := right; wrong <= answersBelowD; wrong++ {
		name := wrongRules[wrong]
		if wrong == right {
			name = "right"
		}
		b.Run(name, func(b *testing.B) {
			found, s := 0, uint64(0)
			for b.Loop() {
				s++
				if run(s, wrong) != "" {
					found++
				}
			}
			b.ReportMetric(float64(found)/float64(s)*1000, "found/1000")
		})
	}
}
