package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/parley-chat/parley/deploy/loadtest"
)

// perEdge is how many connections one edge of a crowd holds: an edge takes nine tenths of its descriptors, of which 20,000 are
// a common limit, and has some of its own.
const perEdge = 17_800

// crowdPing is the interval of pings. At the default a million connections are pinged 40,000 times a second, which costs
// a core of the machine that holds both ends.
const crowdPing = 2 * time.Minute

// single is the beginning of a command that runs on one processor at a time: with many more processes than processors,
// each would wake helpers that find nothing to do.
var single = []string{"env", "GOMAXPROCS=1"}

// crowd is as many connections as the machine takes, on one edge for every perEdge of them, while some rooms
// talk. The rest of Parley is one process beside the edges.
type crowd struct {
	connections, members, meet int
	active, rate               int
	hold                       time.Duration
}

func (c crowd) edges() int { return (c.connections + perEdge - 1) / perEdge }

// config is the load. The rooms are as many as fill every edge alike.
func (c crowd) config(program string, p *peer) loadtest.Config {
	return loadtest.Config{
		Scenario: loadtest.Fanout, URLs: p.urls, PIDs: p.pids, Connections: c.connections, Members: c.members,
		Meet: min(c.meet, len(p.urls)), Active: c.active, Senders: 1, Rate: strconv.Itoa(c.rate), Warmup: 10 * time.Second, Duration: c.hold,
		RampTimeout: time.Minute + time.Duration(c.connections/400)*time.Second, Plain: true, Shard: append(slices.Clone(single), program, "load", "--shard"),
	}
}

// gather brings the crowd together and says what it took.
func (s settings) gather(ctx context.Context, out io.Writer) error {
	c := s.crowd
	dir, err := os.MkdirTemp("", "parley-bench-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	p := &peer{dir: dir}
	defer p.stop()
	program, err := s.build(ctx, dir)
	if err != nil {
		return err
	}
	if program == "" {
		return errors.New("-crowd: needs the parley program")
	}
	before, err := machineMemory()
	if err != nil {
		return err
	}
	if err := p.startEdges(ctx, append(slices.Clone(single), program), c.edges(), "--ping", crowdPing.String()); err != nil {
		return err
	}
	stop, peak := watchMemory(before)
	report, err := loadtest.Run(ctx, c.config(program, p), out)
	close(stop)
	most := <-peak
	if err != nil {
		return fmt.Errorf("the crowd: %w", err)
	}
	p.stop()
	c.write(out, report, before, most)
	fmt.Fprintf(out, "| processor time from start to stop | edges %.0f s, the rest of Parley %.0f s |\n", processors(p.procs[1:]).Seconds(), processors(p.procs[:1]).Seconds())
	if code := report.ExitCode(); code != loadtest.ExitOK {
		return fmt.Errorf("the crowd: the load tester ended with exit code %d", code)
	}
	return nil
}

// write prints what the load tester's summary does not say.
func (c crowd) write(out io.Writer, r loadtest.Report, before, most memory) {
	n := float64(max(r.Connections.Listening, 1))
	edges := loadtest.Servers{}
	if r.Servers != nil {
		edges = *r.Servers
	}
	fmt.Fprintf(out, "\n| what | figure |\n| --- | --- |\n")
	for _, row := range [][2]string{
		{"connections held", fmt.Sprintf("%d of %d, on %d edges, rooms of %d that meet on %d of them", r.Connections.AtEnd, c.connections, c.edges(), c.members, min(c.meet, c.edges()))},
		{"time to connect, log in and join", fmt.Sprintf("%.0f s, %.0f/s", r.Connections.RampS, r.Connections.PerSecond)},
		{"edges, per connection", fmt.Sprintf("%.0f bytes; %.2f GiB in all", edges.BytesPerConnection, float64(edges.MemoryBytes)/(1<<30))},
		{"kernel, per connection and end", fmt.Sprintf("%.2f KiB; %.2f GiB in all", float64(most.kernel-before.kernel)/n/2/1024, float64(most.kernel-before.kernel)/(1<<30))},
		{"all processes, load tester included", fmt.Sprintf("%.2f GiB", float64(most.user-before.user)/(1<<30))},
		{"available memory, at the least", fmt.Sprintf("%.2f of %.2f GiB", float64(most.available)/(1<<30), float64(most.total)/(1<<30))},
		{"processors while held", fmt.Sprintf("edges %.2f cores, load tester %.2f cores, all %.0f %% busy", edges.Cores, r.Generator.Cores, 100*r.Generator.MachineBusy)},
		{"rooms that talked", fmt.Sprintf("%d, %.0f messages/s, %.0f deliveries/s, p50 %.1f p99 %.1f ms", c.active, r.Traffic.Accepted, r.Traffic.Delivered, r.Timings["delivery"].P50, r.Timings["delivery"].P99)},
	} {
		fmt.Fprintf(out, "| %s | %s |\n", row[0], row[1])
	}
}

func processors(ended []*process) (all time.Duration) {
	for _, p := range ended {
		all += p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	}
	return all
}

// memory is what the machine's memory is used for, in bytes.
type memory struct{ total, available, user, kernel int64 }

// watchMemory looks every two seconds until stop is closed, and then hands over the moment at which least was available.
func watchMemory(before memory) (stop chan<- struct{}, peak <-chan memory) {
	end, result := make(chan struct{}), make(chan memory, 1)
	go func() {
		most := before
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-end:
				result <- most
				return
			case <-tick.C:
				if m, err := machineMemory(); err == nil && m.available < most.available {
					most = m
				}
			}
		}
	}()
	return end, result
}

func machineMemory() (memory, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return memory{}, fmt.Errorf("read the machine's memory: %w", err)
	}
	return parseMemory(text)
}

// parseMemory reads /proc/meminfo. What is neither free, nor a page of a file, nor of a process is the kernel's own:
// sockets, their buffers, descriptors, page tables.
func parseMemory(text []byte) (memory, error) {
	fields := map[string]int64{}
	for line := range bytes.Lines(text) {
		name, rest, _ := strings.Cut(string(line), ":")
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err == nil {
			fields[name] = kb << 10
		}
	}
	for _, name := range []string{"MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "AnonPages"} {
		if _, ok := fields[name]; !ok {
			return memory{}, fmt.Errorf("read the machine's memory: no %s", name)
		}
	}
	return memory{
		total: fields["MemTotal"], available: fields["MemAvailable"], user: fields["AnonPages"],
		kernel: fields["MemTotal"] - fields["MemFree"] - fields["Buffers"] - fields["Cached"] - fields["SwapCached"] - fields["AnonPages"],
	}, nil
}
