// Command bench-system runs the cases of the system's targets on a floor (package floor) and on Parley in turn, and
// prints one table of what a CPU-second of the servers is worth, with the ratios. Machines differ and change from minute
// to minute: only figures of one run may be compared.
//
//	go run ./deploy/bench                        floors, an edge alone, edges beside the rest, `parley dev`; every case, medians of three
//	go run ./deploy/bench -cases log-hop,catch-up,catch-up-live,history   what lies behind the edges, beside the bare libraries
//	go run ./deploy/bench -crowd 1000000         as many connections as the machine takes, held while some rooms talk
//	go run ./deploy/bench -peer name=URL[+URL]=PID[+PID]   a system that runs already, such as edges of `parley up`
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/parley-chat/parley/deploy/bench/alone"
	"github.com/parley-chat/parley/deploy/bench/floor"
	"github.com/parley-chat/parley/deploy/bench/path"
	"github.com/parley-chat/parley/deploy/loadtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench-system:", err)
		os.Exit(1)
	}
}

// settings are the flags.
type settings struct {
	parley      string
	own         string
	peers       []string
	cases       string
	rounds      int
	warmup      time.Duration
	duration    time.Duration
	connections int
	pairs       int
	path        path.Config
	servers     string
	verbose     bool
	crowd       crowd

	serve  string // be a system, instead of comparing
	listen string
	first  string
}

func run(ctx context.Context, args []string, out io.Writer) error {
	s := settings{}
	flags := flag.NewFlagSet("bench-system", flag.ContinueOnError)
	flags.StringVar(&s.parley, "parley", "", "the parley program; built from ./deploy/parley by default, none: without edges and dev")
	flags.StringVar(&s.own, "own", "single,batched,edge,edges,dev", "which systems: two floors, an edge with a stand-in for the rest, edges beside the rest, everything in one process")
	flags.Func("peer", "name=URL[+URL]=PID[+PID]: a system that runs already; may be repeated", func(v string) error {
		s.peers = append(s.peers, v)
		return nil
	})
	flags.StringVar(&s.cases, "cases", "connections,1x1000,100x100,pairs,1x1000-two,100x100-two", "which cases; also log-hop, catch-up, catch-up-live and history, which are a table of their own")
	flags.IntVar(&s.rounds, "rounds", 3, "rounds; medians are shown")
	flags.DurationVar(&s.warmup, "warmup", time.Second, "time before anything is measured, per case")
	flags.DurationVar(&s.duration, "duration", 3*time.Second, "time measured per case")
	flags.IntVar(&s.connections, "connections", 10_000, "connections of the case of that name")
	flags.IntVar(&s.pairs, "pairs", 2_000, "rooms of two of the case of that name")
	flags.StringVar(&s.servers, "servers", "embedded,real", "what log-hop, catch-up, catch-up-live and history run on; real: where the environment names all of them")
	flags.IntVar(&s.path.Rate, "sends", 5000, "messages per second of log-hop and catch-up-live")
	flags.IntVar(&s.path.Records, "records", 300_000, "messages that catch-up and catch-up-live find in the log")
	flags.IntVar(&s.path.Entries, "entries", 1_000_000, "entries that the store of history holds")
	flags.IntVar(&s.path.Pages, "pages", 4000, "pages of each kind that history reads")
	flags.IntVar(&s.crowd.connections, "crowd", 0, "instead of comparing: hold so many connections, one edge for every 17,800 of them")
	flags.IntVar(&s.crowd.members, "members", 100, "with -crowd: connections per room")
	flags.IntVar(&s.crowd.meet, "meet", 4, "with -crowd: edges on which the members of a room meet")
	flags.IntVar(&s.crowd.active, "active", 50, "with -crowd: rooms that talk")
	flags.IntVar(&s.crowd.rate, "rate", 50, "with -crowd: messages per second in all of them together")
	flags.DurationVar(&s.crowd.hold, "hold", 5*time.Minute, "with -crowd: time measured, once all are connected")
	flags.BoolVar(&s.verbose, "v", false, "show every run's own summary")
	flags.StringVar(&s.serve, "serve", "", "be a system: single or batched (floors), or edge (an edge with a stand-in)")
	flags.StringVar(&s.listen, "listen", "127.0.0.1:0", "address of that one")
	flags.StringVar(&s.first, "first", "", "address of the first floor, where this is the second of two")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ready := func(string) {} // who started this one sees that it listens
	switch s.serve {
	case "":
	case "edge":
		return alone.Serve(ctx, s.listen, ready)
	default:
		return floor.Serve(ctx, floor.Config{Listen: s.listen, Batched: s.serve == "batched", First: s.first}, ready)
	}
	if s.crowd.connections > 0 {
		return s.gather(ctx, out)
	}
	if cases := s.pathCases(); len(cases) > 0 {
		return s.walk(ctx, out, cases)
	}
	return s.compare(ctx, out)
}

