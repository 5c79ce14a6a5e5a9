// Package store is what Parley asks of a database. The adapters are mongo and bolt; storetest is their suite.
package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
)

// Errors that every store gives.
var (
	// ErrConflict: the checkpoint is not the one that was expected: another persister was faster.
	ErrConflict = errors.New("checkpoint changed meanwhile")
	// ErrTripwire: a row with this place or identity holds something else. The partition must stop: see TripwireError.
	ErrTripwire = errors.New("the store holds another entry in this place")
	// ErrPartitions: the store belongs to a log with another partition count.
	ErrPartitions = errors.New("partition count differs from the store's")
)

// TripwireError tells which entry met another one in its place. It is an ErrTripwire.
type TripwireError struct {
	Room contracts.RoomID
	Seq  contracts.Seq
	// Found describes what the store holds instead.
	Found string
}

// Error names the entry and what was found in its place.
func (e *TripwireError) Error() string {
	return fmt.Sprintf("store entry %d of room %s: %v: %s", e.Seq, e.Room, ErrTripwire, e.Found)
}

// Unwrap makes errors.Is(err, ErrTripwire) hold.
func (e *TripwireError) Unwrap() error { return ErrTripwire }

// Entry is an entry as stored. AppendEntry gives the same bytes for it as before it was stored, with one exception:
// an entry whose content the database refuses for good is stored as a tombstone (Entry.Blank), and Blank makes one of what
// is old. An empty text marks it; no message is sent with one.
type Entry = contracts.Entry

// Same reports whether a stored row is the entry e: equal in place, identity and the hash of the log record, from
// which everything else follows.
func Same(row, e *Entry) bool {
	return row.Room == e.Room && row.Seq == e.Seq && row.Position() == e.Position() &&
		row.From.ID == e.From.ID && row.Key == e.Key && row.Hash == e.Hash
}

// Entries holds the rooms' entries and the partitions' checkpoints. Reads see every write that returned before they began.
type Entries interface {
	// Append stores entries of one partition and then moves its checkpoint from prev to next; prev.Offset 0 with
	// Epoch 0 stands for "there is none". Entries that are there already, equal in every way, are fine, and so is a
	// checkpoint that already is next: Append may be repeated after an unknown outcome. It also lists each entry's room as
	// public (see Rooms) if nobody created it.
	// Errors: ErrConflict (entries may have been stored), ErrTripwire (the checkpoint has not moved); any other: try again.
	Append(ctx context.Context, entries []Entry, prev, next contracts.Checkpoint) error
	// Checkpoint returns a partition's checkpoint, if there is one; Checkpoints returns all there are.
	Checkpoint(ctx context.Context, partition int32) (c contracts.Checkpoint, found bool, err error)
	Checkpoints(ctx context.Context) ([]contracts.Checkpoint, error)
	// Lookup answers the queries, in their order, in one round trip each.
	Lookup(ctx context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (foundEntries, foundHeads []roomlog.Found, err error)
	// Above returns a partition's rows at or above a position, in no order. At or above a checkpoint there are few: what
	// persisters stored that died before they moved it. It may have to look at every row; epochs are raised rarely.
	Above(ctx context.Context, partition int32, from contracts.Position) ([]Entry, error)
	// Page returns up to limit entries of a room with from ≤ seq ≤ to, ascending: the newest of the range if newest, else the oldest.
	Page(ctx context.Context, room contracts.RoomID, from, to contracts.Seq, limit int, newest bool) ([]Entry, error)
	// Blank looks at up to about most rows, from a place on that an earlier call told, "" for the beginning, and makes
	// tombstones of those that are old. They are still the Same entries: numbering, look-ups and repeated Appends do not
	// notice. Whoever walks all rows calls it until Swept.Done, and may do so beside everything else.
	Blank(ctx context.Context, old Old, from string, most int) (Swept, error)
	// Bury keeps an undecodable record, once per position, for a person to look at.
	Bury(ctx context.Context, d DeadLetter) error
	// DeadLetters returns up to limit buried records of a partition, ascending, from a position on.
	DeadLetters(ctx context.Context, partition int32, from contracts.Position, limit int) ([]DeadLetter, error)
	// Exhume forgets a buried record; it is fine if there is none.
	Exhume(ctx context.Context, partition int32, at contracts.Position) error
}

// Old says which rows are old: the messages of a partition that stand below a position and whose stamp, in Unix
// milliseconds, is before a time. Entries of other kinds never are.
type Old struct {
	Partition int32
	Below     contracts.Position
	Before    int64
}

// Swept is what became of one call of Blank.
type Swept struct {
	Blanked int // tombstones made
	// Next is where to go on: at once, and, once Done, after a while, when more is old.
	Next string
	Done bool
}

// DeadLetter is a record that nobody can read.
type DeadLetter struct {
	Partition int32
	Position  contracts.Position
	Reason    string
	Value     []byte
}

// Rooms holds rooms and memberships.
type Rooms interface {
	// Join makes people members of public rooms, once each; Quit ends it. Both are fine if it already is so. After an error
	// of Join some may be members.
	Join(ctx context.Context, members ...contracts.Membership) error
	Quit(ctx context.Context, room contracts.RoomID, user contracts.UserID) error
	// RoomsOf returns the rooms that user is a member of, above after, ascending by id, up to limit. RoomInfo.Name falls back to the id.
	RoomsOf(ctx context.Context, user contracts.UserID, after contracts.RoomID, limit int) ([]contracts.RoomInfo, error)
	// PublicRooms returns the listed public rooms, above after, ascending by id, up to limit.
	PublicRooms(ctx context.Context, after contracts.RoomID, limit int) ([]contracts.RoomInfo, error)
}

// Store is everything a database does for Parley. It is safe for concurrent use.
type Store interface {
	Entries
	Rooms
	// Prepare creates what the store needs (indexes, buckets) and claims it for a log of so many partitions, or gives ErrPartitions.
	Prepare(ctx context.Context, partitions int) error
	// Ping asks for a sign of life, of whatever Appends go to.
	Ping(ctx context.Context) error
	Close() error
}
