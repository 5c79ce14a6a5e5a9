package contracts

import "encoding/json"

// Subprotocol is selected when a client offers it (RFC 6455 section 1.9).
const Subprotocol = "parley.v1"

// MaxServerFrame is the largest frame, in bytes, that the server sends; replies are cut at whole entries before it.
const MaxServerFrame = 256 << 10

// JoinState says how complete the reply to a join is.
type JoinState string

// The states of a join's reply.
const (
	JoinComplete JoinState = "complete"
	JoinMore     JoinState = "more"
	JoinReset    JoinState = "reset"
)

// Since is the position from which a client resumes.
type Since struct {
	Epoch Epoch `json:"epoch"`
	Seq   Seq   `json:"seq"`
}

// ConnectOK is the result of connect.
type ConnectOK struct {
	User        Person `json:"user"`
	Token       string `json:"token,omitempty"`
	Expires     int64  `json:"expires"`
	ExpiresInMS int64  `json:"expires_in_ms"`
	Session     string `json:"session"`
	Time        int64  `json:"time"`
	Ping        int    `json:"ping"` // seconds; the edge's
	Limits      Limits `json:"limits"`
	Durability  string `json:"durability"`
	Server      Server `json:"server"`
}

// Server names what answered.
type Server struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Node    NodeID `json:"node"`
}

// Limits tells a client what holds for it; a limit that is off is absent.
type Limits struct {
	TextBytes     int     `json:"text_bytes,omitempty"`
	TextRunes     int     `json:"text_runes,omitempty"`
	FrameBytes    int     `json:"frame_bytes,omitempty"` // the edge's
	MetaBytes     int     `json:"meta_bytes,omitempty"`
	ReplyBytes    int     `json:"reply_bytes,omitempty"`
	Page          int     `json:"page,omitempty"`
	ResumeEntries int     `json:"resume_entries,omitempty"`
	Rooms         int     `json:"rooms,omitempty"` // the edge's
	SendsPerS     float64 `json:"sends_per_s,omitempty"`
	FramesPerS    float64 `json:"frames_per_s,omitempty"` // the edge's
	KeyAgeMS      int64   `json:"key_age_ms,omitempty"`
}

// JoinOK is the result of join.
type JoinOK struct {
	Room    RoomID            `json:"room"`
	State   JoinState         `json:"state"`
	Epoch   Epoch             `json:"epoch"`
	Head    Seq               `json:"head"`
	First   Seq               `json:"first"`
	Entries []json.RawMessage `json:"entries"`
	Online  int               `json:"online"`
}

// HistoryOK is the result of history.
type HistoryOK struct {
	Entries []json.RawMessage `json:"entries"`
	Epoch   Epoch             `json:"epoch"`
	Head    Seq               `json:"head"`
	More    bool              `json:"more"`
}

// SendOK is the result of send.
type SendOK struct {
	Key  Key   `json:"key"`
	Time int64 `json:"time"`
	// State is logged or stored where the send asked for "ack":"stored"; else it is empty.
	State string `json:"state,omitempty"`
	// Seq is the message's once it is stored.
	Seq Seq `json:"seq,omitempty"`
}

// StatusOK is the result of status.
type StatusOK struct {
	State string `json:"state"` // logged, stored or not_found
	Seq   Seq    `json:"seq,omitempty"`
}

// PresenceOK is the result of presence.
type PresenceOK struct {
	Count int      `json:"count"`
	Users []Person `json:"users"`
}

// RoomOK is one room in the result of rooms.
type RoomOK struct {
	Room     RoomID          `json:"room"`
	Name     string          `json:"name"`
	Kind     string          `json:"kind"`
	Role     string          `json:"role"`
	Epoch    Epoch           `json:"epoch"`
	Head     Seq             `json:"head"`
	Read     Seq             `json:"read"`
	Unread   int             `json:"unread"`
	Mentions int             `json:"mentions"`
	Last     json.RawMessage `json:"last,omitempty"`
}

// RoomsOK is the result of rooms.
type RoomsOK struct {
	Rooms []RoomOK `json:"rooms"`
	More  bool     `json:"more"`
}

// RefreshOK is the result of refresh.
type RefreshOK struct {
	Expires     int64  `json:"expires"`
	ExpiresInMS int64  `json:"expires_in_ms"`
	Token       string `json:"token,omitempty"`
}

// GuestOK is the result of POST /v1/guests.
type GuestOK struct {
	Token   string `json:"token"`
	User    Person `json:"user"`
	Expires int64  `json:"expires"`
}

// Event is the "event" of a frame that the server sends unasked. An entry's is its Kind.
type Event string

// The events of this release that are no entries.
const (
	EventGap       Event = "gap"
	EventReset     Event = "reset"
	EventStored    Event = "stored"
	EventLeft      Event = "left"
	EventReconnect Event = "reconnect"
	EventToken     Event = "token"
	EventTyping    Event = "typing"
	EventPresence  Event = "presence"
	EventError     Event = "error"
)
