package loadtest

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"
)

// Timeouts of a client, from the protocol.
const (
	connectTimeout = 10 * time.Second
	joinTimeout    = 15 * time.Second
	silenceLimit   = 10 * time.Second
	pulseMax       = 10 * time.Millisecond // the longest wait of a loop: orders are seen after it
	entriesAtOnce  = 96                    // connections of a loop between dialling and the answer to their join, at most
	entriesOfAll   = 4096                  // the same of all loops, unless that is less than entriesLeast each
	entriesLeast   = 8
)

// loop drives a share of the connections. One goroutine runs it and owns all of it; others hand it functions.
type loop struct {
	// Static after construction.
	plan  *plan
	lane  int
	clock clock
	net   network
	conns []conn // none before startRamp
	tasks chan func()

	// Owned by run.
	now      int64
	rng      *rand.Rand
	reader   *reader
	tally    *tally
	spare    *tally
	timers   timers
	buf      []byte // the frame that is being written
	bufs     [][]byte
	ramping  bool
	nextDial int
	entering int   // connections on their way into their room
	dialAt   int64 // when the next may begin
	swept    int64
	from, to int64 // the measured window
	schedule schedule
	ending   bool
	quit     bool
	gaps     []Gap
	pingMS   int64
}

func newLoop(p *plan, lane int) (*loop, error) {
	n := (p.Conns - lane + p.lanes() - 1) / p.lanes()
	l := &loop{
		plan: p, lane: lane, clock: newClock(), tasks: make(chan func(), 4),
		rng:    rand.New(rand.NewPCG(uint64(p.Seed), uint64(lane))),
		reader: newReader(p), tally: newTally(), spare: newTally(),
		buf: make([]byte, headRoom, 4096), pingMS: 25_000,
	}
	if p.clock != nil {
		l.clock = *p.clock
	}
	all := make([]conn, n)
	l.conns = all[:0]
	var err error
	l.net, err = newNetwork(p, all)
	return l, err
}

// startRamp makes the connections and starts to open them. Until then they are memory that nobody has touched, so that the
// growth of the process from here on is what they cost.
func (l *loop) startRamp() {
	l.conns = l.conns[:cap(l.conns)]
	for i := range l.conns {
		l.conns[i].index, l.conns[i].fd = int32(i), -1
	}
	l.ramping, l.dialAt = true, l.clock.now()
}

// global is the number of a connection in the whole run.
func (l *loop) global(c *conn) int { return l.lane + int(c.index)*l.plan.lanes() }

// targetOf is the server that a connection calls: each time that one asks it to move, the next.
func (l *loop) targetOf(c *conn) int {
	return (l.plan.target(l.global(c)) + int(c.hops)) % len(l.plan.Targets)
}

// run serves until a task sets quit.
func (l *loop) run() error {
	defer l.net.close()
	l.now = l.clock.now()
	for !l.quit {
		l.runTasks()
		l.now = l.clock.now()
		l.fireTimers()
		l.dialMore()
		l.schedule.run(l)
		if l.now-l.swept > int64(time.Second) {
			l.swept = l.now
			l.sweep()
		}
		if err := l.net.wait(l.nextWait(), l); err != nil {
			return fmt.Errorf("wait for the network: %w", err)
		}
	}
	return nil
}

func (l *loop) runTasks() {
	for {
		select {
		case f := <-l.tasks:
			f()
		default:
			return
		}
	}
}

// do runs f on the loop's goroutine and waits for it.
func (l *loop) do(f func()) {
	done := make(chan struct{})
	l.tasks <- func() { f(); close(done) }
	<-done
}

// nextWait is the time until something is due.
func (l *loop) nextWait() time.Duration {
	next := l.clock.now() + int64(pulseMax)
	if len(l.timers) > 0 {
		next = min(next, l.timers[0].at)
	}
	if at, ok := l.schedule.next(); ok {
		next = min(next, at)
	}
	if l.ramping && l.nextDial < len(l.conns) && l.entering < l.plan.entries() {
		next = min(next, l.dialAt)
	}
	return time.Duration(next - l.clock.now())
}

