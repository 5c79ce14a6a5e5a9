package loadtest_test

import (
	"context"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/google/go-cmp/cmp"
	"github.com/parley-chat/parley/deploy/loadtest"
)

func TestMain(m *testing.M) {
	if code, ok := asShard(os.Args[1:]); ok {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

// small is a run that is long enough to see every misdeed.
func small() loadtest.Config {
	return loadtest.Config{Rooms: 3, Members: 4, Rate: "120", Warmup: 100 * time.Millisecond, Duration: time.Second, Drain: 5 * time.Second, Loops: 2, Seed: 7}
}

// every makes one misdeed of each n-th entry for one member of each room; the first entries and the last ones aside.
func every(n int, deed misdeed) func(string, int, int) misdeed {
	return func(_ string, member, seq int) misdeed {
		if member == 1 && seq%n == 0 && seq < 31 {
			return deed
		}
		return honest
	}
}

type faults struct{ Lost, Doubled, Reordered, Foreign int64 }

// TestLedgerFindsWhatWasDone lets a server drop, double, swap and leak by known amounts.
func TestLedgerFindsWhatWasDone(t *testing.T) {
	tests := map[string]struct {
		misdeed func(string, int, int) misdeed
		want    func(did map[misdeed]int) faults
		code    int
	}{
		"honest":  {nil, func(map[misdeed]int) faults { return faults{} }, loadtest.ExitOK},
		"drops":   {every(5, drops), func(did map[misdeed]int) faults { return faults{Lost: int64(did[drops])} }, loadtest.ExitLedger},
		"doubles": {every(5, doubles), func(did map[misdeed]int) faults { return faults{Doubled: int64(did[doubles])} }, loadtest.ExitLedger},
		"swaps":   {every(5, swaps), func(did map[misdeed]int) faults { return faults{Reordered: int64(did[swaps])} }, loadtest.ExitLedger},
		"leaks":   {every(5, leaks), func(did map[misdeed]int) faults { return faults{Foreign: int64(did[leaks])} }, loadtest.ExitLedger},
		// What the server announces and then hands over is no fault.
		"announced gaps": {every(5, announces), func(map[misdeed]int) faults { return faults{} }, loadtest.ExitOK},
	}
	networks := map[string]func(t *testing.T, s *liar) loadtest.Report{
		"epoll": func(t *testing.T, s *liar) loadtest.Report {
			c := small()
			c.URLs = []string{s.listen(t)}
			return run(t, c)
		},
		"goroutines": func(t *testing.T, s *liar) loadtest.Report {
			c := small()
			c.URLs, c.Goroutines = []string{s.listen(t)}, true
			return run(t, c)
		},
	}
	for network, drive := range networks {
		for name, tt := range tests {
			t.Run(network+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := newLiar()
				s.misdeed = tt.misdeed
				r := drive(t, s)
				s.mu.Lock()
				defer s.mu.Unlock()
				want := tt.want(s.did)
				if tt.misdeed != nil && len(s.did) < 2 {
					t.Fatalf("the server did nothing wrong: %v", s.did)
				}
				got := faults{r.Ledger.Lost, r.Ledger.Doubled, r.Ledger.Reordered, r.Ledger.Foreign}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("ledger (-done +found):\n%s\n%+v", diff, r.Ledger.Findings)
				}
				if r.ExitCode() != tt.code {
					t.Errorf("exit code %d, want %d; ended %q, errors %v", r.ExitCode(), tt.code, r.Ended, r.Errors)
				}
				if tt.code == loadtest.ExitLedger && len(r.Ledger.Findings) == 0 {
					t.Error("nothing is listed")
				}
				if name == "announced gaps" && r.Connections.Gaps != int64(s.did[announces]) {
					t.Errorf("%d gaps, want %d", r.Connections.Gaps, s.did[announces])
				}
			})
		}
	}
}

