package chaos

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/proxy"
)

// afterKafka is how soon shows what harms the log or its readers, which may just then stand still as Kafka's disk is full.
const afterKafka = 10 * time.Second

// serverKinds are what can be done to the servers, and everything at once.
func serverKinds() map[string]kind {
	redises := always(redis, replica)
	return map[string]kind{
		"all-at-once": {
			help: "kill -9 of every role, NATS, Redis and Kafka", short: seconds(0, 1), long: seconds(0, 5),
			claims: func(string) []string {
				all := []string{nats, redis, replica, kafka}
				for _, role := range roles {
					all = append(all, role+"-1", role+"-2")
				}
				return all
			},
			do: killAll, signals: anySignals,
		},
		"nats-kill": {
			// Back within two seconds it may be missed by a probe a second.
			help: "kill -9 of NATS", short: seconds(0, 3), long: seconds(1, 20), claims: always(nats), do: killServer, signals: edgeSignals, shows: 2 * time.Second,
		},
		"nats-pause":     {help: "SIGSTOP of NATS", short: seconds(2, 8), long: seconds(15, 60), claims: always(nats), do: pauseServer, signals: anySignals, shows: 6 * time.Second},
		"redis-flush":    {help: "FLUSHALL", claims: redises, do: redisFlush, silent: true}, // the caches fill again
		"redis-restart":  {help: "Redis is killed and starts empty", short: seconds(0, 4), long: seconds(1, 20), claims: redises, do: redisRestart, signals: anySignals},
		"redis-pause":    {help: "SIGSTOP of Redis", short: seconds(2, 8), long: seconds(15, 60), claims: redises, do: redisPause, signals: anySignals, shows: 5 * time.Second},
		"redis-failover": {help: "Redis dies and a replica that lags takes over", short: seconds(2, 5), long: seconds(4, 15), claims: redises, do: redisFailover, signals: anySignals, within: 20 * time.Second}, // first the replica falls behind, which harms nobody
		"redis-pubsub":   {help: "CLIENT KILL TYPE pubsub, several times", short: seconds(1, 3), long: seconds(1, 5), claims: redises, do: redisPubSub, signals: again(redis, "edge-1", "edge-2")},
		"kafka-kill":     {help: "kill -9 of Kafka", short: seconds(0, 2), long: seconds(1, 20), claims: always(kafka), do: killServer, signals: anySignals},
		"kafka-pause":    {help: "SIGSTOP of Kafka", short: seconds(3, 8), long: seconds(15, 60), claims: always(kafka), do: pauseServer, signals: anySignals, shows: 8 * time.Second},
		"kafka-rebalance": {
			help: "a consumer joins and leaves the groups, again and again", short: seconds(4, 10), long: seconds(15, 30), claims: always("groups"), do: kafkaRebalance,
			signals: anySignals, shows: 8 * time.Second,
		},
		"kafka-commits": {
			help: "connections on which offsets are committed are reset", short: seconds(4, 10), long: seconds(10, 30), claims: always("commits"), do: kafkaCommits,
			signals: again(kafka, "dispatch-1", "dispatch-2", "persist-1", "persist-2"), within: afterKafka,
		},
		"kafka-garbage": {
			help: "records that nobody can read are appended to the log", claims: always("garbage"), do: kafkaGarbage,
			signals: slices.Concat([]string{"parley_dispatch_undecodable_total", "parley_persist_dead_letters_total"}, anySignals), within: afterKafka,
		},
		"kafka-disk": {
			help: "Kafka's disk is full; Kafka gives up and is started again", short: seconds(3, 6), long: seconds(10, 30), claims: always(kafka), do: kafkaDisk, signals: anySignals,
			within: 10 * time.Second, // nobody else can tell before Kafka has given up
			lacks: func(p *plant) string {
				if p.disk == "" {
					return "no disk of its own could be mounted for Kafka"
				}
				return ""
			},
		},
		"mongo-pause": {help: "SIGSTOP of the database", short: seconds(3, 10), long: seconds(15, 60), claims: always(mongo), do: pauseServer, lacks: lacksMongo(mongo), signals: persistSignals, shows: 6 * time.Second},
		"mongo-slow":  {help: "every link to the database gets 100 to 1,000 ms of latency", short: seconds(3, 10), long: seconds(15, 60), claims: mongoWhole, do: mongoSlow, lacks: lacksMongo(mongo), signals: slices.Concat(later("persist-1", mongo, 0.1), later("persist-2", mongo, 0.1)), shows: 4 * time.Second},
		"mongo-cut":   {help: "every link to the database is reset and refuses", short: seconds(3, 10), long: seconds(15, 60), claims: mongoWhole, do: mongoCut, lacks: lacksMongo(mongo), signals: persistSignals},
		"mongo-bulk": {
			help: "inserts of many end with a duplicate and an error in one: a document is not there, and one was before", short: seconds(3, 8), long: seconds(5, 25),
			claims: always("persist-1:mongo", "persist-2:mongo"), do: mongoBulk, lacks: lacksMongo(mongo), signals: anySignals, within: afterKafka,
		},
		"mongo-kill": {
			help: "kill -9 of the database", short: seconds(0, 3), long: seconds(1, 20), claims: always(mongo), do: killServer, signals: persistSignals,
			lacks: func(p *plant) string {
				if strings.Contains(strings.Join(p.notes, " "), "forgets everything") {
					return "this stand-in for the database forgets everything when it ends (--mongo ferret does not)"
				}
				return lacksMongo(mongo)(p)
			},
		},
		"edge-descriptors": {
			help: "an edge has no descriptor left, and is connected to on and on", short: seconds(2, 6), long: seconds(5, 20),
			targets: func(p *plant) []string { return p.each("edge") }, do: edgeDescriptors, signals: []string{"parley_edge_accept_errors_total"},
			lacks: func(p *plant) string {
				if openFiles(os.Getpid()) == 0 {
					return errors.ErrUnsupported.Error()
				}
				return ""
			},
		},
	}
}

