package bolt

import (
	"encoding/binary"
	"time"

	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley/contracts"
)

// Waiting is how many changes wait for a transaction.
func (s *Store) Waiting() int {
	s.queue.Lock()
	defer s.queue.Unlock()
	return len(s.queue.waiting)
}

// Transactions is how many changes of the file there were.
func (s *Store) Transactions() (n int, err error) {
	tx, err := s.db.Begin(false)
	if err != nil {
		return 0, err
	}
	n = int(tx.ID())
	return n, tx.Rollback()
}

// CommittedAt makes it look as if the last commit had ended then.
func (s *Store) CommittedAt(then time.Time) {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.last = then
}

// MakeFormat1 gives the file what a release wrote that had format 1, for entries of one room and sender.
func (s *Store) MakeFormat1(room contracts.RoomID, sender contracts.UserID) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		before, err := tx.CreateBucket([]byte(bucketIdentities))
		if err != nil {
			return err
		}
		err = tx.Bucket([]byte(bucketKeys)).ForEach(func(k, v []byte) error {
			return before.Put(identityKey(contracts.Identity{Room: room, Sender: sender, Key: contracts.Key(k[:16])}), v)
		})
		if err != nil {
			return err
		}
		if err := tx.DeleteBucket([]byte(bucketKeys)); err != nil {
			return err
		}
		return tx.Bucket([]byte(contracts.CollectionMeta)).Put([]byte("format"), binary.BigEndian.AppendUint32(nil, 1))
	})
}
