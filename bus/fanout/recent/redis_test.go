//go:build !lean

package recent_test

import (
	"crypto/rand"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/contracts"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const keep = 64

func connect(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	client, err := fanout.Config{URL: url}.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

func server(t testing.TB) *embedded.Redis {
	t.Helper()
	r, err := embedded.StartRedis()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func fresh() contracts.Names { return contracts.Names{Prefix: "test-" + rand.Text()} }

func TestEmbedded(t *testing.T) {
	r := server(t)
	bustest.Recent(t, keep, func(t *testing.T) recent.Cache {
		return recent.New(connect(t, r.URL()), fresh(), recent.Config{Keep: keep})
	})
}

func TestWithinTheProcess(t *testing.T) {
	r := server(t)
	bustest.Recent(t, keep, func(t *testing.T) recent.Cache {
		return recent.New(connect(t, r.URL()), fresh(), recent.Config{Keep: keep, Add: r.Add})
	})
}

func TestReal(t *testing.T) {
	url := os.Getenv("PARLEY_TEST_REDIS_URL")
	if url == "" {
		t.Skip("PARLEY_TEST_REDIS_URL is not set")
	}
	bustest.Recent(t, keep, func(t *testing.T) recent.Cache {
		return recent.New(connect(t, url), fresh(), recent.Config{Keep: keep, TTL: time.Hour})
	})
}

// What somebody else put in the cache's place is a miss, not an answer and not an error.
func TestForeignValues(t *testing.T) {
	r := server(t)
	client := connect(t, r.URL())
	add := func(t *testing.T, key, id string, values ...any) {
		t.Helper()
		if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: key, ID: id, Values: values}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	// stored returns the value that the cache itself writes for an entry.
	stored := func(t *testing.T, room contracts.RoomID, epoch contracts.Epoch, seq contracts.Seq) string {
		t.Helper()
		names := fresh()
		c := recent.New(client, names, recent.Config{})
		if err := c.Append(t.Context(), []recent.Entry{{Room: room, Epoch: epoch, Seq: seq, JSON: []byte(`{"text":"hi"}`)}}); err != nil {
			t.Fatal(err)
		}
		m, err := client.XRange(t.Context(), names.RecentKey(room, epoch), "-", "+").Result()
		if err != nil || len(m) != 1 {
			t.Fatalf("stream of %s: %v, %v", room, m, err)
		}
		return m[0].Values["e"].(string)
	}
	tests := []struct {
		name string
		put  func(t *testing.T, key string)
		hit  bool
	}{
		{"its own", func(t *testing.T, key string) { add(t, key, "1-0", "e", stored(t, "a", 1, 1)) }, true},
		{"another type", func(t *testing.T, key string) {
			if err := client.Set(t.Context(), key, "x", 0).Err(); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"another field", func(t *testing.T, key string) { add(t, key, "1-0", "x", stored(t, "a", 1, 1)) }, false},
		{"another id", func(t *testing.T, key string) { add(t, key, "1-1", "e", stored(t, "a", 1, 1)) }, false},
		{"another room's", func(t *testing.T, key string) { add(t, key, "1-0", "e", stored(t, "b", 1, 1)) }, false},
		{"another epoch's", func(t *testing.T, key string) { add(t, key, "1-0", "e", stored(t, "a", 2, 1)) }, false},
		{"another seq's", func(t *testing.T, key string) { add(t, key, "1-0", "e", stored(t, "a", 1, 2)) }, false},
		{"cut", func(t *testing.T, key string) { v := stored(t, "a", 1, 1); add(t, key, "1-0", "e", v[:len(v)-1]) }, false},
		{"empty", func(t *testing.T, key string) { add(t, key, "1-0", "e", "") }, false},
		{"plain json", func(t *testing.T, key string) { add(t, key, "1-0", "e", `{"text":"hi"}`) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			names := fresh()
			tt.put(t, names.RecentKey("a", 1))
			c := recent.New(client, names, recent.Config{})
			got, err := c.Read(t.Context(), []recent.Query{{Room: "a", Epoch: 1, From: 1, To: 1}})
			if err != nil || (got[0] != nil) != tt.hit {
				t.Errorf("Read = %v, %v; want a hit: %v", got, err, tt.hit)
			}
		})
	}
}

// Every stream expires, also one that another process began or that was lost and began again above seq 1.
func TestExpiry(t *testing.T) {
	r := server(t)
	client, names := connect(t, r.URL()), fresh()
	key := names.RecentKey("a", 1)
	put := func(c *recent.Redis, from, to contracts.Seq) {
		t.Helper()
		for seq := from; seq <= to; seq++ {
			if err := c.Append(t.Context(), []recent.Entry{{Room: "a", Epoch: 1, Seq: seq, JSON: []byte(`{}`)}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	ttl := func() time.Duration {
		t.Helper()
		d, err := client.TTL(t.Context(), key).Result()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	c := recent.New(client, names, recent.Config{TTL: time.Hour})
	put(c, 7, 7)
	if d := ttl(); d <= 59*time.Minute {
		t.Errorf("the first entry's stream expires in %s, want 1 h", d)
	}
	if err := client.Persist(t.Context(), key).Err(); err != nil {
		t.Fatal(err)
	}
	put(c, 8, 9)
	if d := ttl(); d > 0 {
		t.Errorf("the expiry was set again at once (%s): each entry pays for it", d)
	}
	put(c, 10, 64)
	if d := ttl(); d <= 59*time.Minute {
		t.Errorf("after 64 entries the stream expires in %s, want 1 h", d)
	}
	r.FastForward(2 * time.Hour)
	put(recent.New(client, names, recent.Config{TTL: time.Hour}), 65, 65)
	if d := ttl(); d <= 59*time.Minute {
		t.Errorf("another process's stream expires in %s, want 1 h", d)
	}
}

// While the server is away a cache fails, and works again afterwards.
func TestOutage(t *testing.T) {
	r := server(t)
	c := recent.New(connect(t, r.URL()), fresh(), recent.Config{})
	entries := []recent.Entry{{Room: "a", Epoch: 1, Seq: 1, JSON: []byte(`{}`)}}
	queries := []recent.Query{{Room: "a", Epoch: 1, From: 1, To: 1}}
	r.Interrupt()
	if err := c.Append(t.Context(), entries); err == nil {
		t.Error("Append succeeded without a server")
	}
	if _, err := c.Read(t.Context(), queries); err == nil {
		t.Error("Read succeeded without a server")
	}
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := c.Append(t.Context(), entries); err != nil {
		t.Errorf("Append after the outage: %v", err)
	}
	if got, err := c.Read(t.Context(), queries); err != nil || len(got[0]) != 1 {
		t.Errorf("Read after the outage = %v, %v", got, err)
	}
}
