package contracts

import (
	"encoding/hex"
	"time"

	"github.com/google/uuid"
)

// MaxInt is the largest integer that the protocol carries, 2^53-1: the largest that every JSON reader keeps exact
// (RFC 8259 section 6).
const MaxInt = 1<<53 - 1

// MaxIDLen is the length limit of room and user ids, in bytes.
const MaxIDLen = 64

// RoomID names a room. A valid one matches [A-Za-z0-9_-]{1,64}; only valid ones may become part of a subject,
// channel, key or field name.
type RoomID string

// UserID names a person. It has the same form as a RoomID.
type UserID string

// NodeID names one running process of a role. It has the same form as a RoomID.
type NodeID string

// Seq is an entry's place in its room: 1, 2, 3 …; 0 is "before the first".
type Seq uint64

// Epoch counts how often a partition of the log lost or re-used offsets; it starts at 1 and is compared for equality
// only, except in a Position.
type Epoch uint32

// Position is a place in one partition of the log, ordered by epoch, then offset.
type Position struct {
	Epoch  Epoch
	Offset int64
}

// Less reports whether p is before q.
func (p Position) Less(q Position) bool {
	if p.Epoch != q.Epoch {
		return p.Epoch < q.Epoch
	}
	return p.Offset < q.Offset
}

// keyLen is the length of a UUID's canonical form.
const keyLen = 36

// Key is the UUIDv7 that names a message across all its retries (RFC 9562 section 5.7). The zero Key is none.
type Key uuid.UUID

// String returns the canonical lower-case form.
func (k Key) String() string {
	var text [keyLen]byte
	return string(k.append(text[:0]))
}

func (k Key) append(dst []byte) []byte {
	from := 0
	for _, to := range [...]int{4, 6, 8, 10, 16} {
		if from > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, k[from:to])
		from = to
	}
	return dst
}

// IsZero reports whether k is no key at all.
func (k Key) IsZero() bool { return k == Key{} }

// Time returns the Unix milliseconds that a UUIDv7 carries in its first 48 bits.
func (k Key) Time() int64 {
	return int64(k[0])<<40 | int64(k[1])<<32 | int64(k[2])<<24 | int64(k[3])<<16 | int64(k[4])<<8 | int64(k[5])
}

// MarshalText makes a Key its canonical form in JSON.
func (k Key) MarshalText() ([]byte, error) { return k.append(make([]byte, 0, keyLen)), nil }

// UnmarshalText reads the canonical form and refuses whatever is no UUIDv7.
func (k *Key) UnmarshalText(text []byte) error {
	parsed, err := ParseKey(string(text))
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}

// NewKey makes a key for now. It fails only when the system has no randomness.
func NewKey() (Key, error) {
	u, err := uuid.NewV7()
	return Key(u), err
}

// ParseKey reads a UUIDv7 in its 36-character form, in either case. The error is CodeBadKey.
func ParseKey(s string) (Key, error) {
	k, ok := parseKey([]byte(s))
	if !ok {
		return Key{}, &Error{Code: CodeBadKey, Message: "a key is a UUIDv7 of 36 characters", Field: "key"}
	}
	return k, nil
}

func parseKey(text []byte) (k Key, ok bool) {
	if len(text) != keyLen || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return Key{}, false
	}
	for i, at := range [...]int{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34} {
		high, ok := hexDigit(text[at])
		low, good := hexDigit(text[at+1])
		if !ok || !good {
			return Key{}, false
		}
		k[i] = high<<4 | low
	}
	if u := uuid.UUID(k); u.Version() != 7 || u.Variant() != uuid.RFC4122 {
		return Key{}, false
	}
	return k, true
}

// ParseRoomID checks a room id. The error is CodeBadRoom.
func ParseRoomID(s string) (RoomID, error) {
	if !ValidID(s) {
		return "", &Error{Code: CodeBadRoom, Message: "a room id is 1 to 64 of A-Z a-z 0-9 _ -", Field: "room"}
	}
	return RoomID(s), nil
}

// ValidID reports whether s matches [A-Za-z0-9_-]{1,64}.
func ValidID(s string) bool {
	if len(s) == 0 || len(s) > MaxIDLen {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// Millis is t in Unix milliseconds, the unit of every time in the protocol.
func Millis(t time.Time) int64 { return t.UnixMilli() }

// Person is how the server names somebody: {id, name, guest?}.
type Person struct {
	ID    UserID `json:"id"`
	Name  string `json:"name"`
	Guest bool   `json:"guest,omitempty"`
}
