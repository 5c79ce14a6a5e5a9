package mongo

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/store"
)

// blankNeeds is what Blank reads of a row: not its text, which may be long. A blanked row has no name.
var blankNeeds = bson.D{{Key: "place", Value: 1}, {Key: "kind", Value: 1}, {Key: "time", Value: 1}, {Key: "name", Value: 1}}

// Blank walks the partition's rows in the order of their places, which is about that of their stamps. A row that is not old
// is passed by, as the clock of its worker may have been ahead, until a whole step finds none that is; the next walk begins
// at the first such row. In a walk Swept.Next is that row's place, the place to go on from, and how many rows of it were looked
// at, with slashes between: lost entries share a place.
func (s *Store) Blank(ctx context.Context, old store.Old, from string, most int) (store.Swept, error) {
	first, at, skip := "", from, 0
	if walk := strings.Split(from, "/"); len(walk) == 3 {
		first, at = walk[0], walk[1]
		skip, _ = strconv.Atoi(walk[2]) // always ours
	}
	if at == "" {
		at = place(old.Partition, contracts.Position{})
	}
	cur, err := s.entries.Find(ctx,
		bson.D{{Key: "place", Value: bson.D{{Key: "$gte", Value: at}, {Key: "$lt", Value: place(old.Partition, old.Below)}}}},
		options.Find().SetSort(bson.D{{Key: "place", Value: 1}}).SetSkip(int64(skip)).SetLimit(int64(most)).SetProjection(blankNeeds))
	var rows []row
	if err == nil {
		err = cur.All(ctx, &rows)
	}
	if err != nil {
		return store.Swept{}, fmt.Errorf("read old rows of partition %d: %w", old.Partition, err)
	}
	last, someOld := at, false
	var ids []string
	for i := range rows {
		r := &rows[i]
		last = r.Place
		switch {
		case r.Time >= old.Before && first == "":
			first = r.Place
		case r.Time >= old.Before:
		default:
			someOld = true
			if r.Kind == string(contracts.KindMessage) && r.Name != "" {
				ids = append(ids, r.ID)
			}
		}
	}
	if len(ids) > 0 {
		_, err := s.entries.UpdateMany(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}}, bson.D{
			{Key: "$set", Value: bson.D{{Key: "text", Value: ""}, {Key: "name", Value: ""}}},
			{Key: "$unset", Value: bson.D{{Key: "meta", Value: ""}}},
		})
		if err != nil {
			return store.Swept{}, fmt.Errorf("blank %d rows of partition %d: %w", len(ids), old.Partition, err)
		}
	}
	swept := store.Swept{Blanked: len(ids)}
	switch swept.Done = len(rows) < most || !someOld; {
	case swept.Done && first != "":
		swept.Next = first
	case swept.Done:
		swept.Next = last
	case last == at: // all of this step are in one place
		swept.Next = fmt.Sprint(first, "/", at, "/", skip+most)
	default: // once more, as rows in that place may have been left
		swept.Next = first + "/" + last + "/0"
	}
	return swept, nil
}
