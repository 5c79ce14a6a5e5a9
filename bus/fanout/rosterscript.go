package fanout

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parley-chat/parley/contracts"
)

const (
	roomTTL      = 24 * time.Hour
	renewEvery   = time.Hour // how often a room that is in use gets its TTL again
	rosterRounds = 4

	// In one run of the script: while it runs Redis does nothing else.
	scriptPeople = 500
	scriptRooms  = 100
)

// change is the one script that writes rooms. A room is
//
//	a hash    user → "1,3:gAda": numbers of the nodes through which the person listens, g for a guest or u, the name
//	a string  "<checked> <renewed> <last> |node=1|node=3|": its nodes and their numbers, the last number given, when it
//	          got its TTL, and for which set of live nodes these were last found to be live
//
// A person has one field, so that the hash's length is the count, and all fields of a room with about a hundred people
// are short enough for Redis to keep it as one list; the nodes would not be, therefore they stand apart. There are as
// many redis.calls for one person in a room as for many, as these are what a script costs; a run for many rooms saves
// what beginning a script costs, which is most of it on the embedded server. All rooms of a run are in one slot.
//
// KEYS: hash and string of each room. ARGV: TTL in seconds, when it was last due, the fingerprint of the live nodes, live
// nodes, dead nodes (lists with commas around), then for each room the number of its people, and node, user and person of
// each; an empty person leaves, no people at all is a look. The nodes of people who come are among the live ones. If the
// room's nodes were checked for the same fingerprint they are not looked at. Otherwise one in neither list stops before any
// effect in this room: the result is {0, the nodes}. Else the people of dead nodes are removed, and the result is {1, people
// now, changed and people after it for each element}, or {2} where the keys hold what no Roster wrote.
var change = redis.NewScript(`
local ttl, due, set, live, dead = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
-- Visits the room of two keys; its people's arguments follow ARGV[at].
local function visit(key, nodes_key, at, people)
  local written = redis.call('GET', nodes_key)
  local checked, last, nodes
  if written then
    checked, last, nodes = string.match(written, '^(%x+) %d+ (%d+) (|.*)$')
  end
  if not nodes then
    redis.call('DEL', key)
    checked, last, nodes = set, '0', '|'
  end
  if checked ~= set then
    local gone, stay, any = {}, {'|'}, false
    for node, i in string.gmatch(nodes, '([^|=]+)=(%d+)') do
      if string.find(dead, ',' .. node .. ',', 1, true) then
        gone[i], any = true, true
      elseif string.find(live, ',' .. node .. ',', 1, true) then
        stay[#stay + 1] = node .. '=' .. i .. '|'
      else
        return {0, nodes}
      end
    end
    nodes = table.concat(stay)
    local all = any and redis.call('HGETALL', key) or {}
    for f = 1, #all, 2 do
      local list, person = string.match(all[f + 1], '^([%d,]+)(:.*)$')
      local kept = {}
      for i in string.gmatch(list or '', '%d+') do
        if not gone[i] then kept[#kept + 1] = i end
      end
      if #kept == 0 then
        redis.call('HDEL', key, all[f])
      else
        local now = table.concat(kept, ',')
        if now ~= list then redis.call('HSET', key, all[f], now .. person) end
      end
    end
  end
  local users = {}
  for n = 1, people do
    users[n] = ARGV[at + 3 * n - 1]
  end
  local count = redis.call('HLEN', key)
  local result, sets, dels = {1, 0}, {}, {}
  if #users > 0 then
    local held = redis.call('HMGET', key, unpack(users))
    local now, touched = {}, {}
    for n, user in ipairs(users) do
      now[user] = held[n] or nil
    end
    local function number(node, make)
      local _, equals = string.find(nodes, '|' .. node .. '=', 1, true)
      if equals then return string.match(nodes, '^%d+', equals + 1) end
      if make then
        last = string.format('%d', last + 1)
        nodes = nodes .. node .. '=' .. last .. '|'
        return last
      end
    end
    for n, user in ipairs(users) do
      local node, person, changed = ARGV[at + 3 * n - 2], ARGV[at + 3 * n], 0
      local was, list, who = now[user]
      if was then
        list, who = string.match(was, '^([%d,]+)(:.*)$')
      end
      if person ~= '' then
        local i = number(node, true)
        if not list then
          list, changed = i, 1
          if not was then count = count + 1 end
        elseif not string.find(',' .. list .. ',', ',' .. i .. ',', 1, true) then
          list = list .. ',' .. i
        end
        now[user] = list .. ':' .. person
      elseif list then
        local i, kept = number(node), {}
        for other in string.gmatch(list, '%d+') do
          if other ~= i then kept[#kept + 1] = other end
        end
        if #kept == 0 then
          now[user], changed, count = nil, 1, count - 1
        else
          now[user] = table.concat(kept, ',') .. who
        end
      end
      if now[user] ~= was then touched[user] = true end
      result[#result + 1] = changed
      result[#result + 1] = count
    end
    for user in pairs(touched) do
      if now[user] then
        sets[#sets + 1] = user
        sets[#sets + 1] = now[user]
      else
        dels[#dels + 1] = user
      end
    end
  end
  if count == 0 then
    if written then redis.call('DEL', key, nodes_key) end
    return result
  end
  if #sets > 0 then redis.call('HSET', key, unpack(sets)) end
  if #dels > 0 then redis.call('HDEL', key, unpack(dels)) end
  local fresh = set .. ' ' .. due .. ' ' .. last .. ' ' .. nodes
  if fresh ~= written and (#users > 0 or checked ~= set) then
    redis.call('SET', nodes_key, fresh, 'EX', ttl)
    redis.call('EXPIRE', key, ttl)
  end
  result[2] = count
  return result
end
local results, at = {}, 6
for k = 1, #KEYS, 2 do
  local people = tonumber(ARGV[at])
  local ok, result = pcall(visit, KEYS[k], KEYS[k + 1], at, people)
  results[#results + 1] = ok and result or {2}
  at = at + 1 + 3 * people
end
return results
`)

