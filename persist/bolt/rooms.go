package bolt

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/store"
)

// kindPublic is the kind of rooms that nobody created.
const kindPublic = "public"

// room is a value in the bucket of rooms.
type room struct {
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"`
}

// member is a value in the bucket of members.
type member struct {
	Name  string `json:"name"`
	Guest bool   `json:"guest,omitempty"`
}

// dead is a value in the bucket of dead letters.
type dead struct {
	Reason string `json:"reason"`
	Value  []byte `json:"value"`
}

// list makes a public room of one that nobody created.
func list(rooms *bbolt.Bucket, id contracts.RoomID) error {
	if rooms.Get([]byte(id)) != nil {
		return nil
	}
	return putJSON(rooms, []byte(id), room{Kind: kindPublic})
}

func putJSON(b *bbolt.Bucket, key []byte, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(key, value)
}

func memberKey(user contracts.UserID, room contracts.RoomID) []byte {
	k := make([]byte, 0, len(user)+1+len(room))
	k = append(k, user...)
	k = append(k, 0)
	return append(k, room...)
}

// Join writes memberships in one transaction, which they may wait a part of Config.Gather for. They are put in the order of
// their keys, so that neighbours meet the same pages.
func (s *Store) Join(ctx context.Context, members ...contracts.Membership) error {
	type row struct{ key, value []byte }
	rows := make([]row, len(members))
	for i, m := range members {
		value, err := json.Marshal(member{Name: m.User.Name, Guest: m.User.Guest})
		if err != nil {
			return err
		}
		rows[i] = row{memberKey(m.User.ID, m.Room), value}
	}
	slices.SortFunc(rows, func(a, b row) int { return bytes.Compare(a.key, b.key) })
	return s.commit(ctx, &write{waits: s.patience(len(rows)) / 4, apply: func(tx *bbolt.Tx) error {
		members := tx.Bucket([]byte(contracts.CollectionMembers))
		// 134 bytes a row in the file where users' ids rise, as guests' do, and 168 where they are random; 0.5 would make
		// the former 202, 0.9 the latter 270.
		members.FillPercent = 0.7
		for _, r := range rows {
			if members.Get(r.key) != nil {
				continue
			}
			if err := members.Put(r.key, r.value); err != nil {
				return err
			}
		}
		return nil
	}})
}

// Quit deletes a membership.
func (s *Store) Quit(ctx context.Context, room contracts.RoomID, user contracts.UserID) error {
	return s.write(ctx, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(contracts.CollectionMembers)).Delete(memberKey(user, room))
	})
}

// RoomsOf returns the rooms that user is a member of.
func (s *Store) RoomsOf(_ context.Context, user contracts.UserID, after contracts.RoomID, limit int) (infos []contracts.RoomInfo, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		rooms := tx.Bucket([]byte(contracts.CollectionRooms))
		c := tx.Bucket([]byte(contracts.CollectionMembers)).Cursor()
		prefix := memberKey(user, "")
		for k, _ := c.Seek(memberKey(user, after)); bytes.HasPrefix(k, prefix) && len(infos) < limit; k, _ = c.Next() {
			id := contracts.RoomID(k[len(prefix):])
			if id <= after {
				continue
			}
			info, err := roomInfo(id, rooms.Get([]byte(id)))
			if err != nil {
				return err
			}
			infos = append(infos, info)
		}
		return nil
	})
	return infos, err
}

// PublicRooms returns the listed public rooms.
func (s *Store) PublicRooms(_ context.Context, after contracts.RoomID, limit int) (infos []contracts.RoomInfo, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(contracts.CollectionRooms)).Cursor()
		for k, v := c.Seek([]byte(after)); k != nil && len(infos) < limit; k, v = c.Next() {
			info, err := roomInfo(contracts.RoomID(k), v)
			if err != nil {
				return err
			}
			if info.ID > after && info.Kind == kindPublic {
				infos = append(infos, info)
			}
		}
		return nil
	})
	return infos, err
}

// roomInfo reads a room's value; without one the room is public under its id.
func roomInfo(id contracts.RoomID, v []byte) (contracts.RoomInfo, error) {
	r := room{Kind: kindPublic}
	if v != nil {
		if err := json.Unmarshal(v, &r); err != nil {
			return contracts.RoomInfo{}, fmt.Errorf("read room %s: %w", id, err)
		}
	}
	if r.Name == "" {
		r.Name = string(id)
	}
	return contracts.RoomInfo{ID: id, Name: r.Name, Kind: r.Kind}, nil
}

// Bury keeps an undecodable record.
func (s *Store) Bury(ctx context.Context, d store.DeadLetter) error {
	return s.write(ctx, func(tx *bbolt.Tx) error {
		letters, key := tx.Bucket([]byte(contracts.CollectionDead)), appendPosition(partitionKey(d.Partition), d.Position)
		if letters.Get(key) != nil {
			return nil
		}
		return putJSON(letters, key, dead{Reason: d.Reason, Value: d.Value})
	})
}

// DeadLetters returns what was buried of a partition.
func (s *Store) DeadLetters(_ context.Context, partition int32, from contracts.Position, limit int) (letters []store.DeadLetter, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(contracts.CollectionDead)).Cursor()
		first := appendPosition(partitionKey(partition), from)
		for k, v := c.Seek(first); k != nil && partitionOf(k) == partition && len(letters) < limit; k, v = c.Next() {
			var d dead
			if err := json.Unmarshal(v, &d); err != nil || len(k) != 4+positionSize {
				return fmt.Errorf("read dead letter: %w", errDamaged)
			}
			letters = append(letters, store.DeadLetter{
				Partition: partition, Position: readPosition(k[4:]), Reason: d.Reason, Value: d.Value,
			})
		}
		return nil
	})
	return letters, err
}

// Exhume forgets a buried record.
func (s *Store) Exhume(ctx context.Context, partition int32, at contracts.Position) error {
	return s.write(ctx, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(contracts.CollectionDead)).Delete(appendPosition(partitionKey(partition), at))
	})
}
