package loadtest

import (
	"math/rand/v2"
	"time"
)

// connState is how far a connection has come.
type connState uint8

const (
	idle      connState = iota // none; a timer may bring it back
	dialling                   // TCP, TLS
	upgrading                  // the HTTP answer is awaited
	greeting                   // the answer to connect is awaited
	connected
	dead // given up
)

// conn is one connection of the load. It costs about 150 bytes, its token, its memberships and, once it sends, its
// outbox.
type conn struct {
	// Static after construction.
	index int32 // in the loop

	// Owned by the network.
	fd  int32
	gen uint32 // grows when a descriptor comes or goes
	out []byte // not sent yet

	// Owned by the loop.
	state    connState
	tries    uint8 // failed attempts in a row
	entering bool  // on its way into its room; see loop.enters
	probing  bool  // a ping is out because nothing was heard
	reading  bool  // a history page is awaited
	serial   uint32
	in       []byte // the beginning of a frame
	token    string // a guest's, to come back as the same one
	rooms    []membership
	box      *outbox
	moving   *move // a server has asked it to move
	hops     uint8 // how often it moved
	asked    int64 // when it began to dial; later, when it asked for history
	since    int64 // connected since
	lost     int64 // when an established connection was lost; 0 once all is resumed
	heard    int64 // the last bytes
}

// membership is one room that a connection is in.
type membership struct {
	room  int32
	epoch uint32
	state memberState
	// known says that the ledger holds a position from which the room can be resumed.
	known bool
	// live says that entries may come before the join under way is answered: the connection listens already.
	live   bool
	again  bool // join once more after the answer
	ledger ledger
	asked  int64
}

type memberState uint8

const (
	absent memberState = iota
	joining
	listening
	leaving
)

// The kinds of requests, in the lowest bits of a request's id.
const (
	askConnect = 1 + iota
	askJoin
	askLeave
	askSend
	askHistory
	askPing
)

// A request id is serial·256 + slot·8 + kind.

func requestID(serial uint32, slot, kind int) uint64 {
	return uint64(serial)<<8 | uint64(slot)<<3 | uint64(kind)
}

func splitID(id uint64) (serial uint32, slot, kind int) {
	return uint32(id >> 8), int(id >> 3 & 31), int(id & 7)
}

func (c *conn) membership(room int32) *membership {
	for i := range c.rooms {
		if c.rooms[i].room == room {
			return &c.rooms[i]
		}
	}
	return nil
}

// ready reports whether the connection listens to its own room.
func (c *conn) ready() bool { return c.state == connected && len(c.rooms) > 0 && c.rooms[0].live }

// speaks reports whether the connection may start something new.
func (c *conn) speaks() bool { return c.ready() && c.moving == nil }

// backoff is the protocol's wait before attempt n + 1: random(0, min(30 s, 0.5 s · 2ⁿ)).
func backoff(rng *rand.Rand, n uint8) time.Duration {
	most := 500 * time.Millisecond << min(n, 6)
	return time.Duration(rng.Int64N(int64(min(most, 30*time.Second)) + 1))
}
