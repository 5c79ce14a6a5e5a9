// Package journal records: the log, one partition per group of rooms, the only place of order.
package journal

import (
	"context"
	"errors"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// Errors of the log.
var (
	// ErrFull: too much waits to be written; nothing was taken.
	ErrFull = errors.New("the log's buffer is full")
	// ErrUnknown: the log did not confirm the record in time; it may be there.
	ErrUnknown = errors.New("the log did not confirm the record")
	// ErrOutOfRange: the offset is not in the log (any more, or yet).
	ErrOutOfRange = errors.New("offset out of the log's range")
	// ErrNotOwner: this consumer does not own the partition any more.
	ErrNotOwner = errors.New("partition owned by another consumer")
	// ErrReplaced: the log was deleted and made anew; this consumer reads no more.
	ErrReplaced = errors.New("log was deleted and made anew")
	// ErrTooLarge: the record is larger than the log takes; it was not taken.
	ErrTooLarge = errors.New("record too large for the log")
	// ErrClosed: the writer or consumer was closed before.
	ErrClosed = errors.New("journal closed")
)

// Record is one record of one partition.
type Record struct {
	Offset int64
	Value  []byte
}

// Writer appends. It is safe for concurrent use.
type Writer interface {
	// Append queues value for partition and calls done once, with the record's offset or an error (ErrFull, ErrTooLarge
	// and ErrClosed at once: nothing was taken; else ErrUnknown, by two minutes at the latest). It never blocks. Records of one partition are written in the order
	// of the calls: if an earlier one fails, later ones that were already queued are not written before it is given up.
	// key is for people who look into the log. done may run on any goroutine and must not block.
	Append(partition int32, key string, value []byte, done func(offset int64, err error))
	// Close waits, bounded by ctx, for what is queued.
	Close(ctx context.Context) error
}

// Commit is a consumer group's committed place in a partition.
type Commit struct {
	Offset int64
	// Epoch is the log's epoch at the commit; it is kept in the commit's metadata. 0: there was none.
	Epoch contracts.Epoch
}

// Owner is told which partitions a Consumer owns. Revoke and Lose are called on the goroutine that polls, between a call
// of Poll and its return (or on Close's), so never while the caller works on what Poll returned. They name only partitions of
// which an Assign has returned without an error.
type Owner interface {
	// Assign says where to start reading a partition that is owned from now on. committed is the group's, nil if there
	// is none. Poll starts it on a goroutine of its own, so that a partition that waits for the store does not hold up the
	// others: it runs beside Poll, the caller's work and the Assign of other partitions, and must guard what it shares with
	// them. Per partition, calls never overlap, the first batch comes after it returned, and it has returned before
	// Revoke or Lose is called. ctx ends when the partition is taken away again. An error other than ctx's makes
	// the consumer give the partition another try a moment later.
	Assign(ctx context.Context, partition int32, committed *Commit) (start int64, err error)
	// Revoke says that the partitions go to another consumer when it returns: commit now. ctx gives it five seconds,
	// whatever becomes of Poll's.
	Revoke(ctx context.Context, partitions []int32)
	// Lose says that the partitions went to another consumer some time ago: nothing of them may be committed.
	Lose(partitions []int32)
}

// Batch is what was read of one partition.
type Batch struct {
	Partition int32
	Records   []Record
	// End is the log's end (the offset of the next record to be written) when this was read.
	End int64
	// Err is ErrOutOfRange where the log no longer holds what was to be read; the partition then stands still.
	Err error
}

// Consumer is one member of a consumer group. Poll and Restart are for one goroutine, Owner's Revoke included; Commit and
// Alive are for any; Close too, once nobody polls any more or the context of the last Poll has ended.
type Consumer interface {
	// Poll waits for records, for at most wait, and returns what there is: batches of partitions at the log's end may be
	// empty, so that a reader learns that it has caught up.
	// ErrReplaced: close it, and make another one, whose Owner then sees what the log is.
	Poll(ctx context.Context, wait time.Duration) ([]Batch, error)
	// Restart stops reading a partition that is owned and asks Owner.Assign anew where to start, as after ErrOutOfRange.
	// Batches of what was read before do not come any more.
	Restart(partition int32)
	// Commit commits for partitions that are owned. ErrNotOwner: one of them is not owned, or the group has gone on
	// without this member; nothing is to be told of them any more. Beside Poll it may be under way when a partition is taken
	// away: Owner's Revoke and Lose wait for it, or the group may learn of it behind what the next owner commits.
	Commit(ctx context.Context, commits map[int32]Commit) error
	// Alive is when the group's coordinator last confirmed this member, zero before the first time.
	Alive() time.Time
	// Close leaves the group, after Revoke for what is owned. Poll returns ErrClosed from then on.
	Close() error
}

// Durability is what the log survives once it has confirmed a record.
type Durability string

// Durability classes.
const (
	DurabilityPower      Durability = "power"      // synced to disk first
	DurabilityReplicated Durability = "replicated" // on at least two of three or more brokers
	DurabilityProcess    Durability = "process"    // survives the end of the process, by kill -9 too
	DurabilityVolatile   Durability = "volatile"   // in memory
)

// Extent is what a partition holds: the first offset, and the one behind the last.
type Extent struct{ Start, End int64 }

// Log looks into partitions from outside any group. It is safe for concurrent use.
type Log interface {
	// Ensure creates the topic if it is missing, without limits of time or size, and checks its partition count.
	Ensure(ctx context.Context, partitions int) error
	// Bounds returns the first offset held and the one behind the last.
	Bounds(ctx context.Context, partition int32) (start, end int64, err error)
	// Extents returns the bounds of all partitions, by partition, in a few requests whatever their number.
	Extents(ctx context.Context) ([]Extent, error)
	// Read returns up to max records from an offset on, in order, without waiting for more than there are. It may return
	// fewer (it stops at about 16 MiB); only none at all means that from is the end. ErrOutOfRange below the start or above the
	// end.
	Read(ctx context.Context, partition int32, from int64, max int) ([]Record, error)
	// Committed returns what a group has committed, for the partitions that it has any for.
	Committed(ctx context.Context, group string) (map[int32]Commit, error)
	// Trim deletes records below an offset; the record before the end always stays.
	Trim(ctx context.Context, partition int32, before int64) error
	// Ping asks for a sign of life, of any broker.
	Ping(ctx context.Context) error
	// Durability tells what a confirmed record survives.
	Durability(ctx context.Context) (Durability, error)
	Close() error
}
