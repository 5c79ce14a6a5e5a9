package fanout

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parley-chat/parley/contracts"
)

const (
	nodeLease    = 15 * time.Second
	nodeForget   = time.Minute // how long a lapsed lease stays written
	leaseMargin  = 5 * time.Second
	liveFor      = time.Second // how old the list of live nodes may be where it suffices
	roomTTL      = 24 * time.Hour
	turnPause    = 5 * time.Second
	listWhole    = 2000 // hash fields up to which List reads a room whole
	listScan     = 500
	rosterRounds = 4
	scriptPeople = 500 // in one run of the script
)

// RedisRoster is a Roster in Redis: per room a hash, and one sorted set with the leases of the nodes.
//
// A room's hash has the field "node/user" with the person in JSON for each listening, and beside them what keeps a
// large room cheap: "user" counts the person's nodes, "@" lists the room's nodes, "#" counts the people. Ids contain
// none of / @ #.
type RedisRoster struct {
	client redis.UniversalClient
	names  contracts.Names
	now    func() time.Time

	mu   sync.Mutex                 // guards what follows
	live map[contracts.NodeID]int64 // when the lease ends, Unix milliseconds
	read time.Time                  // when live was read
}

var _ Roster = (*RedisRoster)(nil)

// NewRoster makes a Roster. The client is the caller's to close.
func NewRoster(client redis.UniversalClient, names contracts.Names) *RedisRoster {
	return &RedisRoster{client: client, names: names, now: time.Now}
}

// change is the one script, for one room: KEYS[1] its hash; ARGV: TTL in seconds, live nodes, dead nodes (lists with commas),
// node, "enter" or "leave" or "look", then user and person per element. A node of the room that is in neither list stops it before any
// effect: it returns {0, the room's nodes}. Otherwise the people of dead nodes are removed, and it returns
// {1, people now, changed and people after it for each element}.
var change = redis.NewScript(`
local key = KEYS[1]
local live, dead, node, verb = ',' .. ARGV[2] .. ',', ',' .. ARGV[3] .. ',', ARGV[4], ARGV[5]
local nodes = redis.call('HGET', key, '@') or ''
local gone, stay = {}, {}
for n in string.gmatch(nodes, '[^,]+') do
  if string.find(dead, ',' .. n .. ',', 1, true) then
    gone[#gone + 1] = n
  elseif string.find(live, ',' .. n .. ',', 1, true) then
    stay[#stay + 1] = n
  else
    return {0, nodes}
  end
end
local count = tonumber(redis.call('HGET', key, '#') or '0')
local function remove(n, user)
  if redis.call('HDEL', key, n .. '/' .. user) == 0 then return 0 end
  if redis.call('HINCRBY', key, user, -1) > 0 then return 0 end
  redis.call('HDEL', key, user)
  count = count - 1
  return 1
end
if #gone > 0 then
  for _, field in ipairs(redis.call('HKEYS', key)) do
    local slash = string.find(field, '/', 1, true)
    if slash and string.find(dead, ',' .. string.sub(field, 1, slash - 1) .. ',', 1, true) then
      remove(string.sub(field, 1, slash - 1), string.sub(field, slash + 1))
    end
  end
  nodes = table.concat(stay, ',')
end
local result = {1, 0}
if verb == 'enter' and not string.find(',' .. nodes .. ',', ',' .. node .. ',', 1, true) then
  if nodes == '' then nodes = node else nodes = nodes .. ',' .. node end
end
for i = 6, #ARGV, 2 do
  local user, changed = ARGV[i], 0
  if verb == 'enter' then
    if redis.call('HSET', key, node .. '/' .. user, ARGV[i + 1]) == 1 and redis.call('HINCRBY', key, user, 1) == 1 then
      changed = 1
      count = count + 1
    end
  else
    changed = remove(node, user)
  end
  result[#result + 1] = changed
  result[#result + 1] = count
end
if count == 0 then
  redis.call('DEL', key)
elseif verb ~= 'look' or #gone > 0 then
  redis.call('HSET', key, '#', count, '@', nodes)
  redis.call('EXPIRE', key, ARGV[1])
end
result[2] = count
return result
`)

