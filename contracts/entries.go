package contracts

import (
	"encoding/json"
)

// Kind is what an entry is; it is the "event" of the client's frame.
type Kind string

// KindMessage is the kind of a message.
const KindMessage Kind = "message"

// LogVersion is the version of the records that this release writes and the highest that it reads.
const LogVersion = 1

// MaxRecordBytes is the largest log record; a larger one in the log is undecodable.
const MaxRecordBytes = 256 << 10

// Record is what a worker appends to the log: an entry that has no number yet. Its encoding is EncodeRecord's.
type Record struct {
	Kind Kind   `json:"kind"`
	Room RoomID `json:"room"`
	From Person `json:"from"`
	Key  Key    `json:"key"`
	// Stamp is the accepting worker's clock in Unix milliseconds. It becomes the entry's time and nothing else depends on it.
	Stamp   int64           `json:"time"`
	Text    string          `json:"text,omitempty"`
	ReplyTo Seq             `json:"reply_to,omitempty"`
	Meta    json.RawMessage `json:"meta,omitempty"`
	// Told is the connection that wants to hear when the record is stored; the zero value is none. It is no part of the
	// entry.
	Told Conn `json:"told,omitzero"`
}

// Identity is what makes two records the same message.
type Identity struct {
	Room   RoomID
	Sender UserID
	Key    Key
}

// Identity returns the record's identity.
func (r *Record) Identity() Identity { return Identity{Room: r.Room, Sender: r.From.ID, Key: r.Key} }

// Entry is a Record with its number: what a room remembers. AppendEntry gives its one client encoding.
type Entry struct {
	Record
	Seq    Seq
	Epoch  Epoch
	Offset int64 // where the record stands in the room's partition
	// Hash is HashRecord of the record's bytes: it tells two records of the same place apart.
	Hash Hash
}

// Blank makes e a tombstone: what was said is gone, and by which name; where it stands, when it came and whose it is stay.
func (e *Entry) Blank() { e.Text, e.Meta, e.From.Name = "", nil, string(e.From.ID) }

// Position is the entry's place in the log.
func (e *Entry) Position() Position { return Position{Epoch: e.Epoch, Offset: e.Offset} }

// Hash identifies a record's bytes: the first 16 bytes of their SHA-256.
type Hash [16]byte

// IsZero reports whether h is no hash.
func (h Hash) IsZero() bool { return h == Hash{} }

// Checkpoint is C and what belongs to it, one per partition: every numbered record below Offset is in the store.
type Checkpoint struct {
	Partition int32
	Epoch     Epoch
	// Offset is C: the first record that is not known to be stored.
	Offset int64
	// KeyTime is K: at least the largest key time, in Unix milliseconds, of all records below Offset and of all rows of
	// earlier epochs.
	KeyTime int64
	// Last is the hash of the record at Offset-1; zero when there is none or the epoch was just raised.
	Last Hash
	// Sequencer is the version of the numbering rules (roomlog.Version) that wrote it.
	Sequencer int
}

// Position is the place of the first record that is not known to be stored.
func (c *Checkpoint) Position() Position { return Position{Epoch: c.Epoch, Offset: c.Offset} }

// RoomInfo is what a store knows of a room beside its entries.
type RoomInfo struct {
	ID   RoomID
	Name string
	Kind string // public
}

// Membership is one person's membership of a room.
type Membership struct {
	Room RoomID
	User Person
}
