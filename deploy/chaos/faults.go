package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/parley-chat/parley/deploy/chaos/proxy"
)

// kind is one way to do harm.
type kind struct {
	help string
	// short and long are how long it lasts in the two profiles: from, to.
	short, long [2]time.Duration
	// targets are what it can be done to; nil: the one thing that its name says.
	targets func(*plant) []string
	// claims are the parts that no other fault may touch meanwhile. Defaults to the target.
	claims func(target string) []string
	// lacks says why it cannot be done here; empty where it can.
	lacks func(*plant) string
	// do harms, waits for the length, and makes good. An error is a violation: what did not come back, mostly.
	do func(ctx context.Context, f *fault) error
	// signals are metrics of which one must move soon, as history.Event has them, where no role says that it is not ready.
	// silent: nothing need show, as it is no server's business or costs nobody anything.
	signals []string
	// signalsOf are those of a target, in place of signals.
	signalsOf func(target string) []string
	// shows is how long it must last to be noticed at all; a shorter one is silent.
	shows time.Duration
	// within is how soon it must show; 0 leaves that to the checker.
	within   time.Duration
	silent   bool
	onlyLong bool
}

// fault is one of a schedule.
type fault struct {
	kind   string
	target string
	at     time.Duration // since the run began
	length time.Duration
	how    uint64   // seeds what is chosen inside
	parts  []string // that no other fault may touch meanwhile
	calm   bool     // it comes after a time without faults

	// Set when it is begun.
	w   *world
	rng *rand.Rand
}

func (f *fault) String() string {
	if f.target == "" {
		return f.kind
	}
	return f.kind + " " + f.target
}

func seconds(from, to float64) [2]time.Duration {
	return [2]time.Duration{time.Duration(from * float64(time.Second)), time.Duration(to * float64(time.Second))}
}

func always(names ...string) func(string) []string { return func(string) []string { return names } }

// What roles say of the servers they ask for a sign of life, needed just then or not.
const (
	natsSilent  = `parley_server_ping_errors_total{server="NATS"}`
	logSilent   = `parley_server_ping_errors_total{server="log"}`
	redisSilent = `parley_server_ping_errors_total{server="Redis"}`
	storeSilent = `parley_server_ping_errors_total{server="store"}`
)

// named are the servers as metrics name them.
var named = map[string]string{nats: "NATS", kafka: "log", redis: "Redis", mongo: "store"}

// later are the signals of a server that answers a process later than after so many seconds, or not at all.
func later(process, server string, seconds float64) []string {
	return []string{
		fmt.Sprintf(`%s parley_server_ping_seconds{server="%s"}>%g`, process, named[server], seconds),
		fmt.Sprintf(`%s parley_server_ping_errors_total{server="%s"}`, process, named[server]),
	}
}

// again are the signals of a server that processes connect to again.
func again(server string, processes ...string) (signals []string) {
	for _, process := range processes {
		signals = append(signals,
			fmt.Sprintf(`%s parley_server_connects_total{server="%s"}`, process, named[server]),
			fmt.Sprintf(`%s parley_server_ping_errors_total{server="%s"}`, process, named[server]),
		)
	}
	return signals
}

// fast is what a link-slow is above, there and back.
const fast = 0.05

// Metrics by which faults show, the sum of all series of a name where no label is named.
var (
	edgeSignals     = []string{"parley_edge_errors_total", "parley_edge_repairs_total"}
	dispatchSignals = []string{"parley_dispatch_publish_errors_total", "parley_dispatch_lookup_errors_total", "parley_dispatch_partitions", "parley_dispatch_skipped_total"}
	persistSignals  = []string{"parley_persist_retries_total", "parley_persist_slow_calls_total", "parley_persist_conflicts_total", "parley_persist_partitions", "parley_persist_untold_total", storeSilent}
	workerSignals   = []string{"parley_worker_cache_errors_total", "parley_worker_events_lost_total"}
	anySignals      = slices.Concat(edgeSignals, workerSignals, dispatchSignals, persistSignals, []string{natsSilent, logSilent, redisSilent})
)

// kinds are all faults by name.
var kinds = makeKinds()

