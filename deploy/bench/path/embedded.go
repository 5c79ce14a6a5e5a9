//go:build !lean

package path

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/bolt"
)

// gather is how long dev's store gathers small appends (deploy/parley).
const gather = 40 * time.Millisecond

// Embedded starts the servers of `parley dev` in this process, with their data in a temporary directory.
func Embedded(ctx context.Context) (w *world, err error) {
	w = newWorld("parley", contracts.EmbeddedPartitions)
	defer func() {
		if err != nil {
			_ = w.close()
		}
	}()
	dir, err := os.MkdirTemp("", "parley-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	w.later(func() error { return os.RemoveAll(dir) })
	n, err := embedded.StartNATS()
	if err != nil {
		return nil, err
	}
	w.later(n.Close)
	w.set.NATS.InProcess = n
	r, err := embedded.StartRedis()
	if err != nil {
		return nil, err
	}
	w.later(r.Close)
	w.set.Redis = fanout.Config{URL: r.URL(), Dial: r.Dial, Publisher: r.Publisher(w.set.Names)}
	w.set.Recent = recent.Config{Add: r.Add}
	k, err := embedded.StartKafka(embedded.KafkaConfig{Dir: filepath.Join(dir, "log"), Partitions: w.set.Partitions, Names: w.set.Names, Log: w.set.Log})
	if err != nil {
		return nil, err
	}
	w.later(func() error { k.Close(); return nil })
	w.set.Kafka = journal.Config{Brokers: k.Addrs(), Dial: k.Dial, Class: k.Class()}
	st, err := bolt.Open(bolt.Config{Path: filepath.Join(dir, "store.db"), Gather: gather})
	if err != nil {
		return nil, err
	}
	w.bare = func(_ context.Context, documents []document) (time.Duration, error) {
		return bareBolt(filepath.Join(dir, "bare.db"), documents, bulk*w.set.Partitions)
	}
	return w, w.prepare(ctx, st)
}

// bareBolt puts documents into a file, with an index of who sent them under which key, so many in a transaction: as many as
// the persister's partitions bring at once.
func bareBolt(path string, documents []document, atOnce int) (time.Duration, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return 0, fmt.Errorf("open a bare file: %w", err)
	}
	defer func() { _ = db.Close() }()
	began := time.Now()
	for from := 0; from < len(documents); from += atOnce {
		err := db.Update(func(tx *bbolt.Tx) error {
			rows, err := tx.CreateBucketIfNotExists([]byte("rows"))
			if err != nil {
				return err
			}
			identities, err := tx.CreateBucketIfNotExists([]byte("identities"))
			if err != nil {
				return err
			}
			for i := from; i < min(from+atOnce, len(documents)); i++ {
				d := &documents[i]
				seq := binary.BigEndian.AppendUint64(nil, uint64(i/rooms+1))
				if err := rows.Put(append([]byte(d.Room+"\x00"), seq...), d.value); err != nil {
					return err
				}
				identity := append([]byte(string(d.Room)+"\x00"+string(d.From.ID)+"\x00"), d.Key[:]...)
				if err := identities.Put(identity, append(seq, seq...)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("write to a bare file: %w", err)
		}
	}
	return time.Since(began), nil
}
