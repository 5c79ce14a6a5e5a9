//go:build unix

package local

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// buffer is an Out that a test may read while it is written.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// testRunner runs this test binary in place of servers and roles.
func testRunner(t *testing.T, o UpOptions) (*runner, *buffer) {
	t.Helper()
	out := &buffer{}
	o.Out, o.Ports = out, PortsFree
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRunner(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return r, out
}

func acting(k kind, name, act string) spec {
	return spec{kind: k, name: name, path: os.Args[0], env: []string{actVariable + "=" + act}}
}

func TestRolesStartAndStop(t *testing.T) {
	dir := t.TempDir()
	out := &buffer{}
	o, err := UpOptions{Dir: dir, Ports: PortsFree, Out: out, Binary: os.Args[0], Edges: 2, Env: []string{actVariable + "=role"}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PARLEY_NATS_URL", "nats://left-over:1")
	t.Setenv("PORT", "1") // would be every edge's
	r, err := newRunner(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.startRoles(t.Context(), addresses{nats: "nats://here:4222"}); err != nil {
		t.Error(err)
	}
	entries, err := readPids(filepath.Join(dir, pidFile))
	if err != nil {
		t.Error(err)
	}
	if len(entries) != 6 { // this process, two edges and one of each other role
		t.Errorf("%d processes are listed, want 6: %v", len(entries), entries)
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		if e.kind == kindRole && e.alive() {
			t.Errorf("%s was left running", e.name)
		}
	}
	for _, want := range []string{"edge-1", "edge-2", "worker-1", "dispatch-1", "persist-1", "page http://127.0.0.1:", "nats nats://here:4222 port  role edge", "stopping"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, pidFile)); !os.IsNotExist(err) {
		t.Errorf("the list is still there: %v", err)
	}
}

func TestASecondUpIsRefused(t *testing.T) {
	r, _ := testRunner(t, UpOptions{})
	err := Up(t.Context(), UpOptions{Dir: r.opts.Dir, ServersOnly: true, Ports: PortsFree})
	if err == nil || !strings.Contains(err.Error(), "parley down") {
		t.Errorf("got %v, want a refusal that names `parley down`", err)
	}
}

func TestLeftProcessesAreNotBuiltUpon(t *testing.T) {
	left := bystander(t)
	dir := t.TempDir()
	list := &pidList{path: filepath.Join(dir, pidFile)}
	if err := list.add(kindServer, "kafka", left.Process.Pid); err != nil {
		t.Fatal(err)
	}
	err := Up(t.Context(), UpOptions{Dir: dir, ServersOnly: true, Ports: PortsFree})
	if err == nil || !strings.Contains(err.Error(), "kafka") || !strings.Contains(err.Error(), "parley down") {
		t.Errorf("got %v, want a refusal that names kafka and `parley down`", err)
	}
}

func TestAServerThatDoesNotComeUpIsQuoted(t *testing.T) {
	r, _ := testRunner(t, UpOptions{})
	c, err := r.start(acting(kindServer, "kafka", "fail"))
	if err != nil {
		t.Fatal(err)
	}
	err = r.ready(t.Context(), c, time.Minute, func(context.Context) error { return errors.New("no answer") })
	if err == nil {
		t.Fatal("a process that ended counts as ready")
	}
	for _, want := range []string{"kafka did not start", "exit status 3", "cannot find what is needed", filepath.Join("logs", "kafka.log")} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

func TestAServerThatDiesEndsUp(t *testing.T) {
	r, _ := testRunner(t, UpOptions{})
	c, err := r.start(acting(kindServer, "redis", "stubborn"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(c.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.wait(ctx); err == nil || !strings.Contains(err.Error(), "redis ended by itself") {
		t.Errorf("got %v, want an error about redis", err)
	}
}

func TestASetupThatFailsIsQuoted(t *testing.T) {
	r, _ := testRunner(t, UpOptions{})
	err := r.setup(t.Context(), acting(kindSetup, "nats-build", "fail"))
	if err == nil || !strings.Contains(err.Error(), "cannot find what is needed") {
		t.Errorf("got %v, want the end of its output", err)
	}
}

func TestNothingStartsWhileStopping(t *testing.T) {
	o, err := UpOptions{Dir: t.TempDir(), ServersOnly: true}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(o.Dir, "logs"), 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := newRunner(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.start(acting(kindServer, "nats", "stubborn")); err == nil {
		t.Error("a process was started after close")
	}
}

func TestSecretIsMadeOnceForItsUserAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	first, err := KeepSecret(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(first) < secretBytes {
		t.Errorf("the secret has %d bytes", len(first))
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", info.Mode(), err)
	}
	if again, err := KeepSecret(path); err != nil || again != first {
		t.Errorf("the second time it is %q, %v", again, err)
	}
	if err := os.WriteFile(path, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := KeepSecret(path); err == nil {
		t.Error("a secret that is too short was taken")
	}
}

func TestShellLinesSurviveQuotes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "env")
	uri := "mongodb://u:p'a$HOME`x`@127.0.0.1:1/parley"
	if err := (addresses{mongo: uri}).write(path); err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command("sh", "-c", ". "+path+` && printf %s "$MONGODB_URI|$PARLEY_TEST_MONGODB_URI"`).Output()
	if err != nil || string(got) != uri+"|"+uri {
		t.Errorf("the shell read %q, %v", got, err)
	}
}
