package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"time"
)

// Run loads the servers as c says and writes its progress and a summary to out. When ctx ends, the run does too and
// the report says what was seen until then. An error means that there is no report: nothing could be begun.
func Run(ctx context.Context, c Config, out io.Writer) (Report, error) {
	if err := c.Validate(); err != nil {
		return Report{}, err
	}
	c = c.withDefaults()
	d := &driver{cfg: c, clock: newClock(), watch: newWatch(c), total: newTally(), second: newTally(), measured: newTally()}
	if err := d.begin(ctx, out); err != nil {
		return Report{}, err
	}
	err := d.phases(ctx)
	if closing := d.fleet.close(); err == nil {
		err = closing // otherwise it says the same once more
	}
	d.hostile.close()
	d.screen.end()
	r := d.report()
	if err != nil {
		r.Ended = err.Error()
	}
	r.WriteText(out)
	return r, errors.Join(r.writeFiles(c))
}

func (r Report) writeFiles(c Config) error {
	var errs []error
	if c.JSON != "" {
		errs = append(errs, r.WriteJSON(c.JSON))
	}
	if c.HTML != "" {
		errs = append(errs, r.WriteHTML(c.HTML))
	}
	return errors.Join(errs...)
}

// driver takes a run through its phases: ramp, warm-up, measurement, drain, judgement.
type driver struct {
	cfg     Config
	plan    plan
	clock   clock
	watch   *watch
	screen  *screen
	fleet   fleet
	hostile *hostile // nil: none
	server  greetingOf

	started  time.Time
	begun    int64 // started on the clock
	phase    string
	total    *tally // everything
	second   *tally // since the last line of the timeline
	measured *tally // the measured window
	timeline []Second
	lastAt   int64
	lastUse  sample
	gaps     []Gap
	ended    string
	watchErr error

	// Samples at the borders of the phases.
	before, ramped, from, to sample
	listening                int64 // at the end of the ramp
	atEnd                    int64
	rampTime                 time.Duration
	expected                 float64 // deliveries that the accepted messages of the window make
	stormCut                 int64
	stormAt                  int64
	stormBack                time.Duration
	gone                     int64 // since when nobody has been connected; 0: somebody is
}

// sample is what processes had consumed at a moment.
type sample struct {
	at            int64
	own, servers  usage
	busy, allBusy time.Duration
}

func (d *driver) begin(ctx context.Context, out io.Writer) error {
	c := d.cfg
	rate, _ := parseRate(c.Rate) // Validate has seen it
	d.plan = plan{
		Run: runName(c.Seed ^ time.Now().UnixNano()), Scenario: c.Scenario, Prefix: c.Prefix, Rooms: c.Rooms, Conns: c.Connections,
		Rate: rate, Window: c.Window, Senders: c.Senders, Active: c.Active, Meet: c.Meet, Size: c.Size, Ramp: c.Ramp, Churn: c.Churn, Token: c.Token,
		Seed: c.Seed, Goroutines: c.Goroutines, Insecure: c.Insecure, dial: c.dial, clock: &d.clock,
	}
	for i, u := range c.URLs {
		t, err := parseTarget(u)
		if err != nil {
			return err
		}
		d.plan.Targets = append(d.plan.Targets, t)
		dial := c.dial
		if dial == nil {
			dial = connectBy(c.Insecure)
		}
		g, err := probe(dial, t, c.Token)
		if err != nil {
			return err
		}
		if i == 0 {
			d.server, d.plan.Skew = g, g.skew.Milliseconds()
		}
	}
	d.plan.Loops = c.Loops
	if d.plan.Loops == 0 {
		d.plan.Loops = max(1, runtime.GOMAXPROCS(0)/2)
	}
	d.plan.Shards = max(c.Processes, 1)
	if room := descriptors() - spareFDs; c.Processes == 0 && room > 0 {
		d.plan.Shards = (c.Connections + room - 1) / room
	}
	if d.plan.lanes() > c.Connections {
		d.plan.Shards, d.plan.Loops = 1, 1
	}
	d.started, d.begun = time.Now(), d.clock.now()
	d.lastAt = d.begun
	d.screen = newScreen(out, c.Plain)
	d.screen.head(d.heading())
	return d.startShards()
}

