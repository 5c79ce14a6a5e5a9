package chaos

import (
	"context"
	"net"
	"sync"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// recorder writes down what one client does and sees. It stands between the client and its sockets and reads along, so that what
// the client's library mends by itself, such as an entry that came twice or a hole, is seen all the same.
type recorder struct {
	// Static after construction.
	out   *history.Writer
	tally *tally
	name  string
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)

	mu    sync.Mutex // guards the rest, and everything of the connections
	conn  uint64
	last  *tap // the latest connection
	user  contracts.UserID
	rooms map[contracts.RoomID]*place
	drops bool // the user breaks its connection off
	done  bool // the run is over: what the client does from now on is no part of it
}

// place is where the client stands in a room: what the library knows of it, worked out from the same frames.
type place struct {
	have  bool // at is known
	at    history.Position
	base  history.Position // where at was before the live entries of connection live
	live  uint64
	asked int // number of the latest thing that makes replies to earlier joins void
	// Connections: on which a join was answered, so that the library takes live entries; on which one with a position is under
	// way, when it takes the next entry too; on which a leave was answered, so that it has looked at all that came before.
	on, joining, left uint64
}

func newRecorder(name string, out *history.Writer, t *tally, dial func(context.Context, string, string) (net.Conn, error)) *recorder {
	return &recorder{out: out, tally: t, name: name, dial: dial, rooms: make(map[contracts.RoomID]*place)}
}

// Dial is the client's NetDial.
func (r *recorder) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := r.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn++
	r.last = &tap{Conn: c, r: r, n: r.conn, calls: make(map[uint64]wireCall), rooms: make(map[contracts.RoomID]*stream), owed: make(map[identity]bool)}
	return r.last, nil
}

// listens reports whether the latest connection is there and has joined the room.
func (r *recorder) listens(room contracts.RoomID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.rooms[room]
	return p != nil && p.on == r.conn && !r.last.ended
}

// unstored is how many messages the latest connection still waits to hear of that they are stored.
func (r *recorder) unstored() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || r.last.ended {
		return 0
	}
	return len(r.last.owed)
}

// position is the last entry of the room that the client has.
func (r *recorder) position(room contracts.RoomID) (history.Position, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.rooms[room]
	if p == nil {
		return history.Position{}, false
	}
	return p.at, p.have
}

// drop calls what breaks the user's connection off.
func (r *recorder) drop(do func()) {
	set := func(drops bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.drops = drops
	}
	set(true)
	defer set(false)
	do()
}

// end writes that the client still listens to the rooms, and nothing more.
func (r *recorder) end(rooms []contracts.RoomID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, room := range rooms {
		r.add(r.conn, history.Event{Kind: history.Ended, Room: room})
	}
	r.done = true
}

// page writes down a page of history that the client has read.
func (r *recorder) page(e history.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(r.conn, e)
}

// add writes an event of connection n. The caller holds mu.
func (r *recorder) add(n uint64, e history.Event) {
	if r.done {
		return
	}
	e.At, e.Client, e.Conn = history.SharedNow(), r.name, n
	r.out.Add(e)
}

func (r *recorder) place(room contracts.RoomID) *place {
	p := r.rooms[room]
	if p == nil {
		p = &place{}
		r.rooms[room] = p
	}
	return p
}

// resumes takes a join on connection n: since is where the library stands. Of what was read before it may have looked at the
// first only: live entries it takes all the same, as the next ones, and a reply not, as it has asked anew.
func (p *place) resumes(n uint64, since *history.Position) {
	goesOn := p.have && p.live == n && p.left != n
	p.left = 0
	if p.have = since != nil; !p.have {
		return
	}
	p.joining = n
	goesOn = goesOn && since.Epoch == p.at.Epoch && p.base.Seq <= since.Seq && since.Seq <= p.at.Seq
	if !goesOn {
		p.stands(*since)
	}
}

// stands sets where the client stands, by anything but a live entry.
func (p *place) stands(at history.Position) { p.have, p.at, p.base, p.live = true, at, at, 0 }
