package mongo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/planted"
	"github.com/parley-chat/parley/persist/store"
)

// finalCodes are the server's codes for a document that it will never take: BadValue, TypeMismatch, InvalidBSON,
// DocumentValidationFailure, BSONObjectTooLarge, KeyTooLong.
var finalCodes = []int{2, 14, 22, 121, 10334, 17280}

// Append raises the rooms' seq, inserts the entries and then moves the checkpoint by compare-and-set. After ErrConflict the
// entries are stored.
func (s *Store) Append(ctx context.Context, entries []store.Entry, prev, next contracts.Checkpoint) error {
	if len(entries) > 0 {
		if err := s.announce(ctx, entries); err != nil {
			return err
		}
		if err := s.insert(ctx, entries, next.Partition); err != nil {
			return err
		}
	}
	return s.moveCheckpoint(ctx, prev, next)
}

// announce raises the seq of the entries' rooms, before the entries are there: none is ever above it. It makes public
// rooms of those that nobody created.
func (s *Store) announce(ctx context.Context, entries []store.Entry) error {
	newest := make(map[contracts.RoomID]contracts.Seq)
	for i := range entries {
		e := &entries[i]
		newest[e.Room] = max(newest[e.Room], e.Seq)
	}
	updates := make([]mongo.WriteModel, 0, len(newest))
	for room, seq := range newest {
		updates = append(updates, mongo.NewUpdateOneModel().
			SetFilter(bson.D{{Key: "_id", Value: string(room)}}).
			SetUpdate(bson.D{
				{Key: "$max", Value: bson.D{{Key: "seq", Value: int64(seq)}}},
				{Key: "$setOnInsert", Value: bson.D{{Key: "kind", Value: kindPublic}}},
			}).
			SetUpsert(true))
	}
	if _, err := s.rooms.BulkWrite(ctx, updates, options.BulkWrite().SetOrdered(false)); err != nil {
		return fmt.Errorf("raise the seq of %d rooms: %w", len(newest), err)
	}
	return nil
}

func (s *Store) insert(ctx context.Context, entries []store.Entry, partition int32) error {
	rows := make([]row, len(entries))
	for i := range entries {
		rows[i] = newRow(&entries[i], partition)
	}
	_, err := s.entries.InsertMany(ctx, rows, options.InsertMany().SetOrdered(false))
	if planted.On(planted.DuplicateOK) && mongo.IsDuplicateKeyError(err) {
		return nil
	}
	there, refused, err := judge(err)
	if err != nil {
		return fmt.Errorf("insert %d entries: %w", len(entries), err)
	}
	for _, e := range refused {
		stone := rows[e.Index].tombstone(e.Message)
		if _, err := s.entries.InsertOne(ctx, stone); err != nil && !isDuplicate(err) {
			return fmt.Errorf("insert tombstone %s: %w", stone.ID, err)
		}
		there = append(there, e.Index)
	}
	return s.compare(ctx, entries, there)
}

// judge sorts the outcome of an unordered insert: the indexes of documents that broke a unique index, those that the
// server will never take, or an error where anything else went wrong with any of them.
func judge(err error) (there []int, refused []mongo.BulkWriteError, _ error) {
	var bulk mongo.BulkWriteException
	if err == nil {
		return nil, nil, nil
	}
	if !errors.As(err, &bulk) || bulk.WriteConcernError != nil || len(bulk.WriteErrors) == 0 {
		return nil, nil, err
	}
	for _, e := range bulk.WriteErrors {
		switch {
		case e.Code == codeDuplicateKey:
			there = append(there, e.Index)
		case slices.Contains(finalCodes, e.Code):
			refused = append(refused, e)
		default:
			return nil, nil, err
		}
	}
	return there, refused, nil
}

// compare reads the rows that were there already and gives ErrTripwire unless they are the same entries.
func (s *Store) compare(ctx context.Context, entries []store.Entry, there []int) error {
	if len(there) == 0 {
		return nil
	}
	ids := make([]string, len(there))
	for i, at := range there {
		ids[i] = rowID(entries[at].Room, entries[at].Seq)
	}
	cur, err := s.entries.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}})
	if err != nil {
		return fmt.Errorf("read rows that were there: %w", err)
	}
	rows, err := decodeRows(ctx, cur)
	if err != nil {
		return err
	}
	found := make(map[string]*store.Entry, len(rows))
	for i := range rows {
		found[rowID(rows[i].Room, rows[i].Seq)] = &rows[i]
	}
	for i, at := range there {
		e := &entries[at]
		switch row := found[ids[i]]; {
		case row == nil:
			return &store.TripwireError{Room: e.Room, Seq: e.Seq, Found: "its key under another seq"}
		case !store.Same(row, e):
			return &store.TripwireError{Room: e.Room, Seq: e.Seq, Found: fmt.Sprintf("the record at offset %d in epoch %d", row.Offset, row.Epoch)}
		}
	}
	return nil
}

func (s *Store) moveCheckpoint(ctx context.Context, prev, next contracts.Checkpoint) error {
	doc := newCheckpoint(next)
	if prev.Epoch == 0 && prev.Offset == 0 {
		_, err := s.checkpoints.InsertOne(ctx, doc)
		if err == nil {
			return nil
		}
		if !isDuplicate(err) {
			return fmt.Errorf("write checkpoint of partition %d: %w", next.Partition, err)
		}
		return s.conflict(ctx, next)
	}
	was := newCheckpoint(prev)
	res, err := s.checkpoints.ReplaceOne(ctx, bson.D{
		{Key: "_id", Value: next.Partition}, {Key: "epoch", Value: was.Epoch}, {Key: "offset", Value: was.Offset},
		{Key: "key_time", Value: was.KeyTime}, {Key: "last", Value: was.Last}, {Key: "sequencer", Value: was.Sequencer},
	}, doc)
	if err != nil {
		return fmt.Errorf("move checkpoint of partition %d: %w", next.Partition, err)
	}
	if res.MatchedCount == 0 {
		return s.conflict(ctx, next)
	}
	return nil
}

// conflict gives ErrConflict unless the checkpoint already is next: an earlier try may have moved it, unheard.
func (s *Store) conflict(ctx context.Context, next contracts.Checkpoint) error {
	c, found, err := s.Checkpoint(ctx, next.Partition)
	switch {
	case err != nil:
		return err
	case !found:
		return fmt.Errorf("partition %d has no checkpoint: %w", next.Partition, store.ErrConflict)
	case c == next:
		return nil
	}
	return fmt.Errorf("partition %d has checkpoint %d in epoch %d: %w", next.Partition, c.Offset, c.Epoch, store.ErrConflict)
}