func (d *driver) startShards() error {
	for i := range d.plan.Shards {
		var s shard
		var err error
		if d.plan.Shards == 1 {
			s, err = newLocal(&d.plan, 0)
		} else {
			s, err = newRemote(d.cfg.Shard, &d.plan, i)
		}
		if err != nil {
			return errors.Join(err, d.fleet.close())
		}
		d.fleet.shards = append(d.fleet.shards, s)
	}
	return nil
}

// heading introduces the run.
func (d *driver) heading() []string {
	c := d.cfg
	rate := c.Rate + " messages/s"
	if c.Rate == RateMax {
		rate = "closed loop"
	}
	lines := []string{
		fmt.Sprintf("parley load %s: %s in %s, %s of %d bytes, %s measured after %s",
			c.Scenario, plural(int64(c.Connections), "connection"), plural(int64(c.Rooms), "room"), rate, c.Size, c.Duration, c.Warmup),
		fmt.Sprintf("against %s: %s %s, acks promise durability %q",
			d.plan.Targets[0], orUnknown(d.server.Server.Name), orUnknown(d.server.Server.Version), d.server.Durability),
		"limits " + limitsLine(d.server.Limits),
	}
	for _, t := range d.plan.Targets[1:] {
		lines = append(lines, "and "+t.String())
	}
	if d.plan.Shards > 1 {
		lines = append(lines, fmt.Sprintf("%d processes drive the connections: one may open %d descriptors", d.plan.Shards, descriptors()))
	}
	return append(lines, d.foreseen()...)
}

