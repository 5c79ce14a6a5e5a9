package mongo

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/store"
)

// TestJudge covers outcomes of a bulk that no stand-in can be made to give.
func TestJudge(t *testing.T) {
	bulk := func(concern *mongo.WriteConcernError, codes ...int) error {
		b := mongo.BulkWriteException{WriteConcernError: concern}
		for i, code := range codes {
			b.WriteErrors = append(b.WriteErrors, mongo.BulkWriteError{WriteError: mongo.WriteError{Index: 10 + i, Code: code}})
		}
		return fmt.Errorf("insert: %w", b)
	}
	for name, c := range map[string]struct {
		err            error
		there, refused []int
		fails          bool
	}{
		"all inserted":                            {nil, nil, nil, false},
		"duplicates":                              {bulk(nil, 11000, 11000), []int{10, 11}, nil, false},
		"a duplicate and a failure":               {bulk(nil, 11000, 91), nil, nil, true},
		"a duplicate, not confirmed by the rest":  {bulk(&mongo.WriteConcernError{Code: 64}, 11000), nil, nil, true},
		"only the write concern":                  {bulk(&mongo.WriteConcernError{Code: 64}), nil, nil, true},
		"a refused document beside a duplicate":   {bulk(nil, 10334, 11000), []int{11}, []int{10}, false},
		"a broken connection":                     {errors.New("EOF"), nil, nil, true},
		"an exception that does not say anything": {bulk(nil), nil, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			there, refused, err := judge(c.err)
			var indexes []int
			for _, e := range refused {
				indexes = append(indexes, e.Index)
			}
			if (err != nil) != c.fails || !slices.Equal(there, c.there) || !slices.Equal(indexes, c.refused) {
				t.Errorf("there %v, refused %v, %v", there, indexes, err)
			}
		})
	}
}

// TestTombstone keeps what numbering and reading rely on, and is still the same entry.
func TestTombstone(t *testing.T) {
	key, err := contracts.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	e := store.Entry{
		Record: contracts.Record{
			Kind: contracts.KindMessage, Room: "lobby", From: contracts.Person{ID: "ann", Name: "Ann"},
			Key: key, Stamp: 5, Text: "text", Meta: []byte(`{}`), ReplyTo: 3,
		},
		Seq: 7, Epoch: 2, Offset: 9, Hash: contracts.HashRecord([]byte("x")),
	}
	stone := newRow(&e, 3).tombstone("too large")
	got, err := stone.entry()
	if err != nil {
		t.Fatal(err)
	}
	if !store.Same(&got, &e) {
		t.Errorf("the tombstone is another entry: %+v", got)
	}
	if got.Text != "" || got.Meta != nil || got.From.Name != "ann" || got.Stamp != 5 || got.ReplyTo != 3 || stone.Refused != "too large" {
		t.Errorf("tombstone %+v, refused %q", got, stone.Refused)
	}
}
