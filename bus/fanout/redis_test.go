//go:build !lean

package fanout_test

import (
	"crypto/rand"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

func connect(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	return connectWith(t, fanout.Config{URL: url})
}

func connectWith(t testing.TB, cfg fanout.Config) redis.UniversalClient {
	t.Helper()
	client, err := cfg.Connect()
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

// realURL is a Redis server, or with a comma a cluster, for tests only; each test uses a prefix of its own.
func realURL(t testing.TB) string {
	url := os.Getenv("PARLEY_TEST_REDIS_URL")
	if url == "" {
		t.Skip("PARLEY_TEST_REDIS_URL is not set")
	}
	return url
}

func fresh() contracts.Names { return contracts.Names{Prefix: "test-" + rand.Text()} }

func fixture(t *testing.T, url string) bustest.FanoutFixture {
	client, names := connect(t, url), fresh()
	return fixtureOn(t, client, names, fanout.NewPublisher(client, names))
}

func fixtureOn(t *testing.T, client redis.UniversalClient, names contracts.Names, p fanout.Publisher) bustest.FanoutFixture {
	return bustest.FanoutFixture{
		Publisher: p,
		Subscriber: func(node contracts.NodeID, r fanout.Receiver) fanout.Subscriber {
			s := fanout.NewSubscriber(client, names, node, r, quiet)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			return s
		},
	}
}

// proxied is a fixture whose server can be played away.
func proxied(t *testing.T, url string) bustest.FanoutFixture {
	opt, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	p := bustest.NewProxy(t, opt.Addr)
	f := fixture(t, strings.Replace(url, opt.Addr, p.Addr(), 1))
	f.Interrupt, f.Resume, f.Stall = p.Interrupt, p.Resume, p.Stall
	return f
}

func TestEmbedded(t *testing.T) {
	r := server(t)
	bustest.Fanout(t, func(t *testing.T) bustest.FanoutFixture { return proxied(t, r.URL()) })
}

// The server itself goes and comes back, with all that it does to its clients then.
func TestServerRestarts(t *testing.T) {
	bustest.Fanout(t, func(t *testing.T) bustest.FanoutFixture {
		r := server(t)
		f := fixture(t, r.URL())
		f.Interrupt = func() error { r.Interrupt(); return nil }
		f.Resume = r.Resume
		return f
	})
}

// Within the server's process nothing goes through its port.
func TestWithinTheProcess(t *testing.T) {
	bustest.Fanout(t, func(t *testing.T) bustest.FanoutFixture {
		r, names := server(t), fresh()
		cfg := fanout.Config{URL: "redis://nowhere:1", Dial: r.Dial}
		f := fixtureOn(t, connectWith(t, cfg), names, r.Publisher(names))
		f.Interrupt = func() error { r.Interrupt(); return nil }
		f.Resume = r.Resume
		return f
	})
}

func TestReal(t *testing.T) {
	url := realURL(t)
	bustest.Fanout(t, func(t *testing.T) bustest.FanoutFixture {
		if strings.Contains(url, ",") {
			return fixture(t, url) // a cluster names its own addresses: no proxy stands before them
		}
		return proxied(t, url)
	})
}

// rosters share a clock of their own for the leases, which stands still but for Pass; the server's is moved with it by pass.
func rosters(t *testing.T, client redis.UniversalClient, names contracts.Names, pass func(time.Duration)) bustest.RosterFixture {
	if c, ok := client.(*redis.Client); ok {
		client = c.WithTimeout(bustest.Patience) // instead of 2 s for a command
	}
	began := time.Now()
	var offset atomic.Int64
	return bustest.RosterFixture{
		Roster: func() fanout.Roster {
			r := fanout.NewRoster(client, names)
			r.SetClock(func() time.Time { return began.Add(time.Duration(offset.Load())) })
			r.SetRunTime(bustest.Patience)
			return r
		},
		Pass: func(d time.Duration) {
			offset.Add(int64(d))
			pass(d)
		},
	}
}

func TestRosterEmbedded(t *testing.T) {
	bustest.Roster(t, func(t *testing.T) bustest.RosterFixture {
		r := server(t)
		return rosters(t, connect(t, r.URL()), fresh(), r.FastForward)
	})
}

// TestRosterLostKeys: a room of which Redis has lost a part, or that holds what nobody here wrote, begins anew.
func TestRosterLostKeys(t *testing.T) {
	client, names := connect(t, server(t).URL()), fresh()
	r := fanout.NewRoster(client, names)
	enter := func(what string, id contracts.UserID, want fanout.Change) {
		t.Helper()
		got, err := r.Enter(t.Context(), "n1", []contracts.Presence{{Room: "a", User: contracts.Person{ID: id, Name: "x: 1,2:\nß"}}})
		if err != nil || len(got) != 1 || got[0].Changed != want.Changed || got[0].Count != want.Count {
			t.Errorf("%s: Enter = %v, %v; want %v", what, got, err, want)
		}
	}
	list := func(want ...contracts.UserID) {
		t.Helper()
		count, people, err := r.List(t.Context(), "a", 10)
		var got []contracts.UserID
		for _, p := range people {
			got = append(got, p.ID)
			if p.Name != "x: 1,2:\nß" {
				t.Errorf("%s has the name %q", p.ID, p.Name)
			}
		}
		if err != nil || count != len(want) || !slices.Equal(got, want) {
			t.Errorf("List = %d, %v, %v; want %v", count, got, err, want)
		}
	}
	first := fanout.Change{Changed: true, Count: 1}
	enter("first", "ann", first)
	enter("second", "bob", fanout.Change{Changed: true, Count: 2})
	for _, key := range []string{names.PresentKey("a"), names.PresentNodesKey("a"), names.NodesKey()} {
		if err := client.Del(t.Context(), key).Err(); err != nil {
			t.Fatal(err)
		}
		if key == names.NodesKey() {
			r = fanout.NewRoster(client, names)
			list() // its only node has no lease any more
		}
		enter("after the loss of "+key, "cem", first)
		list("cem")
	}
	if err := client.Set(t.Context(), names.PresentNodesKey("a"), "foreign", 0).Err(); err != nil {
		t.Fatal(err)
	}
	enter("foreign nodes", "dan", first)
	list("dan")
	if err := client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	list()
	enter("after a flush", "dan", first)
	if err := client.Set(t.Context(), names.PresentKey("a"), "no hash", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Enter(t.Context(), "n1", []contracts.Presence{{Room: "a", User: contracts.Person{ID: "ann"}}}); err == nil {
		t.Errorf("Enter beside a foreign key = %v", got)
	}
	if err := client.Del(t.Context(), names.PresentKey("a")).Err(); err != nil {
		t.Fatal(err)
	}
	enter("after a foreign key", "eve", first)
	list("eve")
	got, err := r.Leave(t.Context(), "n1", []contracts.Presence{{Room: "a", User: contracts.Person{ID: "eve"}}})
	if err != nil || !got[0].Changed || got[0].Count != 0 {
		t.Errorf("Leave = %v, %v", got, err)
	}
	if n, err := client.Exists(t.Context(), names.PresentKey("a"), names.PresentNodesKey("a")).Result(); err != nil || n != 0 {
		t.Errorf("an empty room has %d keys, %v", n, err)
	}
}

func TestRosterReal(t *testing.T) {
	url := realURL(t)
	bustest.Roster(t, func(t *testing.T) bustest.RosterFixture {
		client, names := connect(t, url), fresh()
		return rosters(t, client, names, func(d time.Duration) {
			// The server's clock stays; its keys are given less time instead.
			for _, room := range []contracts.RoomID{"a", "b", "c", "d"} {
				for _, key := range []string{names.PresentKey(room), names.PresentNodesKey(room), names.PresentTurnKey(room)} {
					left, err := client.PTTL(t.Context(), key).Result()
					if err == nil && left > 0 {
						err = client.PExpire(t.Context(), key, left-d).Err()
					}
					if err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	})
}
