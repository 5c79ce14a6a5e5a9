// Package bolt is the store on bbolt, one file on the local disk: for `parley dev` and small installations.
//
// Buckets and keys (integers big-endian, so that the order of the bytes is the order of the numbers; no id holds 0x00):
//
//	entries      room 00 seq           → the entry, codec.go
//	keys         key room 00 sender    → seq, position
//	identities   room 00 sender 00 key → seq, position: what format 1 had in place of keys, and is only read
//	checkpoints  partition             → the checkpoint
//	rooms        room                  → kind and name
//	members      user 00 room          → the person
//	dead         partition position    → the dead letter
//	meta         "format", "partitions"
package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/store"
)

// ErrLocked: another process has the file open.
var ErrLocked = errors.New("the store's file is in use by another process")

// format is the version of the layout. A file of format 1 becomes one of this; any other is refused.
const format = 2

// Indexes of the entries by identity. A key begins with the time, so those of new entries are neighbours and share a few
// pages, whatever their rooms; of bucketIdentities, which new files lack, each touched a page of its own.
const (
	bucketKeys       = "keys"
	bucketIdentities = "identities"
)

var buckets = []string{
	contracts.CollectionEntries, bucketKeys, contracts.CollectionCheckpoints, contracts.CollectionMeta,
	contracts.CollectionDead, contracts.CollectionMembers, contracts.CollectionRooms,
}

// Config says where the file is.
type Config struct {
	// Path of the file; its directory is created. Required.
	Path string
	// Sync makes each write wait for the disk, so that it survives a power cut. Defaults to false: it survives the end of
	// the process, by kill -9 too.
	Sync bool
	// Gather is how long after a commit the next one waits where it is for small appends alone, so that those of many
	// partitions share it: a commit writes whole pages, whose number grows far slower than that of the entries in it.
	// Memberships, which somebody waits for, wait a quarter of it, and so does who waits with them. Defaults to 0: they wait
	// for nobody.
	Gather time.Duration
}

// Store is a store.Store in one file. It is safe for concurrent use; Close closes it.
type Store struct {
	db *bbolt.DB

	queue struct {
		sync.Mutex // guards what follows
		waiting    []*write
		waits      time.Duration // the shortest of theirs
	}
	turn   sync.Mutex    // held by the one who commits; see commit
	last   time.Time     // when the last commit ended; guarded by turn
	sooner chan struct{} // gets a token when queue.waits has become shorter; one too many does no harm
	pause  time.Duration // Config.Gather
}

var _ store.Store = (*Store)(nil)

// Open opens the file, or creates it. It fails at once with ErrLocked where somebody else has it open.
func Open(cfg Config) (*Store, error) {
	if cfg.Path == "" {
		return nil, errors.New("open store: no path")
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o755); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	db, err := bbolt.Open(cfg.Path, 0o600, &bbolt.Options{
		Timeout:      time.Nanosecond, // one try for the lock
		NoSync:       !cfg.Sync,
		FreelistType: bbolt.FreelistMapType,
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open store %s: %w", cfg.Path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", cfg.Path, err)
	}
	s := &Store{db: db, sooner: make(chan struct{}, 1), pause: cfg.Gather}
	if err := db.Update(layOut); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open store %s: %w", cfg.Path, err)
	}
	return s, nil
}

func layOut(tx *bbolt.Tx) error {
	for _, name := range buckets {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	meta := tx.Bucket([]byte(contracts.CollectionMeta))
	if v := meta.Get([]byte("format")); v != nil {
		switch got := binary.BigEndian.Uint32(v); got {
		case format:
			return nil
		case 1:
		default:
			return fmt.Errorf("the file has format %d, this release reads %d", got, format)
		}
	}
	return meta.Put([]byte("format"), binary.BigEndian.AppendUint32(nil, format))
}

// Prepare claims the file for a log of so many partitions.
func (s *Store) Prepare(ctx context.Context, partitions int) error {
	return s.write(ctx, func(tx *bbolt.Tx) error {
		meta := tx.Bucket([]byte(contracts.CollectionMeta))
		if v := meta.Get([]byte("partitions")); v != nil {
			if got := binary.BigEndian.Uint32(v); got != uint32(partitions) {
				return fmt.Errorf("%w: it has %d, not %d", store.ErrPartitions, got, partitions)
			}
			return nil
		}
		return meta.Put([]byte("partitions"), binary.BigEndian.AppendUint32(nil, uint32(partitions)))
	})
}

// Ping implements store.Store: it tells whether the file is open.
func (s *Store) Ping(context.Context) error {
	return s.db.View(func(*bbolt.Tx) error { return nil })
}

// Close waits for the transactions under way and closes the file.
func (s *Store) Close() error { return s.db.Close() }

// gatherBelow is how many rows a write has at least that waits for no others.
const gatherBelow = 256

// write is one change that waits for a transaction.
type write struct {
	apply func(*bbolt.Tx) error
	waits time.Duration // for others since the last commit; 0: in a hurry
	err   error
	done  bool // guarded by Store.turn
}

// patience is how long so many rows may wait for others.
func (s *Store) patience(rows int) time.Duration {
	if rows >= gatherBelow {
		return 0
	}
	return s.pause
}

// write applies a change and returns when it is committed.
func (s *Store) write(ctx context.Context, apply func(*bbolt.Tx) error) error {
	return s.commit(ctx, &write{apply: apply})
}

// commit returns when a change is committed. Changes that wait at the same time share one transaction,
// which costs one sync: whoever gets the turn commits for all that wait. It is held across the commit on purpose, as
// bbolt itself admits one writer at a time. An error of the port's own kinds concerns that change alone, and what it
// has put stays; any other fails the transaction and everybody in it.
func (s *Store) commit(ctx context.Context, w *write) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.queue.Lock()
	s.queue.waiting = append(s.queue.waiting, w)
	if len(s.queue.waiting) == 1 || w.waits < s.queue.waits {
		s.queue.waits = w.waits
		select {
		case s.sooner <- struct{}{}:
		default:
		}
	}
	s.queue.Unlock()

	s.turn.Lock()
	defer s.turn.Unlock()
	if w.done {
		return w.err
	}
	s.gather(ctx)
	s.queue.Lock()
	group := s.queue.waiting
	s.queue.waiting = nil
	s.queue.Unlock()
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for _, w := range group {
			if w.err = w.apply(tx); w.err != nil && !ofPort(w.err) {
				return w.err
			}
		}
		return nil
	})
	s.last = time.Now()
	for _, w := range group {
		w.done = true
		if err != nil {
			w.err = err
		}
	}
	return w.err
}

// gather lets others come, until it is time for the first of those that wait. The turn is held.
func (s *Store) gather(ctx context.Context) {
	for ctx.Err() == nil { // with it ended the change is in the queue nevertheless, and is written now
		s.queue.Lock()
		waits := s.queue.waits
		s.queue.Unlock()
		left := waits - time.Since(s.last)
		if left <= 0 {
			return
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-s.sooner:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func ofPort(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrTripwire) || errors.Is(err, store.ErrPartitions)
}
