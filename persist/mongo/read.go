package mongo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

// parallelFinds bounds the queries of one Lookup that are under way at once.
const parallelFinds = 8

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

// Lookup answers identities by the hundred, or by fewer where the server is slow at that, and each head by a query of its
// own, several at a time.
func (s *Store) Lookup(ctx context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (foundEntries, foundHeads []roomlog.Found, err error) {
	foundEntries = make([]roomlog.Found, len(entries))
	foundHeads = make([]roomlog.Found, len(heads))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelFinds)
	for from, to := 0, 0; from < len(entries); from = to {
		to = min(from+s.pace.size(), len(entries))
		g.Go(func() error { return s.findEntries(ctx, entries[from:to], foundEntries[from:to]) })
	}
	for i, q := range heads {
		g.Go(func() (err error) {
			foundHeads[i], err = s.newestBelow(ctx, q)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	return foundEntries, foundHeads, nil
}

var placeOnly = bson.D{
	{Key: "room", Value: 1}, {Key: "sender", Value: 1}, {Key: "key", Value: 1},
	{Key: "seq", Value: 1}, {Key: "epoch", Value: 1}, {Key: "offset", Value: 1},
}

func (r *row) found() roomlog.Found {
	return roomlog.Found{
		Seq:      contracts.Seq(r.Seq),
		Position: contracts.Position{Epoch: contracts.Epoch(r.Epoch), Offset: r.Offset},
	}
}

func (s *Store) findEntries(ctx context.Context, queries []roomlog.EntryQuery, found []roomlog.Found) error {
	branches := make(bson.A, len(queries))
	for i, q := range queries {
		branches[i] = bson.D{
			{Key: "room", Value: string(q.Identity.Room)},
			{Key: "sender", Value: string(q.Identity.Sender)},
			{Key: "key", Value: q.Identity.Key.String()},
		}
	}
	filter := branches[0]
	if len(branches) > 1 {
		filter = bson.D{{Key: "$or", Value: branches}}
	}
	var rows []row
	began := time.Now()
	cur, err := s.entries.Find(ctx, filter, options.Find().SetProjection(placeOnly))
	if err == nil {
		err = cur.All(ctx, &rows)
	}
	if err == nil || mongo.IsTimeout(err) {
		now := time.Now()
		s.pace.note(len(queries), now.Sub(began), now)
	}
	if err != nil {
		return fmt.Errorf("look up %d keys: %w", len(queries), err)
	}
	type identity struct{ room, sender, key string }
	byIdentity := make(map[identity]*row, len(rows))
	for i := range rows {
		byIdentity[identity{rows[i].Room, rows[i].Sender, rows[i].Key}] = &rows[i]
	}
	for i, q := range queries {
		id := q.Identity
		r := byIdentity[identity{string(id.Room), string(id.Sender), id.Key.String()}]
		if r != nil && r.found().Position.Less(q.Before) {
			found[i] = r.found()
		}
	}
	return nil
}

// newestBelow asks within the bound's epoch first: one step in an index. Rows of earlier epochs are below any bound of
// this one.
func (s *Store) newestBelow(ctx context.Context, q roomlog.HeadQuery) (roomlog.Found, error) {
	room := bson.E{Key: "room", Value: string(q.Room)}
	for _, filter := range []bson.D{
		{room, {Key: "epoch", Value: int64(q.Before.Epoch)}, {Key: "offset", Value: bson.D{{Key: "$lt", Value: q.Before.Offset}}}},
		{room, {Key: "epoch", Value: bson.D{{Key: "$lt", Value: int64(q.Before.Epoch)}}}},
	} {
		var r row
		err := s.entries.FindOne(ctx, filter, options.FindOne().
			SetSort(bson.D{{Key: "epoch", Value: -1}, {Key: "offset", Value: -1}}).
			SetProjection(placeOnly)).Decode(&r)
		if err == nil {
			return r.found(), nil
		}
		if !errors.Is(err, mongo.ErrNoDocuments) {
			return roomlog.Found{}, fmt.Errorf("look up the head of room %s: %w", q.Room, err)
		}
		if q.Before.Epoch <= 1 {
			break
		}
	}
	return roomlog.Found{}, nil
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
