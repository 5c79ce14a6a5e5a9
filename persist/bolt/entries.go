package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

// Append stores entries and moves the checkpoint in one transaction, which a few entries may wait Config.Gather for. After
// ErrConflict nothing of it is stored.
func (s *Store) Append(ctx context.Context, entries []store.Entry, prev, next contracts.Checkpoint) error {
	return s.commit(ctx, &write{waits: s.patience(len(entries)), apply: func(tx *bbolt.Tx) error {
		checkpoints := tx.Bucket([]byte(contracts.CollectionCheckpoints))
		if err := expect(checkpoints, prev, next); err != nil {
			return err
		}
		if err := putEntries(tx, entries); err != nil {
			return err
		}
		return checkpoints.Put(partitionKey(next.Partition), encodeCheckpoint(next))
	}})
}

// expect gives ErrConflict unless the checkpoint is prev, or already next.
func expect(checkpoints *bbolt.Bucket, prev, next contracts.Checkpoint) error {
	key := partitionKey(next.Partition)
	v := checkpoints.Get(key)
	none := prev.Epoch == 0 && prev.Offset == 0
	if v == nil && none || v != nil && !none && bytes.Equal(v, encodeCheckpoint(prev)) || bytes.Equal(v, encodeCheckpoint(next)) {
		return nil
	}
	if v == nil {
		return fmt.Errorf("partition %d has no checkpoint: %w", next.Partition, store.ErrConflict)
	}
	c, err := decodeCheckpoint(key, v)
	if err != nil {
		return err
	}
	return fmt.Errorf("partition %d has checkpoint %d in epoch %d, not %d in %d: %w",
		next.Partition, c.Offset, c.Epoch, prev.Offset, prev.Epoch, store.ErrConflict)
}

func putEntries(tx *bbolt.Tx, entries []store.Entry) error {
	rows := tx.Bucket([]byte(contracts.CollectionEntries))
	keys := identities(tx)
	// Keys come at the end of all, and rows at the end of their room's: what is left of a split seldom grows. 0.5 makes the
	// file a third larger where rooms are few, 0.9 where they are many (BenchmarkAppend).
	rows.FillPercent, keys.now.FillPercent = 0.7, 0.9
	rooms := tx.Bucket([]byte(contracts.CollectionRooms))
	c := rows.Cursor()
	for i := range entries {
		e := &entries[i]
		key := entryKey(e.Room, e.Seq)
		before, v := seekLast(c, key)
		if bytes.Equal(before, key) {
			row, err := decodeEntry(e.Room, e.Seq, v)
			if err != nil {
				return err
			}
			if !store.Same(&row, e) {
				return &store.TripwireError{Room: e.Room, Seq: e.Seq, Found: fmt.Sprintf("the record at offset %d in epoch %d", row.Offset, row.Epoch)}
			}
			continue
		}
		identity := e.Identity()
		if v := keys.get(identity); v != nil {
			return &store.TripwireError{Room: e.Room, Seq: e.Seq, Found: fmt.Sprintf("its key under seq %d", binary.BigEndian.Uint64(v))}
		}
		if _, known := keySeq(before, e.Room); !known { // else the room was listed with that row
			if err := list(rooms, e.Room); err != nil {
				return err
			}
		}
		if err := rows.Put(key, encodeEntry(e)); err != nil {
			return err
		}
		place := binary.BigEndian.AppendUint64(make([]byte, 0, seqSize+positionSize), uint64(e.Seq))
		if err := keys.now.Put(keyKey(identity), appendPosition(place, e.Position())); err != nil {
			return err
		}
	}
	return nil
}

// index finds entries by their identity.
type index struct {
	now    *bbolt.Bucket
	before *bbolt.Bucket // of format 1; nil in a newer file
}

func identities(tx *bbolt.Tx) index {
	return index{now: tx.Bucket([]byte(bucketKeys)), before: tx.Bucket([]byte(bucketIdentities))}
}

// get returns the seq and position of an entry, nil if there is none.
func (x index) get(id contracts.Identity) []byte {
	v := x.now.Get(keyKey(id))
	if v == nil && x.before != nil {
		v = x.before.Get(identityKey(id))
	}
	return v
}

// Checkpoint returns a partition's checkpoint.
func (s *Store) Checkpoint(_ context.Context, partition int32) (c contracts.Checkpoint, found bool, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		key := partitionKey(partition)
		v := tx.Bucket([]byte(contracts.CollectionCheckpoints)).Get(key)
		if v == nil {
			return nil
		}
		found = true
		c, err = decodeCheckpoint(key, v)
		return err
	})
	return c, found, err
}

