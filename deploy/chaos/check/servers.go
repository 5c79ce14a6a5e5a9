package check

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// fault is one disturbance. healed is math.MaxInt64 until it ends.
type fault struct {
	begun          history.Event
	healed         int64
	window, settle span64 // when sends are excused; when latency is
}

type span64 struct{ from, to int64 }

func (s span64) holds(at int64) bool { return s.from <= at && at <= s.to }

func (c *Checker) fault(e *history.Event) {
	if e.Kind == history.Fault {
		c.report.got(inputFaults)
		c.faults = append(c.faults, &fault{begun: *e, healed: math.MaxInt64})
		return
	}
	for _, f := range c.faults {
		if f.begun.Fault == e.Fault && f.healed == math.MaxInt64 {
			f.healed = e.At
			f.begun.Silent = f.begun.Silent || e.Silent
			return
		}
	}
	c.violate(Violation{Kind: Malformed, What: fmt.Sprintf("heal of %q, which was not begun", e.Fault), Evidence: []string{e.Source}})
}

// load judges the sends and deliveries at rest.
func (c *Checker) load() {
	for _, f := range c.faults {
		until := f.healed
		if until != math.MaxInt64 {
			until += int64(c.cfg.Settle)
		}
		f.window = span64{f.begun.At - int64(c.cfg.Deadline), until}
		f.settle = span64{f.begun.At - int64(time.Second), until}
	}
	c.answers()
	c.fanout()
}

// answers checks that nearly all attempts outside fault windows were acked.
func (c *Checker) answers() {
	var quiet, acked int
	var first string
	for _, p := range c.conns {
		for _, a := range p.all {
			c.report.Figures.attempt(a)
			if slices.ContainsFunc(c.faults, func(f *fault) bool { return f.window.holds(a.at) }) {
				continue
			}
			quiet++
			if a.outcome == history.OK {
				acked++
			} else if at := a.m.firstAt; first == "" || at < first {
				first = at
			}
		}
	}
	c.report.Figures.QuietAttempts, c.report.Figures.QuietAcked = quiet, acked
	if quiet > 0 && float64(acked) < c.cfg.AckShare*float64(quiet) {
		c.violate(Violation{Kind: Unanswered, What: fmt.Sprintf("%d of %d attempts outside fault windows were acked; %g are wanted", acked, quiet, c.cfg.AckShare), Evidence: []string{first}})
	}
}

// fanout judges each quiet stretch with enough deliveries, and all of them together. The beginning of the load counts as a heal: until
// then all programs were just started.
func (c *Checker) fanout() {
	if len(c.delays) == 0 {
		return
	}
	var all histogram
	begin := slices.Min(slices.Collect(maps.Keys(c.delays)))*int64(time.Second) + int64(c.cfg.Settle)
	stretch := make(map[int]*histogram) // by how many faults began before
	for second, h := range c.delays {
		at := span64{second * int64(time.Second), (second + 1) * int64(time.Second)}
		before := 0
		quiet := at.from >= begin
		for _, f := range c.faults {
			quiet = quiet && (f.settle.to < at.from || f.settle.from > at.to)
			if f.begun.At < at.from {
				before++
			}
		}
		if !quiet {
			continue
		}
		all.merge(h)
		if stretch[before] == nil {
			stretch[before] = &histogram{}
		}
		stretch[before].merge(h)
	}
	c.report.Figures.QuietDeliveries = all.count
	c.report.Figures.FanoutP50MS, c.report.Figures.FanoutP99MS = all.milliseconds(0.5), all.milliseconds(0.99)
	limit := float64(c.cfg.FanoutP99) / float64(time.Millisecond)
	for _, n := range slices.Sorted(maps.Keys(stretch)) {
		h := stretch[n]
		if h.count < c.cfg.FanoutSamples {
			continue
		}
		if p99 := h.milliseconds(0.99); p99 >= limit {
			v := Violation{Kind: Slow, What: fmt.Sprintf("99 %% of %d live deliveries at rest, after %d faults, took up to %.0f ms; the limit is %.0f", h.count, n, p99, limit)}
			for _, f := range c.faults {
				if f.healed != math.MaxInt64 {
					v.Evidence = append(v.Evidence, f.begun.Source)
				}
			}
			c.violate(v)
		}
	}
}