// mongoWhole is the database and the links to it: what is done to all of them hides what is done to it.
func mongoWhole(string) []string {
	names := []string{mongo}
	for _, role := range []string{"worker", "dispatch", "persist"} {
		for i := range perRole {
			names = append(names, link{fmt.Sprintf("%s-%d", role, i+1), mongo}.String())
		}
	}
	return names
}

// server is the one that the fault's name begins with.
func (f *fault) server() string {
	name, _, _ := strings.Cut(f.kind, "-")
	return name
}

func killServer(ctx context.Context, f *fault) error {
	defer f.w.expect(f.server())()
	if err := f.w.procs[f.server()].Kill(); err != nil {
		return err
	}
	f.hold(ctx)
	return f.begin(f.server())
}

func pauseServer(ctx context.Context, f *fault) error {
	f.target = f.server()
	return pause(ctx, f)
}

func killAll(ctx context.Context, f *fault) error {
	names := f.parts
	defer f.w.expect(names...)()
	for _, name := range names {
		if err := f.w.procs[name].Kill(); err != nil {
			return err
		}
	}
	f.hold(ctx)
	if err := f.forget(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, len(names))
	for i, name := range names {
		wg.Go(func() { errs[i] = f.begin(name) })
	}
	wg.Wait()
	// Both came back empty; who follows whom is said anew.
	primary, _ := f.w.redis()
	return errors.Join(errors.Join(errs...), f.empty(ctx, primary), f.follow(ctx))
}

// ask runs commands on a Redis, past the proxies.
func (f *fault) ask(ctx context.Context, name string, do func(context.Context, *goredis.Client) error) error {
	c := goredis.NewClient(&goredis.Options{Addr: f.w.at[name], MaxRetries: 5})
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	if err := do(ctx, c); err != nil {
		return fmt.Errorf("tell %s: %w", name, err)
	}
	return nil
}

// follow makes the Redis that the links lead to the primary, and the other its replica.
func (f *fault) follow(ctx context.Context) error {
	primary, other := f.w.redis()
	behind := f.w.links[link{replica, redis}]
	behind.Retarget(f.w.at[primary])
	host, number, err := net.SplitHostPort(behind.Addr())
	return errors.Join(err,
		f.ask(ctx, primary, func(ctx context.Context, c *goredis.Client) error { return c.ReplicaOf(ctx, "NO", "ONE").Err() }),
		f.ask(ctx, other, func(ctx context.Context, c *goredis.Client) error { return c.ReplicaOf(ctx, host, number).Err() }))
}

func redisFlush(ctx context.Context, f *fault) error {
	primary, _ := f.w.redis()
	return f.ask(ctx, primary, func(ctx context.Context, c *goredis.Client) error { return c.FlushAll(ctx).Err() })
}

func redisRestart(ctx context.Context, f *fault) error {
	primary, _ := f.w.redis()
	defer f.w.expect(primary)()
	if err := f.w.procs[primary].Kill(); err != nil {
		return err
	}
	f.hold(ctx)
	if err := f.forget(); err != nil {
		return err
	}
	if err := f.begin(primary); err != nil {
		return err
	}
	return errors.Join(f.empty(ctx, primary), f.follow(ctx))
}

