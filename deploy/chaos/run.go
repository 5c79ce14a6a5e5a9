package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/check"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

const (
	// restWithin bounds each step of coming to rest at the end.
	restWithin = 2 * time.Minute
	// readyWithin is how soon after the last fault every role must be ready; on a machine with other work it is restWithin.
	readyWithin = time.Minute
	// backWithin is how soon at rest every role must hold no more than at the baseline.
	backWithin = time.Minute
	// clientFiles are how many files the clients' histories are spread over.
	clientFiles = 4
	// flushEvery is how often histories are written out, for the case that the run is killed.
	flushEvery = time.Second
)

// world is one run.
type world struct {
	cfg Config
	dir string
	*plant
	tally     *tally
	crowd     *crowd
	whole     context.Context // ends when the run is abandoned
	conductor *history.Writer // faults and probes
	files     []*file

	mu      sync.Mutex // guards the rest
	inForce []string
	done    map[string]int // faults begun, by kind
	remarks []string
	stage   string
}

// file is one history file.
type file struct {
	*history.Writer
	f *os.File
}

// Run makes one run and returns its report, which is written below the run's directory too. It ends early when ctx does, with
// a report of what was done until then. The error says why no run could be made.
func Run(ctx context.Context, cfg Config) (report *Report, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	dir, err := filepath.Abs(cfg.runDir(time.Now()))
	if err != nil {
		return nil, fmt.Errorf("find a directory for the run: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "history"), 0o755); err != nil {
		return nil, fmt.Errorf("make a directory for the run: %w", err)
	}
	whole, abandon := context.WithCancelCause(context.Background())
	defer abandon(nil)
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-cfg.Abandon:
			abandon(errAbandoned)
		case <-ended:
		}
	})
	defer watching.Wait()
	defer close(ended)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(whole, cancel)()
	w := &world{cfg: cfg, dir: dir, whole: whole, tally: &tally{}, done: make(map[string]int)}
	defer func() {
		for _, f := range w.files {
			err = errors.Join(err, f.f.Close())
		}
	}()
	if w.conductor, err = w.open("conductor"); err != nil {
		return nil, err
	}
	var out []*history.Writer
	for i := range clientFiles {
		f, err := w.open(fmt.Sprintf("clients-%d", i+1))
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	report = &Report{Seed: cfg.Seed, Begun: time.Now(), Dir: dir}
	if err := w.run(ctx, out, report); err != nil {
		return nil, err
	}
	if err := context.Cause(whole); err != nil {
		return nil, fmt.Errorf("%w; what there is lies in %s", err, dir)
	}
	report.finish(w)
	if err := w.judge(report); err != nil {
		return nil, err
	}
	return report, w.settle(report)
}

func (w *world) open(name string) (*history.Writer, error) {
	f, err := os.Create(filepath.Join(w.dir, "history", name+history.Ext))
	if err != nil {
		return nil, fmt.Errorf("write down the run: %w", err)
	}
	x := &file{Writer: history.NewWriter(f), f: f}
	w.files = append(w.files, x)
	return x.Writer, nil
}

// run starts everything, lets it suffer, brings it to rest and dumps it.
func (w *world) run(ctx context.Context, out []*history.Writer, report *Report) (err error) {
	w.say("starting the servers and two of each role in %s", w.dir)
	disk := len(w.cfg.Faults) == 0 || slices.Contains(w.cfg.Faults, "kafka-disk")
	w.plant, err = newPlant(ctx, w.cfg, w.dir, disk)
	if w.plant != nil {
		defer func() { err = errors.Join(err, w.plant.close()) }()
	}
	if err == nil {
		err = w.plant.start(ctx)
	}
	if err != nil {
		return fmt.Errorf("start the installation: %w", err)
	}
	names, notes := available(w.cfg, w.plant)
	report.Notes = append(slices.Clone(w.notes), notes...)
	for _, note := range report.Notes {
		w.say("note: %s", note)
	}
	edges := w.edges()
	if w.cfg.Scenario == ScenarioEdgeKilled {
		edges = w.edgesThemselves() // a proxy would triple the descriptors
	}
	w.crowd = newCrowd(w.cfg, rand.New(rand.NewPCG(w.cfg.Seed, 0)), w.tally, edges, out)
	defer w.crowd.close()
	w.say("connecting %d users, seed %d", w.cfg.Users, w.cfg.Seed)
	if err := w.crowd.connect(ctx); err != nil {
		return err
	}
	prober := newProber(w.plant, w.conductor)
	if unready := prober.ready(ctx, restWithin); len(unready) > 0 {
		return fmt.Errorf("not ready before the first fault: %s", strings.Join(unready, ", "))
	}
	stop := w.watch(prober)
	defer stop()
	// Pools and buffers reach their size under load; what is left of it at the end is compared with that.
	w.enter("warming up")
	w.crowd.start(ctx, w.cfg.Seed+1)
	wait(ctx, warmUp)
	w.crowd.quiet()
	base := w.measure(prober, history.Baseline)
	if w.cfg.Scenario == ScenarioEdgeKilled {
		w.storm(ctx, report)
	} else {
		faults := plan(w.cfg, w.plant, names)
		w.say("up to %d faults of %d kinds in %s", len(faults), len(names), w.cfg.Duration)
		w.enter("suffering")
		w.crowd.start(context.WithoutCancel(ctx), w.cfg.Seed)
		w.inject(ctx, faults)
	}
	w.rest(prober, base, report)
	stop()
	return w.flush()
}

// warmUp is how long the load goes on before the first fault.
const warmUp = 5 * time.Second

// errAbandoned says why there is no report.
var errAbandoned = errors.New("broken off")

