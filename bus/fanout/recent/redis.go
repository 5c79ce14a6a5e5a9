package recent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parley-chat/parley/contracts"
)

const (
	field       = "e" // the one field of a stream entry
	trimSlack   = 128 // how many entries above Keep Redis may leave when it trims by whole nodes
	expireEvery = 64  // entries
	touchedMax  = 1 << 16
	sumBytes    = 4
)

// Config bounds the cache.
type Config struct {
	// Keep is how many entries of a room are kept; Redis may keep some more. Defaults to 256.
	Keep int
	// TTL is how long a room's entries stay after the last one, or somewhat shorter. Defaults to 24 h.
	TTL time.Duration
	// Add is XADD of one field in place of the client, where the server is in this process; it says what Redis says. Defaults
	// to nil: the client does.
	Add func(key, id, field, value string) error
}

// Redis is a Cache in Redis: one stream per room and epoch.
//
// The id of an entry is "<seq>-0", so Redis itself refuses repeats and steps back. The value is a checksum over room,
// epoch, seq and JSON, then the JSON: what was cut, or written by somebody else or for another room, does not match.
type Redis struct {
	client redis.UniversalClient
	names  contracts.Names
	cfg    Config

	mu      sync.Mutex // guards touched
	touched map[stream]time.Time
}

// stream is a key of the cache.
type stream struct {
	room  contracts.RoomID
	epoch contracts.Epoch
}

var _ Cache = (*Redis)(nil)

// New makes a cache. The client is the caller's to close.
func New(client redis.UniversalClient, names contracts.Names, cfg Config) *Redis {
	if cfg.Keep <= 0 {
		cfg.Keep = 256
	}
	if cfg.TTL <= 0 {
		cfg.TTL = 24 * time.Hour
	}
	return &Redis{client: client, names: names, cfg: cfg, touched: make(map[stream]time.Time)}
}

// Append implements Cache with one pipeline (one per node on a cluster).
func (r *Redis) Append(ctx context.Context, entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	if r.cfg.Add != nil {
		return r.add(ctx, entries)
	}
	pipe := r.client.Pipeline()
	added := make([]*redis.StringCmd, len(entries))
	for i, e := range entries {
		key := r.names.RecentKey(e.Room, e.Epoch)
		added[i] = pipe.XAdd(ctx, &redis.XAddArgs{
			Stream: key,
			MaxLen: int64(r.cfg.Keep),
			Approx: true,
			ID:     entryID(e.Seq),
			Values: []any{field, seal(e)},
		})
		if r.touch(e) {
			pipe.Expire(ctx, key, r.cfg.TTL)
		}
	}
	_, err := pipe.Exec(ctx)
	if err == nil {
		return nil
	}
	for i, cmd := range added {
		if err := cmd.Err(); err != nil && !refused(err) {
			r.forget(entries)
			return fmt.Errorf("append %d recent entries: room %s, seq %d: %w", len(entries), entries[i].Room, entries[i].Seq, err)
		}
	}
	return nil
}

// add is Append where the server is in this process: only what keeps streams short is sent to it.
func (r *Redis) add(ctx context.Context, entries []Entry) error {
	pipe := r.client.Pipeline()
	for _, e := range entries {
		key := r.names.RecentKey(e.Room, e.Epoch)
		if err := r.cfg.Add(key, entryID(e.Seq), field, string(seal(e))); err != nil && !refused(err) {
			r.forget(entries)
			return fmt.Errorf("append %d recent entries: room %s, seq %d: %w", len(entries), e.Room, e.Seq, err)
		}
		if r.touch(e) {
			pipe.XTrimMaxLenApprox(ctx, key, int64(r.cfg.Keep), 0)
			pipe.Expire(ctx, key, r.cfg.TTL)
		}
	}
	if pipe.Len() == 0 {
		return nil
	}
	if _, err := pipe.Exec(ctx); err != nil {
		r.forget(entries)
		return fmt.Errorf("trim recent entries: %w", err)
	}
	return nil
}

