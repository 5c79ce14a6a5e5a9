package edge

import (
	"context"
	"net"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

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

func (sink) Close() error { return nil }

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

// Receive is a message on a lane.
func (b *Bench) Receive(room contracts.RoomID, body []byte) {
	b.srv.hub.Receive(contracts.LaneOf(room), body)
}

// Work runs the loop through its inbox once and throws away what was written.
func (b *Bench) Work() {
	b.loop.work()
	b.loop.each(func(c *conn) { c.port.out = c.port.out[:0] })
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
