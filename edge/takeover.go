package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// A new edge process takes over from a running one on the same machine: the listening socket, every connection and what there
// is to know about it pass over a Unix socket, and no client notices. Both stay the same node of the installation, so
// that rosters and the routing of events to single connections go on.
//
//	successor (new)                        predecessor (old)
//	hello   what it is, where it listens ─►
//	                                     ◄─ welcome  the node, the listening sockets   or  refuse  why not
//	        (starts; connects to NATS and Redis; may take its time)
//	begin                                ─►
//	                                     ◄─ rooms    what it listens to, and how far it has come in each
//	        (hears the lanes, reads what it misses)
//	ready                                ─►
//	                                     ◄─ accept   the predecessor accepts no more, the successor does
//	                                     ◄─ batch    a few frozen connections: descriptors and state
//	have                                 ─►
//	                                     ◄─ go       they are the successor's now, but for those that it names
//	        … batch, have, go …
//	                                     ◄─ end      who left meanwhile
//	        (offers the next hand-over)            (exits)
//
// go is the moment of commitment, batch by batch: until the predecessor has written it, the connection is the predecessor's,
// which thaws it if anything fails; a successor acts on nothing that it has not read go for. Whatever fails, the
// predecessor serves on with what it has.

const (
	// takeOverVersion is the version of the messages and of the state in them. Additions do not change it: what a reader does not know it
	// ignores, what it does not find is zero.
	takeOverVersion = 1

	// batchConns and batchStateBytes bound what is frozen at once.
	batchConns      = 64
	batchStateBytes = 2 << 20

	// generations is how often a seat may be given up while its loop hands over, which takes seconds.
	generations = 1 << 10

	// upTime is how long a successor waits for NATS, beginTime how long it may take to start in all, readyTime to hear the rooms, stepTime for each batch.
	upTime    = time.Minute
	upPoll    = 20 * time.Millisecond
	beginTime = 2 * time.Minute
	readyTime = 30 * time.Second
	stepTime  = 10 * time.Second
)

// The messages.
const (
	msgHello   = 'h'
	msgWelcome = 'w'
	msgRefuse  = 'x'
	msgBegin   = 'b'
	msgRooms   = 'r'
	msgReady   = 'y'
	msgAccept  = 'a'
	msgBatch   = 'c'
	msgHave    = 'k'
	msgGo      = 'g'
	msgEnd     = 'e'
)

type helloMessage struct {
	Version    int    `json:"version"`
	Build      string `json:"build"`
	PID        int    `json:"pid"`
	Listen     string `json:"listen"`
	Prefix     string `json:"prefix"`
	Partitions int    `json:"partitions"`
	// Descriptors is how many the successor may have open.
	Descriptors int `json:"descriptors"`
}

type welcomeMessage struct {
	Version     int              `json:"version"`
	Build       string           `json:"build"`
	PID         int              `json:"pid"`
	Node        contracts.NodeID `json:"node"`
	Connections int              `json:"connections"`
	// Ops says that the operators' listening socket follows the clients'.
	Ops bool `json:"ops,omitempty"`
}

type refuseMessage struct {
	Reason string `json:"reason"`
}

// roomsMessage tells how far the predecessor's rooms have come. No member that follows needs anything before that.
type roomsMessage struct {
	Rooms []roomRecord `json:"rooms"`
	// Generation is above that of all ids which the predecessor has given out and may still give out.
	Generation int32 `json:"generation"`
}

type roomRecord struct {
	Room  contracts.RoomID `json:"r"`
	Known bool             `json:"k,omitempty"`
	Epoch contracts.Epoch  `json:"e,omitempty"`
	Seq   contracts.Seq    `json:"s,omitempty"`
}

type batchMessage struct {
	Conns []connRecord `json:"conns"` // in the order of the descriptors
}

type goMessage struct {
	Stay []int `json:"stay,omitempty"` // places in the batch of those that were touched while they were frozen
}

type endMessage struct {
	Gone []contracts.Presence `json:"gone,omitempty"` // who left while both processes held connections
}

// ErrNoPredecessor says that nobody offers a hand-over.
var ErrNoPredecessor = errors.New("no edge offers to hand over")

// refusedError is the other side's refusal.
type refusedError string

func (e refusedError) Error() string { return "the running edge refuses: " + string(e) }

// expect receives a message of one kind.
func (l *link) expect(kind byte, within time.Duration, into any) (fds []int, err error) {
	got, body, fds, err := l.receive(within)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			closeAllRaw(fds)
			fds = nil
		}
	}()
	if got == msgRefuse {
		var refused refuseMessage
		if err := json.Unmarshal(body, &refused); err != nil {
			return fds, fmt.Errorf("read a refusal: %w", err)
		}
		return fds, refusedError(refused.Reason)
	}
	if got != kind {
		return fds, fmt.Errorf("the other side said %q where %q was due", got, kind)
	}
	if into != nil {
		if err := json.Unmarshal(body, into); err != nil {
			return fds, fmt.Errorf("read message %q: %w", kind, err)
		}
	}
	return fds, nil
}

func closeAllRaw(fds []int) {
	for _, fd := range fds {
		closeRaw(fd)
	}
}
