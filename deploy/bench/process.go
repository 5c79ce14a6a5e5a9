package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Bounds of a process's life.
const (
	startTimeout = 20 * time.Second
	stopTimeout  = 10 * time.Second // from SIGTERM to SIGKILL
)

// process is one process of a peer.
type process struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}
}

func startProcess(args ...string) (*process, error) {
	p := &process{name: filepath.Base(args[0]) + " " + args[1], cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // who waits for it to begin or to end is told by the channel
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	patience := time.NewTimer(stopTimeout)
	defer patience.Stop()
	select {
	case <-p.ended:
	case <-patience.C:
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// until asks until there is no error.
func (p *process) until(ctx context.Context, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.ended:
			return fmt.Errorf("start %s: it ended: %s", p.name, p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("start %s: %w", p.name, err)
		}
	}
}

// listens waits until it takes connections.
func (p *process) listens(ctx context.Context, addr string) error {
	return p.until(ctx, func() error {
		sock, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return err
		}
		return sock.Close()
	})
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}
