package contracts

import "encoding/json"

// Op is what a client or an edge asks for.
type Op string

// Ops of the client protocol that exist in this release.
const (
	OpConnect  Op = "connect"
	OpJoin     Op = "join"
	OpLeave    Op = "leave"
	OpSend     Op = "send"
	OpHistory  Op = "history"
	OpStatus   Op = "status"
	OpTyping   Op = "typing"
	OpPresence Op = "presence"
	OpRooms    Op = "rooms"
	OpRefresh  Op = "refresh"
	OpPing     Op = "ping"
)

// Ops that only an edge asks for.
const (
	// OpGuest makes a guest's token (POST /v1/guests).
	OpGuest Op = "guest"
	// OpRepair reads entries that an edge missed: Command.Range.
	OpRepair Op = "repair"
	// OpGone says that people no longer listen to rooms through this edge: Command.Gone.
	OpGone Op = "gone"
)

// Command is one request of an edge to a worker, in JSON on Names.Work.
type Command struct {
	Op   Op     `json:"op"`
	Node NodeID `json:"node"`           // the edge that asks
	Conn uint64 `json:"conn,omitempty"` // the connection on that edge; 0 for HTTP
	// LeftMS is the time left until the asker gives up, when it asked. A worker answers within it or not at all.
	LeftMS int64 `json:"left_ms"`
	// User is who asks, as an earlier connect on this connection established.
	User *Person `json:"user,omitempty"`
	// Token stands in for User where there is no connection (HTTP). The worker checks it.
	Token string `json:"token,omitempty"`
	Room  RoomID `json:"room,omitempty"` // checked by ParseRoomID; empty where the op has none
	// Body is the client's whole request object.
	Body json.RawMessage `json:"body,omitempty"`
	// Batch holds the bodies of an OpSend, in the connection's order, all for Room.
	Batch []json.RawMessage `json:"batch,omitempty"`
	// Passed is, for OpJoin, the last entry of Room that this edge has passed on (zero: none).
	Passed *RoomHead `json:"passed,omitempty"`
	// Range is what an OpRepair wants.
	Range *Range `json:"range,omitempty"`
	// Gone is what an OpGone tells.
	Gone []Presence `json:"gone,omitempty"`
}

// RoomHead is the seq of a room's newest entry, or of the newest one known to somebody.
type RoomHead struct {
	Room  RoomID `json:"room,omitempty"`
	Epoch Epoch  `json:"epoch"`
	Seq   Seq    `json:"seq"`
}

// Range is the entries From … To of Command.Room, both included.
type Range struct {
	Epoch Epoch `json:"epoch"`
	From  Seq   `json:"from"`
	To    Seq   `json:"to"`
}

// Presence is one person's listening to one room through one edge.
type Presence struct {
	Room RoomID `json:"room"`
	User Person `json:"user"`
}

// Answer is a worker's reply to a Command. Exactly one of OK, Err and Batch is set.
type Answer struct {
	// OK is the op's result as the client gets it in "ok" (or as the HTTP body).
	OK  json.RawMessage `json:"ok,omitempty"`
	Err *Error          `json:"err,omitempty"`
	// Batch answers Command.Batch, in its order.
	Batch []Answer `json:"batch,omitempty"`
	// Connected comes with the answer to connect and refresh. For connect OK is absent: the edge adds what it alone
	// knows to Connected.OK and encodes it.
	Connected *Connected `json:"connected,omitempty"`
	// Joined comes with the answer to join.
	Joined *Joined `json:"joined,omitempty"`
	// Entries answers OpRepair: ascending, contiguous from Range.From, maybe fewer than asked.
	Entries []NumberedJSON `json:"entries,omitempty"`
}

// Connected is what an edge keeps about a connection.
type Connected struct {
	User    Person     `json:"user"`
	Expires int64      `json:"expires"` // of the token, Unix milliseconds
	OK      *ConnectOK `json:"ok,omitempty"`
}

// Joined is what an edge needs to splice a join's reply and the live entries.
type Joined struct {
	State JoinState `json:"state"`
	Epoch Epoch     `json:"epoch"`
	// Head is the position that a client has after the reply: the room's head, or with JoinMore the last entry's seq.
	Head Seq `json:"head"`
}

// NumberedJSON is an entry's client encoding beside its seq.
type NumberedJSON struct {
	Seq  Seq             `json:"seq"`
	JSON json.RawMessage `json:"json"`
}

// Question is asked of the dispatcher that owns a partition, in JSON on Names.Dispatch. Any of the parts may be set.
type Question struct {
	Heads []RoomID `json:"heads,omitempty"`
	// Partly wants the heads that are known now, and the other rooms named in Reply.Unsettled, instead of an answer when
	// all are known. Not with Read.
	Partly bool `json:"partly,omitempty"`
	// Read wants the entries of Room in Range that the dispatcher holds or can re-read from the log.
	Room RoomID `json:"room,omitempty"`
	Read *Range `json:"read,omitempty"`
	// Find wants to know whether a message was numbered recently.
	Find   *Identity `json:"find,omitempty"`
	LeftMS int64     `json:"left_ms"`
}

// Reply is a dispatcher's answer. Err is CodeUnavailable while it does not (yet) own the partition for certain or a
// look-up in the store does not end.
type Reply struct {
	Err   *Error `json:"err,omitempty"`
	Epoch Epoch  `json:"epoch,omitempty"`
	// Certain says that the dispatcher has numbered everything that was in the log when it last looked: only then does
	// a position beyond a head prove that the position is wrong.
	Certain bool   `json:"certain,omitempty"`
	Heads   []Head `json:"heads,omitempty"` // in the order of Question.Heads
	// Unsettled are those of Question.Heads whose head is not known yet: what stands in Heads for them means nothing.
	// Empty unless the question was Partly.
	Unsettled []RoomID `json:"unsettled,omitempty"`
	// Entries are contiguous and end at Range.To or earlier (size). They may begin above Range.From: what is missing
	// below Floor is in the store.
	Entries []NumberedJSON `json:"entries,omitempty"`
	Floor   Seq            `json:"floor,omitempty"`
	Found   Seq            `json:"found,omitempty"` // 0: not among the keys held
}

// Head answers for one room.
type Head struct {
	Seq Seq `json:"seq"`
	// Floor is the lowest seq from which on the dispatcher has every entry up to Seq; Seq+1 where it has none. All
	// below Floor is in the store.
	Floor Seq `json:"floor"`
}
