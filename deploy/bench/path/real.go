package path

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/mongo"
)

// linger is the roles' on a real Kafka (deploy/parley).
const linger = time.Millisecond

// Real uses the servers that the roles' variables name, under names of its own; found is false unless all are set. Topic
// and databases go at the end, what is in Redis a day later.
func Real(getenv func(string) string) (servers Servers, found bool) {
	nats, redis, kafka, uri := getenv("NATS_URL"), getenv("REDIS_URL"), getenv("KAFKA_BROKERS"), getenv("MONGODB_URI")
	if nats == "" || redis == "" || kafka == "" || uri == "" {
		return nil, false
	}
	return func(ctx context.Context) (w *world, err error) {
		key, err := contracts.NewKey()
		if err != nil {
			return nil, err
		}
		w = newWorld("bench-"+key.String()[24:], contracts.DefaultPartitions)
		defer func() {
			if err != nil {
				_ = w.close()
			}
		}()
		w.set.NATS.URL, w.set.Redis.URL = nats, redis
		w.set.Kafka = journal.Config{Brokers: strings.Split(kafka, ","), Linger: linger}
		w.later(w.dropTopic)
		concern := writeconcern.Majority()
		journaled := true
		concern.Journal = &journaled
		client, err := driver.Connect(options.Client().ApplyURI(uri).SetWriteConcern(concern)) // as persist/mongo does
		if err != nil {
			return nil, fmt.Errorf("make a bare client: %w", err)
		}
		w.later(func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			return errors.Join(client.Database(w.set.Names.Database()).Drop(ctx), client.Database(bareName(w)).Drop(ctx), client.Disconnect(ctx))
		})
		st, err := mongo.Open(ctx, mongo.Config{URI: uri, Database: w.set.Names.Database()})
		if err != nil {
			return nil, err
		}
		w.bare = func(ctx context.Context, _ []document) (time.Duration, error) { return bareMongo(ctx, w, uri, client) }
		return w, w.prepare(ctx, st)
	}, true
}

func bareName(w *world) string { return w.set.Names.Database() + "-bare" }

func (w *world) dropTopic() error {
	client, err := kgo.NewClient(kgo.SeedBrokers(w.set.Kafka.Brokers...), kgo.DisableClientMetrics())
	if err != nil {
		return fmt.Errorf("make a client to delete the topic: %w", err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = kadm.NewClient(client).DeleteTopic(ctx, w.set.Names.LogTopic())
	return err
}

// bareMongo inserts the documents that the persister made into another database with the same indexes, 500 at a time for
// each partition, as the persister does.
func bareMongo(ctx context.Context, w *world, uri string, client *driver.Client) (time.Duration, error) {
	cur, err := client.Database(w.set.Names.Database()).Collection(contracts.CollectionEntries).Find(ctx, bson.D{}, options.Find().SetBatchSize(1000))
	if err != nil {
		return 0, fmt.Errorf("read what is stored: %w", err)
	}
	var all []bson.Raw
	if err := cur.All(ctx, &all); err != nil {
		return 0, fmt.Errorf("read what is stored: %w", err)
	}
	perPartition := make(map[string][]bson.Raw)
	for _, doc := range all {
		place, ok := doc.Lookup("place").StringValueOK()
		if !ok {
			return 0, errors.New("read what is stored: a document has no place")
		}
		partition, _, _ := strings.Cut(place, ":")
		perPartition[partition] = append(perPartition[partition], doc)
	}
	layout, err := mongo.Open(ctx, mongo.Config{URI: uri, Database: bareName(w)})
	if err != nil {
		return 0, err
	}
	if err := errors.Join(layout.Prepare(ctx, w.set.Partitions), layout.Close()); err != nil {
		return 0, err
	}
	to := client.Database(bareName(w)).Collection(contracts.CollectionEntries)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	began := time.Now()
	for _, docs := range perPartition {
		wg.Go(func() {
			for from := 0; from < len(docs); from += bulk {
				_, err := to.InsertMany(ctx, docs[from:min(from+bulk, len(docs))], options.InsertMany().SetOrdered(false))
				if err != nil {
					mu.Lock()
					failed = errors.Join(failed, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began), failed
}
