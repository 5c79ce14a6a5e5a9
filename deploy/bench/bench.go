// Command bench-system runs the cases of the system's targets on a floor (package floor) and on Parley in turn, and
// prints one table of what a CPU-second of the servers is worth, with the ratios. Machines differ and change from minute
// to minute: only figures of one run may be compared.
//
//	go run ./deploy/bench                        floor, floor batched, an edge alone and `parley dev`, every case, medians of three
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
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/parley-chat/parley/deploy/bench/alone"
	"github.com/parley-chat/parley/deploy/bench/floor"
	"github.com/parley-chat/parley/deploy/loadtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
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
	duration    time.Duration
	connections int
	pairs       int
	verbose     bool
	serve       string
}

func run(ctx context.Context, args []string, out io.Writer) error {
	s := settings{}
	flags := flag.NewFlagSet("bench-system", flag.ContinueOnError)
	flags.StringVar(&s.parley, "parley", "", "the parley program; built from ./deploy/parley by default, none for floors alone")
	flags.StringVar(&s.own, "own", "single,batched,edge", "which peers of this program's own: floors, and an edge alone")
	flags.Func("peer", "name=URL[+URL]=PID[+PID]: a system that runs already; may be repeated", func(v string) error {
		s.peers = append(s.peers, v)
		return nil
	})
	flags.StringVar(&s.cases, "cases", "connections,1x1000,100x100,pairs,1x1000-two,100x100-two", "which cases")
	flags.IntVar(&s.rounds, "rounds", 3, "rounds; medians are shown")
	flags.DurationVar(&s.duration, "duration", 5*time.Second, "time measured per case")
	flags.IntVar(&s.connections, "connections", 10_000, "connections of the case of that name")
	flags.IntVar(&s.pairs, "pairs", 2_000, "rooms of two of the case of that name")
	flags.BoolVar(&s.verbose, "v", false, "show every run's own summary")
	flags.StringVar(&s.serve, "serve", "", "be a peer: single or batched (floors), or edge (an edge alone)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	started := func(addr string) { fmt.Fprintln(out, addr) }
	switch s.serve {
	case "":
	case "edge":
		return alone.Serve(ctx, "127.0.0.1:0", started)
	default:
		return floor.Serve(ctx, floor.Config{Listen: "127.0.0.1:0", Batched: s.serve == "batched"}, started)
	}
	return s.compare(ctx, out)
}

// benchCase is one row of the targets.
type benchCase struct {
	name, figure string
	config       loadtest.Config
	two          bool // needs two edges
	of           func(loadtest.Report) float64
}

func (s settings) allCases() []benchCase {
	perCPU := func(r loadtest.Report) float64 { return r.Servers.PerCPUSecond }
	fanout := func(name string, rooms, members, window int, two bool) benchCase {
		return benchCase{name: name, figure: "deliveries per CPU-s", two: two, of: perCPU, config: loadtest.Config{
			Scenario: loadtest.Fanout, Rooms: rooms, Members: members, Rate: loadtest.RateMax, Window: window, Warmup: time.Second, Duration: s.duration,
		}}
	}
	idle := loadtest.Config{Scenario: loadtest.Connect, Connections: s.connections, Members: 100, Warmup: time.Second, Duration: time.Second}
	return []benchCase{
		{name: "connections", figure: "KiB per connection", config: idle, of: func(r loadtest.Report) float64 { return r.Servers.BytesPerConnection / 1024 }},
		{name: "connections", figure: "connects per CPU-s", config: idle, of: func(r loadtest.Report) float64 { return r.Servers.ConnectsPerCPU }},
		fanout("1x1000", 1, 1000, 16, false),
		fanout("100x100", 100, 100, 4, false),
		fanout("pairs", s.pairs, 2, 1, false),
		fanout("1x1000-two", 1, 1000, 16, true),
		fanout("100x100-two", 100, 100, 4, true),
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
	peers, err := s.start(ctx)
	defer func() {
		for _, p := range peers {
			p.stop()
		}
	}()
	if err != nil {
		return err
	}
	t := newTable(cases, peers)
	for round := range s.rounds {
		for _, p := range peers {
			if err := s.round(ctx, out, t, p, round); err != nil {
				return err
			}
		}
	}
	return t.write(out)
}

// round takes one peer through all cases. Cases that look at the same run share it.
func (s settings) round(ctx context.Context, out io.Writer, t *table, p *peer, number int) error {
	reports := map[string]loadtest.Report{}
	for i, c := range t.cases {
		if c.two != (p.edges == 2) {
			continue
		}
		r, ok := reports[c.name]
		if !ok {
			config := c.config
			config.PIDs, config.URLs, config.Plain = p.pids, p.urls, true
			summary := io.Discard
			if s.verbose {
				summary = out
			}
			var err error
			if r, err = loadtest.Run(ctx, config, summary); err != nil {
				return fmt.Errorf("case %s on %s: %w", c.name, p.name, err)
			}
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			if code := r.ExitCode(); code != loadtest.ExitOK {
				t.note(fmt.Sprintf("%s on %s, round %d: exit code %d: %s lost, ended %q", c.name, p.name, number+1, code, strconv.FormatInt(r.Ledger.Lost, 10), r.Ended))
			}
			if r.Generator.Bottleneck != "" {
				t.note(fmt.Sprintf("%s on %s, round %d: the load tester was the bottleneck: %s", c.name, p.name, number+1, r.Generator.Bottleneck))
			}
			reports[c.name] = r
		}
		t.add(i, p, c.of(r), r.Timings["delivery"].P99)
	}
	return nil
}