// forget removes what a replica's synchronisation left on disk: a Redis that is started loads it, whoever wrote it.
func (f *fault) forget() error {
	if err := os.Remove(filepath.Join(f.w.dir, "dump.rdb")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("start Redis empty: %w", err)
	}
	return nil
}

// empty checks that a Redis loaded nothing when it was started.
func (f *fault) empty(ctx context.Context, name string) error {
	return f.ask(ctx, name, func(ctx context.Context, c *goredis.Client) error {
		info, err := c.InfoMap(ctx, "persistence").Result()
		if err != nil {
			return err
		}
		if n := info["Persistence"]["rdb_last_load_keys_loaded"]; n != "" && n != "0" {
			return fmt.Errorf("it did not start empty but with %s keys", n)
		}
		return nil
	})
}

func redisPause(ctx context.Context, f *fault) error {
	f.target, _ = f.w.redis()
	return pause(ctx, f)
}

func redisFailover(ctx context.Context, f *fault) error {
	primary, other := f.w.redis()
	defer f.w.expect(primary)()
	behind := f.w.links[link{replica, redis}]
	behind.Set(proxy.Fault{HoldUp: true, HoldDown: true})
	f.hold(ctx) // the replica falls behind
	if err := f.w.procs[primary].Kill(); err != nil {
		return err
	}
	err := f.ask(ctx, other, func(ctx context.Context, c *goredis.Client) error { return c.ReplicaOf(ctx, "NO", "ONE").Err() })
	f.w.promote(other)
	behind.Set(proxy.Fault{})
	f.hold(ctx)
	return errors.Join(err, f.begin(primary), f.follow(ctx))
}

func redisPubSub(ctx context.Context, f *fault) error {
	primary, _ := f.w.redis()
	for range 3 {
		err := f.ask(ctx, primary, func(ctx context.Context, c *goredis.Client) error {
			return c.ClientKillByFilter(ctx, "TYPE", "pubsub").Err()
		})
		if err != nil {
			return err
		}
		if !wait(ctx, f.length/3+10*time.Millisecond) {
			break
		}
	}
	return nil
}

