package local

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"
)

// ErrNotRunning is what is returned about a process that has not been started, or has ended.
var ErrNotRunning = errors.New("not running")

// Process is a server or role that can be started, signalled and started again; each time its output goes to the same
// log. It is safe for concurrent use.
type Process struct {
	// Static after construction.
	r      *runner
	spec   spec
	within time.Duration // that it may take until it answers
	ask    func(context.Context) error

	mu    sync.Mutex // guards child and spec.again
	child *child
}

// Start starts the process and returns once it answers.
func (p *Process) Start(ctx context.Context) error {
	if err := p.Launch(); err != nil {
		return err
	}
	return p.Await(ctx)
}

// Launch starts the process and does not wait for an answer. It fails where it runs already.
func (p *Process) Launch() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child != nil {
		select {
		case <-p.child.done:
		default:
			return fmt.Errorf("start %s: it runs already", p.spec.name)
		}
	}
	c, err := p.r.start(p.spec)
	if err != nil {
		return err
	}
	p.child, p.spec.again = c, true
	return nil
}

// Await returns once the process answers, or with an error that quotes its log when it ends first or takes too long.
func (p *Process) Await(ctx context.Context) error {
	c := p.current()
	if c == nil {
		return fmt.Errorf("wait for %s: %w", p.spec.name, ErrNotRunning)
	}
	return p.r.ready(ctx, c, p.within, p.ask)
}

// Signal signals the process and what it started. It fails with ErrNotRunning where there is none.
func (p *Process) Signal(sig syscall.Signal) error {
	pid, ok := p.Pid()
	if !ok {
		return fmt.Errorf("signal %s: %w", p.spec.name, ErrNotRunning)
	}
	if err := signalGroup(pid, sig); err != nil {
		return fmt.Errorf("signal %s: %w", p.spec.name, err)
	}
	return nil
}

// Kill ends the process at once, as SIGKILL does, and returns when it is gone.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.current().done
	return nil
}

// Stop asks the process to stop, with SIGTERM, and returns when it is gone, at the latest after patience, by SIGKILL. It says
// how long that took and returns an error where the process did not end well: by itself, with code 0.
func (p *Process) Stop(patience time.Duration) (time.Duration, error) {
	begin := time.Now()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	c := p.current()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		if err := p.Kill(); err != nil && !errors.Is(err, ErrNotRunning) {
			return time.Since(begin), err
		}
		return time.Since(begin), fmt.Errorf("stop %s: it did not stop within %s and was killed", p.spec.name, patience)
	}
	if c.err != nil {
		return time.Since(begin), fmt.Errorf("stop %s: %w", p.spec.name, c.err)
	}
	return time.Since(begin), nil
}

// Pid is the process's number; ok is false where it does not run.
func (p *Process) Pid() (pid int, ok bool) {
	c := p.current()
	if c == nil {
		return 0, false
	}
	select {
	case <-c.done:
		return 0, false
	default:
		return c.pid, true
	}
}

func (p *Process) current() *child {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.child
}
