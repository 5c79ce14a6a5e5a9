package edge

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/wire"
)

const (
	// tick is the resolution of the timing wheel.
	tick = 250 * time.Millisecond
	// wheelSlots times tick is how far ahead the wheel sees; what is due later is looked at again then.
	wheelSlots = 256
	// readSize is the loop's one read buffer.
	readSize = 64 << 10
	// roundWrites is about how many system calls a round spends on deliveries before it looks for new input.
	roundWrites = 256
	// flushBytes is the most that is put together for one write.
	flushBytes = 256 << 10
	// maxAsks is how many questions wait for the end of the round's input, at most.
	maxAsks = 32
	// maxInbox and maxInboxBytes are what may wait in a loop's inbox before rooms hand over no more: events are dropped, and
	// entries are read again once there is room. What connections asked for is bounded by what they may ask.
	maxInbox      = 16 << 10
	maxInboxBytes = 32 << 20
)

type itemKind uint8

const (
	itemCall  itemKind = iota // fn
	itemEntry                 // an entry of local's room
	itemEvent                 // an ephemeral event of local's room
	itemGap                   // the entries seq … to of local's room are given up
	itemReset                 // local's room has a new epoch
	itemLeft                  // user has given up the membership of local's room
)

// item is one thing for a loop to do. Items of one room are in the room's order.
type item struct {
	kind   itemKind
	epoch  contracts.Epoch
	local  *local
	seq    contracts.Seq
	to     contracts.Seq
	except uint64 // itemEvent, itemLeft: the connection that does not get it
	user   contracts.UserID
	frame  []byte // framed, shared, never changed
	fn     func()
}

// loop is one event loop.
type loop struct {
	srv   *Server
	index int
	poll  poller

	// crowded: so much waits in inbox that rooms are to hand over no more. It is set with mu held.
	crowded atomic.Bool

	mu     sync.Mutex // guards inbox, bytes, awake, ended
	inbox  []item
	bytes  int  // of the frames in inbox
	awake  bool // a wake-up is on its way or the loop is running through the inbox
	ended  bool
	closed chan struct{} // closed when run has returned

	// Owned by the loop's goroutine.
	spare    []item
	seats    []seat  // the connections; place 0 stays free
	free     []int32 // places that were given up
	held     int     // connections
	born     int32   // the first generation of a seat
	locals   map[contracts.RoomID]*local
	dirty    []*local   // rooms with something to write, the longest waiting first
	due      []posting  // messages that are to be asked about at the end of the round's input
	asks     []question // what is to be asked then; pumpAll puts what is due behind it
	wrote    int        // system calls of deliveries in this round
	puts     int        // all of this round's
	round    uint32     // counts them
	owed     []owing    // replies that are not written yet
	scrap    [][]byte   // memory for more of them
	again    []*conn    // readable, not read to the end
	stuck    []*conn    // output waits; see output.place
	buf      []byte
	object   contracts.Object  // scratch for the request that is being read
	out      []byte            // scratch for frames that are written at once
	gathered []byte            // scratch for what waited, nil until something has
	wheel    [wheelSlots]int32 // places of the first connections; 0: none
	ticks    uint32            // since start
	start    time.Time
	lim      wire.Limits
	early    wire.Limits // before connect is answered
	rates    rates
	more     bool // the inbox or dirty is not empty
	ending   bool
}

// poller is what tells a loop that something happened.
type poller interface {
	// wake makes wait return; it may be called from any goroutine, also after close.
	wake()
	// wait blocks until something happened or d passed, and handles what happened to sockets.
	wait(d time.Duration)
	// close frees it; called once, after the last wait.
	close()
}

