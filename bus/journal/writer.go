package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-chat/parley/contracts"
)

// What a KafkaWriter holds at most; beyond it Append answers ErrFull.
const (
	MaxBufferedRecords = 20_000
	MaxBufferedBytes   = 64 << 20
)

// KafkaWriter is a Writer on Kafka: every replica in sync confirms (acks=all), an idempotent producer keeps each
// partition's order and writes no record twice by its own retries. It is safe for concurrent use.
type KafkaWriter struct {
	cfg      Config
	topic    string
	cl       *kgo.Client
	stop     chan struct{}
	replaced atomic.Bool // the topic was deleted and made anew: the client is to forget the old one
	wg       sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  bool
	waiting pending // sentinel of the ring of unconfirmed records, oldest first
	records int     // that the client has, those reported as unknown included
	bytes   int     // of them
}

// pending is a record that is not confirmed yet.
type pending struct {
	prev, next *pending
	since      time.Time
	done       func(int64, error)
}

// NewWriter returns a Writer on the topic of cfg. It does not wait for the brokers.
func NewWriter(cfg Config, log *slog.Logger) (*KafkaWriter, error) {
	cfg = cfg.withDefaults()
	w := &KafkaWriter{cfg: cfg, topic: cfg.topic(), stop: make(chan struct{})}
	w.waiting.prev, w.waiting.next = &w.waiting, &w.waiting
	cl, err := cfg.newClient(log,
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		// Never reached: Append counts by itself, as the client tells of a record that it does not take only later, on another
		// goroutine, and by then the caller may have appended the next one, which it takes.
		kgo.MaxBufferedRecords(2*MaxBufferedRecords),
		kgo.MaxBufferedBytes(2*MaxBufferedBytes),
		kgo.ProducerLinger(cfg.Linger),
		// The client gives a record up only where it knows that it is not in flight; it then gives up all that is queued
		// behind it. The rest is reported by expire, in time.
		kgo.RecordDeliveryTimeout(max(cfg.DeliveryTimeout*9/10, time.Second)),
		kgo.ProduceRequestTimeout(5*time.Second),
		kgo.UnknownTopicRetries(-1),
	)
	if err != nil {
		return nil, err
	}
	w.cl = cl
	w.wg.Go(w.expire)
	return w, nil
}

// Append implements Writer.
func (w *KafkaWriter) Append(partition int32, key string, value []byte, done func(offset int64, err error)) {
	if partition < 0 || int(partition) >= w.cfg.Partitions {
		panic(fmt.Sprintf("journal: append to partition %d of %d", partition, w.cfg.Partitions))
	}
	if len(value) > contracts.MaxRecordBytes {
		done(0, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(value)))
		return
	}
	p := &pending{since: time.Now(), done: done}
	size := len(key) + len(value)
	w.mu.Lock()
	switch {
	case w.closed:
		w.mu.Unlock()
		done(0, ErrClosed)
		return
	case w.records >= MaxBufferedRecords || w.bytes+size > MaxBufferedBytes:
		w.mu.Unlock()
		done(0, ErrFull)
		return
	}
	w.records++
	w.bytes += size
	p.prev, p.next = w.waiting.prev, &w.waiting
	p.prev.next, p.next.prev = p, p
	w.mu.Unlock()

	r := &kgo.Record{Topic: w.topic, Partition: partition, Value: value}
	if key != "" {
		r.Key = []byte(key)
	}
	w.cl.TryProduce(context.Background(), r, func(r *kgo.Record, err error) {
		switch {
		case !w.returned(p, size):
			// Reported as unknown before.
		case err == nil:
			p.done(r.Offset, nil)
		case errors.Is(err, kgo.ErrMaxBuffered):
			p.done(0, ErrFull)
		default:
			if errors.Is(err, kerr.UnknownTopicID) {
				w.replaced.Store(true)
			}
			p.done(0, fmt.Errorf("%w: %w", ErrUnknown, err))
		}
	})
}

// returned notes that the client does not have a record any more, and takes p out of the ring. It reports false if it was out
// already: then somebody else calls done.
func (w *KafkaWriter) returned(p *pending, size int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.records--
	w.bytes -= size
	return w.unlink(p)
}

// unlink takes p out of the ring, if it is there. w.mu is held.
func (w *KafkaWriter) unlink(p *pending) bool {
	if p.next == nil {
		return false
	}
	p.prev.next, p.next.prev = p.next, p.prev
	p.prev, p.next = nil, nil
	return true
}

// oldest takes the oldest record that has waited since before out of the ring, nil if there is none.
func (w *KafkaWriter) oldest(before time.Time) *pending {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.waiting.next
	if p == &w.waiting || p.since.After(before) {
		return nil
	}
	w.unlink(p)
	return p
}

// expire reports records as unknown whose time is over, and has the client forget a topic that was made anew. The client alone would hold on to a record in flight for as long
// as its broker does not answer. It keeps its place there, so later ones cannot overtake it.
func (w *KafkaWriter) expire() {
	tick := time.NewTicker(max(w.cfg.DeliveryTimeout/100, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case now := <-tick.C:
			if w.replaced.Swap(false) {
				w.cl.PurgeTopicsFromProducing(w.topic)
			}
			for p := w.oldest(now.Add(-w.cfg.DeliveryTimeout * 98 / 100)); p != nil; p = w.oldest(now.Add(-w.cfg.DeliveryTimeout * 98 / 100)) {
				p.done(0, fmt.Errorf("%w: not within %v", ErrUnknown, w.cfg.DeliveryTimeout))
			}
		}
	}
}

// Close implements Writer. What is not confirmed when ctx ends is reported as ErrUnknown before Close returns.
func (w *KafkaWriter) Close(ctx context.Context) error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.mu.Unlock()

	err := w.cl.Flush(ctx)
	close(w.stop)
	w.wg.Wait()
	w.cl.Close()
	for p := w.oldest(time.Now()); p != nil; p = w.oldest(time.Now()) {
		p.done(0, fmt.Errorf("%w: %w", ErrUnknown, ErrClosed))
	}
	if err != nil {
		return fmt.Errorf("flush the log's writer: %w", err)
	}
	return nil
}
