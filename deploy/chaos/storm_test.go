package chaos

import (
	"slices"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// TestQueries counts in what the driver would write.
func TestQueries(t *testing.T) {
	body := func(command, collection string) []byte {
		b, err := bson.Marshal(bson.D{{Key: command, Value: collection}, {Key: "filter", Value: bson.D{{Key: "room", Value: "entries"}}}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tt := range []struct {
		bytes []byte
		want  int
	}{
		{body("find", "entries"), 1},
		{slices.Concat(body("find", "entries"), body("aggregate", "entries")), 2},
		{body("find", "checkpoints"), 0},
		{body("insert", "entries"), 0},
		{nil, 0},
	} {
		if got := queries(tt.bytes); got != tt.want {
			t.Errorf("%q: %d, want %d", tt.bytes, got, tt.want)
		}
	}
}

func TestStormRooms(t *testing.T) {
	rooms := stormRoomsOf(5000)
	of := make(map[int]int)
	for n, members := range rooms {
		if len(members) < stormMembers/2 || len(members) > 2*stormMembers {
			t.Errorf("room %d has %d members", n, len(members))
		}
		slices.Sort(members)
		if len(slices.Compact(slices.Clone(members))) != len(members) {
			t.Errorf("somebody is twice in room %d", n)
		}
		for _, m := range members {
			of[m]++
		}
	}
	if len(rooms) != 500 || len(of) != 5000 {
		t.Errorf("%d rooms, %d users", len(rooms), len(of))
	}
}