func newLoop(s *Server, index int) (*loop, error) {
	l := &loop{
		srv:    s,
		index:  index,
		closed: make(chan struct{}),
		seats:  make([]seat, 1),
		locals: make(map[contracts.RoomID]*local),
		buf:    make([]byte, readSize),
		start:  time.Now(),
		lim:    wire.Limits{MessageBytes: s.cfg.MessageBytes, Fragments: s.cfg.Fragments},
		rates:  newRates(&s.cfg),
	}
	if s.cfg.Predecessor != nil {
		l.start = l.start.Add(-age)
	}
	l.early = l.lim
	l.early.MessageBytes = min(connectBytes, l.lim.MessageBytes)
	var err error
	if s.cfg.Portable {
		l.poll = newPortablePoller()
	} else {
		l.poll, err = newPoller(l)
	}
	return l, err
}

// post hands items to the loop. It reports false when the loop has ended; then nothing will come of them.
func (l *loop) post(items ...item) bool {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return false
	}
	l.inbox = append(l.inbox, items...)
	for i := range items {
		l.bytes += len(items[i].frame)
	}
	if len(l.inbox) >= maxInbox || l.bytes >= maxInboxBytes {
		l.crowded.Store(true)
	}
	rings := !l.awake
	l.awake = true
	l.mu.Unlock()
	if rings {
		l.poll.wake()
	}
	return true
}

// call runs fn on the loop.
func (l *loop) call(fn func()) bool { return l.post(item{kind: itemCall, fn: fn}) }

// run is the loop's goroutine.
func (l *loop) run() {
	defer close(l.closed)
	defer l.poll.close()
	for {
		l.poll.wait(l.patience())
		l.drainAgain()
		l.turn()
		l.work()
		if l.ending && l.held == 0 && l.end() {
			return
		}
	}
}

// end closes the inbox if nothing is in it or left to ask.
func (l *loop) end() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.inbox) > 0 || len(l.asks) > 0 {
		return false
	}
	l.ended = true
	return true
}

// patience is how long wait may block: not at all while input is left, else to the next tick, or for long where there is nothing
// to time.
func (l *loop) patience() time.Duration {
	switch {
	case l.more || len(l.again) > 0:
		return 0
	case l.held == 0:
		return time.Hour
	}
	next := l.start.Add(time.Duration(l.ticks+1) * tick)
	return max(time.Until(next), time.Millisecond)
}

// work runs through the inbox once and writes out what waits for the rooms, or a part of it, and what connections are owed.
func (l *loop) work() {
	l.mu.Lock()
	items := l.inbox
	l.inbox, l.bytes = l.spare[:0], 0
	l.crowded.Store(false)
	if len(items) == 0 {
		l.awake = false
	}
	l.mu.Unlock()
	for i := range items {
		it := &items[i]
		switch it.kind {
		case itemCall:
			it.fn()
		case itemEntry, itemEvent:
			it.local.queue(it)
		case itemGap:
			it.local.flush()
			it.local.gap(it.epoch, it.seq, it.to)
		case itemReset:
			it.local.flush()
			it.local.reset(it.epoch, it.seq)
		case itemLeft:
			it.local.flush()
			it.local.left(it.user, it.except, it.frame)
		}
	}
	l.pumpAll()
	l.askAll()
	l.deliver()
	l.relieve()
	clear(items)
	if cap(items) > 64<<10 {
		items = nil
	}
	l.spare = items
	l.more = len(l.dirty) > 0 || len(l.due) > 0 || len(l.asks) > 0
	if len(items) > 0 {
		// What arrived meanwhile found awake set and woke nobody.
		l.mu.Lock()
		l.awake = len(l.inbox) > 0
		l.more = l.more || l.awake
		l.mu.Unlock()
	}
}

// ask asks a question at the end of the round's input, with what else is asked by then: the broker's client then writes
// once for all of them.
func (l *loop) ask(q question) {
	if l.asks = append(l.asks, q); len(l.asks) >= maxAsks {
		l.askAll()
	}
}

func (l *loop) askAll() {
	if len(l.asks) == 0 {
		return
	}
	l.srv.asker.askAll(l.asks)
	clear(l.asks)
	l.asks = l.asks[:0]
}