func makeKinds() map[string]kind {
	all := make(map[string]kind)
	for _, role := range roles {
		every := func(p *plant) []string { return p.each(role) }
		all["kill-"+role] = kind{
			help: "kill -9 of one; started again after a while", short: seconds(0, 4), long: seconds(0, 15),
			targets: every, do: killRole, signals: anySignals,
		}
		all["pause-"+role] = kind{
			help: "SIGSTOP of one, then SIGCONT", short: seconds(3, 13), long: seconds(15, 15),
			targets: every, do: pause, signals: anySignals,
		}
		all["freeze-"+role] = kind{
			help: "SIGSTOP of one for a minute", long: seconds(60, 60), onlyLong: true,
			targets: every, do: pause, signals: anySignals,
		}
		all["roll-"+role] = kind{
			help: "SIGTERM and a new start, one after the other", short: seconds(0, 1), long: seconds(1, 3),
			claims: func(string) []string { return []string{role + "-1", role + "-2"} }, do: roll, signals: anySignals,
		}
		for _, server := range needs[role] {
			all["cut-"+role+"-"+server] = kind{
				help: "a partition: bytes of one way or both are held back", short: seconds(2, 12), long: seconds(5, 40),
				targets: func(p *plant) []string {
					var links []string
					for _, name := range p.each(role) {
						links = append(links, link{name, server}.String())
					}
					return links
				},
				lacks: lacksMongo(server), do: cut, signals: anySignals, shows: 8 * time.Second,
			}
		}
	}
	links := func(p *plant) []string {
		var names []string
		for l := range p.links {
			if l.from != clients && l.from != replica && (l.to != mongo || p.procs[mongo] != nil) {
				names = append(names, l.String())
			}
		}
		return names
	}
	connected := func(target string) []string {
		from, to, _ := strings.Cut(target, ":")
		return again(to, from)
	}
	for name, k := range map[string]kind{
		"link-reset": {help: "every connection of a link is reset, several times", do: linkReset, signalsOf: connected},
		"link-half":  {help: "one way of every connection of a link is closed, the other not", do: linkHalf, signalsOf: connected},
		"link-slow": {
			help: "a link gets 50 to 300 ms of latency", do: linkSlow, shows: 3 * time.Second,
			signalsOf: func(target string) []string {
				from, to, _ := strings.Cut(target, ":")
				return later(from, to, fast)
			},
		},
		// What a sign of life takes is little, and so is the rest mostly.
		"link-throttle": {help: "a link carries 4 to 64 KB/s per connection", do: linkThrottle, silent: true},
		"link-hang":     {help: "a link accepts new connections and says nothing; the old ones are reset", do: linkHang, shows: 4 * time.Second},
		"link-refuse":   {help: "a link resets the old connections and every new one", do: linkRefuse, shows: 4 * time.Second},
	} {
		k.short, k.long, k.targets = seconds(2, 8), seconds(5, 25), links
		if !k.silent && k.signalsOf == nil {
			k.signals = anySignals
		}
		all[name] = k
	}
	all["untold-dispatch"] = kind{
		help: "nothing that dispatchers tell gets to Redis; then all are killed with -9 and started again", short: seconds(1, 4), long: seconds(2, 20),
		claims: func(string) []string {
			return []string{"dispatch-1", "dispatch-2", "dispatch-1:redis", "dispatch-2:redis"}
		},
		do: untold, signals: anySignals,
	}
	front := func(p *plant) []string {
		return []string{link{clients, "edge-1"}.String(), link{clients, "edge-2"}.String()}
	}
	for name, k := range map[string]kind{
		"clients-reset":    {help: "every client of an edge is reset", do: linkReset},
		"clients-half":     {help: "one way of every client's connection to an edge is closed", do: linkHalf},
		"clients-throttle": {help: "the clients of an edge read and write at 1 to 8 KB/s", do: linkThrottle},
		"clients-cut":      {help: "the clients of an edge are cut off without a word", do: cut},
	} {
		k.short, k.long, k.targets, k.silent = seconds(2, 8), seconds(5, 25), front, true
		all[name] = k
	}
	for name, k := range serverKinds() {
		all[name] = k
	}
	return all
}

func lacksMongo(server string) func(*plant) string {
	return func(p *plant) string {
		if server == mongo && p.procs[mongo] == nil {
			return "the database was given"
		}
		return ""
	}
}

// hold waits for the fault's length, or until the run is broken off.
func (f *fault) hold(ctx context.Context) { wait(ctx, f.length) }

func (f *fault) link() *proxy.Proxy {
	from, to, _ := strings.Cut(f.target, ":")
	return f.w.links[link{from, to}]
}

// readyPatience is how long a role that was started again is waited for, and within which it must be ready where no other
// fault was in force meanwhile. Otherwise it must be at the end: with a database that is slow something always waits for it.
const readyPatience = 30 * time.Second

// begin starts a process again, also when the faults end early, and waits until it is ready, a role only for a while.
func (f *fault) begin(name string) error {
	_, isRole := f.w.ops[name]
	within := startWithin
	if isRole {
		within = readyPatience
	}
	ctx, cancel := context.WithTimeout(f.w.whole, within)
	defer cancel()
	p := f.w.procs[name]
	alone := f.w.alone()
	if err := p.Launch(); err != nil {
		return err
	}
	err := p.Await(ctx)
	undisturbed := alone >= 0 && alone == f.w.alone() && !f.w.cfg.Loaded
	if _, running := p.Pid(); err != nil && isRole && running && !undisturbed {
		f.w.remark("%s: %s was not ready after %v", f, name, readyPatience)
		return nil
	}
	return err
}

