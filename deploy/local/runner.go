package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// spec is how to start a process.
type spec struct {
	kind kind
	name string
	path string // of the executable, or its name on PATH
	args []string
	dir  string   // working directory; "" for this one
	env  []string // added to this process's
	drop []string // variables of this process's that it does not get
	// kept says that a Process owns it: when it ends, that is no news. again says that it has run before: its output is
	// added to the log of then.
	kept, again bool
}

// child is a process that was started. Its fields are fixed once start returned, but err.
type child struct {
	spec
	pid     int
	log     string        // path of its output
	started time.Time     //
	done    chan struct{} // closed when it has ended and its output is written
	err     error         // how it ended; read after done
}

// runner starts processes, keeps the list of them, and stops them.
type runner struct {
	opts UpOptions
	out  *console
	pids *pidList
	lock *os.File // held while this runner owns the directory

	// starter is one goroutine on a thread of its own: where the kernel stops children with the thread that started
	// them, that thread must last.
	starter chan func()
	stopped chan struct{} // closed when the starter has ended

	mu       sync.Mutex // guards children, closing
	children []*child
	closing  bool

	died chan *child // servers and roles that ended by themselves; room for every child
}

// maxChildren bounds the processes of one Up, set-up steps included.
const maxChildren = 1024

func newRunner(o UpOptions) (*runner, error) {
	for _, dir := range []string{filepath.Join(o.Dir, "bin"), filepath.Join(o.Data, "logs")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make the working directory: %w", err)
		}
	}
	lock, ok, err := lockFile(filepath.Join(o.Data, "lock"))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%s is in use by another `parley up`: stop it with `parley down --dir %s`, or give another --dir", o.Data, o.Data)
	}
	r := &runner{
		opts:    o,
		out:     &console{w: o.Out, color: o.Color},
		pids:    &pidList{path: filepath.Join(o.Data, pidFile)},
		lock:    lock,
		starter: make(chan func()),
		stopped: make(chan struct{}),
		died:    make(chan *child, maxChildren),
	}
	if err := r.claim(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	go func() {
		defer close(r.stopped)
		runtime.LockOSThread()
		for f := range r.starter {
			f()
		}
		runtime.UnlockOSThread()
	}()
	return r, nil
}

// claim refuses a directory whose last Up was killed and left processes, and writes this process into the list.
func (r *runner) claim() error {
	entries, err := readPids(r.pids.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.kind != kindUp && e.alive() {
			return fmt.Errorf("%s (pid %d) is left from an earlier run in %s: stop it with `parley down --dir %s`", e.name, e.pid, r.opts.Data, r.opts.Data)
		}
	}
	return r.pids.add(kindUp, "up", os.Getpid())
}

// start starts a process whose output goes to logs/NAME.log; a role's is shown as well.
func (r *runner) start(s spec) (*child, error) {
	path := filepath.Join(r.opts.Data, "logs", s.name+".log")
	how := os.O_TRUNC
	if s.again {
		how = os.O_APPEND
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|how, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	cmd := exec.Command(s.path, s.args...)
	cmd.Dir = s.dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return slices.Contains(s.drop, name)
	}), s.env...)
	cmd.Stdout = io.Writer(log)
	if s.kind == kindRole && !s.kept {
		cmd.Stdout = &follower{name: s.name, file: log, con: r.out}
	}
	cmd.Stderr = cmd.Stdout
	cmd.WaitDelay = time.Second // for output that a grandchild holds open
	setGroup(cmd)

	c := &child{spec: s, log: path, started: time.Now(), done: make(chan struct{})}
	if err := r.launch(c, cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", s.name, err), log.Close())
	}
	noted := r.pids.add(s.kind, s.name, c.pid)
	go func() {
		err := errors.Join(cmd.Wait(), r.pids.remove(c.pid))
		c.err = errors.Join(err, log.Close())
		r.mu.Lock()
		if !r.closing && s.kind != kindSetup && !s.kept {
			r.died <- c
		}
		if s.kept {
			r.children = slices.DeleteFunc(r.children, func(other *child) bool { return other == c })
		}
		r.mu.Unlock()
		close(c.done)
	}()
	return c, noted
}