// rest brings everything to rest, unless the run is abandoned, and dumps it. What does not come to rest is a
// violation.
func (w *world) rest(prober *prober, base []history.Event, report *Report) {
	w.enter("coming to rest")
	ctx := w.whole
	defer context.AfterFunc(ctx, w.crowd.giveUp)()
	w.crowd.quiet()
	within := readyWithin
	if w.cfg.Loaded {
		within = restWithin
	}
	if unready := prober.ready(ctx, within); len(unready) > 0 {
		w.tally.odd(fmt.Sprintf("not ready %s after the last fault: %s", within, strings.Join(unready, ", ")))
	}
	heads, err := w.dump(ctx)
	if err != nil {
		w.tally.odd(fmt.Sprintf("the dump is not whole, and what is then found lost, unlogged, in disagreement or behind may be only that: %v", err))
	}
	w.enter("clients catch up")
	catchUp, cancel := context.WithTimeout(ctx, restWithin)
	defer cancel()
	for i, behind := range w.crowd.caughtUp(catchUp, heads) {
		if i < 20 {
			w.tally.odd(fmt.Sprintf("%s after the last fault %s", restWithin, behind))
		}
	}
	w.crowd.end()
	w.back(prober, base)
	report.finishLoad(w.tally)
}

// measure asks every role what it holds. It does not end with the time for faults.
func (w *world) measure(prober *prober, phase string) []history.Event {
	all, silent := prober.measure(w.whole, phase)
	for _, name := range silent {
		w.tally.odd(fmt.Sprintf("%s did not say within %s what it holds: there is nothing to compare (%s)", name, measureWithin, phase))
	}
	return all
}

// back measures again and again until nobody holds more than at the baseline: connections that were given up go within their
// timeouts, and so does the memory for what was caught up with. The last measurement counts.
func (w *world) back(prober *prober, base []history.Event) {
	w.enter("giving back")
	cfg := w.checks()
	for end := time.Now().Add(backWithin); ; {
		now := w.measure(prober, history.Final)
		grown := false
		for i := range now {
			grown = grown || len(cfg.Grown(&base[i], &now[i])) > 0
		}
		if !grown || time.Now().After(end) || !wait(w.whole, time.Second) {
			return
		}
	}
}

func (w *world) dump(ctx context.Context) (map[contracts.RoomID]contracts.Seq, error) {
	d, err := newDumper(w.plant, filepath.Join(w.dir, "history", "dump"+history.Ext))
	if err != nil {
		return nil, err
	}
	for again := 0; ; again++ {
		settleCtx, cancel := context.WithTimeout(ctx, restWithin)
		w.enter("the store catches up")
		all, settled := d.settled(settleCtx)
		cancel()
		w.enter("dumping")
		dumpCtx, cancel := context.WithTimeout(ctx, 2*restWithin)
		heads, err := d.dump(dumpCtx, all)
		cancel()
		if !errors.Is(err, errMoved) || again == mostDumps {
			return heads, errors.Join(settled, err, d.close(ctx))
		}
	}
}

// mostDumps is how often a dump is made anew because the log has moved: what was sent last may come late, and the persister
// trims once a minute.
const mostDumps = 3

// watch probes, shows and writes out every second, until the function that is returned is called.
func (w *world) watch(prober *prober) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		known := make(map[string]bool)
		for wait(ctx, time.Second) {
			prober.probe(ctx)
			for _, name := range w.ended() {
				if !known[name] {
					known[name] = true
					w.tally.odd(name + " ended by itself: see its log")
				}
			}
		}
	})
	wg.Go(func() {
		s := &screen{w: w, begun: time.Now()}
		for wait(ctx, flushEvery) {
			s.draw()
			if err := w.flush(); err != nil {
				w.tally.odd(err.Error())
			}
		}
		s.end()
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// flush may be called while the clients go on.
func (w *world) flush() error {
	var errs []error
	for _, f := range w.files {
		errs = append(errs, f.Flush())
	}
	return errors.Join(errs...)
}

// judge has the history checked.
func (w *world) judge(report *Report) error {
	w.say("checking %s", filepath.Join(w.dir, "history"))
	c := check.New(w.checks())
	if err := history.ReadDir(filepath.Join(w.dir, "history"), c.Add); err != nil {
		return err
	}
	report.Verdict = c.Finish()
	return nil
}

// checks are what the run is judged by.
func (w *world) checks() check.Config {
	cfg := check.Config{
		Pools:     map[string]int64{"worker": poolConnections, "dispatch": poolConnections, "persist": poolConnections},
		LastEpoch: 1, // no fault takes anything of the log
	}
	if w.cfg.Loaded {
		cfg.FanoutP99, cfg.AckShare, cfg.SignalWithin = time.Hour, 0.01, 10*time.Second
	}
	return cfg
}

// poolConnections is how many more connections than at the baseline the pool to the database of a worker, dispatcher or
// persister may hold: it grows while answers are slow, to the driver's bound of 100, and takes half a minute to shrink. An edge
// has no pool: within 1 of the baseline in every run.
const poolConnections = 40

// settle writes the report and, where nothing was found, drops what the servers kept.
func (w *world) settle(report *Report) error {
	if report.Good() && !w.cfg.Keep {
		for _, name := range []string{"kafka", "mongo", "ferret", "history"} {
			if err := os.RemoveAll(filepath.Join(w.dir, name)); err != nil {
				return fmt.Errorf("tidy the run's directory: %w", err)
			}
		}
	}
	return report.write(w.dir)
}

func (w *world) enter(stage string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stage = stage
}

func (w *world) say(format string, args ...any) {
	_, _ = io.WriteString(w.cfg.Out, fmt.Sprintf(format, args...)+"\n") // a screen that is gone stops nothing
}
