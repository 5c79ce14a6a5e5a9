package chaos

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// dumper reads log and store themselves, past Parley and past the proxies.
type dumper struct {
	names contracts.Names
	kafka string // address
	log   *kgo.Client
	db    *driver.Database
	file  string // for what is dumped
	out   *history.Writer
}

func newDumper(p *plant, file string) (*dumper, error) {
	log, err := kgo.NewClient(kgo.SeedBrokers(p.at[kafka]))
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	client, err := driver.Connect(options.Client().ApplyURI(p.mongo).SetServerSelectionTimeout(10 * time.Second))
	if err != nil {
		log.Close()
		return nil, fmt.Errorf("read the store: %w", err)
	}
	return &dumper{names: p.names, kafka: p.at[kafka], log: log, db: client.Database(p.names.Database()), file: file}, nil
}

func (d *dumper) close(ctx context.Context) error {
	d.log.Close()
	return d.db.Client().Disconnect(context.WithoutCancel(ctx))
}

// bounds are where a partition begins and ends, and what the store says of it.
type bounds struct {
	start, end int64
	epoch      contracts.Epoch
	checkpoint int64 // C; 0 where there is none
}

func (d *dumper) bounds(ctx context.Context) (map[int32]bounds, error) {
	admin := kadm.NewClient(d.log)
	starts, err := admin.ListStartOffsets(ctx, d.names.LogTopic())
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask where the log begins: %w", err)
	}
	ends, err := admin.ListEndOffsets(ctx, d.names.LogTopic())
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask where the log ends: %w", err)
	}
	all := make(map[int32]bounds)
	starts.Each(func(o kadm.ListedOffset) { all[o.Partition] = bounds{start: o.Offset} })
	ends.Each(func(o kadm.ListedOffset) {
		b := all[o.Partition]
		b.end = o.Offset
		all[o.Partition] = b
	})
	cursor, err := d.db.Collection(contracts.CollectionCheckpoints).Find(ctx, bson.D{})
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	var docs []struct {
		Partition int32 `bson:"_id"`
		Epoch     int64 `bson:"epoch"`
		Offset    int64 `bson:"offset"`
	}
	if err := cursor.All(ctx, &docs); err != nil {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	for _, doc := range docs {
		b := all[doc.Partition]
		b.epoch, b.checkpoint = contracts.Epoch(doc.Epoch), doc.Offset
		all[doc.Partition] = b
	}
	return all, nil
}

// settled waits until everything in the log is stored and returns the bounds of then. The error says what is not.
func (d *dumper) settled(ctx context.Context) (map[int32]bounds, error) {
	for {
		all, err := d.bounds(ctx)
		behind := 0
		for partition, b := range all {
			if b.end > b.start && b.checkpoint != b.end {
				behind++
				err = errors.Join(err, fmt.Errorf("partition %d ends at %d, and C is %d", partition, b.end, b.checkpoint))
			}
		}
		if err == nil || !wait(ctx, 500*time.Millisecond) {
			return all, err
		}
	}
}

// errMoved says that the log was written to or trimmed while it was dumped: log and store were not read as of one moment.
var errMoved = errors.New("the log has moved meanwhile")

// moved reports whether a partition begins or ends elsewhere than before.
func moved(before, now map[int32]bounds) bool {
	return !maps.EqualFunc(before, now, func(a, b bounds) bool { return a.start == b.start && a.end == b.end })
}

// dump writes everything that log and store hold within the bounds, those of now if there are none, and returns the rooms' newest
// seqs. It begins the file anew.
func (d *dumper) dump(ctx context.Context, all map[int32]bounds) (heads map[contracts.RoomID]contracts.Seq, err error) {
	if all == nil {
		if all, err = d.bounds(ctx); err != nil {
			return nil, err
		}
	}
	f, err := os.Create(d.file)
	if err != nil {
		return nil, fmt.Errorf("write the dump: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	d.out = history.NewWriter(f)
	heads, err = d.within(ctx, all)
	if err := errors.Join(err, d.out.Flush()); err != nil {
		return heads, err
	}
	now, err := d.bounds(ctx)
	if err == nil && moved(all, now) {
		err = errMoved
	}
	return heads, err
}

func (d *dumper) within(ctx context.Context, all map[int32]bounds) (map[contracts.RoomID]contracts.Seq, error) {
	for partition, b := range all {
		d.out.Add(history.Event{Kind: history.Range, Partition: partition, Epoch: b.epoch, Start: b.start, End: b.end})
		if b.epoch != 0 {
			d.out.Add(history.Event{Kind: history.Checkpoint, Partition: partition, Epoch: b.epoch, Offset: b.checkpoint})
		}
	}
	if err := d.records(ctx, all); err != nil {
		return nil, err
	}
	if err := d.letters(ctx); err != nil {
		return nil, err
	}
	return d.rows(ctx, len(all))
}

func (d *dumper) records(ctx context.Context, all map[int32]bounds) error {
	from := make(map[int32]kgo.Offset)
	left := make(map[int32]int64)
	for partition, b := range all {
		if b.end > b.start {
			from[partition], left[partition] = kgo.NewOffset().At(b.start), b.end
		}
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(d.kafka), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{d.names.LogTopic(): from}))
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	defer c.Close()
	for len(left) > 0 {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if end, ok := left[r.Partition]; ok && r.Offset < end {
				d.record(r, len(all))
				if r.Offset == end-1 {
					delete(left, r.Partition)
				}
			}
		})
	}
	return nil
}

