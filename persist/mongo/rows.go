package mongo

import (
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/store"
)

// row is an entry's document.
type row struct {
	ID       string      `bson:"_id"`
	Identity string      `bson:"identity"`
	Place    string      `bson:"place"`
	Room     string      `bson:"room"`
	Seq      int64       `bson:"seq"`
	Epoch    int64       `bson:"epoch"`
	Offset   int64       `bson:"offset"`
	Kind     string      `bson:"kind"`
	Sender   string      `bson:"sender"`
	Name     string      `bson:"name"`
	Guest    bool        `bson:"guest,omitempty"`
	Key      string      `bson:"key"`
	Hash     bson.Binary `bson:"hash"`
	Time     int64       `bson:"time"`
	Text     string      `bson:"text"`
	ReplyTo  int64       `bson:"reply_to,omitempty"`
	// Meta is the JSON text as the client sent it: it goes out again byte for byte.
	Meta string `bson:"meta,omitempty"`
	// Refused says why the database did not take the content of this row, a tombstone.
	Refused string `bson:"refused,omitempty"`
}

func rowID(room contracts.RoomID, seq contracts.Seq) string {
	return fmt.Sprintf("%s:%016d", room, seq)
}

func identity(id contracts.Identity) string {
	return string(id.Room) + ":" + string(id.Sender) + ":" + id.Key.String()
}

// place sorts as partitions and positions do.
func place(partition int32, at contracts.Position) string {
	return fmt.Sprintf("%05d:%010d:%019d", partition, at.Epoch, at.Offset)
}

func newRow(e *store.Entry, partition int32) row {
	return row{
		Identity: identity(e.Identity()), Place: place(partition, e.Position()),
		ID: rowID(e.Room, e.Seq), Room: string(e.Room), Seq: int64(e.Seq), Epoch: int64(e.Epoch), Offset: e.Offset,
		Kind: string(e.Kind), Sender: string(e.From.ID), Name: e.From.Name, Guest: e.From.Guest,
		Key: e.Key.String(), Hash: bson.Binary{Data: e.Hash[:]}, Time: e.Stamp,
		Text: e.Text, ReplyTo: int64(e.ReplyTo), Meta: string(e.Meta),
	}
}

// tombstone is r without what a person wrote. The name falls back to the id.
func (r row) tombstone(reason string) row {
	r.Text, r.Meta, r.Name, r.Refused = "", "", r.Sender, reason
	return r
}

func (r *row) entry() (store.Entry, error) {
	key, err := contracts.ParseKey(r.Key)
	if err != nil || len(r.Hash.Data) != len(contracts.Hash{}) {
		return store.Entry{}, fmt.Errorf("read entry %s: damaged row", r.ID)
	}
	e := store.Entry{
		Record: contracts.Record{
			Kind: contracts.Kind(r.Kind), Room: contracts.RoomID(r.Room),
			From: contracts.Person{ID: contracts.UserID(r.Sender), Name: r.Name, Guest: r.Guest},
			Key:  key, Stamp: r.Time, Text: r.Text, ReplyTo: contracts.Seq(r.ReplyTo),
		},
		Seq: contracts.Seq(r.Seq), Epoch: contracts.Epoch(r.Epoch), Offset: r.Offset, Hash: contracts.Hash(r.Hash.Data),
	}
	if e.From.Name == "" { // blanked
		e.From.Name = r.Sender
	}
	if r.Meta != "" {
		e.Meta = []byte(r.Meta)
	}
	return e, nil
}

// checkpoint is a partition's document.
type checkpoint struct {
	Partition int32       `bson:"_id"`
	Epoch     int64       `bson:"epoch"`
	Offset    int64       `bson:"offset"`
	KeyTime   int64       `bson:"key_time"`
	Last      bson.Binary `bson:"last"`
	Sequencer int32       `bson:"sequencer"`
}

func newCheckpoint(c contracts.Checkpoint) checkpoint {
	return checkpoint{
		Partition: c.Partition, Epoch: int64(c.Epoch), Offset: c.Offset, KeyTime: c.KeyTime,
		Last: bson.Binary{Data: c.Last[:]}, Sequencer: int32(c.Sequencer),
	}
}

func (c *checkpoint) value() (contracts.Checkpoint, error) {
	if len(c.Last.Data) != len(contracts.Hash{}) {
		return contracts.Checkpoint{}, fmt.Errorf("read checkpoint of partition %d: damaged", c.Partition)
	}
	return contracts.Checkpoint{
		Partition: c.Partition, Epoch: contracts.Epoch(c.Epoch), Offset: c.Offset, KeyTime: c.KeyTime,
		Last: contracts.Hash(c.Last.Data), Sequencer: int(c.Sequencer),
	}, nil
}
