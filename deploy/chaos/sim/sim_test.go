package sim_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/parley-chat/parley/deploy/chaos/check"
	"github.com/parley-chat/parley/deploy/chaos/history"
	"github.com/parley-chat/parley/deploy/chaos/sim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	seeds = flag.Int("sim.seeds", 200, "walks of TestWalk")
	seed  = flag.Int("sim.seed", -1, "the only seed of TestWalk")
	keep  = flag.String("sim.keep", "", "a folder for the histories of failing seeds")
)

// TestWalk runs the whole of Parley at random, with faults, and judges what its clients saw.
func TestWalk(t *testing.T) {
	first, n := 0, *seeds
	switch {
	case *seed >= 0:
		first, n = *seed, 1
	case testing.Short() || raceEnabled:
		n = min(n, 10)
	}
	var sum check.Figures
	for s := first; s < first+n; s++ {
		r, events, trouble := walk(t, uint64(s))
		sum.Acked += r.Figures.Acked
		sum.Duplicates += r.Figures.Duplicates
		sum.Resumes += r.Figures.Resumes
		sum.Gaps += r.Figures.Gaps
		sum.Resets += r.Figures.Resets
		sum.Received += r.Figures.Received
		sum.Unknown += r.Figures.Unknown
		if r.Good() && len(trouble) == 0 {
			continue
		}
		t.Fatalf("seed %d; again with: go test ./deploy/chaos/sim -run TestWalk -sim.seed %d\n%s%s\n%s", s, s, report(t, r), strings.Join(trouble, "\n"), saved(t, s, events))
	}
	t.Logf("%d walks: %+v", n, sum)
	if n >= 20 && (sum.Acked < 20*n || sum.Unknown < n || sum.Duplicates < n/4 || sum.Resumes < n || sum.Gaps < n/4 || sum.Resets < n/10 || sum.Received < 100*n) {
		t.Errorf("the walks saw too little to say much: %+v", sum)
	}
}