func (d *dumper) record(r *kgo.Record, partitions int) {
	hash := contracts.HashRecord(r.Value)
	e := history.Event{Kind: history.Record, Partition: r.Partition, Offset: r.Offset, Record: hex.EncodeToString(hash[:])}
	rec, err := contracts.DecodeRecord(r.Value, r.Partition, partitions)
	if err != nil {
		e.Dead = true
	} else {
		e.Room, e.Sender, e.Key, e.Hash = rec.Room, rec.From.ID, rec.Key, history.HashBody(rec.Text)
	}
	d.out.Add(e)
}

func (d *dumper) letters(ctx context.Context) error {
	cursor, err := d.db.Collection(contracts.CollectionDead).Find(ctx, bson.D{})
	if err != nil {
		return fmt.Errorf("read the dead letters: %w", err)
	}
	var docs []struct {
		Partition int32       `bson:"partition"`
		Epoch     int64       `bson:"epoch"`
		Offset    int64       `bson:"offset"`
		Value     bson.Binary `bson:"value"`
	}
	if err := cursor.All(ctx, &docs); err != nil {
		return fmt.Errorf("read the dead letters: %w", err)
	}
	for _, doc := range docs {
		hash := contracts.HashRecord(doc.Value.Data)
		d.out.Add(history.Event{
			Kind: history.Letter, Partition: doc.Partition, Epoch: contracts.Epoch(doc.Epoch), Offset: doc.Offset, Record: hex.EncodeToString(hash[:]),
		})
	}
	return nil
}

func (d *dumper) rows(ctx context.Context, partitions int) (map[contracts.RoomID]contracts.Seq, error) {
	cursor, err := d.db.Collection(contracts.CollectionEntries).Find(ctx, bson.D{}, options.Find().SetBatchSize(5000))
	if err != nil {
		return nil, fmt.Errorf("read the store: %w", err)
	}
	defer func() { _ = cursor.Close(ctx) }()
	heads := make(map[contracts.RoomID]contracts.Seq)
	for cursor.Next(ctx) {
		var row struct {
			ID     string      `bson:"_id"`
			Room   string      `bson:"room"`
			Seq    int64       `bson:"seq"`
			Epoch  int64       `bson:"epoch"`
			Offset int64       `bson:"offset"`
			Sender string      `bson:"sender"`
			Key    string      `bson:"key"`
			Hash   bson.Binary `bson:"hash"`
			Text   string      `bson:"text"`
		}
		if err := cursor.Decode(&row); err != nil {
			return nil, fmt.Errorf("read a row: %w", err)
		}
		key, err := contracts.ParseKey(row.Key)
		if err != nil {
			return nil, fmt.Errorf("read row %s: %w", row.ID, err)
		}
		room, seq := contracts.RoomID(row.Room), contracts.Seq(row.Seq)
		heads[room] = max(heads[room], seq)
		d.out.Add(history.Event{
			Kind: history.Row, Partition: contracts.LaneOf(room).Partition(partitions), Offset: row.Offset, Epoch: contracts.Epoch(row.Epoch),
			Room: room, Seq: seq, Sender: contracts.UserID(row.Sender), Key: key, Hash: history.HashBody(row.Text), Record: hex.EncodeToString(row.Hash.Data),
		})
	}
	if err := cursor.Err(); err != nil {
		return nil, fmt.Errorf("read the store: %w", err)
	}
	return heads, nil
}
