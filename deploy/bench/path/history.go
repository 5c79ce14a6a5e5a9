package path

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/deploy/wire"
	"github.com/parley-chat/parley/persist/store"
	"github.com/parley-chat/parley/workers"
)

const (
	page    = 50 // entries of a page
	perRoom = 1000
	askers  = 4  // pages that are asked for at once
	live    = 10 // rooms in which something was said of late, so that the cache has their newest page
)

// History measures from a question for a page of 50 entries to a worker's answer, as an edge asks: the newest page of
// rooms that are in use, which the cache has, and pages from anywhere else in a large store.
func History(ctx context.Context, servers Servers, cfg Config) (figures []Figure, err error) {
	w, err := servers(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	all := max(cfg.Entries/perRoom, live+1)
	if err := w.fillStore(ctx, all); err != nil {
		return nil, err
	}
	if err := w.dispatch(ctx); err != nil {
		return nil, err
	}
	worker := workers.Config{Node: "worker", Secret: []byte(strings.Repeat("x", 32))}
	if err := w.run(ctx, wire.Worker(w.set, worker, w.class)); err != nil {
		return nil, err
	}
	if err := w.talk(ctx); err != nil {
		return nil, err
	}
	edge, err := rpc.Connect(w.set.NATS, w.set.Log)
	if err != nil {
		return nil, err
	}
	w.later(edge.Close)

	cached, err := w.ask(ctx, edge, cfg.Pages, func() (contracts.RoomID, string) { return roomID(rand.N(live)), "" })
	if err != nil {
		return nil, err
	}
	if n := w.store.read(); n > 0 {
		return nil, fmt.Errorf("the store was asked for %d pages that the cache has", n)
	}
	stored, err := w.ask(ctx, edge, cfg.Pages, func() (contracts.RoomID, string) {
		return roomID(live + rand.N(all-live)), fmt.Sprintf(`,"before":%d`, page+1+rand.N(perRoom-page))
	})
	if err != nil {
		return nil, err
	}
	if n := w.store.read(); n == 0 {
		return nil, errors.New("the store was not asked for any page")
	}
	return []Figure{
		{What: "page from cache p50 ms", Bare: -1, Parley: percentile(cached, 0.5)},
		{What: "page from cache p99 ms", Bare: -1, Parley: percentile(cached, 0.99)},
		{What: "page from store p50 ms", Bare: -1, Parley: percentile(stored, 0.5)},
		{What: "page from store p99 ms", Bare: -1, Parley: percentile(stored, 0.99)},
	}, nil
}

// fillStore stores 1,000 entries in each of so many rooms, the rooms in turn as in a log that is gone: the checkpoints are
// those of the next epoch, before its first record.
func (w *world) fillStore(ctx context.Context, all int) error {
	const atOnce = 2000
	entries := make([][]store.Entry, w.set.Partitions)
	offsets := make([]int64, w.set.Partitions)
	prev := make([]contracts.Checkpoint, w.set.Partitions)
	flush := func(p int32) error {
		next := contracts.Checkpoint{Partition: p, Epoch: 2, KeyTime: time.Now().UnixMilli(), Sequencer: roomlog.Version}
		err := w.store.Append(ctx, entries[p], prev[p], next)
		prev[p], entries[p] = next, entries[p][:0]
		return err
	}
	for seq := contracts.Seq(1); seq <= perRoom; seq++ {
		for i := range all {
			d, err := newDocument(i)
			if err != nil {
				return err
			}
			d.Room = roomID(i)
			p := w.partition(d.Room)
			entries[p] = append(entries[p], store.Entry{Record: d.Record, Seq: seq, Epoch: 1, Offset: offsets[p]})
			if offsets[p]++; len(entries[p]) < atOnce {
				continue
			}
			if err := flush(p); err != nil {
				return err
			}
		}
	}
	for p := range entries {
		if err := flush(int32(p)); err != nil {
			return err
		}
	}
	return nil
}

// talk says a hundred things in each of the live rooms and waits until the cache has them.
func (w *world) talk(ctx context.Context) error {
	const said = 2 * page
	writer, err := w.writer()
	if err != nil {
		return err
	}
	var queries []recent.Query
	for i := range live {
		queries = append(queries, recent.Query{Room: roomID(i), Epoch: 2, From: perRoom + 1, To: perRoom + said})
		for range said {
			d, err := newDocument(i)
			if err != nil {
				return err
			}
			writer.Append(w.partition(d.Room), string(d.Room), d.value, func(int64, error) {}) // what fails does not come
		}
	}
	client, err := w.set.Redis.Connect()
	if err != nil {
		return err
	}
	w.later(client.Close)
	cache := recent.New(client, w.set.Names, recent.Config{})
	return await(ctx, "the cache", func() error {
		got, err := cache.Read(ctx, queries)
		if err == nil && slices.ContainsFunc(got, func(entries []contracts.NumberedJSON) bool { return entries == nil }) {
			err = errors.New("a room's entries are not there")
		}
		return err
	})
}

// ask asks for n pages, of rooms and from places that choose says, and returns how long each took, sorted. choose is called by several at once.
func (w *world) ask(ctx context.Context, edge rpc.Client, n int, choose func() (contracts.RoomID, string)) ([]time.Duration, error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	for range askers {
		wg.Go(func() {
			for range n / askers {
				room, more := choose()
				d, err := w.askOne(ctx, edge, room, more)
				mu.Lock()
				took, failed = append(took, d), errors.Join(failed, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took, failed
}

func (w *world) askOne(ctx context.Context, edge rpc.Client, room contracts.RoomID, more string) (time.Duration, error) {
	body, err := contracts.Marshal(contracts.Command{
		Op: contracts.OpHistory, Node: "bench", User: &contracts.Person{ID: "ada", Name: "Ada"}, LeftMS: 5000, Room: room,
		Body: fmt.Appendf(nil, `{"id":1,"op":"history","room":"%s","limit":%d%s}`, room, page, more),
	})
	if err != nil {
		return 0, err
	}
	type answer struct {
		body []byte
		err  error
	}
	got := make(chan answer, 1)
	began := time.Now()
	edge.Ask(w.set.Names.Work(contracts.OpHistory, w.partition(room)), body, 5*time.Second, func(reply []byte, err error) {
		got <- answer{slices.Clone(reply), err}
	})
	a := <-got
	took := time.Since(began)
	if a.err != nil {
		return 0, fmt.Errorf("ask for a page of room %s: %w", room, a.err)
	}
	var said contracts.Answer
	if err := contracts.DecodeAnswer(a.body, &said); err != nil {
		return 0, fmt.Errorf("read a page of room %s: %w", room, err)
	}
	if said.Err != nil {
		return 0, fmt.Errorf("a page of room %s: %w", room, said.Err)
	}
	var ok contracts.HistoryOK
	if err := json.Unmarshal(said.OK, &ok); err != nil {
		return 0, fmt.Errorf("read a page of room %s: %w", room, err)
	}
	if len(ok.Entries) != page {
		return 0, fmt.Errorf("a page of room %s has %d entries", room, len(ok.Entries))
	}
	return took, ctx.Err()
}
