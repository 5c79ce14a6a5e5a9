package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/mongo"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/persist/store"
)

// deadCmd looks after the dead letters: records of the log that the persister could not read.
type deadCmd struct {
	List   deadListCmd   `cmd:"" help:"List the records of the log that nobody could read."`
	Replay deadReplayCmd `cmd:"" help:"Append those to the log again that this release can read; each is numbered and deduplicated like a new one."`
}

type deadListCmd struct {
	servers `embed:""`
	process `embed:""`
}

type deadReplayCmd struct {
	servers `embed:""`
	process `embed:""`
}

// Validate is called by the command line's parser.
func (c *deadListCmd) Validate() error { return c.servers.Validate() }

// Validate is called by the command line's parser.
func (c *deadReplayCmd) Validate() error { return c.servers.Validate() }

// Run lists them, one line each.
func (c *deadListCmd) Run(ctx context.Context, s streams) error {
	graves, err := c.graves(ctx, "dead list", map[string]string{"MONGODB_URI": c.MongoURI})
	if err != nil {
		return err
	}
	defer func() { _ = graves.Close() }()
	n := 0
	err = sink.EachDead(ctx, graves, c.Partitions, func(d store.DeadLetter) error {
		n++
		_, err := fmt.Fprintf(s.out, "partition %d epoch %d offset %d: %s; %d bytes %.60q\n",
			d.Partition, d.Position.Epoch, d.Position.Offset, d.Reason, len(d.Value), d.Value)
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "%d dead letters\n", n)
	return err
}

// Run replays what can be read and says what became of each.
func (c *deadReplayCmd) Run(ctx context.Context, s streams) (err error) {
	graves, err := c.graves(ctx, "dead replay", map[string]string{"MONGODB_URI": c.MongoURI, "KAFKA_BROKERS": strings.Join(c.KafkaBrokers, ",")})
	if err != nil {
		return err
	}
	defer func() { _ = graves.Close() }()
	cfg := c.kafka()
	cfg.Names, cfg.Partitions = c.names(), c.Partitions
	log, err := journal.NewWriter(cfg, c.logger(s.err))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close(ctx)) }()
	replayed, left := 0, 0
	err = sink.EachDead(ctx, graves, c.Partitions, func(d store.DeadLetter) error {
		record, err := sink.Replay(ctx, graves, log, c.Partitions, d)
		switch {
		case errors.Is(err, contracts.ErrUndecodable), errors.Is(err, contracts.ErrNewerVersion):
			left++
			_, err = fmt.Fprintf(s.out, "left      partition %d epoch %d offset %d: %v\n", d.Partition, d.Position.Epoch, d.Position.Offset, err)
			return err
		case err != nil:
			return err
		}
		replayed++
		_, err = fmt.Fprintf(s.out, "replayed  partition %d epoch %d offset %d: key %s in room %s\n",
			d.Partition, d.Position.Epoch, d.Position.Offset, record.Key, record.Room)
		return err
	})
	if err != nil {
		return fmt.Errorf("%d replayed, %d left so far: %w", replayed, left, err)
	}
	_, err = fmt.Fprintf(s.out, "%d replayed, %d left\n", replayed, left)
	return err
}

// gravesTimeout is how long a person waits for a database that does not answer.
const gravesTimeout = 10 * time.Second

// graves opens the store, whose log must have so many partitions.
func (s *servers) graves(ctx context.Context, command string, needs map[string]string) (store.Store, error) {
	if err := missing(command, needs); err != nil {
		return nil, err
	}
	st, err := mongo.Open(ctx, mongo.Config{URI: s.MongoURI, Names: s.names()})
	if err != nil {
		return nil, err
	}
	try, cancel := context.WithTimeout(ctx, gravesTimeout)
	defer cancel()
	if err := st.Prepare(try, s.Partitions); err != nil {
		_ = st.Close()
		if try.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("the MongoDB that MONGODB_URI names does not answer within %v: %w", gravesTimeout, err)
		}
		return nil, err
	}
	return st, nil
}
