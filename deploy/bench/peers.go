package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// peer is a system under comparison.
type peer struct {
	name  string
	urls  []string
	pids  []int
	edges int       // 2: only for the cases with two edges, whichever way they are reached
	cmd   *exec.Cmd // nil where somebody else started it
	dir   string    // removed at the end
}

func (p *peer) stop() {
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
		stuck := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
		_ = p.cmd.Wait() // how it ended does not matter any more
		stuck.Stop()
	}
	if p.dir != "" {
		_ = os.RemoveAll(p.dir)
	}
}

// start brings up the floors, an edge alone and Parley, and adds those that run already.
func (s settings) start(ctx context.Context) (peers []*peer, err error) {
	for _, f := range []struct{ name, mode string }{{"floor", "single"}, {"floor batched", "batched"}, {"edge alone", "edge"}} {
		if !slices.Contains(strings.Split(s.own, ","), f.mode) {
			continue
		}
		p, err := startOwn(f.name, f.mode)
		if err != nil {
			return peers, err
		}
		peers = append(peers, p)
	}
	if s.parley != "none" {
		for edges := 1; edges <= 2; edges++ {
			p, err := startParley(ctx, s.parley, edges)
			if err != nil {
				return peers, err
			}
			peers = append(peers, p)
		}
	}
	for _, text := range s.peers {
		p, err := parsePeer(text)
		if err != nil {
			return peers, err
		}
		peers = append(peers, p)
	}
	return peers, nil
}

// parsePeer reads name=URL[+URL]=PID[+PID].
func parsePeer(text string) (*peer, error) {
	parts := strings.Split(text, "=")
	if len(parts) != 3 {
		return nil, fmt.Errorf("-peer %q: must look like name=URL[+URL]=PID[+PID]", text)
	}
	p := &peer{name: parts[0], urls: strings.Split(parts[1], "+")}
	p.edges = len(p.urls)
	for pid := range strings.SplitSeq(parts[2], "+") {
		n, err := strconv.Atoi(pid)
		if err != nil {
			return nil, fmt.Errorf("-peer %q: %q is no process id", text, pid)
		}
		p.pids = append(p.pids, n)
	}
	return p, nil
}

// startOwn runs a peer that is this program too.
func startOwn(name, mode string) (*peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.Command(self, "-serve", mode)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the %s: %w", name, err)
	}
	p := &peer{name: name, cmd: cmd, pids: []int{cmd.Process.Pid}}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("start the %s: %w", name, err)
	}
	p.urls = []string{strings.TrimSpace(line)}
	return p, nil
}

// startParley runs `parley dev`: every role and embedded servers in one process, with one or two edges behind one port.
func startParley(ctx context.Context, program string, edges int) (*peer, error) {
	dir, err := os.MkdirTemp("", "parley-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	p := &peer{name: "parley dev, 1 edge", edges: edges, dir: dir}
	if edges > 1 {
		p.name = fmt.Sprintf("parley dev, %d edges", edges)
	}
	if program == "" {
		program = filepath.Join(dir, "parley")
		build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/parley-chat/parley/deploy/parley")
		if text, err := build.CombinedOutput(); err != nil {
			p.stop()
			return nil, fmt.Errorf("build parley: %w: %s", err, text)
		}
	}
	port, err := freePort()
	if err != nil {
		p.stop()
		return nil, err
	}
	p.urls = []string{fmt.Sprintf("127.0.0.1:%d", port)}
	p.cmd = exec.Command(program, "dev", "--ephemeral", "--edges", strconv.Itoa(edges), "--listen", p.urls[0], "--ops", "off", "--log-level", "warn")
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		p.cmd = nil
		p.stop()
		return nil, fmt.Errorf("start parley dev: %w", err)
	}
	p.pids = []int{p.cmd.Process.Pid}
	if err := answers(ctx, p.urls[0]); err != nil {
		p.stop()
		return nil, fmt.Errorf("start parley dev: %w", err)
	}
	return p, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// answers waits until somebody listens.
func answers(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		sock, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			return sock.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", addr, err)
		}
	}
}
