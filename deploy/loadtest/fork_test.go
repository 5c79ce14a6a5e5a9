package loadtest_test

import (
	"bytes"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/deploy/loadtest"
)

// asShard makes the test's own program one process of a run: "shard" and the way in which it goes wrong.
func asShard(args []string) (code int, ok bool) {
	if len(args) < 2 || args[0] != "shard" {
		return 0, false
	}
	in := io.Reader(os.Stdin)
	switch args[1] {
	case "dies":
		in = deadly{in}
	case "starves":
		starve()
	}
	if err := loadtest.ServeShard(in, os.Stdout); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1, true
	}
	return 0, true
}

// deadly ends the process when the order to speak comes.
type deadly struct{ io.Reader }

func (d deadly) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	if bytes.Contains(p[:n], []byte(`"Verb":"speak"`)) {
		os.Exit(7)
	}
	return n, err
}

// twoProcesses is a small run in two processes.
func twoProcesses(url, how string) loadtest.Config {
	c := small()
	c.URLs, c.Processes, c.Loops, c.Shard = []string{url}, 2, 1, []string{os.Args[0], "shard", how}
	return c
}

// TestProcessesAddUp: what two processes saw is one account: every count, every duration, every fault.
func TestProcessesAddUp(t *testing.T) {
	s := newLiar()
	s.misdeed = every(5, drops)
	r := run(t, twoProcesses(s.listen(t), "well"))
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Setup.Processes != 2 || r.Connections.Listening != 12 {
		t.Fatalf("%d processes, %d connections", r.Setup.Processes, r.Connections.Listening)
	}
	if r.Ledger.Lost != int64(s.did[drops]) || r.Ledger.Lost == 0 || r.ExitCode() != loadtest.ExitLedger {
		t.Errorf("%d lost, the server dropped %d; exit code %d", r.Ledger.Lost, s.did[drops], r.ExitCode())
	}
	if n := int64(s.did[honest]); r.Traffic.TotalDelivered != n {
		t.Errorf("%d delivered, the server delivered %d", r.Traffic.TotalDelivered, n)
	}
	if r.Traffic.TotalSent != int64(s.sends) || r.Traffic.TotalAccepted != int64(s.sends) {
		t.Errorf("%d sent, %d accepted, the server saw %d", r.Traffic.TotalSent, r.Traffic.TotalAccepted, s.sends)
	}
	if connects := r.Timings["connect"]; connects.Count != 12 || connects.Max <= 0 {
		t.Errorf("durations of connects: %+v, want 12", connects)
	}
	if acks := r.Timings["ack"]; acks.Count == 0 || acks.P50 <= 0 || acks.P50 > acks.Max {
		t.Errorf("durations of acks: %+v", acks)
	}
}

// TestProcessDies: a run that loses one of its processes says which, and how it ended, in one line.
func TestProcessDies(t *testing.T) {
	s := newLiar()
	r := run(t, twoProcesses(s.listen(t), "dies"))
	if !strings.Contains(r.Ended, "of 2 ended by itself: exit status 7") || r.ExitCode() != loadtest.ExitPartial {
		t.Errorf("exit code %d, ended %q", r.ExitCode(), r.Ended)
	}
}

// TestDescriptorsRunOut: a process that cannot open more sockets names its own limit.
func TestDescriptorsRunOut(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("sets a limit of Linux")
	}
	s := newLiar()
	c := twoProcesses(s.listen(t), "starves")
	c.Rooms, c.Members, c.RampTimeout = 4, 50, time.Second
	r := run(t, c)
	if r.ExitCode() != loadtest.ExitPartial || !slices.ContainsFunc(r.LimitsMet, func(l string) bool { return strings.HasPrefix(l, "descriptors of") }) {
		t.Errorf("exit code %d, limits met %q, errors %v", r.ExitCode(), r.LimitsMet, r.Errors)
	}
}