// step is one person who comes or goes.
type step struct {
	room   contracts.RoomID
	node   contracts.NodeID
	user   contracts.UserID
	person string // as in the room's hash; empty: goes
	at     int    // its place in the caller's list

	change Change // the result
}

// encodePresent is a person in a room's hash, without the nodes.
func encodePresent(p contracts.Person) string {
	if p.Guest {
		return "g" + p.Name
	}
	return "u" + p.Name
}

// decodePresent reads a field of a room's hash.
func decodePresent(user, value string) (p contracts.Person, ok bool) {
	_, person, ok := strings.Cut(value, ":")
	if !ok || person == "" {
		return p, false // not written by a Roster
	}
	return contracts.Person{ID: contracts.UserID(user), Name: person[1:], Guest: person[0] == 'g'}, true
}

// visit is what a run of the script does in one room: steps, or none for a look.
type visit struct {
	room  contracts.RoomID
	steps []*step

	// The result.
	count int
	err   error
}

// visit runs the script for all rooms, and again for those that have nodes that must be looked at.
func (r *RedisRoster) visit(ctx context.Context, visits []*visit) {
	dead := make(map[contracts.NodeID]bool)
	for round := range rosterRounds {
		live, err := r.liveNodes(ctx, round > 0)
		if err != nil {
			fail(visits, err)
			return
		}
		enterers(visits, live)
		maps.DeleteFunc(dead, func(n contracts.NodeID, _ bool) bool { _, lives := live[n]; return lives })
		names := slices.Sorted(maps.Keys(live))
		head := scriptHead{fingerprint: fingerprint(names), live: ",", dead: ","}
		if round > 0 {
			head.live, head.dead = list(names), list(slices.Collect(maps.Keys(dead)))
		}
		results, err := r.runScript(ctx, visits, head)
		if err != nil {
			fail(visits, err)
			return
		}
		var again []*visit
		for i, v := range visits {
			nodes, done := v.take(results[i])
			for _, n := range nodes {
				dead[n] = true // unless the next reading says that it is live
			}
			if !done {
				again = append(again, v)
			}
		}
		if visits = again; len(visits) == 0 {
			return
		}
	}
	fail(visits, errors.New("the nodes of the rooms keep changing"))
}

