package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Bounds of a KafkaConsumer.
const (
	maxPollRecords = 4096
	revokeTimeout  = 5 * time.Second // for Owner.Revoke
	// closeTimeout is for Close in all, closingRevoke the part of it for Owner.Revoke. Whoever is asked to stop has 5 s
	// (deploy/wire), also while the brokers are away.
	closeTimeout  = 3 * time.Second
	closingRevoke = 2 * time.Second
	// fetchWait is how long the broker holds a fetch when there is nothing new. Records end it at once; but a partition
	// that is taken up waits for it, and after one was given up all do: the next fetch stands behind it on the connection.
	fetchWait = 100 * time.Millisecond
)

// KafkaConsumer is a Consumer on Kafka, made of two clients. One is a member of the group and reads nothing: it says
// which partitions are owned and commits. The other reads exactly the partitions, from exactly the offsets, that it is told,
// and knows nothing of the group, so there is no reset policy that could skip.
//
// The group rebalances cooperatively (cooperative-sticky): a member keeps the partitions that stay with it, and Revoke
// names only those that really go to somebody else, as Owner promises. With the eager protocol every member that
// comes or goes would take all partitions from all, and each would replay from its checkpoint.
//
// The group's callbacks run on the member's goroutines. They leave an event and wait until Poll has dealt with it; so
// Owner is told on the poller's goroutine, and no partition goes on to another member before.
type KafkaConsumer struct {
	cfg   Config
	topic string
	group string
	owner Owner
	log   *slog.Logger

	member *kgo.Client
	reader *kgo.Client
	adm    *kadm.Client // on member
	alive  atomic.Int64 // Unix nanoseconds; 0: never
	held   atomic.Bool  // the group's callback waits for Poll: the member cannot join a rebalance

	ctx    context.Context // of everything that runs beside Poll; ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// Owned by who holds polling: Poll, Close.
	polling  sync.Mutex
	parts    map[int32]*part // changed under mu as well, for Commit
	out      []Batch
	drained  time.Time // when the member's errors were looked at last
	replaced bool      // the topic is another one by now

	mu     sync.Mutex // guards what follows
	events []event
	wake   context.CancelFunc // ends the read that Poll waits in
	closed bool
}

