package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// pidFile is the list of processes below the directory, one per line: kind, name, pid, start.
const pidFile = "pids"

// kind is what a process is to Up; Down stops them kind by kind.
type kind string

const (
	kindUp     kind = "up"     // the process that runs Up
	kindSetup  kind = "setup"  // fetches or builds something and ends
	kindRole   kind = "role"   // a part of Parley
	kindServer kind = "server" // a server that the roles use
)

// pidEntry names one process. Its start makes it unique: numbers are used again, a number with a start is not.
type pidEntry struct {
	kind  kind
	name  string
	pid   int
	start string // startOf(pid) when it was started; holds no blank
}

// alive reports whether that very process still runs.
func (e pidEntry) alive() bool {
	start, err := startOf(e.pid)
	return err == nil && start == e.start
}

func (e pidEntry) String() string {
	return fmt.Sprintf("%s %s %d %s", e.kind, e.name, e.pid, e.start)
}

func parsePid(line string) (pidEntry, error) {
	f := strings.Fields(line)
	if len(f) != 4 {
		return pidEntry{}, fmt.Errorf("%q: want kind, name, pid and start", line)
	}
	pid, err := strconv.Atoi(f[2])
	if err != nil || pid <= 1 {
		return pidEntry{}, fmt.Errorf("%q: %q is no pid", line, f[2])
	}
	return pidEntry{kind: kind(f[0]), name: f[1], pid: pid, start: f[3]}, nil
}

// readPids returns the list; a missing file is an empty list.
func readPids(path string) ([]pidEntry, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of processes: %w", err)
	}
	var entries []pidEntry
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		e, err := parsePid(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// removePids deletes the file unless another Up has written its own list meanwhile.
func removePids(path string, seen []pidEntry) error {
	now, err := readPids(path)
	if err != nil || !slices.Equal(now, seen) {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the list of processes: %w", err)
	}
	return nil
}

// pidList keeps the file equal to what runs. It is safe for concurrent use.
type pidList struct {
	path string

	mu      sync.Mutex // guards entries and the file
	entries []pidEntry
}

// add notes a process; one that has ended already is not worth a line.
func (l *pidList) add(k kind, name string, pid int) error {
	start, err := startOf(pid)
	if err != nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, pidEntry{kind: k, name: name, pid: pid, start: start})
	return l.save()
}

func (l *pidList) remove(pid int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = slices.DeleteFunc(l.entries, func(e pidEntry) bool { return e.pid == pid })
	return l.save()
}

func (l *pidList) save() error {
	if len(l.entries) == 0 {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the list of processes: %w", err)
		}
		return nil
	}
	var b strings.Builder
	for _, e := range l.entries {
		b.WriteString(e.String() + "\n")
	}
	return writeFile(l.path, []byte(b.String()), 0o644)
}

// writeFile replaces a file in one step, so that a reader never sees half of it.
func writeFile(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// stopListed stops the listed processes of one kind that still run: SIGTERM, then SIGKILL. The process that runs Up is
// given time to stop all of its own.
func stopListed(ctx context.Context, entries []pidEntry, k kind, con *console) error {
	var live []pidEntry
	for _, e := range entries {
		if e.kind != k {
			continue
		}
		if !e.alive() {
			continue
		}
		con.line("down", "stopping %s (pid %d)", e.name, e.pid)
		if err := signalEntry(e, syscall.SIGTERM); err != nil {
			return err
		}
		live = append(live, e)
	}
	patience := stopTimeout
	if k == kindUp {
		patience = 3 * stopTimeout
	}
	live, err := waitGone(ctx, live, patience)
	if err != nil {
		return err
	}
	for _, e := range live {
		con.line("down", "%s (pid %d) did not stop in %s: killing it", e.name, e.pid, patience)
		if err := signalEntry(e, syscall.SIGKILL); err != nil {
			return err
		}
	}
	live, err = waitGone(ctx, live, stopTimeout)
	if err == nil && len(live) > 0 {
		err = fmt.Errorf("process %s (pid %d) could not be killed", live[0].name, live[0].pid)
	}
	return err
}

// signalEntry signals the process's group, or the process alone when it is the one that runs Up: that one shares the
// group of the shell that started it. It looks at the start time immediately before.
func signalEntry(e pidEntry, sig syscall.Signal) error {
	if !e.alive() {
		return nil
	}
	var err error
	if e.kind == kindUp {
		err = signalOne(e.pid, sig)
	} else {
		err = signalGroup(e.pid, sig)
	}
	if err != nil && e.alive() {
		return fmt.Errorf("stop %s (pid %d): %w", e.name, e.pid, err)
	}
	return nil
}

// waitGone returns those that still run after the patience ran out.
func waitGone(ctx context.Context, live []pidEntry, patience time.Duration) ([]pidEntry, error) {
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		live = slices.DeleteFunc(live, func(e pidEntry) bool { return !e.alive() })
		if len(live) == 0 || time.Now().After(deadline) {
			return live, nil
		}
		select {
		case <-ctx.Done():
			return live, fmt.Errorf("wait for processes to stop: %w", ctx.Err())
		case <-tick.C:
		}
	}
}
