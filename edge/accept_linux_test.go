package edge_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/parley-chat/parley/edge"
)

// pauses counts how often accepting paused.
type pauses struct {
	slog.Handler
	n *atomic.Int64
}

func (p pauses) Enabled(context.Context, slog.Level) bool { return true }

func (p pauses) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "accepting pauses" {
		p.n.Add(1)
	}
	return nil
}

// TestNoDescriptors: an edge whose descriptors are used up waits, without burning the processor, and goes on when there
// are some again. It runs in a process of its own, which has few.
func TestNoDescriptors(t *testing.T) {
	if os.Getenv("PARLEY_TEST_FEW_DESCRIPTORS") != "" {
		fewDescriptors(t, os.Getenv("PARLEY_TEST_FEW_DESCRIPTORS") == "portable")
		return
	}
	transports(t, func(t *testing.T, portable bool) {
		kind := map[bool]string{false: "epoll", true: "portable"}[portable]
		cmd := exec.Command(os.Args[0], "-test.run=^TestNoDescriptors$", "-test.v")
		cmd.Env = append(os.Environ(), "PARLEY_TEST_FEW_DESCRIPTORS="+kind)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
		lines := bufio.NewScanner(stdout)
		line := func(prefix string) string {
			t.Helper()
			for lines.Scan() {
				if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
					return rest
				}
			}
			t.Fatalf("the other process ended before %q", prefix)
			return ""
		}
		addr := line("listens ")
		var held []net.Conn
		for range 60 {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = nc.Close() })
			held = append(held, nc)
		}
		_, _ = io.WriteString(stdin, "measure\n")
		var n int64
		var cpu, took time.Duration
		if _, err := fmt.Sscanf(line("measured "), "%d %d %d", &n, &cpu, &took); err != nil {
			t.Fatal(err)
		}
		if float64(n) > 40*took.Seconds() || cpu > took/2 {
			t.Errorf("in %s without descriptors: %d attempts, %s of CPU", took, n, cpu)
		}
		for _, nc := range held {
			_ = nc.Close()
		}
		w := &world{t: t}
		until(t, "an answer again", func() bool {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				return false
			}
			defer func() { _ = nc.Close() }()
			_ = nc.SetDeadline(time.Now().Add(patience))
			_, _ = nc.Write([]byte(upgradeHead))
			c := &client{t: w.t, nc: nc, r: bufio.NewReader(nc)}
			line, err := c.r.ReadString('\n')
			return err == nil && strings.Contains(line, "101")
		})
	})
}

// fewDescriptors is the other process: it says where it listens, and on a word what a second costs, in which it goes on trying.
func fewDescriptors(t *testing.T, portable bool) {
	var n atomic.Int64
	w := newWorld(t, portable, func(c *edge.Config, d *edge.Deps) {
		c.MaxConnections = 1000
		d.Log = slog.New(pauses{slog.DiscardHandler, &n})
	})
	held := uint64(descriptors(t))
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: held + 20, Max: held + 20}); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nlistens %s\n", w.server.Addr())
	in := bufio.NewReader(os.Stdin)
	_, _ = in.ReadString('\n')
	until(t, "the end of the descriptors", func() bool { return n.Load() > 0 })
	before, cpu, began := n.Load(), used(t), time.Now()
	<-time.After(time.Second)
	until(t, "another attempt", func() bool { return n.Load() > before })
	if w.metric("parley_edge_accept_errors_total") == 0 {
		t.Error("no metric tells of it")
	}
	fmt.Printf("\nmeasured %d %d %d\n", n.Load()-before, used(t)-cpu, time.Since(began))
	_, _ = in.ReadString('\n') // until the test has ended
}

func used(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
