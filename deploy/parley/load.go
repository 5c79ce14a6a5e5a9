package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/parley-chat/parley/deploy/loadtest"
)

// loadCmd is `parley load`: a stranger that speaks the public protocol.
type loadCmd struct {
	Run     loadRunCmd     `cmd:"" default:"withargs" help:"Load a server and report what was seen."`
	Compare loadCompareCmd `cmd:"" help:"Put two JSON reports side by side."`
}

type loadRunCmd struct {
	Scenario string `arg:"" optional:"" default:"fanout" help:"connect: open connections and hold them. fanout: send into rooms. chat: sending, typing, history, joins, leaves, new connections. storm: cut everything and resume. soak: chat for long."`

	URL         []string      `name:"url" env:"PARLEY_URL" placeholder:"ADDRESS" help:"Servers: host:port, ws://, wss://. Every room is spread over all of them. Defaults to 127.0.0.1:8080."`
	Connections int           `name:"connections" short:"c" placeholder:"N" help:"Connections. Defaults to rooms × members."`
	Rooms       int           `name:"rooms" placeholder:"N" help:"Rooms. Defaults to 10, or to what connections and members make."`
	Members     int           `name:"members" placeholder:"N" help:"Connections per room. Defaults to 100."`
	Rate        string        `name:"rate" short:"r" placeholder:"N" help:"Messages per second of all senders, or max for the closed loop. Defaults to 10 per room."`
	Window      int           `name:"window" placeholder:"N" help:"Messages a sender may have under way. Defaults to 64, in the closed loop to 4."`
	Senders     int           `name:"senders" placeholder:"N" help:"Connections per room that send. Defaults to all, in the closed loop to 1."`
	Active      int           `name:"active" placeholder:"N" help:"Rooms that are spoken in; the others are only held. Defaults to all."`
	Meet        int           `name:"meet" placeholder:"N" help:"On how many of the addresses the members of one room meet. Defaults to all."`
	Size        int           `name:"size" placeholder:"BYTES" help:"Length of a message. Defaults to 128."`
	Warmup      time.Duration `name:"warmup" default:"2s" help:"Time before anything is measured."`
	Duration    time.Duration `name:"duration" short:"d" placeholder:"TIME" help:"Time measured. Defaults to 8s; soak: 10m."`
	Drain       time.Duration `name:"drain" default:"5s" help:"Longest wait for the last messages."`
	Ramp        int           `name:"ramp" placeholder:"N" help:"New connections per second. Defaults to as many as the server takes."`
	RampTimeout time.Duration `name:"ramp-timeout" placeholder:"TIME" help:"Longest wait for all connections. Defaults to 30s and 1s per 250."`
	Churn       float64       `name:"churn" placeholder:"SHARE" help:"Share of the connections replaced per second. Defaults to 0.002 in chat and soak."`
	Stall       int           `name:"stall" placeholder:"N" help:"Further connections in the rooms that send half a frame and read nothing. Nothing is counted of them."`
	Trickle     int           `name:"trickle" placeholder:"N" help:"Further connections in the rooms that read a byte per second."`
	Token       string        `name:"token" env:"PARLEY_TOKEN" help:"Token that every connection shows. Defaults to none: guests."`
	Prefix      string        `name:"prefix" placeholder:"NAME" help:"Beginning of the rooms' names. Defaults to one of the run's own."`
	SLO         string        `name:"slo" placeholder:"GOALS" help:"Goals that decide the exit code, such as 'p99<50ms,loss=0'."`
	PID         []int         `name:"pid" help:"Processes of the servers on this machine, to show what they consume."`
	Metrics     []string      `name:"metrics" placeholder:"ADDRESS" help:"Prometheus metrics of the servers, for the same."`
	Processes   int           `name:"processes" placeholder:"N" help:"Processes that drive connections. Defaults to as many as the descriptor limit needs."`
	Loops       int           `name:"loops" placeholder:"N" help:"Loops per process. Defaults to half the processors."`
	Goroutines  bool          `name:"goroutines" help:"Goroutines instead of epoll; for wss:// always."`
	Insecure    bool          `name:"insecure" help:"Take any certificate of a wss:// server."`
	JSON        string        `name:"json" placeholder:"FILE" help:"Write the report as JSON."`
	HTML        string        `name:"html" placeholder:"FILE" help:"Write the report as one page with charts."`
	Plain       bool          `name:"plain" help:"Lines instead of the live screen."`
	Seed        int64         `name:"seed" placeholder:"N" help:"Makes the run's choices repeatable."`
	Shard       bool          `name:"shard" hidden:"" help:"Be one process of a run that needs several."`
}

func (c *loadRunCmd) config() loadtest.Config {
	return loadtest.Config{
		Scenario: loadtest.Scenario(c.Scenario), URLs: c.URL, Rooms: c.Rooms, Members: c.Members, Connections: c.Connections,
		Rate: c.Rate, Window: c.Window, Senders: c.Senders, Active: c.Active, Meet: c.Meet, Size: c.Size, Warmup: c.Warmup, Duration: c.Duration, Drain: c.Drain,
		Ramp: c.Ramp, RampTimeout: c.RampTimeout, Churn: c.Churn, Stall: c.Stall, Trickle: c.Trickle, Token: c.Token, Prefix: c.Prefix, SLO: c.SLO, PIDs: c.PID,
		Metrics: c.Metrics, Processes: c.Processes, Loops: c.Loops, Goroutines: c.Goroutines, Insecure: c.Insecure, JSON: c.JSON, HTML: c.HTML,
		Plain: c.Plain, Seed: c.Seed,
	}
}

// loadGC is how much garbage the load tester lets gather, in percent of what it holds. It holds little per connection and
// makes little garbage, so that memory is worth more than the time of collecting.
const loadGC = 40

// Run loads the server. The exit code is 0 where all is well, 1 where the ledger found something, 2 for wrong flags,
// 3 where the run could not be made as asked for, 4 where a goal was missed.
func (c *loadRunCmd) Run(ctx context.Context, s streams) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(loadGC)
	}
	if c.Shard {
		// The parent ends its processes by ending their input; an interrupt of the terminal reaches it alone.
		return loadtest.ServeShard(os.Stdin, s.out)
	}
	config := c.config()
	if err := config.Validate(); err != nil {
		fmt.Fprintln(s.err, "parley load:", err)
		return errExit(loadtest.ExitUsage)
	}
	report, err := loadtest.Run(ctx, config, s.out)
	if err != nil {
		fmt.Fprintln(s.err, "parley load:", err)
		return errExit(loadtest.ExitPartial)
	}
	if code := report.ExitCode(); code != loadtest.ExitOK {
		return errExit(code)
	}
	return nil
}

type loadCompareCmd struct {
	Before string `arg:"" help:"A report in JSON."`
	After  string `arg:"" help:"Another one."`
}

// Run prints the table.
func (c *loadCompareCmd) Run(s streams) error {
	before, err := loadtest.ReadJSON(c.Before)
	after, err2 := loadtest.ReadJSON(c.After)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	return loadtest.Compare(s.out, before, after)
}