// deliver writes out what waits for the rooms, a part of it: what comes in the meantime for those that are left shares
// their writes, the only thing that makes a delivery cheaper. Each gets its turn, so nothing waits for more to come.
func (l *loop) deliver() {
	n := 0
	for l.wrote = 0; n < len(l.dirty) && l.wrote < roundWrites; n++ {
		l.dirty[n].flush()
	}
	l.dirty = slices.Delete(l.dirty, 0, n)
	l.payAll()
}

// drainAgain reads on where a read filled the whole buffer.
func (l *loop) drainAgain() {
	if len(l.again) == 0 {
		return
	}
	now := l.again
	l.again = nil
	for _, c := range now {
		c.queuedAgain = false
		if c.state != stateGone {
			c.readable()
		}
	}
}

// turn runs the timers that are due.
func (l *loop) turn() {
	now := uint32(time.Since(l.start) / tick)
	if l.held == 0 {
		l.ticks = now
		return
	}
	for l.ticks < now {
		l.ticks++
		slot := l.ticks % wheelSlots
		for l.wheel[slot] != 0 {
			c := l.seats[l.wheel[slot]].conn
			c.unschedule()
			if c.due <= l.ticks {
				c.timeout()
			} else {
				c.schedule(c.due)
			}
		}
	}
}

// seat gives a connection its place.
func (l *loop) seat(c *conn) {
	if n := len(l.free); n > 0 {
		c.place = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		c.place = int32(len(l.seats))
		l.seats = append(l.seats, seat{generation: l.born})
	}
	s := &l.seats[c.place]
	s.conn = c
	c.id = uint64(uint32(s.generation))<<(loopBits+seatBits) | uint64(c.place)<<loopBits | uint64(l.index)
	l.held++
}

// The parts of a connection's id, from the lowest bits.
const (
	loopBits = 10
	seatBits = 24
	maxLoops = 1 << loopBits
)

// loopOf is the index of the loop that an id belongs to.
func loopOf(id uint64) int { return int(id & (1<<loopBits - 1)) }

// byID returns the connection of the loop with an id, nil where it has ended.
func (l *loop) byID(id uint64) *conn {
	if at := id >> loopBits & (1<<seatBits - 1); at < uint64(len(l.seats)) {
		if c := l.seats[at].conn; c != nil && c.id == id {
			return c
		}
	}
	return nil
}

// unseat gives up a connection's place: what still comes for it meets nobody.
func (l *loop) unseat(c *conn) {
	s := &l.seats[c.place]
	s.conn = nil
	s.generation++
	l.free = append(l.free, c.place)
	l.held--
}

// in returns the tick that is d from now, rounded up.
func (l *loop) in(d time.Duration) uint32 {
	return uint32((time.Since(l.start)+d)/tick) + 1
}

// schedule puts c into the wheel for a tick, which replaces an earlier schedule.
func (c *conn) schedule(due uint32) {
	if c.state == stateGone {
		return // its seat may be another's
	}
	c.unschedule()
	l := c.loop
	due = max(due, l.ticks+1)
	c.due = due
	if due-l.ticks >= wheelSlots {
		due = l.ticks + wheelSlots - 1
	}
	slot := due % wheelSlots
	c.slot = uint8(slot)
	head := l.wheel[slot]
	c.wheelNext = head
	if head != 0 {
		l.seats[head].conn.wheelPrev = c.place
	}
	l.wheel[slot] = c.place
	c.inWheel = true
}

func (c *conn) unschedule() {
	if !c.inWheel {
		return
	}
	l := c.loop
	if c.wheelPrev != 0 {
		l.seats[c.wheelPrev].conn.wheelNext = c.wheelNext
	} else {
		l.wheel[c.slot] = c.wheelNext
	}
	if c.wheelNext != 0 {
		l.seats[c.wheelNext].conn.wheelPrev = c.wheelPrev
	}
	c.wheelNext, c.wheelPrev, c.inWheel = 0, 0, false
}
