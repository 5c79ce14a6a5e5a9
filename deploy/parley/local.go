package main

import (
	"context"
	"fmt"

	"github.com/parley-chat/parley/deploy/local"
)

type upCmd struct {
	Edges       int    `name:"edges" env:"EDGES" default:"2" help:"How many edges."`
	Workers     int    `name:"workers" env:"WORKERS" default:"2" help:"How many workers."`
	Dispatchers int    `name:"dispatchers" env:"DISPATCHERS" default:"1" help:"How many dispatchers."`
	Persisters  int    `name:"persisters" env:"PERSISTERS" default:"1" help:"How many persisters."`
	Port        int    `name:"port" env:"PORT" placeholder:"N" help:"Port of the first edge; the others take the next ones. Defaults to 8080, or to free ones with --ports free."`
	Ports       string `name:"ports" env:"PORTS" default:"default" help:"Ports of the servers: default (the conventional ones), free (then of the edges, too, without --port), or the first of five."`
	Mongo       string `name:"mongo" env:"MONGO" default:"auto" help:"auto (MONGODB_URI, else mongod, else a stand-in), java, ferret, or a URI."`
	MongoHeap   int    `name:"mongo-heap" env:"MONGO_HEAP" default:"512" help:"Memory of the Java stand-in for MongoDB, which keeps everything there, in MiB."`
	Dir         string `name:"dir" env:"PARLEY_LOCAL" default:".local" help:"Where programs, data and logs are kept."`
	ServersOnly bool   `name:"servers-only" help:"Start the servers only and print their addresses."`
	Write       string `name:"write" placeholder:"FILE" help:"Write those addresses to a file once every server answers."`
}

// Validate is called by the command line's parser.
func (c *upCmd) Validate() error {
	for name, n := range map[string]int{
		"edges": c.Edges, "workers": c.Workers, "dispatchers": c.Dispatchers, "persisters": c.Persisters, "mongo-heap": c.MongoHeap,
	} {
		if n < 1 {
			return fmt.Errorf("--%s %d: must be 1 or more", name, n)
		}
	}
	return nil
}

// Run starts everything and follows it until ctx ends.
func (c *upCmd) Run(ctx context.Context, s streams) error {
	return local.Up(ctx, local.UpOptions{
		Dir: c.Dir, Edges: c.Edges, Workers: c.Workers, Dispatchers: c.Dispatchers, Persisters: c.Persisters,
		Port: c.Port, Ports: c.Ports, Mongo: c.Mongo, MongoHeap: c.MongoHeap, ServersOnly: c.ServersOnly, Write: c.Write, Out: s.out, Color: terminal(s.out),
	})
}

type downCmd struct {
	Dir string `name:"dir" env:"PARLEY_LOCAL" default:".local" help:"The directory that was given to up."`
}

// Run stops what up started.
func (c *downCmd) Run(ctx context.Context, s streams) error { return local.Down(ctx, c.Dir, s.out) }

type doctorCmd struct {
	Target   int  `name:"target" placeholder:"N" help:"Say instead which of this machine's limits N connections meet, and what raises them."`
	BothEnds bool `name:"both-ends" help:"With --target: the load tester runs on this machine, too."`
}

// Run prints what was found; it fails when something is missing or too low.
func (c doctorCmd) Run(ctx context.Context, s streams) error {
	if c.Target != 0 || c.BothEnds {
		return c.target(s)
	}
	missing := false
	for _, f := range local.Doctor(ctx) {
		mark := "ok     "
		if !f.OK {
			mark, missing = "missing", true
			if f.Low {
				mark = "low    "
			}
		}
		fmt.Fprintf(s.out, "%s  %-14s %s\n", mark, f.Name, f.Detail)
		if !f.OK && f.Fix != "" {
			fmt.Fprintf(s.out, "         %-14s → %s\n", "", f.Fix)
		}
	}
	if missing {
		return errExit(1)
	}
	return nil
}

// target prints one line per limit, and below one that is too low what raises it.
func (c doctorCmd) target(s streams) error {
	limits, err := local.Target(local.TargetOptions{Connections: c.Target, BothEnds: c.BothEnds})
	if err != nil {
		return err
	}
	paint := func(_, text string) string { return text }
	if terminal(s.out) {
		paint = func(colour, text string) string { return "\x1b[" + colour + "m" + text + "\x1b[0m" }
	}
	low := 0
	fmt.Fprintf(s.out, "%s\n", paint("1", fmt.Sprintf("     %-30s %15s %15s", fmt.Sprintf("for %d connections", c.Target), "now", "needed")))
	for _, l := range limits {
		mark := paint("32", "ok ")
		if !l.OK {
			mark = paint("1;31", "low")
			low++
		}
		fmt.Fprintf(s.out, "%s  %-30s %15s %15s  %s\n", mark, l.Name, l.Now, l.Need, paint("2", l.Why))
		if l.Fix != "" {
			fmt.Fprintf(s.out, "     %s\n", paint("33", "→ "+l.Fix))
		}
	}
	if low > 0 {
		fmt.Fprintf(s.out, "\nToo low: %d of %d limits. sysctl -w lasts until the machine restarts: put it into /etc/sysctl.d as well.\n", low, len(limits))
		return errExit(1)
	}
	return nil
}
