package mongo

import (
	"context"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/store"
)

// kindPublic is the kind of rooms that nobody created.
const kindPublic = "public"

// roomDoc is a document of the rooms collection. Its seq is findHeads' alone.
type roomDoc struct {
	ID   string `bson:"_id"`
	Kind string `bson:"kind"`
	Name string `bson:"name,omitempty"`
	Seq  int64  `bson:"seq,omitempty"`
}

// memberDoc is a document of the members collection.
type memberDoc struct {
	ID    string `bson:"_id"`
	User  string `bson:"user"`
	Room  string `bson:"room"`
	Name  string `bson:"name"`
	Guest bool   `bson:"guest,omitempty"`
}

func memberID(user contracts.UserID, room contracts.RoomID) string {
	return string(user) + ":" + string(room)
}

// Join writes memberships in one unordered insert.
func (s *Store) Join(ctx context.Context, members ...contracts.Membership) error {
	if len(members) == 0 {
		return nil
	}
	docs := make([]memberDoc, len(members))
	for i, m := range members {
		docs[i] = memberDoc{
			ID: memberID(m.User.ID, m.Room), User: string(m.User.ID), Room: string(m.Room), Name: m.User.Name, Guest: m.User.Guest,
		}
	}
	_, err := s.members.InsertMany(ctx, docs, options.InsertMany().SetOrdered(false))
	if err != nil && !isDuplicate(err) {
		return fmt.Errorf("write %d memberships: %w", len(members), err)
	}
	return nil
}

// Quit deletes a membership.
func (s *Store) Quit(ctx context.Context, room contracts.RoomID, user contracts.UserID) error {
	if _, err := s.members.DeleteOne(ctx, bson.D{{Key: "_id", Value: memberID(user, room)}}); err != nil {
		return fmt.Errorf("quit room %s: %w", room, err)
	}
	return nil
}

// RoomsOf returns the rooms that user is a member of.
func (s *Store) RoomsOf(ctx context.Context, user contracts.UserID, after contracts.RoomID, limit int) ([]contracts.RoomInfo, error) {
	if limit <= 0 {
		return nil, nil
	}
	var members []memberDoc
	// ";" follows ":", so the range holds all that begins with "user:".
	cur, err := s.members.Find(ctx,
		bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: memberID(user, after)}, {Key: "$lt", Value: string(user) + ";"}}}},
		options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)))
	if err == nil {
		err = cur.All(ctx, &members)
	}
	if err != nil {
		return nil, fmt.Errorf("read the rooms of user %s: %w", user, err)
	}
	if len(members) == 0 {
		return nil, nil
	}
	ids := make([]string, len(members))
	for i := range members {
		ids[i] = members[i].Room
	}
	var docs []roomDoc
	cur, err = s.rooms.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}})
	if err == nil {
		err = cur.All(ctx, &docs)
	}
	if err != nil {
		return nil, fmt.Errorf("read the rooms of user %s: %w", user, err)
	}
	byID := make(map[string]roomDoc, len(docs))
	for _, d := range docs {
		byID[d.ID] = d
	}
	infos := make([]contracts.RoomInfo, len(ids))
	for i, id := range ids {
		d, ok := byID[id]
		if !ok {
			d = roomDoc{ID: id, Kind: kindPublic}
		}
		infos[i] = d.info()
	}
	return infos, nil
}

// PublicRooms returns the listed public rooms.
func (s *Store) PublicRooms(ctx context.Context, after contracts.RoomID, limit int) ([]contracts.RoomInfo, error) {
	if limit <= 0 {
		return nil, nil
	}
	var docs []roomDoc
	cur, err := s.rooms.Find(ctx,
		bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: string(after)}}}, {Key: "kind", Value: kindPublic}},
		options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)))
	if err == nil {
		err = cur.All(ctx, &docs)
	}
	if err != nil {
		return nil, fmt.Errorf("read the public rooms: %w", err)
	}
	infos := make([]contracts.RoomInfo, len(docs))
	for i := range docs {
		infos[i] = docs[i].info()
	}
	return infos, nil
}

// info falls back to the id where the room has no name.
func (d roomDoc) info() contracts.RoomInfo {
	if d.Name == "" {
		d.Name = d.ID
	}
	return contracts.RoomInfo{ID: contracts.RoomID(d.ID), Name: d.Name, Kind: d.Kind}
}

// deadDoc is a document of the dead collection.
type deadDoc struct {
	ID        string      `bson:"_id"`
	Partition int32       `bson:"partition"`
	Epoch     int64       `bson:"epoch"`
	Offset    int64       `bson:"offset"`
	Reason    string      `bson:"reason"`
	Value     bson.Binary `bson:"value"`
}

// Bury keeps an undecodable record.
func (s *Store) Bury(ctx context.Context, d store.DeadLetter) error {
	_, err := s.dead.InsertOne(ctx, deadDoc{
		ID:        place(d.Partition, d.Position),
		Partition: d.Partition, Epoch: int64(d.Position.Epoch), Offset: d.Position.Offset,
		Reason: d.Reason, Value: bson.Binary{Data: d.Value},
	})
	if err != nil && !isDuplicate(err) {
		return fmt.Errorf("bury record %d of partition %d: %w", d.Position.Offset, d.Partition, err)
	}
	return nil
}

// DeadLetters returns what was buried of a partition.
func (s *Store) DeadLetters(ctx context.Context, partition int32, from contracts.Position, limit int) ([]store.DeadLetter, error) {
	if limit <= 0 {
		return nil, nil
	}
	var docs []deadDoc
	filter := bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: place(partition, from)}, {Key: "$lt", Value: place(partition+1, contracts.Position{})}}}}
	cur, err := s.dead.Find(ctx, filter, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)))
	if err == nil {
		err = cur.All(ctx, &docs)
	}
	if err != nil {
		return nil, fmt.Errorf("read the dead letters of partition %d: %w", partition, err)
	}
	letters := make([]store.DeadLetter, len(docs))
	for i, d := range docs {
		letters[i] = store.DeadLetter{
			Partition: d.Partition, Reason: d.Reason, Value: d.Value.Data,
			Position: contracts.Position{Epoch: contracts.Epoch(d.Epoch), Offset: d.Offset},
		}
	}
	return letters, nil
}

// Exhume forgets a buried record.
func (s *Store) Exhume(ctx context.Context, partition int32, at contracts.Position) error {
	if _, err := s.dead.DeleteOne(ctx, bson.D{{Key: "_id", Value: place(partition, at)}}); err != nil {
		return fmt.Errorf("exhume record %d of partition %d: %w", at.Offset, partition, err)
	}
	return nil
}