// settled is when connections that have come are at rest, and the memory that their coming took is given back.
const settled = 3 * time.Second

// benchCase is one row of the targets.
type benchCase struct {
	name, figure string
	config       loadtest.Config
	edges        int
	of           func(loadtest.Report) float64
}

func (s settings) allCases() []benchCase {
	perCPU := func(r loadtest.Report) float64 { return r.Servers.PerCPUSecond }
	fanout := func(name string, rooms, members, window, edges int) benchCase {
		return benchCase{name: name, figure: "deliveries per CPU-s", edges: edges, of: perCPU, config: loadtest.Config{
			Scenario: loadtest.Fanout, Rooms: rooms, Members: members, Rate: loadtest.RateMax, Window: window, Warmup: s.warmup, Duration: s.duration,
		}}
	}
	idle := loadtest.Config{Scenario: loadtest.Connect, Connections: s.connections, Members: 100, Warmup: settled, Duration: time.Second}
	return []benchCase{
		{name: "connections", figure: "KiB per connection", config: idle, edges: 1, of: func(r loadtest.Report) float64 { return r.Servers.BytesPerConnection / 1024 }},
		{name: "connections", figure: "connects per CPU-s", config: idle, edges: 1, of: func(r loadtest.Report) float64 { return r.Servers.ConnectsPerCPU }},
		fanout("1x1000", 1, 1000, 16, 1),
		fanout("100x100", 100, 100, 4, 1),
		fanout("pairs", s.pairs, 2, 1, 1),
		fanout("1x1000-two", 1, 1000, 16, 2),
		fanout("100x100-two", 100, 100, 4, 2),
	}
}

func (s settings) compare(ctx context.Context, out io.Writer) error {
	var cases []benchCase
	for _, c := range s.allCases() {
		if slices.Contains(strings.Split(s.cases, ","), c.name) {
			cases = append(cases, c)
		}
	}
	if len(cases) == 0 {
		return fmt.Errorf("-cases %q: there is none of these", s.cases)
	}
	dir, err := os.MkdirTemp("", "parley-bench-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program, err := s.build(ctx, dir)
	if err != nil {
		return err
	}
	systems, err := s.systems(program)
	if err != nil {
		return err
	}
	t := newTable(cases, systems)
	began := time.Now()
	for round := range s.rounds {
		for column, sys := range systems {
			for edges := 1; edges <= 2; edges++ {
				if err := s.visit(ctx, out, t, visit{round: round, column: column, system: sys, edges: edges}); err != nil {
					return err
				}
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done after %s\n", round+1, s.rounds, time.Since(began).Round(time.Second))
	}
	return t.write(out)
}

// visit is one system with one number of edges in one round.
type visit struct {
	round, column, edges int
	system               system
}

// visit starts the system afresh, so that memory says something in every round, and takes it through the cases with so
// many edges. Rows that look at the same run share it.
func (s settings) visit(ctx context.Context, out io.Writer, t *table, v visit) error {
	if !slices.ContainsFunc(t.cases, func(c benchCase) bool { return c.edges == v.edges }) {
		return nil
	}
	p, err := v.system.start(ctx, v.edges)
	if errors.Is(err, errNoSuch) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", v.system.name, err)
	}
	defer p.stop()
	reports := map[string]loadtest.Report{}
	for row, c := range t.cases {
		if c.edges != v.edges {
			continue
		}
		r, ok := reports[c.name]
		if !ok {
			config := c.config
			config.PIDs, config.URLs, config.Plain = p.pids, p.urls, true
			summary := io.Discard
			if s.verbose {
				fmt.Fprintf(out, "\n%s on %s\n", c.name, v.system.name)
				summary = out
			}
			if r, err = loadtest.Run(ctx, config, summary); err != nil {
				return fmt.Errorf("case %s on %s: %w", c.name, v.system.name, err)
			}
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			t.remark(c, v, r)
			reports[c.name] = r
		}
		t.add(row, v.column, c.of(r), r.Timings["delivery"].P99)
	}
	return nil
}

// remark notes what makes a run's figures doubtful.
func (t *table) remark(c benchCase, v visit, r loadtest.Report) {
	if code := r.ExitCode(); code != loadtest.ExitOK {
		t.note(fmt.Sprintf("%s on %s, round %d: exit code %d: %d lost, ended %q", c.name, v.system.name, v.round+1, code, r.Ledger.Lost, r.Ended))
	}
	if r.Generator.Bottleneck != "" {
		t.note(fmt.Sprintf("%s on %s, round %d: the load tester was the bottleneck: %s", c.name, v.system.name, v.round+1, r.Generator.Bottleneck))
	}
}