// Enter implements Roster.
func (r *RedisRoster) Enter(ctx context.Context, node contracts.NodeID, who []contracts.Presence) ([]Change, error) {
	if len(who) == 0 {
		return nil, nil
	}
	if err := r.lease(ctx, node); err != nil {
		return nil, fmt.Errorf("enter %d people: %w", len(who), err)
	}
	changes, err := r.change(ctx, node, "enter", who)
	if err != nil {
		return nil, fmt.Errorf("enter %d people: %w", len(who), err)
	}
	return changes, nil
}

// Leave implements Roster.
func (r *RedisRoster) Leave(ctx context.Context, node contracts.NodeID, who []contracts.Presence) ([]Change, error) {
	if len(who) == 0 {
		return nil, nil
	}
	changes, err := r.change(ctx, node, "leave", who)
	if err != nil {
		return nil, fmt.Errorf("leave %d people: %w", len(who), err)
	}
	return changes, nil
}

// visit is one room's part of a call.
type visit struct {
	room  contracts.RoomID
	index []int // into who
	args  []any // user and person each
	cmd   *redis.Cmd
}

// change changes the rooms in portions: while a script runs Redis does nothing else.
func (r *RedisRoster) change(ctx context.Context, node contracts.NodeID, verb string, who []contracts.Presence) ([]Change, error) {
	changes := make([]Change, 0, len(who))
	for portion := range slices.Chunk(who, scriptPeople) {
		some, err := r.changeSome(ctx, node, verb, portion)
		if err != nil {
			return nil, err
		}
		changes = append(changes, some...)
	}
	return changes, nil
}

// changeSome runs the script for each room, pipelined, and again where a room has nodes that are not known.
func (r *RedisRoster) changeSome(ctx context.Context, node contracts.NodeID, verb string, who []contracts.Presence) ([]Change, error) {
	byRoom := make(map[contracts.RoomID]*visit)
	var visits []*visit
	for i, p := range who {
		v := byRoom[p.Room]
		if v == nil {
			v = &visit{room: p.Room}
			byRoom[p.Room] = v
			visits = append(visits, v)
		}
		v.index = append(v.index, i)
		v.args = append(v.args, string(p.User.ID), contracts.AppendPerson(nil, p.User))
	}
	changes := make([]Change, len(who))
	err := r.visit(ctx, node, verb, visits, func(v *visit, result []int64) error {
		if len(result) != 2+2*len(v.index) {
			return fmt.Errorf("room %s: %d results for %d people", v.room, len(result)-2, len(v.index))
		}
		for k, i := range v.index {
			changes[i] = Change{Changed: result[2+2*k] == 1, Count: int(result[3+2*k])}
		}
		return nil
	})
	return changes, err
}

// visit runs the script in every room and hands over what it returned.
func (r *RedisRoster) visit(
	ctx context.Context, node contracts.NodeID, verb string, visits []*visit, done func(*visit, []int64) error,
) error {
	dead := make(map[contracts.NodeID]bool)
	for round := range rosterRounds {
		live, err := r.liveNodes(ctx, round > 0)
		if err != nil {
			return err
		}
		for n := range dead {
			if _, ok := live[n]; ok {
				delete(dead, n)
			}
		}
		if err := r.runScript(ctx, node, verb, visits, join(live), join(dead)); err != nil {
			return err
		}
		var again []*visit
		for _, v := range visits {
			raw, err := v.cmd.Slice()
			if err != nil {
				return fmt.Errorf("room %s: %w", v.room, err)
			}
			if len(raw) == 2 && raw[0] == int64(0) {
				nodes, _ := raw[1].(string)
				for n := range strings.SplitSeq(nodes, ",") {
					dead[contracts.NodeID(n)] = true // unless the next reading says that it is live
				}
				again = append(again, v)
				continue
			}
			result := make([]int64, len(raw))
			for i := range raw {
				result[i], _ = raw[i].(int64)
			}
			if err := done(v, result); err != nil {
				return err
			}
		}
		if visits = again; len(visits) == 0 {
			return nil
		}
	}
	return fmt.Errorf("room %s: its nodes keep changing", visits[0].room)
}

