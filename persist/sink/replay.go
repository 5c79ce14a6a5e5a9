package sink

import (
	"context"
	"fmt"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/store"
)

// replayPage is how many dead letters are read at once.
const replayPage = 50

// Graves is what dead letters are kept in; see store.Entries.
type Graves interface {
	DeadLetters(ctx context.Context, partition int32, from contracts.Position, limit int) ([]store.DeadLetter, error)
	Exhume(ctx context.Context, partition int32, at contracts.Position) error
}

// EachDead calls f with every dead letter of the partitions 0 … partitions−1, in order, until it fails.
func EachDead(ctx context.Context, graves Graves, partitions int, f func(store.DeadLetter) error) error {
	for partition := range int32(partitions) {
		for from, more := (contracts.Position{}), true; more; {
			letters, err := graves.DeadLetters(ctx, partition, from, replayPage)
			if err != nil {
				return err
			}
			for _, d := range letters {
				if err := f(d); err != nil {
					return err
				}
				from = contracts.Position{Epoch: d.Position.Epoch, Offset: d.Position.Offset + 1}
			}
			more = len(letters) == replayPage
		}
	}
	return nil
}

// Replay appends a dead letter to the log again, as a new record of the same partition, and forgets it once the log has
// confirmed that. It is numbered and deduplicated like any other record, so a letter may be replayed twice. What this
// release cannot read either would come back as a dead letter: it is left, with an error that wraps
// contracts.ErrUndecodable or contracts.ErrNewerVersion.
func Replay(ctx context.Context, graves Graves, log journal.Writer, partitions int, d store.DeadLetter) (contracts.Record, error) {
	record, err := contracts.DecodeRecord(d.Value, d.Partition, partitions)
	if err != nil {
		return record, err
	}
	written := make(chan error, 1)
	log.Append(d.Partition, string(record.Room), d.Value, func(_ int64, err error) { written <- err })
	select {
	case err = <-written:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return record, fmt.Errorf("replay record %d of partition %d: %w", d.Position.Offset, d.Partition, err)
	}
	return record, graves.Exhume(ctx, d.Partition, d.Position)
}