// dialMore opens connections as fast as the plan and the server allow.
func (l *loop) dialMore() {
	if !l.ramping || l.ending {
		return
	}
	for range 32 {
		if l.nextDial >= len(l.conns) || l.entering >= l.plan.entries() || l.now < l.dialAt {
			return
		}
		if l.plan.Ramp > 0 {
			l.dialAt = max(l.dialAt, l.now-int64(time.Second)) + int64(time.Second)*int64(l.plan.lanes())/int64(l.plan.Ramp)
		}
		c := &l.conns[l.nextDial]
		l.nextDial++
		l.dial(c)
	}
}

func (l *loop) dial(c *conn) {
	b2, b3 := l.plan.source(l.global(c))
	c.state, c.asked, c.heard = dialling, l.now, l.now
	l.enters(c)
	if err := l.net.dial(c, l.plan.Targets[l.targetOf(c)], [2]byte{b2, b3}); err != nil {
		l.closed(c, err)
	}
}

// enters counts a connection among those on their way into their room. How many may be under way bounds what a server
// has to do at once, so that it is asked for as much as it answers.
func (l *loop) enters(c *conn) {
	if !c.entering {
		c.entering = true
		l.entering++
	}
}

// entered ends that: the connection is in its room, or will not get there by this attempt.
func (l *loop) entered(c *conn) {
	if c.entering {
		c.entering = false
		l.entering--
	}
}

// Timers.

type timerKind uint8

const (
	timerDial  timerKind = iota // connect again
	timerJoin                   // join the room of slot again
	timerSend                   // send what was refused
	timerMove                   // go on with leaving a server that asked for it
	timerGreet                  // ask connect again
)

type timer struct {
	at   int64
	conn int32
	gen  uint32
	kind timerKind
	slot uint8
}

type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at < t[j].at }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }

// Push is part of heap.Interface.
func (t *timers) Push(x any) { *t = append(*t, x.(timer)) }

// Pop is part of heap.Interface.
func (t *timers) Pop() any {
	last := (*t)[len(*t)-1]
	*t = (*t)[:len(*t)-1]
	return last
}

func (l *loop) after(d time.Duration, c *conn, kind timerKind, slot int) {
	heap.Push(&l.timers, timer{at: l.now + int64(d), conn: c.index, gen: c.gen, kind: kind, slot: uint8(slot)})
}

func (l *loop) fireTimers() {
	for len(l.timers) > 0 && l.timers[0].at <= l.now {
		t := heap.Pop(&l.timers).(timer)
		c := &l.conns[t.conn]
		if c.gen != t.gen || l.ending {
			continue
		}
		switch t.kind {
		case timerDial:
			if c.state == idle {
				l.dial(c)
			}
		case timerJoin:
			if c.state == connected && int(t.slot) < len(c.rooms) && c.rooms[t.slot].state == absent {
				l.join(c, int(t.slot))
			}
		case timerSend:
			l.sendHeld(c)
		case timerMove:
			l.moveOn(c)
		case timerGreet:
			l.greet(c)
		}
	}
}

// sweep looks for connections that wait in vain.
func (l *loop) sweep() {
	for i := range l.conns {
		c := &l.conns[i]
		switch c.state {
		case dialling, upgrading, greeting:
			if l.now-c.asked > int64(connectTimeout) {
				l.giveUp(c, "no answer to connect within 10 s")
			}
		case connected:
			l.sweepConnected(c)
		}
	}
}

func (l *loop) sweepConnected(c *conn) {
	for i := range c.rooms {
		if m := &c.rooms[i]; m.state == joining && l.now-m.asked > int64(joinTimeout) {
			l.giveUp(c, "no answer to join within 15 s")
			return
		}
	}
	silent := l.now - c.heard
	switch {
	case c.probing && silent > l.pingMS*1e6+int64(silenceLimit):
		l.giveUp(c, "silent server")
	case !c.probing && silent > l.pingMS*1e6*3/2:
		c.probing = true
		l.request(c, 0, askPing, `"op":"ping"`)
	}
}