// NewConsumer returns a member of group that owner is asked by. It does not wait for the brokers; owner is called from
// the first Poll on.
func NewConsumer(cfg Config, group string, owner Owner, log *slog.Logger) (*KafkaConsumer, error) {
	cfg = cfg.withDefaults()
	c := &KafkaConsumer{
		cfg: cfg, topic: cfg.topic(), group: group, owner: owner, log: log.With("group", group),
		parts: make(map[int32]*part),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	var err error
	c.reader, err = cfg.newClient(c.log,
		kgo.WithContext(c.ctx),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMinBytes(1),
		kgo.FetchMaxWait(fetchWait),
		kgo.FetchMaxBytes(8<<20),
		kgo.FetchMaxPartitionBytes(1<<20),
	)
	if err != nil {
		c.cancel()
		return nil, err
	}
	c.member, err = cfg.newClient(c.log,
		kgo.WithContext(c.ctx),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(c.topic),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.DisableAutoCommit(),
		kgo.SessionTimeout(cfg.SessionTimeout),
		kgo.RebalanceTimeout(cfg.rebalance()),
		kgo.HeartbeatInterval(cfg.heartbeat()),
		kgo.OnPartitionsAssigned(c.onAssigned),
		kgo.OnPartitionsRevoked(c.onRevoked),
		kgo.OnPartitionsLost(c.onLost),
		// Nothing is read here: the member gets no offsets, whatever the group has committed.
		kgo.AdjustFetchOffsetsFn(func(context.Context, map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
			return nil, nil
		}),
	)
	if err != nil {
		c.reader.Close()
		c.cancel()
		return nil, err
	}
	c.adm = kadm.NewClient(c.member)
	c.wg.Go(c.beat)
	return c, nil
}

// beat asks the group's coordinator, again and again, whether this member is still one. The client's own heartbeats do
// not tell what was answered.
func (c *KafkaConsumer) beat() {
	every := c.cfg.heartbeat()
	for pause(c.ctx, every) == nil {
		c.confirm(c.member, c.cfg.SessionTimeout/2)
	}
}

func (c *KafkaConsumer) confirm(member *kgo.Client, within time.Duration) {
	id, generation := member.GroupMetadata()
	if id == "" || generation < 0 {
		return
	}
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation = c.group, id, generation
	sent := time.Now()
	ctx, cancel := context.WithTimeout(c.ctx, within)
	defer cancel()
	resp, err := req.RequestWith(ctx, member)
	// A member that still gives up partitions has not joined the rebalance that is in progress. From its beginning on the
	// group gives it as long as a silent one, and this would look like life to the end of that.
	if err == nil && (resp.ErrorCode == 0 || resp.ErrorCode == kerr.RebalanceInProgress.Code && !c.held.Load()) {
		c.alive.Store(sent.UnixNano())
	}
}

// Alive implements Consumer. The time is that of the question, not of the answer.
func (c *KafkaConsumer) Alive() time.Time {
	if n := c.alive.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// Poll implements Consumer.
func (c *KafkaConsumer) Poll(ctx context.Context, wait time.Duration) ([]Batch, error) {
	c.polling.Lock()
	defer c.polling.Unlock()
	deadline := time.Now().Add(wait)
	for {
		if c.isClosed() {
			return nil, ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c.handle(ctx)
		if len(c.out) == 0 {
			c.read(ctx, deadline)
		}
		if len(c.out) > 0 {
			out := c.out
			c.out = nil
			return out, nil
		}
		if c.replaced {
			return nil, ErrReplaced
		}
		if !time.Now().Before(deadline) {
			return nil, nil
		}
	}
}

// read waits for records until deadline, an event, or the end of ctx.
func (c *KafkaConsumer) read(ctx context.Context, deadline time.Time) {
	if !time.Now().Before(deadline) {
		//lint:ignore SA1012 nil is franz-go's word for: what is there, without waiting
		c.take(c.reader.PollRecords(nil, maxPollRecords))
		return
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	c.mu.Lock()
	if len(c.events) > 0 || c.closed {
		c.mu.Unlock()
		return
	}
	c.wake = cancel
	c.mu.Unlock()
	fetches := c.reader.PollRecords(ctx, maxPollRecords)
	c.mu.Lock()
	c.wake = nil
	c.mu.Unlock()
	c.take(fetches)
}

// take turns what was fetched into batches.
func (c *KafkaConsumer) take(fetches kgo.Fetches) {
	fetches.EachPartition(func(ftp kgo.FetchTopicPartition) {
		f := &ftp.FetchPartition
		p := c.parts[f.Partition]
		if ftp.Topic != c.topic || p == nil || !p.reading {
			return // the end of Poll's wait shows as an error of no topic
		}
		records := make([]Record, 0, len(f.Records))
		for _, r := range f.Records {
			if r.Offset < p.next {
				continue
			}
			if r.Offset > p.next && f.LogStartOffset > p.next {
				f.Err = kerr.OffsetOutOfRange // trimmed under the reader's feet
				break
			}
			records = append(records, Record{Offset: r.Offset, Value: r.Value})
			p.next = r.Offset + 1
		}
		if len(records) > 0 {
			c.out = append(c.out, Batch{Partition: p.id, Records: records, End: max(f.HighWatermark, p.next)})
		}
		if f.Err != nil {
			c.failed(p, f.Err)
		}
	})
}

// failed stops reading p: for good if the log does not hold what is to be read, else for a moment.
func (c *KafkaConsumer) failed(p *part, err error) {
	c.stopReading(p)
	if errors.Is(err, kerr.UnknownTopicID) {
		// The client never reads a topic of this name with another id. Neither client of this consumer is of use any more.
		c.log.Error("the log's topic was deleted and made anew", "partition", p.id, "offset", p.next, "err", err)
		c.replaced = true
		return
	}
	var lost *kgo.ErrDataLoss
	if errors.Is(err, kerr.OffsetOutOfRange) || errors.As(err, &lost) {
		c.log.Error("the log does not hold what is to be read", "partition", p.id, "offset", p.next, "err", err)
		c.out = append(c.out, Batch{Partition: p.id, Err: ErrOutOfRange})
		return
	}
	c.log.Warn("read of the log failed, trying again", "partition", p.id, "offset", p.next, "err", err)
	c.locate(p, p.next, time.Second)
}

// Commit implements Consumer.
func (c *KafkaConsumer) Commit(ctx context.Context, commits map[int32]Commit) error {
	if len(commits) == 0 {
		return nil
	}
	offsets := make(map[int32]kgo.EpochOffset, len(commits))
	for partition, commit := range commits {
		if !c.owns(partition) {
			return fmt.Errorf("commit partition %d: %w", partition, ErrNotOwner)
		}
		offsets[partition] = kgo.EpochOffset{Epoch: -1, Offset: commit.Offset}
	}
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				p := &req.Topics[i].Partitions[j]
				epoch := strconv.FormatUint(uint64(commits[p.Partition].Epoch), 10)
				p.Metadata = &epoch
			}
		}
		return nil
	})
	for {
		err := c.commit(ctx, offsets)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.FencedInstanceID):
			return fmt.Errorf("commit: %w (%w)", ErrNotOwner, err)
		case !errors.Is(err, kerr.RebalanceInProgress):
			return fmt.Errorf("commit: %w", err)
		}
		// The group is between two generations, for as long as its leader needs to say who owns what.
		if perr := pause(ctx, 20*time.Millisecond); perr != nil {
			return fmt.Errorf("commit: %w (last: %w)", perr, err)
		}
	}
}

// commit commits once.
func (c *KafkaConsumer) commit(ctx context.Context, offsets map[int32]kgo.EpochOffset) (err error) {
	c.member.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{c.topic: offsets},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, cerr error) {
			if err = cerr; err != nil {
				return
			}
			for _, t := range resp.Topics {
				for _, p := range t.Partitions {
					if perr := kerr.ErrorForCode(p.ErrorCode); perr != nil {
						err = fmt.Errorf("partition %d: %w", p.Partition, perr)
						return
					}
				}
			}
		})
	return err
}

func (c *KafkaConsumer) owns(partition int32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parts[partition] != nil
}

func (c *KafkaConsumer) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// Close implements Consumer.
func (c *KafkaConsumer) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	if c.wake != nil {
		c.wake()
	}
	c.mu.Unlock()

	c.polling.Lock()
	defer c.polling.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	left := make(chan error, 1)
	go func() {
		err := c.member.LeaveGroupContext(ctx)
		c.post(event{kind: leftGroup})
		left <- err
	}()
	for gone := false; !gone; {
		gone = c.handleClosing(ctx)
	}
	err := <-left
	if held := c.giveUp(slices.Collect(maps.Keys(c.parts))); len(held) > 0 {
		c.owner.Lose(held) // the group was not to be reached
	}
	c.mu.Lock()
	c.parts = nil
	c.mu.Unlock()
	c.cancel()
	c.member.Close()
	c.reader.Close()
	c.wg.Wait()
	if err != nil && !errors.Is(err, kerr.UnknownMemberID) {
		return fmt.Errorf("leave group %s: %w", c.group, err)
	}
	return nil
}
