package chaos

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/deploy/chaos/proxy"
	"github.com/parley-chat/parley/deploy/local"
)

// paper is a plant that was never built.
func paper() *plant {
	p := &plant{ops: make(map[string]string), links: make(map[link]*proxy.Proxy), procs: map[string]*local.Process{mongo: {}}, disk: "there"}
	for _, role := range roles {
		for _, name := range []string{role + "-1", role + "-2"} {
			p.ops[name] = "there"
			for _, server := range needs[role] {
				p.links[link{name, server}] = nil
			}
		}
	}
	return p
}

type drawn struct {
	What, Parts string
	At, Length  time.Duration
	How         uint64
}

func draw(cfg Config) []drawn {
	p := paper()
	names, _ := available(cfg, p)
	var all []drawn
	for _, f := range plan(cfg, p, names) {
		all = append(all, drawn{f.String(), cmp.Diff(nil, f.parts), f.at, f.length, f.how})
	}
	return all
}

func TestASeedRepeatsTheSchedule(t *testing.T) {
	cfg := Config{Seed: 7}.withDefaults()
	if diff := cmp.Diff(draw(cfg), draw(cfg)); diff != "" {
		t.Error(diff)
	}
	other := cfg
	other.Seed = 8
	if cmp.Equal(draw(cfg), draw(other)) {
		t.Error("another seed drew the same schedule")
	}
}

// TestProfiles holds the two profiles to what they promise.
func TestProfiles(t *testing.T) {
	count := func(cfg Config) map[string]int {
		n := make(map[string]int)
		p := paper()
		names, notes := available(cfg, p)
		if len(notes) > 0 {
			t.Errorf("lacks %v", notes)
		}
		for _, f := range plan(cfg, p, names) {
			n[f.kind]++
		}
		return n
	}
	total := 0
	short := count(Config{Seed: 1}.withDefaults())
	for name, n := range short {
		total += n
		if kinds[name].onlyLong {
			t.Errorf("the short profile has %s", name)
		}
	}
	if total < 30 || len(short) < 30 {
		t.Errorf("three minutes have %d faults of %d kinds", total, len(short))
	}
	long := count(Config{Seed: 1, Duration: time.Hour}.withDefaults())
	total = 0
	for name := range kinds {
		total += long[name]
		if long[name] < 3 {
			t.Errorf("an hour has %s %d times", name, long[name])
		}
	}
	if total < 300 {
		t.Errorf("an hour has %d faults", total)
	}
}

// takes is how long a fault keeps its slot, where each restart of a role or server takes that long.
func (f *fault) takes(restart time.Duration) time.Duration {
	switch {
	case strings.HasPrefix(f.kind, "roll-"):
		return 2 * (f.length + restart)
	case f.kind == "redis-failover":
		return 2*f.length + restart
	case strings.HasPrefix(f.kind, "kill-"), f.kind == "all-at-once", f.kind == "redis-restart", f.kind == "kafka-kill", f.kind == "kafka-disk", f.kind == "nats-kill", f.kind == "mongo-kill":
		return f.length + restart
	}
	return f.length
}

// worked is the part of a schedule that inject comes to: it waits for one of the slots, then for the parts.
func worked(faults []*fault, duration, restart time.Duration) (done []*fault) {
	var slots [atOnce]time.Duration // when each is free
	parts := make(map[string]time.Duration)
	var at, later time.Duration
	for _, f := range faults {
		if f.calm {
			at = max(at, f.at+later, slices.Max(slots[:])) + calm
			later = at - f.at
		}
		slot := 0
		for i := range slots {
			if slots[i] < slots[slot] {
				slot = i
			}
		}
		at = max(at, f.at+later, slots[slot])
		if at >= duration {
			break
		}
		begin := at
		for _, part := range f.parts {
			begin = max(begin, parts[part])
		}
		slots[slot] = begin + f.takes(restart)
		for _, part := range f.parts {
			parts[part] = slots[slot]
		}
		if begin < duration {
			done = append(done, f)
		}
	}
	return done
}