func run(t *testing.T, c loadtest.Config) loadtest.Report {
	t.Helper()
	r, err := loadtest.Run(t.Context(), c, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// inMemory runs against s in a world whose time is the test's own.
func inMemory(t *testing.T, s *liar, c loadtest.Config, check func(r loadtest.Report)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r, err := loadtest.Run(context.Background(), c.WithDial(s.dial), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		s.close()
		check(r)
	})
}

// TestDelayIsMeasured: a server that takes 30 ms is measured at 30 ms.
func TestDelayIsMeasured(t *testing.T) {
	s := newLiar()
	s.delay = 30 * time.Millisecond
	inMemory(t, s, small(), func(r loadtest.Report) {
		d := r.Timings["delivery"]
		if d.P50 < 30 || d.P50 > 30.1 || d.Max > 30.1 {
			t.Errorf("delivery %+v, want 30 ms", d)
		}
		if a := r.Timings["ack"]; a.Max > 0.1 {
			t.Errorf("ack %+v, want none of the delay", a)
		}
		if want := int64(120 * 4); d.Count != want {
			t.Errorf("%d deliveries measured, want %d", d.Count, want)
		}
		if !r.Ledger.Clean() {
			t.Errorf("ledger %+v", r.Ledger)
		}
	})
}

// TestStallIsCharged: a server that stands still for half a second is charged for every message that was due meanwhile,
// not only for the one that it kept waiting.
func TestStallIsCharged(t *testing.T) {
	s := newLiar()
	c := small()
	c.Rooms, c.Members, c.Senders, c.Rate, c.Window, c.Loops = 1, 2, 1, "100", 100, 1
	s.refuse = func(n int) string {
		if n == 40 { // within the measured second
			s.stall = time.Now().Add(500 * time.Millisecond)
		}
		return ""
	}
	inMemory(t, s, c, func(r loadtest.Report) {
		// 50 messages were due while it stood still; on average they waited for 250 ms.
		d := r.Timings["delivery"]
		if total := d.Mean * float64(d.Count); total < 2*50*235 || total > 2*50*265 {
			t.Errorf("the deliveries waited for %.0f ms in all, want about %d: %+v", total, 2*50*250, d)
		}
		if d.Max < 480 || d.Max > 501 {
			t.Errorf("longest %v ms, want about 490", d.Max)
		}
		if !r.Ledger.Clean() || r.Traffic.Unsent != 0 {
			t.Errorf("ledger %+v, unsent %d", r.Ledger, r.Traffic.Unsent)
		}
	})
}

// TestRefusalsAreRepeated: a message refused for now comes again under its key, and in order.
func TestRefusalsAreRepeated(t *testing.T) {
	s := newLiar()
	s.refuse = func(n int) string {
		if n%10 == 0 {
			return "rate_limited"
		}
		return ""
	}
	c := small()
	c.Duration, c.Drain = 2*time.Second, 30*time.Second // a retry may be refused, and wait for seconds
	inMemory(t, s, c, func(r loadtest.Report) {
		if s.refused == 0 || r.Errors["send: rate_limited"] != int64(s.refused) {
			t.Errorf("errors %v, want %d refusals", r.Errors, s.refused)
		}
		if !r.Ledger.Clean() || r.Ledger.Unanswered != 0 || r.Traffic.TotalRetried == 0 {
			t.Errorf("ledger %+v, traffic %+v", r.Ledger, r.Traffic)
		}
		if len(r.LimitsMet) == 0 {
			t.Error("the limit that was met is not named")
		}
	})
}

// TestStormIsFollowed: everybody comes back, also when that is only after the measured time, and what was missed
// meanwhile is recovered.
func TestStormIsFollowed(t *testing.T) {
	c := small()
	c.Scenario, c.Duration, c.Drain = loadtest.Storm, 300*time.Millisecond, 5*time.Second
	s := newLiar()
	inMemory(t, s, c, func(r loadtest.Report) {
		if r.Storm == nil || r.Storm.Cut != 12 || r.Storm.BackMS <= 0 || r.Connections.Resumes != 12 {
			t.Errorf("storm %+v, connections %+v", r.Storm, r.Connections)
		}
		if !r.Ledger.Clean() || r.ExitCode() != loadtest.ExitOK {
			t.Errorf("exit code %d, ledger %+v", r.ExitCode(), r.Ledger)
		}
	})
}
