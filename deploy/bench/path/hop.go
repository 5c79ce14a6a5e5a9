package path

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/fx"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/wire"
	"github.com/parley-chat/parley/persist/sink"
)

// What a consumer of the log asks of its broker; the same as in bus/journal.
const (
	fetchWait           = 100 * time.Millisecond
	fetchBytes          = 8 << 20
	fetchPartitionBytes = 1 << 20
	pollRecords         = 4096
)

// Hop measures from the log's ack of a message to where a subscriber of the room's lane hears it, with dispatcher and
// persister at work, and to where a bare franz-go client in the same process has consumed the same record.
func Hop(ctx context.Context, servers Servers, cfg Config) (figures []Figure, err error) {
	w, err := servers(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	var keep *sink.Sink
	if err := w.run(ctx, wire.Persist(w.set, "persist", fx.Populate(&keep))); err != nil {
		return nil, err
	}
	if err := w.dispatch(ctx); err != nil {
		return nil, err
	}
	err = await(ctx, "the persister", func() error {
		if n := len(keep.Status()); n < w.set.Partitions {
			return fmt.Errorf("it owns %d partitions of %d", n, w.set.Partitions)
		}
		return keep.Ready()
	})
	if err != nil {
		return nil, err
	}

	h := newHop(cfg.Rate*int((cfg.Warmup+cfg.Duration)/time.Millisecond)/1000, w.set.Partitions)
	if err := h.subscribe(ctx, w); err != nil {
		return nil, err
	}
	if err := h.consume(w); err != nil {
		return nil, err
	}
	if err := h.send(ctx, w, cfg.Rate); err != nil {
		return nil, err
	}
	err = await(ctx, "what was sent", func() error {
		if err := h.failed(); err != nil {
			return err
		}
		n := int64(len(h.heard))
		if h.heardCount.Load() < n || h.consumedCount.Load() < n {
			return fmt.Errorf("of %d heard %d, consumed %d", n, h.heardCount.Load(), h.consumedCount.Load())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	bare, parley := h.hops(w, cfg.Rate*int(cfg.Warmup/time.Millisecond)/1000)
	return []Figure{
		{What: "ack to lane p50 ms", Bare: percentile(bare, 0.5), Parley: percentile(parley, 0.5)},
		{What: "ack to lane p99 ms", Bare: percentile(bare, 0.99), Parley: percentile(parley, 0.99)},
	}, nil
}

// hop holds when each message was acked, heard and consumed, all since begin.
type hop struct {
	begin  time.Time
	acked  []time.Duration // of the i-th message
	offset []int64         // of the i-th message in its partition
	heard  []time.Duration // of the i-th message

	consumed [][]time.Duration // per partition, by offset

	heardCount, consumedCount atomic.Int64
	rooms                     map[contracts.RoomID]int

	mu  sync.Mutex // guards err
	err error
}

func newHop(messages, partitions int) *hop {
	h := &hop{
		begin: time.Now(), acked: make([]time.Duration, messages), offset: make([]int64, messages), heard: make([]time.Duration, messages),
		consumed: make([][]time.Duration, partitions), rooms: make(map[contracts.RoomID]int),
	}
	for i := range rooms {
		h.rooms[roomID(i)] = i
	}
	return h
}

func (h *hop) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = errors.Join(h.err, err)
}

func (h *hop) failed() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// subscribe hears the rooms' lanes as an edge does.
func (h *hop) subscribe(ctx context.Context, w *world) error {
	client, err := w.set.Redis.Connect()
	if err != nil {
		return err
	}
	w.later(client.Close)
	sub := fanout.NewSubscriber(client, w.set.Names, "bench", h, w.set.Log)
	w.later(sub.Close)
	var lanes []contracts.Lane
	for room := range h.rooms {
		lanes = append(lanes, contracts.LaneOf(room))
	}
	return sub.Subscribe(ctx, lanes...)
}

// Receive implements fanout.Receiver.
func (h *hop) Receive(_ contracts.Lane, body []byte) {
	now := time.Since(h.begin)
	for len(body) > 0 {
		e, rest, err := contracts.NextEnvelope(body)
		if err != nil {
			h.fail(err)
			return
		}
		body = rest
		if e.Kind != contracts.EnvelopeEntry {
			continue
		}
		room, ours := h.rooms[e.Room]
		i := int(e.Seq-1)*rooms + room
		if !ours || i >= len(h.heard) || h.heard[i] != 0 {
			h.fail(fmt.Errorf("heard entry %d of room %s, which was not sent, or not twice", e.Seq, e.Room))
			return
		}
		h.heard[i] = now
		h.heardCount.Add(1)
	}
}

// Down implements fanout.Receiver.
func (h *hop) Down(group int) { h.fail(fmt.Errorf("lane group %d is not heard", group)) }

// Up implements fanout.Receiver.
func (h *hop) Up(int) {}

// consume reads the log with a bare client.
func (h *hop) consume(w *world) error {
	from := make(map[int32]kgo.Offset)
	for p := range int32(w.set.Partitions) {
		from[p] = kgo.NewOffset().At(0)
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(w.set.Kafka.Brokers...), kgo.DisableClientMetrics(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{w.set.Names.LogTopic(): from}),
		kgo.FetchMinBytes(1), kgo.FetchMaxWait(fetchWait), kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchPartitionBytes),
	}
	if w.set.Kafka.Dial != nil {
		opts = append(opts, kgo.Dialer(w.set.Kafka.Dial))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("make a bare client: %w", err)
	}
	done := make(chan struct{})
	w.later(func() error { client.Close(); <-done; return nil })
	go func() {
		defer close(done)
		for {
			fetches := client.PollRecords(context.Background(), pollRecords)
			now := time.Since(h.begin)
			if fetches.IsClientClosed() {
				return
			}
			fetches.EachError(func(_ string, partition int32, err error) {
				h.fail(fmt.Errorf("consume partition %d: %w", partition, err))
			})
			fetches.EachRecord(func(r *kgo.Record) {
				h.consumed[r.Partition] = append(h.consumed[r.Partition], now)
				h.consumedCount.Add(1)
			})
		}
	}()
	return nil
}

// send sends so many messages a second to the log, whatever becomes of them, and returns when all are acked.
func (h *hop) send(ctx context.Context, w *world, rate int) error {
	writer, err := w.writer()
	if err != nil {
		return err
	}
	var unacked sync.WaitGroup
	err = pace(ctx, rate, len(h.acked), func(i int) error {
		d, err := newDocument(i)
		if err != nil {
			return err
		}
		unacked.Add(1)
		writer.Append(w.partition(d.Room), string(d.Room), d.value, func(offset int64, err error) {
			defer unacked.Done()
			if h.acked[i], h.offset[i] = time.Since(h.begin), offset; err != nil {
				h.fail(fmt.Errorf("append message %d: %w", i, err))
			}
		})
		return h.failed()
	})
	if err != nil {
		return err
	}
	unacked.Wait()
	return h.failed()
}

// hops returns how long after its ack each message was consumed and heard, sorted, from the first-th on. Who got it
// before its sender got the ack waited for nothing.
func (h *hop) hops(w *world, first int) (consumed, heard []time.Duration) {
	for i := first; i < len(h.acked); i++ {
		p := w.partition(roomID(i % rooms))
		consumed = append(consumed, max(0, h.consumed[p][h.offset[i]]-h.acked[i]))
		heard = append(heard, max(0, h.heard[i]-h.acked[i]))
	}
	slices.Sort(consumed)
	slices.Sort(heard)
	return consumed, heard
}
