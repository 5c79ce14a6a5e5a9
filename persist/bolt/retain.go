package bolt

import (
	"context"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/store"
)

// Blank walks room by room, each from its first row to the first one that is not old. A place is a row's key.
func (s *Store) Blank(ctx context.Context, old store.Old, from string, most int) (swept store.Swept, err error) {
	var stale [][]byte // keys
	err = s.db.View(func(tx *bbolt.Tx) error {
		claim := tx.Bucket([]byte(contracts.CollectionMeta)).Get([]byte("partitions"))
		if len(claim) != 4 {
			return fmt.Errorf("blank rows of partition %d: %w", old.Partition, errDamaged)
		}
		partitions := int(binary.BigEndian.Uint32(claim))
		c := tx.Bucket([]byte(contracts.CollectionEntries)).Cursor()
		k, v := c.Seek([]byte(from))
		for ; k != nil && most > 0; most-- {
			room := contracts.RoomID(k[:len(k)-1-seqSize])
			seq, _ := keySeq(k, room)
			next := contracts.LaneOf(room).Partition(partitions) == old.Partition
			if next {
				e, err := decodeEntry(room, seq, v)
				if err != nil {
					return err
				}
				next = e.Position().Less(old.Below) && e.Stamp < old.Before
				if next && e.Kind == contracts.KindMessage && e.Text != "" {
					stale = append(stale, append([]byte(nil), k...))
				}
			}
			if next {
				k, v = c.Next()
			} else {
				k, v = c.Seek(append([]byte(room), 1)) // behind all rows of this room, before the next one's
			}
		}
		swept.Next, swept.Done = string(k), k == nil
		return nil
	})
	if err != nil || len(stale) == 0 {
		return swept, err
	}
	err = s.commit(ctx, &write{waits: s.patience(len(stale)), apply: func(tx *bbolt.Tx) error {
		rows := tx.Bucket([]byte(contracts.CollectionEntries))
		for _, k := range stale {
			room := contracts.RoomID(k[:len(k)-1-seqSize])
			seq, _ := keySeq(k, room)
			e, err := decodeEntry(room, seq, rows.Get(k))
			if err != nil {
				return err
			}
			e.Blank()
			if err := rows.Put(k, encodeEntry(&e)); err != nil {
				return err
			}
		}
		return nil
	}})
	if err != nil {
		return store.Swept{}, fmt.Errorf("blank %d rows of partition %d: %w", len(stale), old.Partition, err)
	}
	swept.Blanked = len(stale)
	return swept, nil
}