// An hour is long enough for what the nightly run is to have, also on a machine where whatever was killed needs a while:
// 300 faults, each kind three times, and 1.5 million acked, although nothing is acked while a server is away that every send
// needs: only what fits into the users' queues then is acked later.
func TestAnHourIsEnough(t *testing.T) {
	const restart = 15 * time.Second
	const others = 0.9 // of what those faults leave is acked: the others cost the rest, as measured in an hour
	for seed := range uint64(20) {
		cfg := Config{Seed: seed + 1, Duration: time.Hour}.withDefaults()
		p := paper()
		names, _ := available(cfg, p)
		count := make(map[string]int)
		total := 0
		queues := time.Duration(float64(cfg.Users*mostUnderWay) / cfg.Rate * float64(time.Second))
		var silence time.Duration
		for _, f := range worked(plan(cfg, p, names), cfg.Duration, restart) {
			count[f.kind]++
			total++
			switch f.kind {
			case "all-at-once", "kafka-kill", "kafka-pause", "kafka-disk", "nats-kill", "nats-pause":
				silence += max(0, f.takes(restart)-queues)
			}
		}
		for _, name := range names {
			if count[name] < 3 {
				t.Errorf("seed %d: %s %d times", cfg.Seed, name, count[name])
			}
		}
		if total < 300 {
			t.Errorf("seed %d: %d faults", cfg.Seed, total)
		}
		if acked := others * cfg.Rate * (cfg.Duration - silence).Seconds(); acked < 1.5e6 {
			t.Errorf("seed %d: %.0f acked", cfg.Seed, acked)
		}
		t.Logf("seed %d: %d faults, silent for %s", cfg.Seed, total, silence)
	}
}

func TestChosenFaults(t *testing.T) {
	cfg := Config{Faults: []string{"freeze-edge", "nats-kill"}, Seed: 1}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	names, _ := available(cfg.withDefaults(), paper())
	if diff := cmp.Diff([]string{"freeze-edge", "nats-kill"}, names); diff != "" {
		t.Error(diff)
	}
	cfg.Faults = []string{"earthquake"}
	if cfg.Validate() == nil {
		t.Error("an unknown kind was taken")
	}
}

func TestKindsSayWhatTheyAre(t *testing.T) {
	p := paper()
	for name, k := range kinds {
		if k.help == "" || k.do == nil || k.long[1] < k.long[0] || k.short[1] < k.short[0] {
			t.Errorf("%s is incomplete", name)
		}
		if k.targets != nil && len(k.targets(p)) == 0 && name[:3] != "cli" {
			t.Errorf("%s has no target", name)
		}
		if k.targets == nil && k.claims == nil {
			t.Errorf("%s claims nothing", name)
		}
		if !k.silent && len(k.signals) == 0 && k.signalsOf == nil {
			t.Errorf("%s shows in nothing", name)
		}
	}
}

func TestClaims(t *testing.T) {
	c := newClaims()
	if !c.take(t.Context(), []string{"a", "b"}) {
		t.Fatal("not taken")
	}
	got := make(chan bool)
	go func() { got <- c.take(t.Context(), []string{"b", "c"}) }()
	select {
	case <-got:
		t.Fatal("b was taken twice")
	case <-time.After(20 * time.Millisecond):
	}
	c.give([]string{"a", "b"})
	if !<-got {
		t.Error("not taken once it was free")
	}
}

func TestCommits(t *testing.T) {
	request := func(number byte, more int) []byte {
		return append([]byte{0, 0, 0, byte(6 + more), 0, number, 0, 9, 0, 0}, make([]byte, more)...)
	}
	for name, tt := range map[string]struct {
		piece []byte
		want  bool
	}{
		"nothing":     {nil, false},
		"a heartbeat": {request(12, 4), false},
		"a commit":    {request(8, 4), true},
		"behind":      {slices.Concat(request(12, 40), request(8, 4)), true},
		"a piece":     {request(1, 60)[:20], false},
		"no size":     {[]byte{0, 0, 0, 0, 0, 0, 0, 0}, false},
	} {
		if got := commits(tt.piece); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
