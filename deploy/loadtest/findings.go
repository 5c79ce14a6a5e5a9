package loadtest

import (
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// report makes the report of a run that has ended.
func (d *driver) report() Report {
	t := d.total
	r := Report{
		Version: reportVersion, Started: d.started, Ended: d.ended, Scenario: d.cfg.Scenario,
		Server: ServerFacts{Name: d.server.Server.Name, Version: d.server.Server.Version, Durability: d.server.Durability},
		Limits: d.server.Limits, Errors: maps.Clone(t.errors), LimitsMet: limitsMet(t.errors, d),
		Timings: map[string]Timing{}, Curve: curveOf(t.timings[tDelivery]), Timeline: d.timeline,
		Seconds: time.Duration(d.to.at - d.from.at).Seconds(),
		Setup: Setup{
			Connections: d.plan.Conns, Rooms: d.plan.Rooms, Members: float64(d.plan.Conns) / float64(d.plan.Rooms), Rate: d.rateText(),
			Window: d.plan.Window, Senders: d.plan.allSenders(), Size: d.plan.Size, WarmupS: d.cfg.Warmup.Seconds(),
			DurationS: d.cfg.Duration.Seconds(), Processes: d.plan.Shards, Loops: d.plan.Loops, Seed: d.cfg.Seed, Prefix: d.plan.Prefix,
		},
	}
	for _, target := range d.plan.Targets {
		r.URLs = append(r.URLs, target.String())
	}
	for i, name := range timingNames {
		if timing(i) != tNow {
			r.Timings[name] = timingOf(t.timings[i])
		}
	}
	r.Connections = d.connections()
	r.Traffic = d.traffic(r.Seconds)
	r.Ledger = d.ledger()
	r.Servers = d.servers(r)
	r.Generator = d.generator(r)
	if d.stormAt != 0 {
		r.Storm = &StormFacts{Cut: d.stormCut, BackMS: float64(d.stormBack) / float64(time.Millisecond)}
	}
	r.SLO, _ = ParseSLO(d.cfg.SLO) // Validate has seen it
	for i := range r.SLO {
		r.SLO[i].judge(&r)
	}
	return r
}

func (d *driver) connections() Connections {
	n := &d.total.counts
	c := Connections{
		Listening: d.listening, AtEnd: d.atEnd, GivenUp: d.total.dead, RampS: d.rampTime.Seconds(), Lost: n[nCut], Moved: n[nMoved],
		Resumes: n[nResumes], Resets: n[nResets], Skipped: n[nSkipped], Recovered: n[nRecovered], Gaps: n[nGaps], GapEntries: n[nAnnounced],
	}
	if c.RampS > 0 {
		c.PerSecond = float64(c.Listening) / c.RampS
	}
	return c
}

func (d *driver) traffic(seconds float64) Traffic {
	n, m := &d.total.counts, &d.measured.counts
	t := Traffic{
		TotalSent: n[nSent], TotalAccepted: n[nAcked], TotalDelivered: n[nDelivered], TotalRetried: n[nRetried], TotalRefused: n[nRefused],
		Unsent: n[nUnsent], Strangers: n[nStrangers], History: n[nHistory], Actions: n[nActions], Events: n[nEvents],
	}
	if seconds > 0 {
		t.Sent, t.Accepted = float64(m[nSent])/seconds, float64(m[nAcked])/seconds
		t.Delivered, t.Expected, t.Bytes = float64(m[nDelivered])/seconds, d.expected/seconds, float64(m[nBytes])/seconds
	}
	if m[nReads] > 0 {
		t.PerRead = float64(m[nDelivered]) / float64(m[nReads])
	}
	return t
}

func (d *driver) ledger() Ledger {
	n := &d.total.counts
	slices.SortFunc(d.gaps, func(a, b Gap) int {
		return cmp.Or(cmp.Compare(a.Room, b.Room), cmp.Compare(a.Conn, b.Conn), cmp.Compare(a.From, b.From))
	})
	return Ledger{
		Lost: n[nLost], LostAccepted: n[nLostAcked], Doubled: n[nDoubled], Reordered: n[nReordered], Foreign: n[nForeign],
		Malformed: n[nMalformed], Unanswered: max(0, d.total.waiting-n[nLostAcked]), Unjudged: max(0, d.listening-d.atEnd),
		Findings: d.gaps[:min(len(d.gaps), maxGaps)],
	}
}

// gathered is the moment at which memory per connection is judged: when all have come, or where nothing is sent behind the
// warm-up, when they have come to rest.
func (d *driver) gathered() sample {
	if d.plan.Rate == 0 && d.from.at != 0 {
		return d.from
	}
	return d.ramped
}

func (d *driver) servers(r Report) *Servers {
	if d.watch.blind() {
		return nil
	}
	s := &Servers{CPUSeconds: (d.to.servers.CPU - d.from.servers.CPU).Seconds(), MemoryBytes: d.lastUse.servers.Memory}
	if r.Seconds > 0 {
		s.Cores = s.CPUSeconds / r.Seconds
	}
	if s.CPUSeconds > 0 {
		s.PerCPUSecond = r.Traffic.Delivered * r.Seconds / s.CPUSeconds
	}
	if d.listening > 0 {
		s.BytesPerConnection = float64(d.gathered().servers.Memory-d.before.servers.Memory) / float64(d.listening)
	}
	if cpu := (d.ramped.servers.CPU - d.before.servers.CPU).Seconds(); cpu > 0 {
		s.ConnectsPerCPU = float64(d.listening) / cpu
	}
	return s
}

func (d *driver) generator(r Report) Generator {
	g := Generator{CPUSeconds: (d.to.own.CPU - d.from.own.CPU).Seconds(), MemoryBytes: d.lastUse.own.Memory}
	if r.Seconds > 0 {
		g.Cores = g.CPUSeconds / r.Seconds
	}
	if d.listening > 0 {
		g.BytesPerConnection = float64(d.gathered().own.Memory-d.before.own.Memory) / float64(d.listening)
	}
	if all := d.to.allBusy - d.from.allBusy; all > 0 {
		g.MachineBusy = float64(d.to.busy-d.from.busy) / float64(all)
	}
	g.Bottleneck = bottleneck(g, r, d.plan.lanes())
	return g
}

// Beyond these the load tester says that its own figures are its own limit.
const (
	busyLoop    = 0.85 // share of one processor per loop
	lateP99MS   = 10.0
	busyMachine = 0.97
)

// bottleneck says whether the load tester limited the result.
func bottleneck(g Generator, r Report, loops int) string {
	var why []string
	if share := g.Cores / float64(min(loops, runtime.GOMAXPROCS(0)*r.Setup.Processes)); share > busyLoop {
		why = append(why, fmt.Sprintf("its loops were busy for %.0f %% of the time (more --loops or --processes, or another machine)", 100*share))
	}
	if late := r.Timings[timingNames[tBehind]]; r.Setup.Rate != RateMax && late.P99 > lateP99MS {
		why = append(why, fmt.Sprintf("1 %% of its own sends were more than %s ms late", short(late.P99)))
	}
	if len(why) > 0 && g.MachineBusy > busyMachine {
		why = slices.Insert(why, 0, fmt.Sprintf("the machine was full (%.0f %% busy), which servers on it feel too", 100*g.MachineBusy))
	}
	return strings.Join(why, "; ")
}

// offHint is what lifts the limits that a load test meets.
const offHint = "; --no-limits on the edges and workers lifts it"

// sendLimit names the limits that may have refused a send: those that the server has on.
func sendLimit(l contracts.Limits) string {
	var on []string
	if l.SendsPerS > 0 {
		on = append(on, "messages of one person (sends_per_s="+short(l.SendsPerS)+") or of one room")
	}
	if l.FramesPerS > 0 {
		on = append(on, "frames of one connection (frames_per_s="+short(l.FramesPerS)+")")
	}
	if len(on) == 0 {
		return "messages per second of one room"
	}
	return strings.Join(on, " or ") + " per second"
}

// limitsMet names the limits of the server behind the errors of a run.
func limitsMet(errs map[string]int64, d *driver) []string {
	met := []string{}
	limits := d.server.Limits
	for _, known := range []struct{ cause, words string }{
		{"send: rate_limited", sendLimit(limits)},
		{"join: rate_limited", "joins per second"},
		{"connect: rate_limited", "logins per second"},
		{"history: rate_limited", fmt.Sprintf("frames per second (frames_per_s=%s)", short(limits.FramesPerS))},
		{"send: too_large", fmt.Sprintf("size of a message (text_bytes=%d, text_runes=%d)", limits.TextBytes, limits.TextRunes)},
		{"join: too_many_rooms", fmt.Sprintf("rooms per connection (rooms=%d)", limits.Rooms)},
		{"send: overloaded", "the server's queues, or its log is at its size limit"},
		{"upgrade answered: 429", "connections per address"},
		{"upgrade answered: 503", "connections or handshakes of the server"},
		{"closed by the server with 4409", "connections per user"},
		{"closed by the server with 4429", fmt.Sprintf("frames per second, for too long (frames_per_s=%s)", short(limits.FramesPerS))},
		{"closed by the server with 4440", "what may wait for a slow connection"},
		{"socket: too many open files", fmt.Sprintf("descriptors of the load tester's process (%d)", descriptors())},
	} {
		for cause, n := range errs {
			if strings.HasPrefix(cause, known.cause) {
				line := fmt.Sprintf("%s: met %s", known.words, plural(n, "time"))
				if strings.Contains(known.cause, "rate_limited") || strings.HasSuffix(known.cause, ": 429") || strings.HasSuffix(known.cause, "with 4409") || strings.HasSuffix(known.cause, "with 4429") {
					line += offHint
				}
				met = append(met, line)
			}
		}
	}
	return met
}
