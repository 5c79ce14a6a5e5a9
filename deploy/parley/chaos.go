package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/parley-chat/parley/deploy/chaos"
)

type chaosCmd struct {
	Scenario string        `name:"scenario" enum:",edge-killed" default:"" help:"edge-killed: instead of faults by schedule, 5,000 clients and one of their two edges killed."`
	Duration time.Duration `name:"duration" short:"d" placeholder:"TIME" help:"How long faults are injected, 3m by default; starting and the end come on top."`
	Seed     uint64        `name:"seed" placeholder:"N" help:"Repeats the schedule of a run. Defaults to the time."`
	Faults   []string      `name:"faults" placeholder:"NAME" help:"Kinds of faults, all by default; --list names them."`
	Long     bool          `name:"long" help:"Faults of full length, such as a minute's stop, and more time between them. The default from 10m on."`
	Every    time.Duration `name:"every" placeholder:"TIME" help:"Time between the beginnings of two faults. Defaults to 5s, with --long to 10s."`
	Users    int           `name:"users" placeholder:"N" help:"Clients. Defaults to 200."`
	Rooms    int           `name:"rooms" placeholder:"N" help:"Rooms, of 2 to 60 members. Defaults to 50."`
	Rate     float64       `name:"rate" short:"r" placeholder:"N" help:"Messages per second of all users. Defaults to 500, with --long to 600."`
	Churn    time.Duration `name:"churn" placeholder:"TIME" help:"How often a user leaves a room or drops the connection, and reads history, on average. Defaults to 40s."`
	Mongo    string        `name:"mongo" env:"MONGO" default:"auto" help:"auto (MONGODB_URI, else mongod, else a stand-in), java, ferret, or a URI."`
	Dir      string        `name:"dir" env:"PARLEY_LOCAL" default:".local" help:"Where programs are kept; each run gets a directory below chaos."`
	Loaded   bool          `name:"loaded" help:"The machine has other work: speed and the share of acks at rest are reported, not judged."`
	Keep     bool          `name:"keep" help:"Keep history and data also where nothing was found."`
	Plain    bool          `name:"plain" help:"A line a second instead of one that is drawn anew."`
	List     bool          `name:"list" help:"List the kinds of faults and end."`
}

// Run harms an installation of its own. The exit code is 0 where every promise was kept, 1 where one was broken, 2 where no run
// could be made. A signal ends the faults early and a second one everything.
func (c *chaosCmd) Run(ctx context.Context, s streams) error {
	if c.List {
		for _, k := range chaos.Kinds() {
			fmt.Fprintf(s.out, "%-20s %s\n", k[0], k[1])
		}
		return nil
	}
	abandon, stop := secondSignal()
	defer stop()
	report, err := chaos.Run(ctx, chaos.Config{
		Dir: c.Dir, Mongo: c.Mongo, Scenario: c.Scenario, Duration: c.Duration, Seed: c.Seed, Faults: c.Faults, Long: c.Long, Every: c.Every, Users: c.Users,
		Rooms: c.Rooms, Rate: c.Rate, Churn: c.Churn, Loaded: c.Loaded, Keep: c.Keep, Abandon: abandon, Out: s.out, Live: terminal(s.out) && !c.Plain,
	})
	if err != nil {
		fmt.Fprintln(s.err, "parley chaos:", err)
		return errExit(2)
	}
	if err := report.WriteText(s.out); err != nil {
		return err
	}
	if !report.Good() {
		return errExit(1)
	}
	return nil
}

// secondSignal returns a channel that is closed at the second signal to end, and what ends the watch for it.
func secondSignal() (second <-chan struct{}, stop func()) {
	signals, came, over := make(chan os.Signal, 2), make(chan struct{}), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; ; n++ {
			select {
			case <-signals:
				if n == 2 {
					close(came)
					return
				}
			case <-over:
				return
			}
		}
	})
	return came, func() {
		signal.Stop(signals)
		close(over)
		wg.Wait()
	}
}