// foreseen warns of limits that the settings will meet.
func (d *driver) foreseen() (warnings []string) {
	limits, senders := d.server.Limits, float64(d.plan.allSenders())
	if s := limits.SendsPerS; s > 0 && d.plan.Rate/senders > s {
		warnings = append(warnings, fmt.Sprintf("note: %s messages/s per sender is above the server's limit sends_per_s=%s", short(d.plan.Rate/senders), short(s)))
	}
	if b := limits.TextBytes; b > 0 && d.plan.Size > b {
		warnings = append(warnings, fmt.Sprintf("note: messages of %d bytes are above the server's limit text_bytes=%d", d.plan.Size, b))
	}
	if r := limits.TextRunes; r > 0 && d.plan.Size > r {
		warnings = append(warnings, fmt.Sprintf("note: messages of %d characters are above the server's limit text_runes=%d", d.plan.Size, r))
	}
	return warnings
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// phases runs them all. Whatever cuts one short, the drain and the judgement follow.
func (d *driver) phases(ctx context.Context) error {
	d.before = d.sample(ctx)
	d.lastUse = d.before
	err := d.ramp(ctx)
	if err == nil && ctx.Err() == nil && d.ended == "" {
		err = d.harass()
	}
	if err == nil && ctx.Err() == nil && d.ended == "" {
		err = d.measure(ctx)
	}
	if ctx.Err() != nil {
		d.ended = endedByUser
	}
	if err != nil {
		return err // a load process is gone, and with it what it knew
	}
	return d.settle(context.WithoutCancel(ctx), ctx.Err() != nil)
}

func (d *driver) ramp(ctx context.Context) error {
	d.phase = "connecting"
	if _, err := d.fleet.do(order{Verb: verbRamp}); err != nil {
		return err
	}
	best, bestAt := int64(0), d.clock.now()
	err := d.follow(ctx, d.cfg.RampTimeout, func(now *tally) bool {
		if now.listening > best {
			best, bestAt = now.listening, d.clock.now()
		}
		stalled := d.clock.now()-bestAt > int64(10*time.Second)
		return now.listening+now.dead >= int64(d.plan.Conns) || stalled
	})
	d.ramped = d.sample(ctx)
	d.rampTime = time.Duration(d.ramped.at - d.before.at)
	d.listening = best
	switch {
	case err != nil:
		return err
	case best == 0:
		d.ended = "no connection came into its room"
	case best < int64(d.plan.Conns):
		d.screen.note(fmt.Sprintf("only %s of %s connections came into their rooms: %s", grouped(best), grouped(int64(d.plan.Conns)), worst(d.total.errors)))
	}
	return nil
}

// harass brings in those who do not behave.
func (d *driver) harass() (err error) {
	if d.cfg.Stall+d.cfg.Trickle == 0 {
		return nil
	}
	if d.hostile, err = newHostile(&d.plan, d.cfg.Stall, d.cfg.Trickle); err != nil {
		return err
	}
	d.screen.note(d.hostile.line())
	return nil
}

// worst names the most frequent error.
func worst(errs map[string]int64) string {
	cause, most := "no answer in time", int64(0)
	for c, n := range errs {
		if n > most || n == most && c < cause {
			cause, most = c, n
		}
	}
	return cause
}

func (d *driver) measure(ctx context.Context) error {
	start := d.clock.now() + int64(50*time.Millisecond)
	from := start + int64(d.cfg.Warmup)
	to := from + int64(d.cfg.Duration)
	if _, err := d.fleet.do(order{Verb: verbWindow, From: from, To: to}); err != nil {
		return err
	}
	if _, err := d.fleet.do(order{Verb: verbSpeak, At: start}); err != nil {
		return err
	}
	d.phase = "warming up"
	if err := d.follow(ctx, time.Duration(from-d.clock.now()), d.abandoned); err != nil || ctx.Err() != nil || d.ended != "" {
		return err
	}
	d.phase = "measuring"
	d.from = d.sample(ctx)
	defer func() { d.to = d.sample(ctx) }()
	if d.cfg.Scenario == Storm {
		return d.storm(ctx, to)
	}
	return d.follow(ctx, time.Duration(to-d.clock.now()), d.abandoned)
}

// storm cuts everything after a third of the time.
func (d *driver) storm(ctx context.Context, to int64) error {
	if err := d.follow(ctx, d.cfg.Duration/3, d.abandoned); err != nil || ctx.Err() != nil || d.ended != "" {
		return err
	}
	d.phase = "storm"
	if _, err := d.fleet.do(order{Verb: verbCut}); err != nil {
		return err
	}
	d.stormAt, d.stormCut = d.clock.now(), d.listening
	return d.follow(ctx, time.Duration(to-d.clock.now()), d.abandoned)
}

// abandoned ends a run when nobody has been connected for 15 s.
func (d *driver) abandoned(now *tally) bool {
	switch {
	case now.connected > 0:
		d.gone = 0
	case d.gone == 0:
		d.gone = d.clock.now()
	case d.clock.now()-d.gone > int64(15*time.Second):
		d.ended = "every connection was lost and none came back within 15 s: " + worst(d.total.errors)
		return true
	}
	return false
}

// settle waits for what is still under way, closes the books and says goodbye.
func (d *driver) settle(ctx context.Context, hurried bool) error {
	d.phase = "draining"
	if _, err := d.fleet.do(order{Verb: verbHush}); err != nil {
		return err
	}
	wait := d.cfg.Drain
	if hurried {
		wait = min(wait, 2*time.Second)
	}
	var heads []uint64
	quiet := 0
	err := d.follow(ctx, wait, func(now *tally) bool {
		if now.connected == 0 {
			return true
		}
		seen, err := d.fleet.do(order{Verb: verbHeads})
		if err != nil {
			return true
		}
		heads = seen.heads
		left, err := d.fleet.do(order{Verb: verbBehind, Heads: heads})
		if err != nil || left.behind > 0 || now.waiting > 0 || now.missing > 0 {
			quiet = 0
			return err != nil
		}
		quiet++
		return quiet > 1 // twice in a row: what is doubled comes right behind
	})
	if err != nil {
		return err
	}
	seen, err := d.fleet.do(order{Verb: verbHeads})
	if err != nil {
		return err
	}
	judged, err := d.fleet.do(order{Verb: verbJudge, Heads: seen.heads})
	if err != nil {
		return err
	}
	d.gaps = judged.gaps
	now, err := d.collect(ctx)
	if err != nil {
		return err
	}
	d.atEnd = now.listening
	_, err = d.fleet.do(order{Verb: verbBye})
	return err
}

// followEvery is how often the shards are asked.
const followEvery = 250 * time.Millisecond

// follow collects until d has passed, ctx ends or done says so.
func (d *driver) follow(ctx context.Context, during time.Duration, done func(now *tally) bool) error {
	end := d.clock.now() + int64(during)
	for {
		left := time.Duration(end - d.clock.now())
		if left <= 0 {
			return nil
		}
		timer := time.NewTimer(min(left, followEvery))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			_, err := d.collect(context.WithoutCancel(ctx))
			return err
		}
		now, err := d.collect(ctx)
		if err != nil {
			return err
		}
		if done(now) {
			return nil
		}
	}
}