// Checkpoints returns all checkpoints, ascending by partition.
func (s *Store) Checkpoints(context.Context) (all []contracts.Checkpoint, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(contracts.CollectionCheckpoints)).ForEach(func(key, v []byte) error {
			c, err := decodeCheckpoint(key, v)
			all = append(all, c)
			return err
		})
	})
	return all, err
}

// Lookup answers all queries in one transaction.
func (s *Store) Lookup(_ context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (foundEntries, foundHeads []roomlog.Found, err error) {
	foundEntries = make([]roomlog.Found, len(entries))
	foundHeads = make([]roomlog.Found, len(heads))
	err = s.db.View(func(tx *bbolt.Tx) error {
		keys := identities(tx)
		for i, q := range entries {
			v := keys.get(q.Identity)
			if v == nil {
				continue
			}
			if len(v) != seqSize+positionSize {
				return fmt.Errorf("look up key %s in room %s: %w", q.Identity.Key, q.Identity.Room, errDamaged)
			}
			if at := readPosition(v[seqSize:]); at.Less(q.Before) {
				foundEntries[i] = roomlog.Found{Seq: contracts.Seq(binary.BigEndian.Uint64(v)), Position: at}
			}
		}
		c := tx.Bucket([]byte(contracts.CollectionEntries)).Cursor()
		for i, q := range heads {
			if foundHeads[i], err = newestBelow(c, q); err != nil {
				return fmt.Errorf("look up the head of room %s: %w", q.Room, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return foundEntries, foundHeads, nil
}

// newestBelow walks down from the room's newest row to the first one below the bound: a room's positions rise with its
// seqs, and few rows are above a bound that anybody asks for.
func newestBelow(c *bbolt.Cursor, q roomlog.HeadQuery) (roomlog.Found, error) {
	k, v := seekLast(c, entryKey(q.Room, ^contracts.Seq(0)))
	for ; k != nil; k, v = c.Prev() {
		seq, ok := keySeq(k, q.Room)
		if !ok {
			break
		}
		at, err := valuePosition(v)
		if err != nil {
			return roomlog.Found{}, err
		}
		if at.Less(q.Before) {
			return roomlog.Found{Seq: seq, Position: at}, nil
		}
	}
	return roomlog.Found{}, nil
}

// Above looks at every row.
func (s *Store) Above(_ context.Context, partition int32, from contracts.Position) (above []store.Entry, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		claim := tx.Bucket([]byte(contracts.CollectionMeta)).Get([]byte("partitions"))
		if len(claim) != 4 {
			return fmt.Errorf("read the rows of partition %d: %w", partition, errDamaged)
		}
		partitions := int(binary.BigEndian.Uint32(claim))
		return tx.Bucket([]byte(contracts.CollectionEntries)).ForEach(func(k, v []byte) error {
			at, err := valuePosition(v)
			if err != nil {
				return fmt.Errorf("read the rows of partition %d: %w", partition, err)
			}
			if at.Less(from) {
				return nil
			}
			room := contracts.RoomID(k[:len(k)-1-seqSize])
			if contracts.LaneOf(room).Partition(partitions) != partition {
				return nil
			}
			seq, _ := keySeq(k, room)
			e, err := decodeEntry(room, seq, v)
			above = append(above, e)
			return err
		})
	})
	return above, err
}

// seekLast moves c to the last key that is not above key.
func seekLast(c *bbolt.Cursor, key []byte) (k, v []byte) {
	k, v = c.Seek(key)
	switch {
	case k == nil:
		return c.Last()
	case bytes.Equal(k, key):
		return k, v
	default:
		return c.Prev()
	}
}

// Page returns entries of a room, ascending.
func (s *Store) Page(_ context.Context, room contracts.RoomID, from, to contracts.Seq, limit int, newest bool) (page []store.Entry, err error) {
	if limit <= 0 || from > to {
		return nil, nil
	}
	err = s.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(contracts.CollectionEntries)).Cursor()
		k, v := c.Seek(entryKey(room, from))
		step := c.Next
		if newest {
			k, v = seekLast(c, entryKey(room, to))
			step = c.Prev
		}
		for ; k != nil && len(page) < limit; k, v = step() {
			seq, ok := keySeq(k, room)
			if !ok || seq < from || seq > to {
				break
			}
			e, err := decodeEntry(room, seq, v)
			if err != nil {
				return err
			}
			page = append(page, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if newest {
		slices.Reverse(page)
	}
	return page, nil
}