func kafkaRebalance(ctx context.Context, f *fault) error {
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, group := range []string{f.w.names.DispatchGroup(), f.w.names.PersistGroup()} {
		stay := time.Duration(300+f.rng.IntN(1500)) * time.Millisecond
		wg.Go(func() {
			for end := time.Now().Add(f.length); errs[i] == nil && time.Now().Before(end) && ctx.Err() == nil; {
				errs[i] = f.intrude(ctx, group, stay)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// intrudes is how long the group waits for an intruder that is gone, as it waits for Parley's own: with the client's default, 45 s,
// one that could not leave, as Kafka was killed just then, would hold up all rooms when Kafka is back.
const intrudes = 10 * time.Second

// intrude joins a group as a consumer that reads, commits nothing, and leaves again.
func (f *fault) intrude(ctx context.Context, group string, stay time.Duration) error {
	c, err := kgo.NewClient(
		kgo.SeedBrokers(f.w.at[kafka]), kgo.ConsumerGroup(group), kgo.ConsumeTopics(f.w.names.LogTopic()),
		kgo.SessionTimeout(intrudes), kgo.RebalanceTimeout(intrudes),
		kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
	)
	if err != nil {
		return fmt.Errorf("join group %s: %w", group, err)
	}
	defer c.Close() // it leaves
	ctx, cancel := context.WithTimeout(ctx, stay)
	defer cancel()
	for ctx.Err() == nil {
		c.PollFetches(ctx)
	}
	return nil
}

// offsetCommit is the number of that request in Kafka's protocol.
const offsetCommit = 8

// commits reports whether a piece of a client's bytes to Kafka holds an OffsetCommit: each request is preceded by its
// size, four bytes, and begins with its number, two. Requests begin at pieces, but for the large ones, which are others.
func commits(piece []byte) bool {
	for len(piece) >= 6 {
		if binary.BigEndian.Uint16(piece[4:]) == offsetCommit {
			return true
		}
		size := int(binary.BigEndian.Uint32(piece)) + 4
		if size <= 4 || size > len(piece) {
			return false
		}
		piece = piece[size:]
	}
	return false
}

func kafkaCommits(ctx context.Context, f *fault) error {
	var harmed []*proxy.Proxy
	for l, x := range f.w.links {
		if l.to == kafka && (strings.HasPrefix(l.from, "dispatch") || strings.HasPrefix(l.from, "persist")) {
			x.Trip(commits)
			harmed = append(harmed, x)
		}
	}
	f.hold(ctx)
	for _, x := range harmed {
		x.Trip(nil)
	}
	return nil
}

// garbage are values that no release can read, whatever their partition.
func (f *fault) garbage(partition int32) []byte {
	var key contracts.Key
	for i := range key {
		key[i] = byte(f.rng.Uint32())
	}
	key[6], key[8] = 0x70|key[6]&0xF, 0x80|key[8]&0x3F
	good, err := contracts.EncodeRecord(&contracts.Record{
		Kind: contracts.KindMessage, Room: "garbage", From: contracts.Person{ID: "nobody", Name: "nobody"}, Key: key, Stamp: 1, Text: "never to be seen",
	})
	if err != nil {
		return nil
	}
	switch f.rng.IntN(4) {
	case 0:
		return []byte{}
	case 1:
		return good[:len(good)-2] // cut off
	case 2:
		if contracts.LaneOf("garbage").Partition(contracts.DefaultPartitions) != partition {
			return good // in a partition that is not the room's
		}
	}
	noise := bytes.Repeat([]byte{0xFF}, 1+f.rng.IntN(200))
	for i := 1; i < len(noise); i++ {
		noise[i] = byte(f.rng.Uint32())
	}
	return noise
}

func kafkaGarbage(ctx context.Context, f *fault) error {
	c, err := kgo.NewClient(kgo.SeedBrokers(f.w.at[kafka]), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RecordDeliveryTimeout(30*time.Second))
	if err != nil {
		return fmt.Errorf("append garbage: %w", err)
	}
	defer c.Close()
	var records []*kgo.Record
	for range 20 {
		partition := int32(f.rng.IntN(contracts.DefaultPartitions))
		records = append(records, &kgo.Record{Topic: f.w.names.LogTopic(), Partition: partition, Value: f.garbage(partition)})
	}
	if err := c.ProduceSync(context.WithoutCancel(ctx), records...).FirstErr(); err != nil {
		f.w.remark("%s: Kafka did not take it: %v", f, err) // it may be away by another fault
		return errHarmless
	}
	return nil
}

// kafkaDisk fills the disk. Kafka ends when it cannot write its log, by design; where it has nothing to write it goes on.
func kafkaDisk(ctx context.Context, f *fault) error {
	defer f.w.expect(kafka)()
	free, err := fillDisk(f.w.disk)
	if err != nil {
		return err
	}
	f.hold(ctx)
	if err := free(); err != nil {
		return fmt.Errorf("free the disk: %w", err)
	}
	if _, running := f.w.procs[kafka].Pid(); running {
		if err := f.w.procs[kafka].Kill(); err != nil {
			return err
		}
	}
	return f.begin(kafka)
}

func (f *fault) mongoLinks(do func(*proxy.Proxy)) {
	for l, x := range f.w.links {
		if l.to == mongo {
			do(x)
		}
	}
}

func mongoSlow(ctx context.Context, f *fault) error {
	latency := time.Duration(100+f.rng.IntN(900)) * time.Millisecond
	f.mongoLinks(func(x *proxy.Proxy) { x.Set(proxy.Fault{Latency: latency}) })
	f.hold(ctx)
	f.mongoLinks(func(x *proxy.Proxy) { x.Set(proxy.Fault{}) })
	return nil
}

func mongoCut(ctx context.Context, f *fault) error {
	f.mongoLinks(func(x *proxy.Proxy) { x.Set(proxy.Fault{Refuse: true}); x.Reset() })
	f.hold(ctx)
	f.mongoLinks(func(x *proxy.Proxy) { x.Set(proxy.Fault{}) })
	return nil
}

// edgeDescriptors leaves an edge a few descriptors and takes them.
func edgeDescriptors(ctx context.Context, f *fault) error {
	pid, running := f.w.procs[f.target].Pid()
	if !running {
		return nil
	}
	undo, err := limitFiles(pid, uint64(openFiles(pid)+4))
	if err != nil {
		return err
	}
	var held []io.Closer
	for end := time.Now().Add(f.length); time.Now().Before(end) && wait(ctx, 20*time.Millisecond); {
		if len(held) < 200 {
			if c, err := net.DialTimeout("tcp", f.w.at[link{clients, f.target}.String()], time.Second); err == nil {
				held = append(held, c)
			}
		}
	}
	for _, c := range held {
		_ = c.Close()
	}
	if pidNow, _ := f.w.procs[f.target].Pid(); pidNow != pid {
		return nil // it was replaced meanwhile
	}
	return undo()
}
