package mongo_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/goleak"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/mongo"
	"github.com/parley-chat/parley/persist/store"
	"github.com/parley-chat/parley/persist/store/storetest"
)

// uriVariable names the servers to test against, a list with commas.
const uriVariable = "PARLEY_TEST_MONGODB_URI"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	uris := os.Getenv(uriVariable)
	if uris == "" {
		t.Skipf("%s is not set: name one or more servers, such as those of deploy/local", uriVariable)
	}
	for uri := range strings.SplitSeq(uris, ",") {
		t.Run(strings.TrimPrefix(uri, "mongodb://"), func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Store { return open(t, uri) })
		})
	}
}

// open gives a store in a database of its own, which is dropped at the end.
func open(t testing.TB, uri string) store.Store {
	t.Helper()
	key, err := contracts.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	name := "parley_test_" + strings.ReplaceAll(key.String(), "-", "")
	s, err := mongo.Open(t.Context(), mongo.Config{URI: uri, Database: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		drop(t, uri, name)
	})
	return s
}

func drop(t testing.TB, uri, name string) {
	ctx := context.WithoutCancel(t.Context()) // it has ended when cleanups run
	client, err := driver.Connect(options.Client().ApplyURI(uri))
	if err != nil {
		t.Error(err)
		return
	}
	if err := client.Database(name).RunCommand(ctx, bson.D{{Key: "dropDatabase", Value: 1}}).Err(); err != nil {
		t.Errorf("drop %s: %v", name, err)
	}
	if err := client.Disconnect(ctx); err != nil {
		t.Error(err)
	}
}
