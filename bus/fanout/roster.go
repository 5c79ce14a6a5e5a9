package fanout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parley-chat/parley/contracts"
)

const (
	nodeLease   = 15 * time.Second
	nodeForget  = time.Minute // how long a lapsed lease stays written
	leaseMargin = 5 * time.Second
	liveFor     = time.Second // how old the list of live nodes may be where it suffices
	turnPause   = 5 * time.Second
	listWhole   = 1000 // people up to which List reads a room whole
	listScan    = 500
)

// RedisRoster is a Roster in Redis: per room a hash with its people and a string with its nodes, and one sorted set with
// the leases of all nodes. What they hold is described at the script that alone writes the former two.
type RedisRoster struct {
	client  redis.UniversalClient
	names   contracts.Names
	now     func() time.Time
	runTime time.Duration  // bounds one run of the script
	queues  []*rosterQueue // by lane group on a cluster, one in all otherwise
	order   atomic.Uint64  // the last Change's; a room's queue is at turn when it is taken

	mu   sync.Mutex                 // guards what follows
	live map[contracts.NodeID]int64 // when the lease ends, Unix milliseconds
	read time.Time                  // when live was read
}

var _ Roster = (*RedisRoster)(nil)

// NewRoster makes a Roster. The client is the caller's to close.
func NewRoster(client redis.UniversalClient, names contracts.Names) *RedisRoster {
	queues := 1
	if isCluster(client) {
		queues = contracts.LaneGroups // so that a node of the cluster that is away holds up its own rooms only
	}
	return &RedisRoster{client: client, names: names, now: time.Now, runTime: rosterTime, queues: newRosterQueues(queues)}
}

// Enter implements Roster.
func (r *RedisRoster) Enter(ctx context.Context, node contracts.NodeID, who []contracts.Presence) ([]Change, error) {
	changes, err := r.change(ctx, node, who, true)
	if err != nil {
		return changes, fmt.Errorf("enter %d people: %w", len(who), err)
	}
	return changes, nil
}

// Leave implements Roster.
func (r *RedisRoster) Leave(ctx context.Context, node contracts.NodeID, who []contracts.Presence) ([]Change, error) {
	changes, err := r.change(ctx, node, who, false)
	if err != nil {
		return changes, fmt.Errorf("leave %d people: %w", len(who), err)
	}
	return changes, nil
}

// List implements Roster. It reads a room of up to about 1,000 people whole; of a larger one it returns some of them.
func (r *RedisRoster) List(ctx context.Context, room contracts.RoomID, limit int) (int, []contracts.Person, error) {
	v := &visit{room: room}
	r.visit(ctx, []*visit{v})
	if v.err != nil {
		return 0, nil, fmt.Errorf("list room %s: %w", room, v.err)
	}
	if v.count == 0 || limit <= 0 {
		return v.count, nil, nil
	}
	people, err := r.people(ctx, room, v.count, limit)
	if err != nil {
		return 0, nil, fmt.Errorf("list room %s: %w", room, err)
	}
	slices.SortFunc(people, func(a, b contracts.Person) int { return cmp.Compare(a.ID, b.ID) })
	return v.count, people[:min(limit, len(people))], nil
}

// people returns everybody in a room of so many, or of a large room at least limit people.
func (r *RedisRoster) people(ctx context.Context, room contracts.RoomID, count, limit int) ([]contracts.Person, error) {
	key := r.names.PresentKey(room)
	seen := make(map[contracts.UserID]bool)
	var people []contracts.Person
	for cursor := uint64(0); ; {
		fields, next, err := r.client.HScan(ctx, key, cursor, "", listScan).Result()
		if err != nil {
			return nil, fmt.Errorf("scan: %w", err)
		}
		for i := 0; i+1 < len(fields); i += 2 {
			p, ok := decodePresent(fields[i], fields[i+1])
			if !ok || seen[p.ID] {
				continue
			}
			seen[p.ID] = true
			people = append(people, p)
		}
		if cursor = next; cursor == 0 || count > listWhole && len(people) >= limit {
			return people, nil
		}
	}
}

// Renew implements Roster.
func (r *RedisRoster) Renew(ctx context.Context, node contracts.NodeID) error {
	now := r.now()
	ends := contracts.Millis(now.Add(nodeLease))
	pipe := r.client.Pipeline()
	pipe.ZAdd(ctx, r.names.NodesKey(), redis.Z{Score: float64(ends), Member: string(node)})
	pipe.ZRemRangeByScore(ctx, r.names.NodesKey(), "-inf", strconv.FormatInt(contracts.Millis(now.Add(-nodeForget)), 10))
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("renew node %s: %w", node, err)
	}
	r.mu.Lock()
	if r.live != nil {
		r.live[node] = ends
	}
	r.mu.Unlock()
	return nil
}

// lease makes sure that node counts as live, before its people are written.
func (r *RedisRoster) lease(ctx context.Context, node contracts.NodeID) error {
	now := r.now()
	lasts := contracts.Millis(now.Add(leaseMargin))
	r.mu.Lock()
	known := r.live != nil && now.Sub(r.read) <= liveFor && r.live[node] > lasts
	r.mu.Unlock()
	if known {
		return nil
	}
	live, err := r.liveNodes(ctx, false)
	if err != nil {
		return err
	}
	if live[node] > lasts {
		return nil
	}
	return r.Renew(ctx, node)
}

// liveNodes returns the nodes whose lease has not ended, as they were a second ago or, fresh, are now.
func (r *RedisRoster) liveNodes(ctx context.Context, fresh bool) (map[contracts.NodeID]int64, error) {
	now := r.now()
	r.mu.Lock()
	stale := fresh || r.live == nil || now.Sub(r.read) > liveFor
	r.mu.Unlock()
	if stale {
		nodes, err := r.client.ZRangeByScoreWithScores(ctx, r.names.NodesKey(), &redis.ZRangeBy{
			Min: "(" + strconv.FormatInt(contracts.Millis(now), 10), Max: "+inf",
		}).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("read the live nodes: %w", err)
		}
		live := make(map[contracts.NodeID]int64, len(nodes))
		for _, z := range nodes {
			if id, ok := z.Member.(string); ok {
				live[contracts.NodeID(id)] = int64(z.Score)
			}
		}
		r.mu.Lock()
		r.live, r.read = live, now
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	live := make(map[contracts.NodeID]int64, len(r.live))
	for node, ends := range r.live {
		if ends > contracts.Millis(now) {
			live[node] = ends
		}
	}
	return live, nil
}

// Turn implements Roster.
func (r *RedisRoster) Turn(ctx context.Context, room contracts.RoomID) (bool, error) {
	mine, err := r.client.SetNX(ctx, r.names.PresentTurnKey(room), 1, turnPause).Result()
	if err != nil {
		return false, fmt.Errorf("take the turn of room %s: %w", room, err)
	}
	return mine, nil
}