// enterers adds the nodes through which people come to the live ones: their leases were made sure of, whatever a reading
// from before that says. The script takes a node that it adds to a room for one of the set that it notes there, and would
// not look at it again when the set is the same without it.
func enterers(visits []*visit, live map[contracts.NodeID]int64) {
	for _, v := range visits {
		for _, s := range v.steps {
			if _, known := live[s.node]; s.person != "" && !known {
				live[s.node] = 0
			}
		}
	}
}

func fail(visits []*visit, err error) {
	for _, v := range visits {
		v.err = err
	}
}

// take reads the room's result, or the nodes that stopped the script.
func (v *visit) take(result any) (nodes []contracts.NodeID, done bool) {
	raw, _ := result.([]any)
	number := func(i int) int {
		n, _ := raw[i].(int64)
		return int(n)
	}
	switch {
	case len(raw) == 2 && raw[0] == int64(0):
		text, _ := raw[1].(string)
		for one := range strings.SplitSeq(text, "|") {
			if name, _, ok := strings.Cut(one, "="); ok {
				nodes = append(nodes, contracts.NodeID(name))
			}
		}
		return nodes, false
	case len(raw) != 2+2*len(v.steps):
		v.err = fmt.Errorf("room %s: its keys hold something else", v.room)
		return nil, true
	}
	v.count = number(1)
	for i, s := range v.steps {
		s.change = Change{Changed: number(2+2*i) == 1, Count: number(3 + 2*i)}
	}
	return nil, true
}

// scriptHead is what the script gets beside its rooms.
type scriptHead struct {
	fingerprint, live, dead string
}

// fingerprint stands for a set of nodes: its names in order, hashed.
func fingerprint(names []contracts.NodeID) string {
	h := fnv.New64a()
	for _, n := range names {
		_, _ = h.Write([]byte(n))
		_, _ = h.Write([]byte{','})
	}
	return strconv.FormatUint(h.Sum64(), 16)
}

// list joins names with commas, also around them.
func list(names []contracts.NodeID) string {
	var b strings.Builder
	b.WriteByte(',')
	for _, n := range names {
		b.WriteString(string(n))
		b.WriteByte(',')
	}
	return b.String()
}

// runScript runs the script once and returns a result per room.
func (r *RedisRoster) runScript(ctx context.Context, visits []*visit, head scriptHead) ([]any, error) {
	people := 0
	for _, v := range visits {
		people += len(v.steps)
	}
	keys := make([]string, 0, 2*len(visits))
	args := make([]any, 0, 5+len(visits)+3*people)
	args = append(args, int(roomTTL/time.Second), r.now().Truncate(renewEvery).Unix(), head.fingerprint, head.live, head.dead)
	for _, v := range visits {
		keys = append(keys, r.names.PresentKey(v.room), r.names.PresentNodesKey(v.room))
		args = append(args, len(v.steps))
		for _, s := range v.steps {
			args = append(args, string(s.node), string(s.user), s.person)
		}
	}
	results, err := change.Run(ctx, r.client, keys, args...).Slice()
	if err != nil {
		return nil, fmt.Errorf("run the roster script: %w", err)
	}
	if len(results) != len(visits) {
		return nil, fmt.Errorf("run the roster script: %d results for %d rooms", len(results), len(visits))
	}
	return results, nil
}
