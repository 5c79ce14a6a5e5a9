package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
)

// Store is what the dispatcher needs of a store. It only reads.
type Store interface {
	// Checkpoint returns a partition's checkpoint, if there is one; Checkpoints returns all there are.
	Checkpoint(ctx context.Context, partition int32) (c contracts.Checkpoint, found bool, err error)
	Checkpoints(ctx context.Context) ([]contracts.Checkpoint, error)
	// Lookup answers the queries, in their order, from the primary.
	Lookup(ctx context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (foundEntries, foundHeads []roomlog.Found, err error)
}

// Config bounds the dispatcher's work.
type Config struct {
	// Names builds the subjects of the questions. Defaults to those under "parley".
	Names contracts.Names
	// Partitions is the log's partition count. Defaults to contracts.DefaultPartitions.
	Partitions int
	// SessionTimeout is the consumer group's: after half of it without a heartbeat nothing is answered and nothing is
	// published. Defaults to 10 s.
	SessionTimeout time.Duration
	// PollWait is how long one poll waits for records. Defaults to 250 ms.
	PollWait time.Duration
	// HeadsEvery is the pause between two heads messages of a lane, and between two commits. Defaults to 1 s.
	HeadsEvery time.Duration
	// PublishTimeout bounds one publication in Redis. Defaults to 2 s.
	PublishTimeout time.Duration
	// StoreTimeout bounds one question to the store and one read of the log. Defaults to 5 s.
	StoreTimeout time.Duration
	// RingBytes bounds the entries' encodings that are kept in memory, in all partitions together. Defaults to 64 MiB.
	RingBytes int
	// WaitingBytes bounds the records that wait for the store, in all partitions together, with an allowance for each.
	// Above it, a partition in which something waits reads no further until there is room. Defaults to 64 MiB.
	WaitingBytes int
	// QueueBytes bounds the entries of one partition that wait to be published, and those of all that wait for the cache of
	// one server. Above it the older ones are skipped: heads and pulls repair it. Defaults to 8 MiB.
	QueueBytes int
	// Questions bounds the questions that wait for something. Defaults to 8,192.
	Questions int
	// Limits bounds each partition's sequencer. Defaults to roomlog's.
	Limits roomlog.Limits
}

func (c Config) withDefaults() Config {
	or := func(value *int, fallback int) {
		if *value == 0 {
			*value = fallback
		}
	}
	orTime := func(value *time.Duration, fallback time.Duration) {
		if *value == 0 {
			*value = fallback
		}
	}
	or(&c.Partitions, contracts.DefaultPartitions)
	orTime(&c.SessionTimeout, 10*time.Second)
	orTime(&c.PollWait, 250*time.Millisecond)
	orTime(&c.HeadsEvery, time.Second)
	orTime(&c.PublishTimeout, 2*time.Second)
	orTime(&c.StoreTimeout, 5*time.Second)
	or(&c.RingBytes, 64<<20)
	or(&c.WaitingBytes, 64<<20)
	or(&c.QueueBytes, 8<<20)
	or(&c.Questions, 8192)
	return c
}

// Validate reports the first setting that cannot work.
func (c Config) Validate() error {
	switch {
	case c.Partitions != 0 && !contracts.ValidPartitions(c.Partitions):
		return fmt.Errorf("dispatcher: %d partitions: want a power of two of at most %d", c.Partitions, contracts.Lanes)
	case c.SessionTimeout < 0, c.PollWait < 0, c.HeadsEvery < 0, c.PublishTimeout < 0, c.StoreTimeout < 0,
		c.RingBytes < 0, c.WaitingBytes < 0, c.QueueBytes < 0, c.Questions < 0:
		return errors.New("dispatcher: a limit below zero")
	}
	return nil
}

// Deps is what the dispatcher works with. All are needed except Registerer.
type Deps struct {
	Log journal.Log
	// Consume joins the consumer group Names.DispatchGroup on behalf of an owner.
	Consume   func(journal.Owner) (journal.Consumer, error)
	Store     Store
	Recent    recent.Cache
	Publisher fanout.Publisher
	Server    rpc.Server
	Logger    *slog.Logger
	// Registerer takes the metrics while Run runs; nil for none.
	Registerer prometheus.Registerer
}
