package mongo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

const (
	// parallelFinds bounds the queries of one Lookup that are under way at once.
	parallelFinds = 8
	// perFind bounds the values of one $in.
	perFind = 500
)

// Checkpoint returns a partition's checkpoint.
func (s *Store) Checkpoint(ctx context.Context, partition int32) (contracts.Checkpoint, bool, error) {
	var doc checkpoint
	err := s.checkpoints.FindOne(ctx, bson.D{{Key: "_id", Value: partition}}).Decode(&doc)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return contracts.Checkpoint{}, false, nil
	}
	if err != nil {
		return contracts.Checkpoint{}, false, fmt.Errorf("read checkpoint of partition %d: %w", partition, err)
	}
	c, err := doc.value()
	return c, err == nil, err
}

// Checkpoints returns all checkpoints, ascending by partition.
func (s *Store) Checkpoints(ctx context.Context) ([]contracts.Checkpoint, error) {
	var docs []checkpoint
	cur, err := s.checkpoints.Find(ctx, bson.D{}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	if err == nil {
		err = cur.All(ctx, &docs)
	}
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	all := make([]contracts.Checkpoint, len(docs))
	for i := range docs {
		if all[i], err = docs[i].value(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Lookup answers by the hundred.
func (s *Store) Lookup(ctx context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (foundEntries, foundHeads []roomlog.Found, err error) {
	foundEntries = make([]roomlog.Found, len(entries))
	foundHeads = make([]roomlog.Found, len(heads))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelFinds)
	for from := 0; from < len(entries); from += perFind {
		to := min(from+perFind, len(entries))
		g.Go(func() error { return s.findEntries(ctx, entries[from:to], foundEntries[from:to]) })
	}
	for from := 0; from < len(heads); from += perFind {
		to := min(from+perFind, len(heads))
		g.Go(func() error { return s.findHeads(ctx, heads[from:to], foundHeads[from:to]) })
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	return foundEntries, foundHeads, nil
}

var placeOnly = bson.D{
	{Key: "identity", Value: 1}, {Key: "seq", Value: 1}, {Key: "epoch", Value: 1}, {Key: "offset", Value: 1},
}

func (r *row) found() roomlog.Found {
	return roomlog.Found{
		Seq:      contracts.Seq(r.Seq),
		Position: contracts.Position{Epoch: contracts.Epoch(r.Epoch), Offset: r.Offset},
	}
}

// in reads the documents whose field has one of the values. T is what of them is read.
func in[T any](ctx context.Context, from *mongo.Collection, field string, values []string, only bson.D) (docs []T, err error) {
	cur, err := from.Find(ctx, bson.D{{Key: field, Value: bson.D{{Key: "$in", Value: values}}}}, options.Find().SetProjection(only))
	if err == nil {
		err = cur.All(ctx, &docs)
	}
	return docs, err
}

func (s *Store) findEntries(ctx context.Context, queries []roomlog.EntryQuery, found []roomlog.Found) error {
	ids := make([]string, len(queries))
	for i, q := range queries {
		ids[i] = identity(q.Identity)
	}
	rows, err := in[row](ctx, s.entries, "identity", ids, placeOnly)
	if err != nil {
		return fmt.Errorf("look up %d keys: %w", len(queries), err)
	}
	byIdentity := make(map[string]roomlog.Found, len(rows))
	for i := range rows {
		byIdentity[rows[i].Identity] = rows[i].found()
	}
	for i, q := range queries {
		if f, ok := byIdentity[ids[i]]; ok && f.Position.Less(q.Before) {
			found[i] = f
		}
	}
	return nil
}

// findHeads reads up to which seq the rooms may have rows, and those rows. The row is the answer if it is there and below
// the bound; a room for which it is not, because the persister is ahead of who asks, or died between the two writes, is
// searched.
func (s *Store) findHeads(ctx context.Context, queries []roomlog.HeadQuery, found []roomlog.Found) error {
	names := make([]string, len(queries))
	for i, q := range queries {
		names[i] = string(q.Room)
	}
	docs, err := in[roomDoc](ctx, s.rooms, "_id", names, bson.D{{Key: "seq", Value: 1}})
	if err != nil {
		return fmt.Errorf("look up the seq of %d rooms: %w", len(queries), err)
	}
	tops := make(map[string]string, len(docs)) // the room's highest row id
	seqs := make(map[string]contracts.Seq, len(docs))
	ids := make([]string, 0, len(docs))
	for _, d := range docs {
		if d.Seq > 0 {
			seqs[d.ID] = contracts.Seq(d.Seq)
			tops[d.ID] = rowID(contracts.RoomID(d.ID), seqs[d.ID])
			ids = append(ids, tops[d.ID])
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := in[row](ctx, s.entries, "_id", ids, placeOnly)
	if err != nil {
		return fmt.Errorf("look up the heads of %d rooms: %w", len(ids), err)
	}
	byID := make(map[string]roomlog.Found, len(rows))
	for i := range rows {
		byID[rows[i].ID] = rows[i].found()
	}
	var ahead []search
	for i, q := range queries {
		top, ok := tops[names[i]]
		if !ok {
			continue
		}
		if found[i], ok = byID[top]; !ok || !found[i].Position.Less(q.Before) {
			ahead = append(ahead, search{q, seqs[names[i]] - 1, &found[i]})
		}
	}
	return s.searchDown(ctx, ahead)
}

// search is a room whose newest row below a bound is at or below a seq.
type search struct {
	roomlog.HeadQuery
	from  contracts.Seq
	found *roomlog.Found
}

// searchDown looks at the rooms' rows from the top down, by their ids: first at a few of each, as the persister is mostly ahead
// by a bulk or two, then at more, then at all there are, which costs some servers a scan per room.
func (s *Store) searchDown(ctx context.Context, rooms []search) error {
	for _, window := range []contracts.Seq{perFind / 10, perFind / 5, perFind * 2 / 5} {
		var left []search
		for some := range slices.Chunk(rooms, int(perFind/window)) {
			more, err := s.searchWindow(ctx, some, window)
			if err != nil {
				return err
			}
			left = append(left, more...)
		}
		rooms = left
	}
	for _, r := range rooms {
		var err error
		if *r.found, err = s.newestBelow(ctx, r.HeadQuery); err != nil {
			return err
		}
	}
	return nil
}

// searchWindow looks at so many rows of each room and returns the rooms in which there may be one further down.
func (s *Store) searchWindow(ctx context.Context, rooms []search, window contracts.Seq) (left []search, err error) {
	var ids []string
	for i := range rooms {
		r := &rooms[i]
		*r.found = roomlog.Found{}
		for seq := r.from; seq > 0 && seq+window > r.from; seq-- {
			ids = append(ids, rowID(r.Room, seq))
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := in[row](ctx, s.entries, "_id", ids, append(bson.D{{Key: "room", Value: 1}}, placeOnly...))
	if err != nil {
		return nil, fmt.Errorf("look up the heads of %d rooms further down: %w", len(rooms), err)
	}
	at := make(map[string][]search, len(rooms)) // a room may be asked about with several bounds
	for _, r := range rooms {
		at[string(r.Room)] = append(at[string(r.Room)], r)
	}
	for i := range rows {
		f := rows[i].found()
		for _, r := range at[rows[i].Room] {
			if f.Seq <= r.from && f.Position.Less(r.Before) && f.Seq > r.found.Seq {
				*r.found = f
			}
		}
	}
	for _, r := range rooms {
		if r.found.Seq == 0 && r.from > window {
			r.from -= window
			left = append(left, r)
		}
	}
	return left, nil
}

// newestBelow walks the room's rows down to the first one below the bound.
func (s *Store) newestBelow(ctx context.Context, q roomlog.HeadQuery) (roomlog.Found, error) {
	var r row
	err := s.entries.FindOne(ctx,
		bson.D{
			{Key: "_id", Value: bson.D{{Key: "$gte", Value: rowID(q.Room, 0)}, {Key: "$lte", Value: rowID(q.Room, contracts.MaxInt)}}},
			{Key: "$or", Value: bson.A{
				bson.D{{Key: "epoch", Value: bson.D{{Key: "$lt", Value: int64(q.Before.Epoch)}}}},
				bson.D{{Key: "epoch", Value: int64(q.Before.Epoch)}, {Key: "offset", Value: bson.D{{Key: "$lt", Value: q.Before.Offset}}}},
			}},
		},
		options.FindOne().SetSort(bson.D{{Key: "_id", Value: -1}}).SetProjection(placeOnly)).Decode(&r)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return roomlog.Found{}, nil
	}
	if err != nil {
		return roomlog.Found{}, fmt.Errorf("look up the head of room %s: %w", q.Room, err)
	}
	return r.found(), nil
}

// Above reads a range of places.
func (s *Store) Above(ctx context.Context, partition int32, from contracts.Position) ([]store.Entry, error) {
	cur, err := s.entries.Find(ctx, bson.D{{Key: "place", Value: bson.D{
		{Key: "$gte", Value: place(partition, from)}, {Key: "$lt", Value: place(partition+1, contracts.Position{})},
	}}})
	if err != nil {
		return nil, fmt.Errorf("read the rows of partition %d above %d: %w", partition, from.Offset, err)
	}
	return decodeRows(ctx, cur)
}

// Page returns entries of a room, ascending. It walks the _id index.
func (s *Store) Page(ctx context.Context, room contracts.RoomID, from, to contracts.Seq, limit int, newest bool) ([]store.Entry, error) {
	if limit <= 0 || from > to {
		return nil, nil
	}
	order := 1
	if newest {
		order = -1
	}
	cur, err := s.entries.Find(ctx,
		bson.D{{Key: "_id", Value: bson.D{
			{Key: "$gte", Value: rowID(room, from)},
			{Key: "$lte", Value: rowID(room, min(to, contracts.MaxInt))},
		}}},
		options.Find().SetSort(bson.D{{Key: "_id", Value: order}}).SetLimit(int64(limit)).SetBatchSize(int32(min(limit, 1000))))
	if err != nil {
		return nil, fmt.Errorf("read a page of room %s: %w", room, err)
	}
	page, err := decodeRows(ctx, cur)
	if newest {
		slices.Reverse(page)
	}
	return page, err
}

func decodeRows(ctx context.Context, cur *mongo.Cursor) ([]store.Entry, error) {
	var rows []row
	if err := cur.All(ctx, &rows); err != nil {
		return nil, fmt.Errorf("read entries: %w", err)
	}
	entries := make([]store.Entry, len(rows))
	for i := range rows {
		var err error
		if entries[i], err = rows[i].entry(); err != nil {
			return nil, err
		}
	}
	return entries, nil
}