// collect takes what was counted since the last time.
func (d *driver) collect(ctx context.Context) (*tally, error) {
	r, err := d.fleet.do(order{Verb: verbCollect})
	if err != nil {
		return nil, err
	}
	for _, sum := range [...]*tally{d.total, d.second} {
		sum.clearNow()
		sum.add(r.tally)
	}
	if d.stormAt != 0 && d.stormBack == 0 && r.tally.listening >= d.listening {
		d.stormBack = time.Duration(d.clock.now() - d.stormAt) // maybe only while draining
	}
	perMessage := float64(r.tally.memberships) / float64(d.plan.Rooms)
	if d.phase == "measuring" || d.phase == "storm" {
		d.measured.clearNow()
		d.measured.add(r.tally)
		d.expected += float64(r.tally.counts[nAcked]) * perMessage
	}
	if now := d.clock.now(); now-d.lastAt >= int64(time.Second)-int64(followEvery)/2 {
		d.line(d.take(ctx, now, r.usage), perMessage)
	}
	return r.tally, nil
}

// line closes one second of the timeline.
func (d *driver) line(use sample, perMessage float64) {
	t, seconds := d.second, time.Duration(use.at-d.lastAt).Seconds()
	now := timingOf(t.timings[tNow])
	s := Second{
		At: time.Duration(use.at - d.begun).Seconds(), Phase: d.phase, Listening: t.listening,
		Sent: float64(t.counts[nSent]) / seconds, Delivered: float64(t.counts[nDelivered]) / seconds,
		Expected: float64(t.counts[nAcked]) * perMessage / seconds,
		P50:      now.P50, P99: now.P99, Max: now.Max, Missing: t.missing,
		GenMemory: use.own.Memory, SrvMemory: use.servers.Memory,
		GenCores: (use.own.CPU - d.lastUse.own.CPU).Seconds() / seconds,
		SrvCores: (use.servers.CPU - d.lastUse.servers.CPU).Seconds() / seconds,
	}
	for _, n := range t.errors {
		s.Errors += n
	}
	d.timeline = append(d.timeline, s)
	d.screen.show(view{second: s, now: now, connect: timingOf(d.total.timings[tConnect]), wanted: d.plan.Conns, total: d.total, watched: !d.watch.blind(), watchErr: d.watchErr})
	d.lastAt, d.lastUse = use.at, use
	t.reset()
}

// sample reads what everybody has consumed until now.
func (d *driver) sample(ctx context.Context) sample {
	if _, err := d.collect(ctx); err != nil {
		return sample{at: d.clock.now()}
	}
	r, err := d.fleet.do(order{Verb: verbBehind, Heads: make([]uint64, d.plan.Rooms)})
	if err != nil {
		return sample{at: d.clock.now()}
	}
	return d.take(ctx, d.clock.now(), r.usage)
}

func (d *driver) take(ctx context.Context, at int64, own usage) sample {
	s := sample{at: at, own: own}
	if d.plan.Shards > 1 {
		s.own = s.own.plus(ownUsage()) // the children's and this process's own
	}
	s.servers, d.watchErr = d.watch.read(context.WithoutCancel(ctx))
	s.busy, s.allBusy = machineBusy()
	return s
}

func (d *driver) rateText() string {
	if d.plan.Rate < 0 {
		return RateMax
	}
	return strconv.FormatFloat(d.plan.Rate, 'f', -1, 64)
}
