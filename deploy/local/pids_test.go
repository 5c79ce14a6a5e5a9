//go:build unix

package local

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bystander starts a process of somebody else's.
func bystander(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600") // longer than any wait
	setGroup(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func TestDownLeavesAForeignPidAlone(t *testing.T) {
	other := bystander(t)
	dir := t.TempDir()
	list := &pidList{path: filepath.Join(dir, pidFile)}
	if err := list.add(kindServer, "kafka", other.Process.Pid); err != nil {
		t.Fatal(err)
	}
	list.entries[0].start += "-earlier" // the number was another process's when it was noted
	if err := list.save(); err != nil {
		t.Fatal(err)
	}
	if err := Down(t.Context(), dir, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := startOf(other.Process.Pid); err != nil {
		t.Errorf("the bystander is gone: %v", err)
	}
	if _, err := os.Stat(list.path); !os.IsNotExist(err) {
		t.Errorf("the list is still there: %v", err)
	}
}

func TestDownStopsWhatIsListed(t *testing.T) {
	mine := bystander(t)
	gone := make(chan error, 1)
	dir := t.TempDir()
	list := &pidList{path: filepath.Join(dir, pidFile)}
	if err := list.add(kindServer, "nats", mine.Process.Pid); err != nil {
		t.Fatal(err)
	}
	go func() { gone <- mine.Wait() }()
	var out bytes.Buffer
	if err := Down(t.Context(), dir, &out); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Fatal("the process still runs")
	}
	if !strings.Contains(out.String(), "nats") {
		t.Errorf("Down said %q, want the name of what it stopped", out.String())
	}
}

func TestDownWithNothingToDo(t *testing.T) {
	var out bytes.Buffer
	if err := Down(t.Context(), t.TempDir(), &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "nothing is running") {
		t.Errorf("Down said %q", out.String())
	}
}

func TestDownGivesUpWithItsContext(t *testing.T) {
	if _, err := waitGone(cancelled(t), []pidEntry{self(t)}, time.Minute); err == nil {
		t.Error("waiting for a process that runs ended without an error")
	}
}

func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func self(t *testing.T) pidEntry {
	start, err := startOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return pidEntry{kind: kindUp, name: "up", pid: os.Getpid(), start: start}
}

func TestPidListRoundTrip(t *testing.T) {
	me := self(t)
	list := &pidList{path: filepath.Join(t.TempDir(), pidFile)}
	if err := list.add(me.kind, me.name, me.pid); err != nil {
		t.Fatal(err)
	}
	got, err := readPids(list.path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]pidEntry{me}, got, cmp.AllowUnexported(pidEntry{})); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	if err := list.remove(me.pid); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(list.path); !os.IsNotExist(err) {
		t.Errorf("an empty list keeps its file: %v", err)
	}
}

func TestDamagedListIsRefused(t *testing.T) {
	for _, line := range []string{"server nats 12", "server nats twelve 1@x", "server nats 1 1@x", "server nats -5 1@x", "server nats 0 1@x"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, pidFile), []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Down(t.Context(), dir, nil); err == nil {
			t.Errorf("Down went by the line %q", line)
		}
	}
}