func killRole(ctx context.Context, f *fault) error {
	defer f.w.expect(f.target)()
	if err := f.w.procs[f.target].Kill(); err != nil {
		return err
	}
	f.hold(ctx)
	return f.begin(f.target)
}

func pause(ctx context.Context, f *fault) error {
	p := f.w.procs[f.target]
	if err := p.Signal(sigStop); err != nil {
		return err
	}
	f.hold(ctx)
	return p.Signal(sigCont)
}

// stored is how long after a send its entry is in the store and both C and D, had it been announced, are behind it: they move
// once a second.
const stored = 3 * time.Second

// untold has entries that are in the log and the store and that nobody was told. Where the load ends with it nothing that
// comes later gives them away: who takes over must find them above D.
func untold(ctx context.Context, f *fault) error {
	names := f.w.each("dispatch")
	defer f.w.expect(names...)()
	for _, name := range names {
		x := f.w.links[link{name, redis}]
		x.Set(proxy.Fault{Refuse: true})
		x.Reset()
	}
	f.hold(ctx)
	wait(f.w.whole, stored) // also when the run's time is over: the last sends are what counts
	errs := make([]error, len(names))
	for i, name := range names {
		errs[i] = f.w.procs[name].Kill()
	}
	for _, name := range names {
		f.w.links[link{name, redis}].Set(proxy.Fault{})
	}
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = errors.Join(errs[i], f.begin(name)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// crashed reports whether a process that was asked to stop ended by a panic or a signal: neither with code 0 nor with 1.
func crashed(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() != 1
}

// stopPatience is how long a role may take to stop when asked: an edge whose clients have nowhere to move to has drainLimit, and up
// to 10 s more for those that do not let go and for its brokers.
const (
	drainLimit   = 20 * time.Second
	stopPatience = drainLimit + 10*time.Second
)

func roll(ctx context.Context, f *fault) error {
	names := f.w.each(strings.TrimPrefix(f.kind, "roll-"))
	defer f.w.expect(names...)()
	var badly error
	for i, name := range names {
		if i > 0 && ctx.Err() != nil {
			break // the run's time is over
		}
		took, err := f.w.procs[name].Stop(stopPatience)
		switch {
		case err == nil:
		case crashed(err):
			badly = errors.Join(badly, err)
		default: // not in time, which is a matter of speed: it says so, with code 1, or was killed
			f.w.remark("%s after %.1f s: %v", f, took.Seconds(), err)
		}
		f.hold(ctx)
		if err := f.begin(name); err != nil {
			return errors.Join(badly, err)
		}
	}
	return badly
}

func cut(ctx context.Context, f *fault) error {
	how := []proxy.Fault{{HoldUp: true, HoldDown: true}, {HoldUp: true}, {HoldDown: true}}[f.rng.IntN(3)]
	f.link().Set(how)
	f.hold(ctx)
	f.link().Set(proxy.Fault{})
	return nil
}

func linkReset(ctx context.Context, f *fault) error {
	for end := time.Now().Add(f.length); ; {
		f.link().Reset()
		if time.Now().After(end) || !wait(ctx, f.length/3+10*time.Millisecond) {
			return nil
		}
	}
}

func linkHalf(ctx context.Context, f *fault) error {
	f.link().HalfClose(proxy.Direction(f.rng.IntN(2)))
	f.hold(ctx)
	return nil
}

func linkSlow(ctx context.Context, f *fault) error {
	f.link().Set(proxy.Fault{Latency: time.Duration(50+f.rng.IntN(250)) * time.Millisecond})
	f.hold(ctx)
	f.link().Set(proxy.Fault{})
	return nil
}

func linkThrottle(ctx context.Context, f *fault) error {
	rate := 4<<10 + f.rng.IntN(60<<10)
	if strings.HasPrefix(f.kind, clients) {
		rate = 1<<10 + f.rng.IntN(7<<10)
	}
	f.link().Set(proxy.Fault{Rate: rate})
	f.hold(ctx)
	f.link().Set(proxy.Fault{})
	return nil
}

func linkHang(ctx context.Context, f *fault) error {
	f.link().Set(proxy.Fault{Hang: true})
	f.link().Reset()
	f.hold(ctx)
	f.link().Set(proxy.Fault{})
	return nil
}

func linkRefuse(ctx context.Context, f *fault) error {
	f.link().Set(proxy.Fault{Refuse: true})
	f.link().Reset()
	f.hold(ctx)
	f.link().Set(proxy.Fault{})
	return nil
}

// remark notes what is worth reading and no violation.
func (w *world) remark(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.remarks) < mostOdd {
		w.remarks = append(w.remarks, fmt.Sprintf(format, args...))
	}
}
