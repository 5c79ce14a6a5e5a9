package check_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/check"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

func judge(events []history.Event) *check.Report {
	c := check.New(check.Config{ResumeEntries: modelResume})
	for _, e := range events {
		c.Add(e)
	}
	return c.Finish()
}

func text(t *testing.T, r *check.Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestGoodHistoriesPass(t *testing.T) {
	seeds := 1000
	if testing.Short() || raceEnabled {
		seeds = 100
	}
	var sum check.Figures
	for seed := range seeds {
		r := judge(generate(uint64(seed), 250))
		if !r.Good() {
			t.Fatalf("seed %d:\n%s", seed, text(t, r))
		}
		if len(r.Absent) > 0 && r.Figures.Faults != nil {
			t.Fatalf("seed %d: not checked: %v", seed, r.Absent)
		}
		f := r.Figures
		sum.Acked += f.Acked
		sum.Rejected += f.Rejected
		sum.Duplicates += f.Duplicates
		sum.Gaps += f.Gaps
		sum.Resets += f.Resets
		sum.Resumes += f.Resumes
		sum.Members += f.Members
		sum.Dead += f.Dead
		sum.Pages += f.Pages
		sum.QuietDeliveries += f.QuietDeliveries
		sum.QuietAttempts += f.QuietAttempts
	}
	t.Logf("%+v", sum)
	if n := seeds; sum.Acked < 50*n || sum.Rejected < n/10 || sum.Duplicates < n || sum.Gaps < n || sum.Resets < n || sum.Resumes < n || sum.Members < 10*n || sum.Dead < n || sum.Pages < n || sum.QuietDeliveries < 200*n {
		t.Errorf("the histories have too little in them to say much: %+v", sum)
	}
}

// TestFilesMayComeInAnyOrder: only the order within a file counts, and reading them changes nothing.
func TestFilesMayComeInAnyOrder(t *testing.T) {
	for seed := range uint64(20) {
		events := generate(seed, 600)
		if seed%2 == 1 {
			events = mutations[int(seed)%len(mutations)].apply(seed, events)
		}
		files := make(map[string]*bytes.Buffer)
		writers := make(map[string]*history.Writer)
		for _, e := range events {
			name := cmp.Or(e.Client, string(e.Kind[:1]))
			if e.Kind == history.Heal {
				name = string(history.Fault[:1])
			}
			if files[name] == nil {
				files[name] = &bytes.Buffer{}
				writers[name] = history.NewWriter(files[name])
			}
			writers[name].Add(e)
		}
		dir := t.TempDir()
		for name, w := range writers {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name+history.Ext), files[name].Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c := check.New(check.Config{ResumeEntries: modelResume})
		if err := history.ReadDir(dir, c.Add); err != nil {
			t.Fatal(err)
		}
		whole, split := judge(events), c.Finish()
		if a, b := counts(t, whole), counts(t, split); a != b {
			t.Errorf("seed %d: as one file %s, as one per client %s", seed, a, b)
		}
	}
}

func counts(t *testing.T, r *check.Report) string {
	t.Helper()
	b, err := json.Marshal(struct {
		Counts  map[check.Kind]int
		Figures check.Figures
		Absent  []string
	}{r.Counts, r.Figures, r.Absent})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestReport(t *testing.T) {
	events := generate(3, 400)
	good := text(t, judge(events))
	if !strings.Contains(good, "every promise checked was kept") || strings.Contains(good, "VIOLATED") {
		t.Errorf("the report of a good history:\n%s", good)
	}
	i := slices.IndexFunc(events, func(e history.Event) bool { return e.Kind == history.Row && e.Change == "" })
	dropped := events[i]
	r := judge(slices.Delete(slices.Clone(events), i, i+1))
	bad := text(t, r)
	for _, want := range []string{"VIOLATED", string(dropped.Room), dropped.Key.String(), "model:"} {
		if !strings.Contains(bad, want) {
			t.Errorf("no %q in the report:\n%s", want, bad)
		}
	}
	var back check.Report
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &back); err != nil || len(back.Violations) != len(r.Violations) || back.Good() {
		t.Errorf("the report in JSON reads %+v, %v", back, err)
	}
}

// TestAbsent: what a history lacks is said, not passed over.
func TestAbsent(t *testing.T) {
	r := judge(slices.DeleteFunc(generate(4, 50), func(e history.Event) bool {
		return !slices.Contains([]history.Kind{history.Connected, history.Sent, history.Answered, history.Joining, history.Joined, history.Private}, e.Kind)
	}))
	if len(r.Absent) != 5 {
		t.Errorf("absent: %v, want all five inputs", r.Absent)
	}
}

// TestResetBesideAJoin: the answer to a join that was under way makes the client listen again; without one it does not.
func TestResetBesideAJoin(t *testing.T) {
	at := history.Event{Client: "c", Conn: 1, Room: "r"}
	with := func(change func(*history.Event)) history.Event { e := at; change(&e); return e }
	since := &history.Position{Epoch: 1, Seq: 4}
	joining := with(func(e *history.Event) { e.Kind, e.Since = history.Joining, since })
	reset := with(func(e *history.Event) { e.Kind, e.Epoch, e.Head = history.Reset, 2, 9 })
	joined := with(func(e *history.Event) {
		e.Kind, e.Since, e.State, e.Epoch, e.Head, e.First = history.Joined, since, contracts.JoinReset, 2, 9, 1
	})
	if r := judge([]history.Event{joining, reset, joined}); !r.Good() {
		t.Errorf("a join answered behind a reset:\n%s", text(t, r))
	}
	entry := with(func(e *history.Event) { e.Kind, e.Seq, e.Epoch, e.Live = history.Received, 10, 2, true })
	if r := judge([]history.Event{joining, joined, reset, entry}); !r.Has(check.Leak) {
		t.Errorf("an entry behind a reset, without a join:\n%s", text(t, r))
	}
}

// TestResetNeedsANewEpoch: a reset without one would excuse whatever a client lacks.
func TestResetNeedsANewEpoch(t *testing.T) {
	at := history.Event{Client: "c", Conn: 1, Room: "r"}
	with := func(change func(*history.Event)) history.Event { e := at; change(&e); return e }
	joining := with(func(e *history.Event) { e.Kind = history.Joining })
	joined := with(func(e *history.Event) {
		e.Kind, e.State, e.Epoch, e.Head, e.First = history.Joined, contracts.JoinComplete, 3, 9, 1
	})
	reset := func(epoch contracts.Epoch) history.Event {
		return with(func(e *history.Event) { e.Kind, e.Epoch, e.Head = history.Reset, epoch, 9 })
	}
	for epoch, bad := range map[contracts.Epoch]bool{2: true, 3: true, 4: false} {
		if r := judge([]history.Event{joining, joined, reset(epoch)}); r.Has(check.BadReset) != bad {
			t.Errorf("a reset to epoch %d in epoch 3:\n%s", epoch, text(t, r))
		}
	}
}

// TestResetBeforeThePosition: a head below what a client has is no head, and a reset by it would hide that.
func TestResetBeforeThePosition(t *testing.T) {
	at := history.Event{Client: "c", Conn: 1, Room: "r"}
	with := func(change func(*history.Event)) history.Event { e := at; change(&e); return e }
	joining := func(since *history.Position) history.Event {
		return with(func(e *history.Event) { e.Kind, e.Since = history.Joining, since })
	}
	first := with(func(e *history.Event) {
		e.Kind, e.State, e.Epoch, e.Head, e.First = history.Joined, contracts.JoinComplete, 1, 2, 1
		for seq := range contracts.Seq(2) {
			e.Entries = append(e.Entries, history.Entry{Seq: seq + 1, Epoch: 1, Key: contracts.Key{15: byte(seq)}, Sender: "s"})
		}
	})
	for since, bad := range map[contracts.Seq]bool{2: true, 3: false} { // 3 it made up
		position := &history.Position{Epoch: 1, Seq: since}
		reset := with(func(e *history.Event) {
			e.Kind, e.Since, e.State, e.Epoch, e.Head, e.First = history.Joined, position, contracts.JoinReset, 1, 1, 1
		})
		if r := judge([]history.Event{joining(nil), first, joining(position), reset}); r.Has(check.BadReset) != bad {
			t.Errorf("a reset to head 1 of a client that resumes since %d and has 2:\n%s", since, text(t, r))
		}
	}
}

// TestLastEpoch: an epoch is not begun where the log has lost nothing.
func TestLastEpoch(t *testing.T) {
	for last, bad := range map[contracts.Epoch]bool{0: false, 1: true, 2: false} {
		c := check.New(check.Config{LastEpoch: last})
		c.Add(history.Event{Kind: history.Range, Partition: 3, Epoch: 2, Start: 10, End: 10})
		c.Add(history.Event{Kind: history.Checkpoint, Partition: 3, Epoch: 2, Offset: 10})
		if r := c.Finish(); r.Has(check.Epoch) != bad {
			t.Errorf("epoch 2 where %d is the last:\n%s", last, text(t, r))
		}
	}
}

// TestGoesBackBehindAFilledGap: a client that asked anew before it looked at the reply gets once more what filled its gap.
func TestGoesBackBehindAFilledGap(t *testing.T) {
	at := history.Event{Client: "c", Conn: 1, Room: "r"}
	with := func(change func(*history.Event)) history.Event { e := at; change(&e); return e }
	joining := func(since contracts.Seq) history.Event {
		return with(func(e *history.Event) { e.Kind, e.Since = history.Joining, &history.Position{Epoch: 1, Seq: since} })
	}
	joined := func(since, head contracts.Seq) history.Event {
		return with(func(e *history.Event) {
			e.Kind, e.Since, e.State, e.Epoch, e.Head, e.First = history.Joined, &history.Position{Epoch: 1, Seq: since}, contracts.JoinComplete, 1, head, 1
			for seq := since + 1; seq <= head; seq++ {
				e.Entries = append(e.Entries, history.Entry{Seq: seq, Epoch: 1, Key: contracts.Key{15: byte(seq)}, Sender: "s"})
			}
		})
	}
	gap := with(func(e *history.Event) { e.Kind, e.From, e.To = history.Gap, 3, 4 })
	begin := []history.Event{joining(0), joined(0, 2), gap, joining(2), joined(2, 6)}
	if r := judge(append(slices.Clone(begin), joining(2), joined(2, 8))); r.Has(check.Repeated) || r.Has(check.Malformed) || r.Has(check.Missing) {
		t.Errorf("the same position asked for again:\n%s", text(t, r))
	}
	again := with(func(e *history.Event) {
		e.Kind, e.Seq, e.Epoch, e.Key, e.Sender, e.Live = history.Received, 4, 1, contracts.Key{15: 4}, "s", true
	})
	if r := judge(append(slices.Clone(begin), again)); !r.Has(check.Repeated) {
		t.Errorf("an entry of the gap, live, once it was filled:\n%s", text(t, r))
	}
}

// TestGrown: what a run waits for at its end is what the checker compares.
func TestGrown(t *testing.T) {
	base := history.Event{Process: "edge-1", Goroutines: 50, Descriptors: 100, Memory: 50 << 20}
	for _, tt := range []struct {
		end  history.Event
		want []check.Kind
	}{
		{base, nil},
		{history.Event{Goroutines: 80, Descriptors: 115, Memory: 139 << 20}, nil},
		{history.Event{Goroutines: 81, Descriptors: 116, Memory: 140 << 20}, []check.Kind{check.Goroutines, check.Descriptors, check.Memory}},
	} {
		var got []check.Kind
		for _, v := range (check.Config{}).Grown(&base, &tt.end) {
			got = append(got, v.Kind)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("from %+v to %+v: %v, want %v", base, tt.end, got, tt.want)
		}
	}
}

// TestPoolsMayGrow: only a role with a pool may hold more descriptors than the tolerance.
func TestPoolsMayGrow(t *testing.T) {
	probe := func(process, phase string, n int) history.Event {
		return history.Event{Kind: history.Probe, Process: process, Phase: phase, Up: true, Ready: true, Descriptors: n}
	}
	for _, tt := range []struct {
		process string
		end     int
		leak    bool
	}{{"worker-1", 60, false}, {"worker-1", 90, true}, {"edge-1", 60, true}, {"edge-1", 40, false}} {
		c := check.New(check.Config{Pools: map[string]int64{"worker": 40}})
		c.Add(probe(tt.process, history.Baseline, 30))
		c.Add(probe(tt.process, history.Final, tt.end))
		if r := c.Finish(); r.Has(check.Descriptors) != tt.leak {
			t.Errorf("%s from 30 to %d: %v", tt.process, tt.end, r.Counts)
		}
	}
}

// TestCosts: what a fault cost is told of those that no other overlapped.
func TestCosts(t *testing.T) {
	second := int64(time.Second)
	fault := func(name, kind string, from, to int64) []history.Event {
		return []history.Event{
			{Kind: history.Fault, Fault: name, What: kind, At: from * second, Silent: true}, {Kind: history.Heal, Fault: name, At: to * second},
		}
	}
	message := func(key byte, sent, acked, reached int64) []history.Event {
		at := history.Event{Client: "c", Conn: 1, Room: "r", User: "u", Key: contracts.Key{15: key}}
		with := func(change func(*history.Event)) history.Event { e := at; change(&e); return e }
		return []history.Event{
			with(func(e *history.Event) { e.Kind, e.At = history.Sent, sent*second }),
			with(func(e *history.Event) { e.Kind, e.At, e.Outcome = history.Answered, acked*second, history.OK }),
			with(func(e *history.Event) {
				e.Kind, e.At, e.Seq, e.Epoch, e.Sender, e.Live = history.Received, reached*second, contracts.Seq(key), 1, "u", true
			}),
		}
	}
	safe := func(events []history.Event) []history.Event { events[0].Safe = true; return events }
	events := slices.Concat(
		[]history.Event{{Kind: history.Joining, Client: "c", Conn: 1, Room: "r"}},
		message(1, 10, 19, 19), // before
		safe(message(6, 101, 109, 102)),
		fault("a", "alone", 100, 110), message(2, 100, 103, 107), message(3, 112, 113, 114),
		fault("b", "alone", 200, 201), message(4, 201, 202, 203), message(7, 204, 209, 209),
		fault("c", "first", 300, 310), fault("d", "second", 312, 320), message(5, 305, 309, 309),
		[]history.Event{{Kind: history.Closed, Client: "c", Conn: 1, Code: history.Dropped, At: 205 * second}},
	)
	costs := judge(events).Figures.Costs
	if got, want := costs["alone"], (check.Cost{Alone: 2, AckedS: 3, ReachedS: 7}); got == nil || *got != want || len(costs) != 1 {
		t.Errorf("the costs of %d kinds; %+v, want %+v of one", len(costs), got, want)
	}
}

// TestSlowBeginning: what was just started has as long to become fast as what was just healed.
func TestSlowBeginning(t *testing.T) {
	for _, tt := range []struct {
		sent int64 // seconds since the first message
		slow bool
	}{{0, false}, {9, false}, {10, true}} {
		c := check.New(check.Config{FanoutSamples: 1})
		c.Add(history.Event{Kind: history.Joining, Client: "c", Conn: 1, Room: "r"})
		c.Add(history.Event{Kind: history.Joined, Client: "c", Conn: 1, Room: "r", State: contracts.JoinComplete, Epoch: 1, First: 1})
		for i, at := range []int64{0, tt.sent} {
			e := history.Event{Client: "c", Conn: 1, Room: "r", User: "u", Key: contracts.Key{15: byte(i)}, At: at * int64(time.Second)}
			e.Kind = history.Sent
			c.Add(e)
			e.Kind, e.Sender, e.Seq, e.Epoch, e.Live = history.Received, "u", contracts.Seq(i+1), 1, true
			e.At += int64(time.Second)
			c.Add(e)
		}
		if r := c.Finish(); r.Has(check.Slow) != tt.slow {
			t.Errorf("a second's delay after %d s: %v", tt.sent, r.Counts)
		}
	}
}
