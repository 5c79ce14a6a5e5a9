package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the program under test, built once.
var binary string

// patience is how long tests wait for what must come. It is long because nobody who passes waits for it.
const patience = time.Minute

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "parley-test-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "parley")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// process is one started program.
type proc struct {
	t    *testing.T
	name string
	args []string
	env  []string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu  sync.Mutex // guards out
	out []string   // the last lines it printed
}

func newProc(t *testing.T, name string, env []string, args ...string) *proc {
	p := &proc{t: t, name: name, args: args, env: append([]string{"PARLEY_LIMITS=false"}, env...)}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Logf("%s printed at last:\n%s", name, strings.Join(p.out, "\n"))
		}
	})
	return p
}

func (p *proc) start() {
	p.t.Helper()
	p.cmd = exec.Command(binary, p.args...)
	p.cmd.Env = append(os.Environ(), p.env...)
	r, w, err := os.Pipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	_ = w.Close()
	p.done = make(chan struct{})
	cmd, done := p.cmd, p.done
	go func() {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			p.mu.Lock()
			p.out = append(p.out, lines.Text())
			if len(p.out) > 200 {
				p.out = p.out[100:]
			}
			p.mu.Unlock()
		}
		_ = r.Close()
		_ = cmd.Wait()
		close(done)
	}()
}

// kill ends the process with -9, as nothing can catch it.
func (p *proc) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	p.cmd = nil
}

// stop ends the process politely and returns its exit code, which is not 0 where a part did not stop in its time.
func (p *proc) stop() (code int) {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(2 * patience):
		p.t.Fatalf("%s does not stop", p.name)
	}
	code = p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	return code
}

func (p *proc) printed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.out, "\n")
}

// ready waits until an operators' port says so.
func (p *proc) ready(ops string) {
	p.t.Helper()
	if err := awaitReady(ops, p.done); err != nil {
		p.t.Fatalf("%s: %v\n%s", p.name, err, p.printed())
	}
}

// awaitReady asks an operators' port until it says ready. It gives up when ended is closed, or after patience.
func awaitReady(ops string, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ops+"/readyz", nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ended:
			return errors.New("ended before it was ready")
		case <-ctx.Done():
			return errors.New("not ready in time")
		case <-ticker.C:
		}
	}
}

// freeAddr returns a loopback address that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}
