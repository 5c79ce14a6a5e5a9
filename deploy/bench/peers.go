package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// system is a column of the table: something that can be started with one edge or with two.
type system struct {
	name    string
	floor   bool                                                // the others are compared with it
	program bool                                                // needs the parley program
	start   func(ctx context.Context, edges int) (*peer, error) // errNoSuch where it is not to be had with so many
}

// errNoSuch says that a system cannot be had with so many edges.
var errNoSuch = errors.New("not to be had with so many edges")

// peer is a system that runs.
type peer struct {
	urls  []string
	pids  []int      // what is measured
	procs []*process // what is stopped at the end, in reverse order
	dir   string     // removed at the end
}

func (p *peer) stop() {
	for i := len(p.procs) - 1; i >= 0; i-- {
		p.procs[i].stop()
	}
	if p.dir != "" {
		_ = os.RemoveAll(p.dir)
	}
}

// run starts a process of the peer.
func (p *peer) run(args ...string) (*process, error) {
	proc, err := startProcess(args...)
	if err == nil {
		p.procs = append(p.procs, proc)
	}
	return proc, err
}

// serve starts a process that is measured and listens at addr.
func (p *peer) serve(ctx context.Context, addr string, args ...string) error {
	proc, err := p.run(args...)
	if err != nil {
		return err
	}
	p.urls, p.pids = append(p.urls, addr), append(p.pids, proc.pid())
	return proc.listens(ctx, addr)
}

// systems lists the columns: those of -own, and what runs already. Those that need the parley program are left out where
// there is none.
func (s settings) systems(program string) ([]system, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	var systems []system
	for name := range strings.SplitSeq(s.own, ",") {
		switch name {
		case "single":
			systems = append(systems, ownSystem("floor", 2, self, "-serve", name))
		case "batched":
			systems = append(systems, ownSystem("floor batched", 2, self, "-serve", name))
		case "edge":
			systems = append(systems, ownSystem("edge alone", 1, self, "-serve", name))
		case "edges":
			systems = append(systems, edgesSystem(program))
		case "dev":
			systems = append(systems, devSystem(program))
		case "":
		default:
			return nil, fmt.Errorf("-own %q: there are single, batched, edge, edges and dev", name)
		}
	}
	systems = slices.DeleteFunc(systems, func(sys system) bool { return program == "" && sys.program })
	for _, text := range s.peers {
		p, err := parsePeer(text)
		if err != nil {
			return nil, err
		}
		systems = append(systems, p)
	}
	return systems, nil
}

// ownSystem is this program in another role, with as many as most edges. Only floors know two.
func ownSystem(name string, most int, args ...string) system {
	return system{name: name, floor: most > 1, start: func(ctx context.Context, edges int) (*peer, error) {
		if edges > most {
			return nil, errNoSuch
		}
		p := &peer{}
		for range edges {
			addr, err := freeAddr()
			all := append(slices.Clone(args), "-listen", addr)
			if len(p.urls) > 0 {
				all = append(all, "-first", p.urls[0])
			}
			if err == nil {
				err = p.serve(ctx, addr, all...)
			}
			if err != nil {
				p.stop()
				return nil, err
			}
		}
		return p, nil
	}}
}

// edgesSystem is Parley whose edges are processes of their own, and the only ones that are measured. All other roles and
// the servers are one process beside them.
func edgesSystem(program string) system {
	return system{name: "parley edges", program: true, start: func(ctx context.Context, edges int) (*peer, error) {
		dir, err := os.MkdirTemp("", "parley-bench-")
		if err != nil {
			return nil, fmt.Errorf("make a folder: %w", err)
		}
		p := &peer{dir: dir}
		if err := p.startEdges(ctx, []string{program}, edges); err != nil {
			p.stop()
			return nil, err
		}
		return p, nil
	}}
}

// startEdges starts so many edges, by a command that ends with the parley program, with more arguments than they need.
func (p *peer) startEdges(ctx context.Context, program []string, edges int, more ...string) error {
	file := filepath.Join(p.dir, "servers.env")
	rest, err := p.run(program[len(program)-1], "dev", "--ephemeral", "--edges", "0", "--write", file, "--ops", "off", "--log-level", "warn")
	if err != nil {
		return err
	}
	var text []byte
	err = rest.until(ctx, func() (err error) { text, err = os.ReadFile(file); return err })
	if err != nil {
		return err
	}
	env, err := readEnv(string(text))
	if err != nil {
		return err
	}
	for range edges {
		addr, err := freeAddr()
		if err != nil {
			return err
		}
		args := append(slices.Clone(program), "edge", "--nats-url", env["NATS_URL"], "--redis-url", env["REDIS_URL"],
			"--prefix", env["PARLEY_PREFIX"], "--partitions", env["PARLEY_PARTITIONS"], "--listen", addr, "--ops", "off", "--log-level", "warn", "--no-limits")
		err = p.serve(ctx, addr, append(args, more...)...)
		if err != nil {
			return err
		}
	}
	return nil
}

// readEnv reads lines like export NAME='value'.
func readEnv(text string) (map[string]string, error) {
	env := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if !ok {
			return nil, fmt.Errorf("read the servers' addresses: %q is no assignment", line)
		}
		env[name] = strings.Trim(value, "'")
	}
	return env, nil
}

// devSystem is `parley dev`: every role and the servers in one process, with its edges behind one port.
func devSystem(program string) system {
	return system{name: "parley dev", program: true, start: func(ctx context.Context, edges int) (*peer, error) {
		addr, err := freeAddr()
		p := &peer{}
		if err == nil {
			err = p.serve(ctx, addr, program, "dev", "--ephemeral", "--edges", strconv.Itoa(edges), "--listen", addr, "--ops", "off", "--log-level", "warn")
		}
		if err != nil {
			p.stop()
			return nil, err
		}
		return p, nil
	}}
}

// parsePeer reads name=URL[+URL]=PID[+PID].
func parsePeer(text string) (system, error) {
	parts := strings.Split(text, "=")
	if len(parts) != 3 {
		return system{}, fmt.Errorf("-peer %q: must look like name=URL[+URL]=PID[+PID]", text)
	}
	urls := strings.Split(parts[1], "+")
	var pids []int
	for pid := range strings.SplitSeq(parts[2], "+") {
		n, err := strconv.Atoi(pid)
		if err != nil {
			return system{}, fmt.Errorf("-peer %q: %q is no process id", text, pid)
		}
		pids = append(pids, n)
	}
	return system{name: parts[0], start: func(_ context.Context, edges int) (*peer, error) {
		if edges != len(urls) {
			return nil, errNoSuch
		}
		return &peer{urls: urls, pids: pids}, nil
	}}, nil
}

// build makes the parley program in dir, unless one is named.
func (s settings) build(ctx context.Context, dir string) (program string, err error) {
	switch s.parley {
	case "none":
		return "", nil
	case "":
		if own := strings.Split(s.own, ","); !slices.Contains(own, "edges") && !slices.Contains(own, "dev") {
			return "", nil
		}
		program = filepath.Join(dir, "parley")
		build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/parley-chat/parley/deploy/parley")
		if text, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build parley: %w: %s", err, text)
		}
		return program, nil
	}
	return s.parley, nil
}