// costs notes what each kind of fault made clients wait for, of the faults that were alone: messages first sent from a second before
// such a fault until it had settled. How long a user stays away who broke the connection off is no fault's doing.
func (c *Checker) costs() {
	alone := slices.DeleteFunc(slices.Clone(c.faults), func(f *fault) bool {
		return slices.ContainsFunc(c.faults, func(o *fault) bool { return o != f && o.settle.from <= f.settle.to && f.settle.from <= o.settle.to })
	})
	slices.SortFunc(alone, func(a, b *fault) int { return cmp.Compare(a.settle.from, b.settle.from) })
	for _, f := range alone {
		c.report.Figures.cost(f.begun.What).Alone++
	}
	for _, m := range c.messages {
		i, _ := slices.BinarySearchFunc(alone, m.first, func(f *fault, at int64) int { return cmp.Compare(f.settle.to, at) })
		if m.attempts == 0 || i == len(alone) || !alone[i].settle.holds(m.first) || c.dropped(m) {
			continue
		}
		cost := c.report.Figures.cost(alone[i].begun.What)
		if !m.safe {
			cost.AckedS = max(cost.AckedS, time.Duration(m.acked-m.first).Seconds())
		}
		cost.ReachedS = max(cost.ReachedS, time.Duration(m.reached-m.first).Seconds())
	}
}

// dropped reports whether the sender broke its connection off before the message was acked and a client had it.
func (c *Checker) dropped(m *message) bool {
	return slices.ContainsFunc(c.client(m.firstConn.client).drops, func(at int64) bool { return m.first <= at && at <= max(m.acked, m.reached) })
}

// visible checks that every fault showed in a probe soon after it began.
func (c *Checker) visible() {
	if len(c.probes) == 0 {
		return
	}
	c.report.got(inputProbes)
	for _, events := range c.probes {
		slices.SortStableFunc(events, func(a, b history.Event) int { return cmp.Compare(a.At, b.At) })
	}
	for _, f := range c.faults {
		within := cmp.Or(time.Duration(f.begun.Within), c.cfg.SignalWithin)
		took, ok := c.signalled(f, within)
		c.report.Figures.fault(f.begun.What, took, ok && !f.begun.Silent)
		if !f.begun.Silent && !ok {
			c.violate(Violation{Kind: Unseen, What: fmt.Sprintf("fault %q (%s) showed in no /readyz and in none of %v within %v", f.begun.Fault, f.begun.What, f.begun.Signals, within), Evidence: []string{f.begun.Source}})
		}
	}
}

// signalled returns how long after its beginning a fault was seen by a probe. The promise is that of the servers, and who
// probes comes later by up to one probe: each process's first one behind the bound counts.
func (c *Checker) signalled(f *fault, within time.Duration) (took time.Duration, ok bool) {
	until := f.begun.At + int64(within)
	for _, events := range c.probes {
		var before *history.Event
		for i := range events {
			e := &events[i]
			if e.At < f.begun.At {
				before = e
				continue
			}
			if !e.Up || !e.Ready || slices.ContainsFunc(f.begun.Signals, func(signal string) bool { return shows(signal, before, e) }) {
				if d := time.Duration(e.At - f.begun.At); !ok || d < took {
					took, ok = d, true
				}
				break
			}
			if e.At >= until {
				break
			}
		}
	}
	return took, ok
}

