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
	"github.com/parley-chat/parley/persist/store"
)

// maxListed bounds how many rooms are remembered as listed; beyond it all are forgotten and listed again.
const maxListed = 100_000

// finalCodes are the server's codes for a document that it will never take: BadValue, TypeMismatch, InvalidBSON,
// DocumentValidationFailure, BSONObjectTooLarge, KeyTooLong.
var finalCodes = []int{2, 14, 22, 121, 10334, 17280}

// Append inserts the entries and then moves the checkpoint by compare-and-set. After ErrConflict the entries are stored.
func (s *Store) Append(ctx context.Context, entries []store.Entry, prev, next contracts.Checkpoint) error {
	if len(entries) > 0 {
		if err := s.insert(ctx, entries); err != nil {
			return err
		}
		if err := s.list(ctx, entries); err != nil {
			return err
		}
	}
	return s.moveCheckpoint(ctx, prev, next)
}

func (s *Store) insert(ctx context.Context, entries []store.Entry) error {
	rows := make([]row, len(entries))
	for i := range entries {
		rows[i] = newRow(&entries[i])
	}
	_, err := s.entries.InsertMany(ctx, rows, options.InsertMany().SetOrdered(false))
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

// roomDoc is a document of the rooms collection.
type roomDoc struct {
	ID   string `bson:"_id"`
	Kind string `bson:"kind"`
	Name string `bson:"name,omitempty"`
}

// list makes public rooms of those that nobody created.
func (s *Store) list(ctx context.Context, entries []store.Entry) error {
	var rooms []roomDoc
	seen := make(map[contracts.RoomID]struct{})
	s.mu.Lock()
	for i := range entries {
		id := entries[i].Room
		if _, ok := seen[id]; ok {
			continue
		}
		seen[id] = struct{}{}
		if _, ok := s.listed[id]; !ok {
			rooms = append(rooms, roomDoc{ID: string(id), Kind: kindPublic})
		}
	}
	s.mu.Unlock()
	if len(rooms) == 0 {
		return nil
	}
	_, err := s.rooms.InsertMany(ctx, rooms, options.InsertMany().SetOrdered(false))
	if _, refused, err := judge(err); err != nil {
		return fmt.Errorf("list %d rooms: %w", len(rooms), err)
	} else if len(refused) > 0 {
		return fmt.Errorf("list room %s: %s", rooms[refused[0].Index].ID, refused[0].Message)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.listed)+len(rooms) > maxListed {
		clear(s.listed)
	}
	for _, r := range rooms {
		s.listed[contracts.RoomID(r.ID)] = struct{}{}
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