// launch starts the command on the starter's thread, unless the runner is closing.
func (r *runner) launch(c *child, cmd *exec.Cmd) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return errors.New("stopping")
	}
	if len(r.children) == maxChildren {
		return fmt.Errorf("%d processes are the most", maxChildren)
	}
	result := make(chan error)
	r.starter <- func() { result <- cmd.Start() }
	if err := <-result; err != nil {
		return err
	}
	c.pid = cmd.Process.Pid
	r.children = append(r.children, c)
	return nil
}

// setup runs a process to its end, which is not to be waited for when ctx ends.
func (r *runner) setup(ctx context.Context, s spec) error {
	s.kind = kindSetup
	c, err := r.start(s)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", s.name, ctx.Err())
	case <-c.done:
	}
	if c.err != nil {
		return fmt.Errorf("%s: %w%s", s.name, c.err, tail(c.log))
	}
	return nil
}

// ready asks until the process answers. It fails when the process ends first or when the time is over.
func (r *runner) ready(ctx context.Context, c *child, within time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("no answer within %s", within))
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		attempt, stop := context.WithTimeout(ctx, 2*time.Second)
		err := ask(attempt)
		stop()
		if err == nil {
			return nil
		}
		select {
		case <-c.done:
			return fmt.Errorf("%s did not start: %w%s", c.name, errOr(c.err, "it ended"), tail(c.log))
		case <-ctx.Done():
			return fmt.Errorf("%s did not start: %w (%w)%s", c.name, context.Cause(ctx), err, tail(c.log))
		case <-tick.C:
		}
	}
}

func errOr(err error, otherwise string) error {
	if err != nil {
		return err
	}
	return errors.New(otherwise)
}

// wait returns when ctx ends, or with an error when a server ends. A role that ends is reported; the others go on.
func (r *runner) wait(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-r.died:
			if c.kind == kindServer {
				return fmt.Errorf("%s ended by itself: %w%s", c.name, errOr(c.err, "exit status 0"), tail(c.log))
			}
			r.out.line(c.name, "ended by itself: %v; its log is %s", errOr(c.err, "exit status 0"), c.log)
		}
	}
}

// close stops everything: first what is being fetched or built, then the roles, then the servers.
func (r *runner) close() error {
	r.mu.Lock()
	r.closing = true
	children := append([]*child(nil), r.children...)
	r.mu.Unlock()

	close(r.starter)
	for _, k := range []kind{kindSetup, kindRole, kindServer} {
		var wg sync.WaitGroup
		for _, c := range children {
			if c.kind == k {
				wg.Go(func() { r.stop(c) })
			}
		}
		wg.Wait()
	}
	<-r.stopped
	return errors.Join(r.pids.remove(os.Getpid()), r.lock.Close())
}

// stop ends one process and waits for it. Until c.done is closed its pid cannot belong to another: nobody has waited
// for it.
func (r *runner) stop(c *child) {
	select {
	case <-c.done:
		return
	default:
	}
	_ = signalGroup(c.pid, syscall.SIGTERM) // fails only when it has just ended
	patience := time.NewTimer(stopTimeout)
	defer patience.Stop()
	select {
	case <-c.done:
	case <-patience.C:
		r.out.line(c.name, "did not stop in %s: killing it", stopTimeout)
		_ = signalGroup(c.pid, syscall.SIGKILL)
		<-c.done
	}
}

// tail names a log and quotes its last lines, for the end of an error.
func tail(path string) string {
	const most, lines = 4096, 12
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprintf("; its log %s cannot be read: %v", path, err)
	}
	data = bytes.TrimSpace(data[max(0, len(data)-most):])
	rows := bytes.Split(data, []byte("\n"))
	rows = rows[max(0, len(rows)-lines):]
	if len(data) == 0 {
		return "; its log " + path + " is empty"
	}
	return "; the end of " + path + ":\n    " + string(bytes.Join(rows, []byte("\n    ")))
}