// entryID is an entry's id in its stream.
func entryID(seq contracts.Seq) string { return strconv.FormatUint(uint64(seq), 10) + "-0" }

// touch reports whether the stream's expiry is to be set: with the first entry that this process appends, then each quarter of the TTL
// and every 64 entries. A stream that was lost meanwhile gets an expiry again by that.
func (r *Redis) touch(e Entry) bool {
	now := time.Now()
	s := stream{room: e.Room, epoch: e.Epoch}
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.touched[s]; ok && e.Seq%expireEvery != 0 && now.Sub(last) < r.cfg.TTL/4 {
		return false
	}
	if len(r.touched) >= touchedMax {
		clear(r.touched)
	}
	r.touched[s] = now
	return true
}

// forget makes the next entries set the expiry: it is not known whether these did.
func (r *Redis) forget(entries []Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		delete(r.touched, stream{room: e.Room, epoch: e.Epoch})
	}
}

// refused recognizes the answer to a repeat or a step back.
func refused(err error) bool {
	return strings.Contains(err.Error(), "equal or smaller than the target stream top item")
}

// Read implements Cache with one pipeline (one per node on a cluster).
func (r *Redis) Read(ctx context.Context, queries []Query) ([][]contracts.NumberedJSON, error) {
	results := make([][]contracts.NumberedJSON, len(queries))
	asked := make([]*redis.XMessageSliceCmd, len(queries))
	pipe := r.client.Pipeline()
	for i, q := range queries {
		switch {
		case q.From > q.To:
			results[i] = []contracts.NumberedJSON{}
		case q.From >= 1 && uint64(q.To-q.From) < uint64(r.cfg.Keep+trimSlack):
			asked[i] = pipe.XRange(ctx, r.names.RecentKey(q.Room, q.Epoch),
				entryID(q.From), entryID(q.To))
		}
	}
	if pipe.Len() == 0 {
		return results, nil
	}
	_, err := pipe.Exec(ctx)
	for i, cmd := range asked {
		switch {
		case cmd == nil:
		case cmd.Err() == nil:
			results[i] = open(queries[i], cmd.Val())
		case !redis.HasErrorPrefix(cmd.Err(), "WRONGTYPE"): // a foreign value is a miss
			return nil, fmt.Errorf("read recent entries of %d rooms: %w", len(queries), err)
		}
	}
	return results, nil
}

// open returns the entries that q asks for, or nil unless messages are exactly these.
func open(q Query, messages []redis.XMessage) []contracts.NumberedJSON {
	if uint64(len(messages)) != uint64(q.To-q.From)+1 {
		return nil
	}
	entries := make([]contracts.NumberedJSON, len(messages))
	for i, m := range messages {
		seq := q.From + contracts.Seq(i)
		value, _ := m.Values[field].(string)
		if m.ID != entryID(seq) || len(value) <= sumBytes {
			return nil
		}
		e := Entry{Room: q.Room, Epoch: q.Epoch, Seq: seq, JSON: []byte(value[sumBytes:])}
		if string(binary.BigEndian.AppendUint32(nil, sum(e))) != value[:sumBytes] {
			return nil
		}
		entries[i] = contracts.NumberedJSON{Seq: seq, JSON: json.RawMessage(e.JSON)}
	}
	return entries
}

func seal(e Entry) []byte {
	value := binary.BigEndian.AppendUint32(make([]byte, 0, sumBytes+len(e.JSON)), sum(e))
	return append(value, e.JSON...)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is the CRC-32C (RFC 3720 appendix B.4) of the entry with its place.
func sum(e Entry) uint32 {
	var b [contracts.MaxIDLen + 16]byte
	place := append(b[:0], e.Room...)
	place = append(place, 0)
	place = binary.BigEndian.AppendUint32(place, uint32(e.Epoch))
	place = binary.BigEndian.AppendUint64(place, uint64(e.Seq))
	return crc32.Update(crc32.Checksum(place, castagnoli), castagnoli, e.JSON)
}
