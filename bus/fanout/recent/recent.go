// Package recent keeps the newest entries of each room in Redis, a cache in front of the dispatcher and the store.
package recent

import (
	"context"

	"github.com/parley-chat/parley/contracts"
)

// Entry is one entry's client encoding for the cache.
type Entry struct {
	Room  contracts.RoomID
	Epoch contracts.Epoch
	Seq   contracts.Seq
	JSON  []byte
}

// Query asks for the entries From … To, both included, of one room.
type Query struct {
	Room     contracts.RoomID
	Epoch    contracts.Epoch
	From, To contracts.Seq
}

// Cache is safe for concurrent use.
type Cache interface {
	// Append adds entries; repeats and steps back within a room are refused silently. An error means that some may be
	// missing, which makes holes that Read reports as a miss.
	Append(ctx context.Context, entries []Entry) error
	// Read returns, per query, all of its entries in order, or nil where the cache does not hold every one of them.
	// Queries whose From is above To return an empty, non-nil slice.
	Read(ctx context.Context, queries []Query) ([][]contracts.NumberedJSON, error)
}
