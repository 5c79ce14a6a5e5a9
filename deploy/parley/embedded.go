//go:build !lean

package main

import (
	"path/filepath"
	"time"

	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/persist/bolt"
)

// storeGather is how long dev's store gathers small appends: far less than history needs to notice.
const storeGather = 40 * time.Millisecond

// embed starts, inside this process, each server that no URL was given for.
func (d *dev) embed(dir string) error {
	if d.NATSURL == "" {
		start := embedded.StartNATS
		if d.Write != "" {
			start = embedded.ListenNATS
		}
		n, err := start()
		if err != nil {
			return err
		}
		d.later(n.Close)
		d.set.NATS.InProcess, d.natsURL = n, n.URL()
	}
	if d.RedisURL == "" {
		r, err := embedded.StartRedis()
		if err != nil {
			return err
		}
		d.later(r.Close)
		d.set.Redis = fanout.Config{URL: r.URL(), Dial: r.Dial, Publisher: r.Publisher(d.set.Names)}
		d.set.Recent = recent.Config{Add: r.Add}
	}
	if len(d.KafkaBrokers) == 0 {
		cfg := embedded.KafkaConfig{Dir: filepath.Join(dir, "log"), Sync: d.Fsync, Partitions: d.set.Partitions, Names: d.set.Names, Log: d.log}
		if d.Ephemeral {
			cfg.Dir = ""
		}
		k, err := embedded.StartKafka(cfg)
		if err != nil {
			return err
		}
		d.later(func() error { k.Close(); return nil })
		d.set.Kafka = journal.Config{Brokers: k.Addrs(), Dial: k.Dial, Class: k.Class()}
	}
	if d.MongoURI == "" {
		st, err := bolt.Open(bolt.Config{Path: filepath.Join(dir, "store.db"), Sync: d.Fsync, Gather: storeGather})
		if err != nil {
			return err
		}
		d.useStore(st)
	}
	return nil
}
