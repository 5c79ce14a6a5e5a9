// Package mongo is the store on MongoDB.
//
// Documents (ids hold no colon; seq has 16 digits, so that the order of the strings is the order of the numbers):
//
//	entries      _id "room:seq"                room, seq, epoch, offset, sender, key, hash, …; rows.go
//	             unique identity "room:sender:key"; indexed place "partition:epoch:offset", zeros in front
//	checkpoints  _id partition                 epoch, offset, key_time, last, sequencer
//	rooms        _id room                      kind, name; seq, which no entry of the room is above
//	members      _id "user:room"               name, guest
//	dead         _id "partition:epoch:offset"  reason, value
//	meta         _id "log"                     format, partitions
//
// It asks for nothing that a stand-in lacks: no transactions, change streams, text indexes or pipeline updates. What must
// be fast asks for one field of a unique index by equality or $in: some servers scan for everything else.
package mongo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/store"
)

// format is the version of the layout; a database of another one is refused.
const format = 2

// codeDuplicateKey is the server's code for a broken unique index.
const codeDuplicateKey = 11000

// idleTime is how long a connection of the pool that nobody uses is kept. The driver's own default is for ever: of a database that was
// slow once, 100 for each process would stay.
const idleTime = 30 * time.Second

// Config says which database to use.
type Config struct {
	// URI of the server, mongodb:// or mongodb+srv://. Required.
	URI string
	// Database in which the collections stand. Defaults to the one in the URI, else to Names.Database().
	Database string
	Names    contracts.Names
	// Dialed, where set, is called for every connection that is made or tried to ask something.
	Dialed func()
	// Timeout of an operation whose context has no deadline. Defaults to 10 s.
	Timeout time.Duration
}

// Store is a store.Store in one database. It is safe for concurrent use; Close closes its connections.
type Store struct {
	client *mongo.Client
	db     *mongo.Database

	entries, checkpoints, rooms, members, dead, meta *mongo.Collection
}

var _ store.Store = (*Store)(nil)

// Open makes a store that connects in the background: whether the server answers is Prepare's to tell. It fails where
// the URI is wrong.
func Open(_ context.Context, cfg Config) (*Store, error) {
	uri, err := connstring.ParseAndValidate(cfg.URI)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if cfg.Database == "" {
		cfg.Database = uri.Database
	}
	if cfg.Database == "" {
		cfg.Database = cfg.Names.Database()
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	journaled := true
	concern := writeconcern.Majority()
	concern.Journal = &journaled
	pool := &event.PoolMonitor{Event: func(e *event.PoolEvent) {
		if e.Type == event.ConnectionCreated && cfg.Dialed != nil {
			cfg.Dialed()
		}
	}}
	client, err := mongo.Connect(options.Client().
		SetPoolMonitor(pool).
		SetMaxConnIdleTime(idleTime). // the URI may say another
		ApplyURI(cfg.URI).
		SetTimeout(cfg.Timeout).
		SetWriteConcern(concern).
		SetReadConcern(readconcern.Majority()).
		SetReadPreference(readpref.Primary()))
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	db := client.Database(cfg.Database)
	return &Store{
		client:      client,
		db:          db,
		entries:     db.Collection(contracts.CollectionEntries),
		checkpoints: db.Collection(contracts.CollectionCheckpoints),
		rooms:       db.Collection(contracts.CollectionRooms),
		members:     db.Collection(contracts.CollectionMembers),
		dead:        db.Collection(contracts.CollectionDead),
		meta:        db.Collection(contracts.CollectionMeta),
	}, nil
}

// metaDoc is the one document of the meta collection.
type metaDoc struct {
	ID         string `bson:"_id"`
	Format     int32  `bson:"format"`
	Partitions int32  `bson:"partitions"`
}

// Prepare creates the indexes and claims the database for a log of so many partitions. The claim comes last, so that a
// database that is claimed has its indexes.
func (s *Store) Prepare(ctx context.Context, partitions int) error {
	claimed, err := s.checkClaim(ctx, partitions)
	if claimed || err != nil {
		return err
	}
	_, err = s.entries.Indexes().CreateMany(ctx, []mongo.IndexModel{
		{
			Keys:    bson.D{{Key: "identity", Value: 1}},
			Options: options.Index().SetName("identity").SetUnique(true),
		},
		{
			Keys:    bson.D{{Key: "place", Value: 1}},
			Options: options.Index().SetName("place"),
		},
	})
	if err != nil {
		return fmt.Errorf("create the indexes of %s: %w", s.db.Name(), err)
	}
	_, err = s.meta.InsertOne(ctx, metaDoc{ID: "log", Format: format, Partitions: int32(partitions)})
	if isDuplicate(err) { // somebody else was faster
		_, err = s.checkClaim(ctx, partitions)
		return err
	}
	if err != nil {
		return fmt.Errorf("claim %s: %w", s.db.Name(), err)
	}
	return nil
}

// checkClaim reports whether the database is claimed, with an error where it is for something else.
func (s *Store) checkClaim(ctx context.Context, partitions int) (claimed bool, _ error) {
	var m metaDoc
	err := s.meta.FindOne(ctx, bson.D{{Key: "_id", Value: "log"}}).Decode(&m)
	switch {
	case errors.Is(err, mongo.ErrNoDocuments):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read whose log %s belongs to: %w", s.db.Name(), err)
	case m.Format != format:
		return true, fmt.Errorf("%s has format %d, this release reads %d", s.db.Name(), m.Format, format)
	case m.Partitions != int32(partitions):
		return true, fmt.Errorf("%w: %s has %d, not %d", store.ErrPartitions, s.db.Name(), m.Partitions, partitions)
	}
	return true, nil
}

// Ping implements store.Store: it asks the primary.
func (s *Store) Ping(ctx context.Context) error { return s.client.Ping(ctx, readpref.Primary()) }

// Close ends the connections, waiting at most five seconds for operations under way.
func (s *Store) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return s.client.Disconnect(ctx)
}

// isDuplicate reports whether a unique index is all that a single insert broke.
func isDuplicate(err error) bool {
	var one mongo.WriteException
	var bulk mongo.BulkWriteException
	var all []mongo.WriteError
	switch {
	case errors.As(err, &one) && one.WriteConcernError == nil:
		all = one.WriteErrors
	case errors.As(err, &bulk) && bulk.WriteConcernError == nil:
		for _, e := range bulk.WriteErrors {
			all = append(all, e.WriteError)
		}
	}
	return len(all) > 0 && !slices.ContainsFunc(all, func(e mongo.WriteError) bool { return e.Code != codeDuplicateKey })
}