func report(t *testing.T, r *check.Report) string {
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// saved writes a history down, where that was asked for.
func saved(t *testing.T, seed int, events []history.Event) string {
	if *keep == "" {
		return "(-sim.keep FOLDER keeps the history)"
	}
	name := filepath.Join(*keep, fmt.Sprintf("seed-%d%s", seed, history.Ext))
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := history.NewWriter(f)
	for _, e := range events {
		out.Add(e)
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	return "the history is in " + name
}

// walk is one seed.
func walk(t *testing.T, seed uint64) (r *check.Report, events []history.Event, trouble []string) {
	inWorld(t, seed, func(w *world) {
		// Figures at rest are not judged: the walk is one long fault.
		w.note(history.Event{Kind: history.Fault, Fault: "walk", What: "walk", Silent: true})
		for range clients {
			c := w.connect()
			for i := range rooms {
				if w.dice.Hit(0.8) {
					c.listen(roomName(i))
				}
			}
		}
		pass(time.Second)
		for range 32 {
			w.step()
		}
		w.rest()
		w.dump()
		events, trouble = w.events, w.trouble
	})
	judge := check.New(check.Config{})
	for _, e := range events {
		judge.Add(e)
	}
	return judge.Finish(), events, trouble
}

// step lets the clients chat for a moment and then, mostly, changes something.
func (w *world) step() {
	for range 1 + w.dice.N(4) {
		c := w.clients[w.dice.N(len(w.clients))]
		c.send(roomName(w.dice.N(rooms)), 1+w.dice.N(3), 0)
		pass(w.dice.Time(300 * time.Millisecond))
	}
	switch w.dice.N(4) {
	case 0:
		c, room := w.clients[w.dice.N(len(w.clients))], roomName(w.dice.N(rooms))
		switch w.dice.N(4) {
		case 0:
			c.drop()
		case 1:
			c.leave(room)
		default:
			c.listen(room)
		}
	case 1, 2:
		w.disturb()
	}
	pass(w.dice.Time(2 * time.Second))
}

// rest heals everything and waits until nothing moves any more.
func (w *world) rest() {
	if w.dice.Hit(0.5) {
		w.lastWords()
	}
	w.heal()
	for range 600 {
		pass(time.Second)
		if w.settled() {
			break
		}
	}
	pass(10 * time.Second) // heads have told the last entries
	if !w.settled() {
		w.stuck()
	}
	for _, c := range w.clients {
		c.settled(true)
	}
}

// lastWords has the last messages of some rooms lost on their way: nothing that comes later gives them away, so only heads do,
// and maybe those of another dispatcher than the one that lost them.
func (w *world) lastWords() {
	w.heal()
	pass(time.Second)
	w.reds.Deafen(300 * time.Millisecond)
	for i := range rooms {
		w.clients[w.dice.N(len(w.clients))].send(roomName(i), 1, 0)
	}
	pass(w.dice.Time(3 * time.Second))
	if w.dice.Hit(0.5) {
		for i := range w.dispatchers {
			w.replace(w.dispatchers, i, w.startDispatcher)
		}
	}
}

// stuck tells what does not come to rest.
func (w *world) stuck() {
	say := func(format string, args ...any) { w.trouble = append(w.trouble, fmt.Sprintf(format, args...)) }
	say("after ten minutes without faults something is still under way:")
	for _, c := range w.clients {
		c.mu.Lock()
		if len(c.asked) > 0 || !c.ready {
			say("%s: ready %v, asked %v", c.name, c.ready, c.asked)
		}
		for id, l := range c.rooms {
			if len(l.out) > 0 || l.wanted != l.joined || l.joining {
				say("%s in %s: %+v", c.name, id, l)
			}
		}
		c.mu.Unlock()
	}
	for _, p := range w.persisters {
		say("persister: %v, %+v", p.sink.Ready(), p.sink.Status())
	}
	for _, p := range w.dispatchers {
		say("dispatcher: %v, owns %v", p.disp.Ready(), p.disp.Owned())
	}
}

func (w *world) settled() bool {
	return !slices.ContainsFunc(w.clients, func(c *client) bool { return !c.settled(false) }) &&
		!slices.ContainsFunc(w.persisters, func(p *process) bool { return !p.sink.CaughtUp() }) && w.stored()
}

// stored reports whether the store has all that the log has. Persisters speak for the partitions that they own, and there may
// be one that nobody owns.
func (w *world) stored() bool {
	for id := range int32(partitions) {
		start, values := w.log.Records(id)
		k, _, err := w.bolt.Checkpoint(context.Background(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		if k.Offset != start+int64(len(values)) {
			return false
		}
	}
	return true
}

// heal makes everything well.
func (w *world) heal() {
	for _, m := range []*sim.Mood{&w.log.Mood, &w.nats.Mood, &w.db.Mood} {
		m.Set(false, 0, 0)
	}
	w.reds.Set(false, 0, 0)
	w.reds.Away(false)
	for _, p := range slices.Concat(w.dispatchers, w.persisters) {
		p.member.Freeze(false)
	}
}

// disturb begins a fault, or ends one.
func (w *world) disturb() {
	lossy := func() (lose, late float64) { return float64(w.dice.N(30)) / 100, float64(w.dice.N(40)) / 100 }
	which := w.dice.N(2)
	switch w.dice.N(16) {
	case 0:
		lose, late := lossy()
		w.log.Set(false, lose, late)
	case 1:
		lose, late := lossy()
		w.nats.Set(false, lose, late)
	case 2, 3:
		lose, late := lossy()
		w.reds.Set(false, lose, late)
	case 4:
		lose, late := lossy()
		w.db.Set(false, lose, late)
	case 5:
		w.reds.Flush()
	case 6:
		w.outage()
	case 7:
		w.replace(w.edges, which, w.startEdge)
	case 8:
		w.replace(w.workers, which, w.startWorker)
	case 9:
		w.replace(w.dispatchers, which, w.startDispatcher)
	case 10:
		w.replace(w.persisters, which, w.startPersister)
	case 11:
		all := slices.Concat(w.dispatchers, w.persisters)
		all[w.dice.N(len(all))].member.Freeze(true)
	case 12:
		w.slowReader()
	case 13:
		if w.dice.Hit(0.3) {
			w.loseLog()
		}
	default:
		w.heal()
	}
}

// slowReader has one client read nothing while a room says more than an edge keeps for it.
func (w *world) slowReader() {
	at := w.dice.N(len(w.clients))
	w.clients[at].sleep(8 * time.Second)
	for range 4 {
		w.clients[(at+1)%len(w.clients)].send(roomName(0), 10, 3000)
		pass(time.Second)
	}
}

// loseLog has a partition of the log start again from nothing, at a moment when everything in it is stored: only then
// does the contract promise that nothing is lost.
func (w *world) loseLog() {
	w.heal()
	for range 60 {
		if w.settled() {
			w.log.Lose(int32(w.dice.N(partitions)))
			return
		}
		pass(time.Second)
	}
}

// outage takes one part away for a while.
func (w *world) outage() {
	d := w.dice.Time(8 * time.Second)
	switch w.dice.N(4) {
	case 0:
		w.log.Set(true, 0, 0)
		pass(d)
		w.log.Set(false, 0, 0)
	case 1:
		w.nats.Set(true, 0, 0)
		pass(d)
		w.nats.Set(false, 0, 0)
	case 2:
		w.reds.Away(true)
		pass(d)
		w.reds.Away(false)
	default:
		w.db.Set(true, 0, 0)
		pass(3 * d)
		w.db.Set(false, 0, 0)
	}
}

// replace kills or stops a process, and starts another a moment later.
func (w *world) replace(all []*process, i int, start func() *process) {
	old := all[i]
	if w.dice.Hit(0.7) {
		old.Kill()
	}
	old.stop()
	pass(w.dice.Time(time.Second))
	next := start()
	w.mu.Lock()
	all[i] = next
	w.mu.Unlock()
}

// TestLeaveAndBack: who leaves a room and joins it again at once, before either is answered, listens to it.
func TestLeaveAndBack(t *testing.T) {
	var events []history.Event
	inWorld(t, 1, func(w *world) {
		w.note(history.Event{Kind: history.Fault, Fault: "none", What: "none", Silent: true})
		c, other := w.connect(), w.connect()
		room := roomName(0)
		c.listen(room)
		other.listen(room)
		pass(time.Second)
		c.leave(room)
		c.listen(room)
		pass(time.Second)
		other.send(room, 3, 0)
		w.rest()
		w.dump()
		events = w.events
	})
	judge := check.New(check.Config{})
	for _, e := range events {
		judge.Add(e)
	}
	if r := judge.Finish(); !r.Good() || r.Figures.Received < 6 {
		t.Error(report(t, r))
	}
}