// shows reports whether a signal of history.Event.Signals is seen in a probe, with the last one before the fault, if any.
func shows(signal string, before, now *history.Event) bool {
	if process, rest, of := strings.Cut(signal, " "); of {
		if process != now.Process {
			return false
		}
		signal = rest
	}
	name, above, isGauge := strings.Cut(signal, ">")
	value, known := now.Metrics[name]
	if !isGauge {
		return known && (before == nil || value != before.Metrics[name])
	}
	limit, err := strconv.ParseFloat(above, 64)
	return known && err == nil && value > limit
}

// resources compares each process at the end with itself at the beginning.
func (c *Checker) resources() {
	for _, name := range slices.Sorted(maps.Keys(c.probes)) {
		var base, last *history.Event
		for i := range c.probes[name] {
			switch e := &c.probes[name][i]; e.Phase {
			case history.Baseline:
				base = e
			case history.Final:
				last = e
			}
		}
		if base == nil || last == nil {
			continue
		}
		c.report.got(inputResources)
		for _, v := range c.cfg.Grown(base, last) {
			c.violate(v)
		}
	}
}

// Grown returns what a process holds more of at the end than at its baseline, by two probes of it, and more than is allowed.
func (c Config) Grown(base, end *history.Event) (all []Violation) {
	c = c.withDefaults()
	role, _, _ := strings.Cut(base.Process, "-")
	descriptors := c.Descriptors
	descriptors.Extra += c.Pools[role]
	for _, r := range []struct {
		kind      Kind
		base, end int64
		tolerance Tolerance
	}{
		{Goroutines, int64(base.Goroutines), int64(end.Goroutines), c.Goroutines},
		{Descriptors, int64(base.Descriptors), int64(end.Descriptors), descriptors},
		{Memory, base.Memory, end.Memory, c.Memory},
	} {
		if limit := r.tolerance.limit(r.base); r.base > 0 && r.end > limit {
			all = append(all, Violation{
				Kind: r.kind, What: fmt.Sprintf("%s has %d at the end, had %d at the beginning; up to %d is fine", base.Process, r.end, r.base, limit),
				Evidence: []string{base.Source, end.Source},
			})
		}
	}
	return all
}

// storedEvents compares what senders were told of the storing with the store.
func (c *Checker) storedEvents() {
	if !c.report.has(inputRows) {
		return
	}
	for i := range c.stored {
		e := &c.stored[i]
		cl := c.client(e.Client)
		id := contracts.Identity{Room: e.Room, Sender: cl.user, Key: e.Key}
		if w := c.room(e.Room).rows[id]; w == nil || w.seq != e.Seq {
			v := Violation{Kind: BadStored, Room: e.Room, Seq: e.Seq, Key: e.Key, Client: e.Client, What: "told stored with this seq, and the store has no such row", Evidence: []string{e.Source}}
			if w != nil {
				v.What, v.Evidence = fmt.Sprintf("told stored with this seq, and the row has %d", w.seq), append(v.Evidence, w.source)
			}
			c.violate(v)
		}
	}
}

// delays counts live deliveries by the second in which the message was first sent, and by how long they took.
type delays map[int64]*histogram

func (d delays) add(sent, received int64) {
	second := sent / int64(time.Second)
	if d[second] == nil {
		d[second] = &histogram{}
	}
	d[second].add(received - sent)
}

// histogram counts durations in buckets that are 1/16 of a power of two wide, from microseconds to an hour.
type histogram struct {
	count   int
	buckets [32 * 16]uint32
}

func (h *histogram) add(ns int64) {
	us := float64(max(ns, 1000)) / 1000
	exp := math.Log2(us)
	h.buckets[min(int(exp*16), len(h.buckets)-1)]++
	h.count++
}

func (h *histogram) merge(o *histogram) {
	h.count += o.count
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
}

// milliseconds returns the upper end of the bucket that the quantile lies in.
func (h *histogram) milliseconds(q float64) float64 {
	left := int(math.Ceil(q * float64(h.count)))
	for i, n := range h.buckets {
		if left -= int(n); left <= 0 && h.count > 0 {
			return math.Exp2(float64(i+1)/16) / 1000
		}
	}
	return 0
}