func (r *RedisRoster) runScript(ctx context.Context, node contracts.NodeID, verb string, visits []*visit, live, dead string) error {
	run := func(how func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd) error {
		pipe := r.client.Pipeline()
		for _, v := range visits {
			args := append([]any{int(roomTTL / time.Second), live, dead, string(node), verb}, v.args...)
			v.cmd = how(ctx, pipe, []string{r.names.OnlineKey(v.room)}, args...)
		}
		_, err := pipe.Exec(ctx)
		return err
	}
	err := run(change.EvalSha)
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		// None or some of the rooms had the script (nodes of a cluster differ). Entering and leaving twice is the same
		// as once but for what it reports, so only what failed is run again.
		var missing []*visit
		for _, v := range visits {
			if redis.HasErrorPrefix(v.cmd.Err(), "NOSCRIPT") {
				missing = append(missing, v)
			}
		}
		visits = missing
		err = run(change.Eval)
	}
	if err != nil {
		return fmt.Errorf("run the roster script: %w", err)
	}
	return nil
}

// List implements Roster. It reads a room of up to about 1,000 people whole; of a larger one it returns some of them.
func (r *RedisRoster) List(ctx context.Context, room contracts.RoomID, limit int) (int, []contracts.Person, error) {
	count := 0
	err := r.visit(ctx, "", "look", []*visit{{room: room}}, func(_ *visit, result []int64) error {
		count = int(result[1])
		return nil
	})
	if err != nil {
		return 0, nil, fmt.Errorf("list room %s: %w", room, err)
	}
	if count == 0 || limit <= 0 {
		return count, nil, nil
	}
	people, err := r.people(ctx, room, limit)
	if err != nil {
		return 0, nil, fmt.Errorf("list room %s: %w", room, err)
	}
	slices.SortFunc(people, func(a, b contracts.Person) int { return cmp.Compare(a.ID, b.ID) })
	return count, people[:min(limit, len(people))], nil
}

// people returns everybody in the room, or of a large room at least limit people.
func (r *RedisRoster) people(ctx context.Context, room contracts.RoomID, limit int) ([]contracts.Person, error) {
	key := r.names.OnlineKey(room)
	size, err := r.client.HLen(ctx, key).Result()
	if err != nil {
		return nil, fmt.Errorf("count the fields: %w", err)
	}
	seen := make(map[contracts.UserID]bool)
	var people []contracts.Person
	for cursor := uint64(0); ; {
		fields, next, err := r.client.HScan(ctx, key, cursor, "", listScan).Result()
		if err != nil {
			return nil, fmt.Errorf("scan: %w", err)
		}
		for i := 0; i+1 < len(fields); i += 2 {
			_, user, ok := strings.Cut(fields[i], "/")
			if !ok || seen[contracts.UserID(user)] {
				continue
			}
			var p contracts.Person
			if json.Unmarshal([]byte(fields[i+1]), &p) != nil || string(p.ID) != user {
				continue // not written by a Roster
			}
			seen[p.ID] = true
			people = append(people, p)
		}
		if cursor = next; cursor == 0 || size > listWhole && len(people) >= limit {
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
	live, err := r.liveNodes(ctx, false)
	if err != nil {
		return err
	}
	if live[node] > contracts.Millis(r.now().Add(leaseMargin)) {
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
	mine, err := r.client.SetNX(ctx, r.names.OnlineTurnKey(room), 1, turnPause).Result()
	if err != nil {
		return false, fmt.Errorf("take the turn of room %s: %w", room, err)
	}
	return mine, nil
}

func join[V any](nodes map[contracts.NodeID]V) string {
	var b strings.Builder
	for n := range nodes {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(string(n))
	}
	return b.String()
}
