package edge

import (
	"context"
	"net"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

// Patience is how long tests wait for what must come.
const Patience = time.Minute

// Bench is a loop without sockets, driven by who calls it: what is written to its members is counted and thrown away.
type Bench struct {
	srv  *Server
	loop *loop
	next contracts.Seq
}

// NewBench makes a Bench of a server that was not started.
func NewBench(s *Server) *Bench {
	s.cfg.Portable = true
	s.cfg.Loops = 1
	l, err := newLoop(s, 0)
	if err != nil {
		panic(err)
	}
	s.loops = []*loop{l}
	s.hub.sub = deaf{}
	return &Bench{srv: s, loop: l}
}

// deaf is a fanout.Subscriber that hears nothing.
type deaf struct{ fanout.Subscriber }

// sink is a socket that takes everything.
type sink struct{ net.Conn }

func (sink) Close() error                { return nil }
func (sink) SetDeadline(time.Time) error { return nil }

// Member adds a connection that listens to a room from its next entry on.
func (b *Bench) Member(room contracts.RoomID) *BenchConn {
	c := b.loop.newConn()
	c.port = newPort(sink{})
	c.state = stateReady
	c.user = contracts.Person{ID: "u1", Name: "Ada"}
	lc := c.enter(room)
	head := b.srv.hub.settle(lc.room, contracts.RoomHead{Epoch: 1, Seq: b.next})
	m := &lc.members[len(lc.members)-1]
	m.listening, m.epoch, m.next = true, 1, head.Seq+1
	return &BenchConn{c}
}

// BenchConn is one connection of a Bench.
type BenchConn struct{ c *conn }

// Received hands bytes of a client to the connection.
func (b *BenchConn) Received(data []byte) { b.c.received(data) }

// Enter and Exit join and leave a room without asking anybody.
func (b *BenchConn) Enter(room contracts.RoomID) { b.c.enter(room) }

// Exit leaves the room that was entered last.
func (b *BenchConn) Exit() { b.c.exit(b.c.rooms[len(b.c.rooms)-1]) }

// Listen makes a connection that is in a room listen from the next entry on.
func (b *Bench) Listen(c *BenchConn, room contracts.RoomID) {
	lc := b.loop.locals[room]
	at := b.srv.hub.settle(lc.room, contracts.RoomHead{Epoch: 1, Seq: b.next})
	m := &lc.members[lc.find(c.c)]
	m.listening, m.epoch, m.next = true, 1, at.Seq+1
}

// GiveUp makes the node give up the next n entries of a room, as when a repair does not succeed.
func (b *Bench) GiveUp(room contracts.RoomID, n contracts.Seq) {
	h := b.srv.hub
	sh := h.shard(contracts.LaneOf(room))
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if r := sh.rooms[room]; r != nil && r.known {
		r.head = r.passed + n
		h.giveUp(r)
	}
}

// Receive is a message on a lane.
func (b *Bench) Receive(room contracts.RoomID, body []byte) {
	b.srv.hub.Receive(contracts.LaneOf(room), body)
}

// Work runs the loop through its inbox once and throws away what was written.
func (b *Bench) Work() {
	for b.loop.work(); b.loop.more; b.loop.work() {
	}
	b.loop.each(func(c *conn) { c.port.out = c.port.out[:0] })
}

// Step runs the loop through its inbox once and returns how many writes carried deliveries.
func (b *Bench) Step() (writes int) {
	b.loop.work()
	return b.loop.wrote
}

// Inject puts an entry into the loop's inbox, as the hub does.
func (b *Bench) Inject(room contracts.RoomID, seq contracts.Seq, frame []byte) {
	b.loop.post(item{kind: itemEntry, epoch: 1, seq: seq, local: b.loop.locals[room], frame: frame})
}

// Forgotten throws away who has left.
func (b *Bench) Forgotten() { b.srv.gone.who = b.srv.gone.who[:0] }

// DropLanes unsubscribes the lanes without a room as if their linger were over.
func (s *Server) DropLanes() {
	s.hub.lanes.unsubscribe(context.Background(), time.Now().Add(2*laneLinger))
}

// Burst is what sweep goes by.
type Burst struct{ b burst }

// Over is burst.over.
func (b *Burst) Over(opened, held int64) bool { return b.b.over(opened, held) }

// HearAll makes every lane count as heard, so that joins go on to the worker.
func (b *Bench) HearAll() {
	for i := range b.srv.hub.lanes.on {
		b.srv.hub.lanes.on[i] = true
	}
}

// Round runs the loop through its inbox until it is empty; what was written stays for Take.
func (b *Bench) Round() {
	for first := true; first || b.loop.more || len(b.loop.again) > 0; first = false {
		b.loop.drainAgain()
		b.loop.work()
	}
}

// Waiting is what all connections' waiting output holds, and how many connections are stuck.
func (b *Bench) Waiting() (bytes int64, stuck int) {
	return b.srv.outbound.bytes.Load(), len(b.loop.stuck)
}

// Take takes up to n bytes of what was written, as a peer that reads, and tells the connection of the room that makes.
func (b *BenchConn) Take(n int) []byte {
	p := b.c.port
	n = min(n, len(p.out))
	taken := append([]byte(nil), p.out[:n]...)
	p.out = append(p.out[:0], p.out[n:]...)
	if n > 0 && p.refused {
		p.refused = false
		b.c.writable()
	}
	return taken
}

// Discard takes everything, like Take, and keeps nothing.
func (b *BenchConn) Discard() { b.c.port.out = b.c.port.out[:0] }

// Reply answers a request that nobody asked.
func (b *BenchConn) Reply(id uint64, ok []byte) {
	if b.c.state == stateReady {
		b.c.reply(&request{id: id}, ok)
	}
}

// ID is the connection's number.
func (b *BenchConn) ID() uint64 { return b.c.id }

// Queued is how much waits for the connection, and in how many rooms it is behind.
func (b *BenchConn) Queued() (bytes, behind int) {
	if b.c.busy == nil || b.c.busy.out == nil {
		return 0, 0
	}
	return b.c.busy.out.size, len(b.c.busy.out.behind)
}

// Ready tells that the connection is neither closing nor gone.
func (b *BenchConn) Ready() bool { return b.c.state == stateReady }

// Paused tells that its input waits.
func (b *BenchConn) Paused() bool { return b.c.paused }

// PortBytes is what a socket of a Bench takes.
const PortBytes = portBytes

// Fill makes the connection's socket take no more than left.
func (b *BenchConn) Fill(left int) {
	b.c.port.out = append(b.c.port.out, make([]byte, portBytes-left)...)
}

// Put puts bytes where Take finds them.
func (b *BenchConn) Put(p []byte) { b.c.port.out = append(b.c.port.out, p...) }

// End is the peer's end of input.
func (b *BenchConn) End() { b.c.close() }
