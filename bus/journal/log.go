package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-chat/parley/contracts"
)

// What one Read fetches at once and in all.
const (
	fetchBytes   = 1 << 20
	maxReadBytes = 16 << 20
)

// The topic's replicas, and how many of them confirm a record, where there are brokers enough: with these the loss of any one
// broker loses no record and stops no send.
const (
	replicas       = 3
	inSyncReplicas = 2
)

// errAgain marks an answer that a look at newer metadata may mend.
var errAgain = errors.New("partition's leader is not known")

// KafkaLog is a Log on Kafka. It is safe for concurrent use.
type KafkaLog struct {
	cfg   Config
	topic string
	log   *slog.Logger
	cl    *kgo.Client
	adm   *kadm.Client

	mu     sync.Mutex // guards detail; not held across I/O
	detail *kadm.TopicDetail
}

// NewLog returns a Log on the topic of cfg. It does not wait for the brokers.
func NewLog(cfg Config, log *slog.Logger) (*KafkaLog, error) {
	cfg = cfg.withDefaults()
	// Metadata is asked for where it is needed and not answered from memory: Ensure waits for a change in it.
	cl, err := cfg.newClient(log, kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return nil, err
	}
	return &KafkaLog{cfg: cfg, topic: cfg.topic(), log: log, cl: cl, adm: kadm.NewClient(cl)}, nil
}

// Ping implements Log. The client's own Ping asks one broker after the other, so that a silent one takes all of the time.
func (l *KafkaLog) Ping(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	brokers := l.cl.DiscoveredBrokers()
	if len(brokers) == 0 {
		brokers = l.cl.SeedBrokers()
	}
	answers := make(chan error, len(brokers))
	for _, b := range brokers {
		go func() {
			req := kmsg.NewPtrMetadataRequest()
			req.Topics = []kmsg.MetadataRequestTopic{}
			_, err := b.Request(ctx, req)
			answers <- err
		}()
	}
	var err error
	for range brokers {
		if err = <-answers; err == nil {
			return nil
		}
	}
	l.cl.ForceMetadataRefresh() // they may have moved
	return fmt.Errorf("ping the log: %w", err)
}

// Close implements Log.
func (l *KafkaLog) Close() error {
	l.cl.Close()
	return nil
}

// Ensure implements Log. It tries until ctx ends while the brokers do not answer or are not complete.
func (l *KafkaLog) Ensure(ctx context.Context, partitions int) error {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		err := l.ensure(ctx, partitions)
		switch {
		case err == nil:
			return nil
		case !transient(err) && !errors.Is(err, kerr.InvalidReplicationFactor), errors.Is(err, errPartitions):
			return fmt.Errorf("ensure topic %s: %w", l.topic, err)
		}
		if pause(ctx, wait) != nil {
			return fmt.Errorf("ensure topic %s: %w (last: %w)", l.topic, context.Cause(ctx), err)
		}
	}
}

// errPartitions: the topic is there with another partition count.
var errPartitions = errors.New("wrong partition count")

func (l *KafkaLog) ensure(ctx context.Context, partitions int) error {
	detail, err := l.describe(ctx)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return l.create(ctx, partitions)
	}
	if err != nil {
		return err
	}
	if n := len(detail.Partitions); n != partitions {
		return fmt.Errorf("%w: it has %d partitions, this installation needs %d (rooms would move to others)", errPartitions, n, partitions)
	}
	for _, p := range detail.Partitions {
		if p.Err != nil && p.Leader < 0 {
			return fmt.Errorf("partition %d: %w", p.Partition, p.Err)
		}
	}
	return l.warnLimits(ctx, detail)
}

// create makes the topic: with the brokers' own replication where there are fewer than three of them. It returns errAgain once
// the topic is there.
func (l *KafkaLog) create(ctx context.Context, partitions int) error {
	cluster, err := l.adm.BrokerMetadata(ctx)
	if err != nil {
		return fmt.Errorf("list the brokers: %w", err)
	}
	settings := map[string]*string{
		"retention.ms":    kadm.StringPtr("-1"),
		"retention.bytes": kadm.StringPtr("-1"),
		"cleanup.policy":  kadm.StringPtr("delete"),
	}
	replication := int16(-1)
	if len(cluster.Brokers) >= replicas {
		replication = replicas
		settings["min.insync.replicas"] = kadm.StringPtr(strconv.Itoa(inSyncReplicas))
	}
	made, err := l.adm.CreateTopics(ctx, int32(partitions), replication, settings, l.topic)
	if err == nil {
		err = made[l.topic].Err
	}
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create it: %w", err)
	}
	return errAgain
}

// warnLimits warns of settings under which the log would lose records that are still needed.
func (l *KafkaLog) warnLimits(ctx context.Context, detail kadm.TopicDetail) error {
	configs, err := l.configs(ctx)
	if err != nil {
		return err
	}
	cluster, err := l.adm.BrokerMetadata(ctx)
	if err != nil {
		return fmt.Errorf("list the brokers: %w", err)
	}
	if len(cluster.Brokers) >= replicas && !replicated(detail, configs) {
		l.log.Warn("a lost broker would take records of the log along that were acked", "topic", l.topic, "brokers", len(cluster.Brokers),
			"replicas", detail.Partitions.NumReplicas(), "min.insync.replicas", configs["min.insync.replicas"],
			"want", fmt.Sprintf("%d replicas, min.insync.replicas=%d", replicas, inSyncReplicas))
	}
	for key, want := range map[string]string{"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"} {
		if got, ok := configs[key]; ok && got != want {
			l.log.Warn("the log's topic may drop records that are still needed", "topic", l.topic, "setting", key, "value", got, "want", want)
		}
	}
	return nil
}

// describe asks for the topic's partitions and leaders, and keeps the answer for leader.
func (l *KafkaLog) describe(ctx context.Context) (kadm.TopicDetail, error) {
	topics, err := l.adm.ListTopics(ctx, l.topic)
	if err != nil {
		return kadm.TopicDetail{}, fmt.Errorf("describe it: %w", err)
	}
	d := topics[l.topic]
	if d.Err != nil {
		return d, fmt.Errorf("describe it: %w", d.Err)
	}
	l.mu.Lock()
	l.detail = &d
	l.mu.Unlock()
	return d, nil
}

// leader returns the partition's leader and the topic's id, from memory if they are known.
func (l *KafkaLog) leader(ctx context.Context, partition int32) (broker int32, id kadm.TopicID, err error) {
	l.mu.Lock()
	d := l.detail
	l.mu.Unlock()
	if d == nil {
		fresh, err := l.describe(ctx)
		if err != nil {
			return 0, id, err
		}
		d = &fresh
	}
	p, ok := d.Partitions[partition]
	if !ok || p.Leader < 0 {
		l.forgetLeaders()
		return 0, id, errAgain
	}
	return p.Leader, d.ID, nil
}

func (l *KafkaLog) forgetLeaders() {
	l.mu.Lock()
	l.detail = nil
	l.mu.Unlock()
}

// Bounds implements Log.
func (l *KafkaLog) Bounds(ctx context.Context, partition int32) (start, end int64, err error) {
	err = retry(ctx, func() error {
		start, end, err = bounds(ctx, l.cl, l.topic, partition)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("bounds of partition %d: %w", partition, err)
	}
	return start, end, nil
}

// Extents implements Log.
func (l *KafkaLog) Extents(ctx context.Context) (all []Extent, err error) {
	err = retry(ctx, func() error {
		starts, err := l.adm.ListStartOffsets(ctx, l.topic)
		if err == nil {
			err = starts.Error()
		}
		if err != nil {
			return err
		}
		ends, err := l.adm.ListEndOffsets(ctx, l.topic)
		if err == nil {
			err = ends.Error()
		}
		if err != nil {
			return err
		}
		all = make([]Extent, len(ends[l.topic]))
		for p, end := range ends[l.topic] {
			start, ok := starts.Lookup(l.topic, p)
			if !ok || int(p) >= len(all) {
				return errAgain
			}
			all[p] = Extent{Start: start.Offset, End: end.Offset}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("bounds of all partitions: %w", err)
	}
	return all, nil
}

// Read implements Log.
func (l *KafkaLog) Read(ctx context.Context, partition int32, from int64, max int) ([]Record, error) {
	var (
		out   []Record
		bytes int
		next  = from
	)
	for len(out) < max && bytes < maxReadBytes {
		var p kgo.FetchPartition
		err := retry(ctx, func() (err error) {
			if p, err = l.fetch(ctx, partition, next); err == nil && len(out) == 0 && len(p.Records) == 0 {
				err = l.endsAt(ctx, partition, next)
			}
			if err != nil {
				l.forgetLeaders()
			}
			return err
		})
		switch {
		case errors.Is(err, ErrOutOfRange) && len(out) > 0:
			return out, nil // trimmed meanwhile; the next Read says so
		case errors.Is(err, ErrOutOfRange):
			return nil, fmt.Errorf("read partition %d from %d: %w", partition, next, ErrOutOfRange)
		case err != nil:
			return nil, fmt.Errorf("read partition %d from %d: %w", partition, next, err)
		}
		before := next
		for _, r := range p.Records {
			if r.Offset < next || len(out) == max {
				continue
			}
			out = append(out, Record{Offset: r.Offset, Value: r.Value})
			bytes += len(r.Value)
			next = r.Offset + 1
		}
		if next == before || next >= p.HighWatermark {
			break
		}
	}
	return out, nil
}

// endsAt returns an error where the partition may go on at an offset of which a fetch had nothing: a new leader gives out less than
// the one before until its followers have told it how far they are, and refuses to name the end so long (KIP-207).
func (l *KafkaLog) endsAt(ctx context.Context, partition int32, at int64) error {
	end, err := listOffset(ctx, l.cl, l.topic, partition, -1)
	if err == nil && end != at {
		err = errAgain
	}
	return err
}

// fetch asks the partition's leader once for what it has from an offset on.
func (l *KafkaLog) fetch(ctx context.Context, partition int32, from int64) (p kgo.FetchPartition, err error) {
	broker, id, err := l.leader(ctx, partition)
	if err != nil {
		return p, err
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = 0
	req.MinBytes = 0
	req.MaxBytes = fetchBytes
	req.SessionEpoch = -1 // no fetch session
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = l.topic
	rt.TopicID = id
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition = partition
	rp.FetchOffset = from
	rp.PartitionMaxBytes = fetchBytes
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := l.cl.Broker(int(broker)).Request(ctx, req)
	if err != nil {
		return p, err
	}
	got := resp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
		return p, err
	}
	if len(got.Topics) != 1 || len(got.Topics[0].Partitions) != 1 {
		return p, errAgain
	}
	p, _ = kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Offset: from, Topic: l.topic, Partition: partition},
		&got.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
	if errors.Is(p.Err, kerr.OffsetOutOfRange) {
		return p, ErrOutOfRange
	}
	return p, p.Err
}

// Committed implements Log.
func (l *KafkaLog) Committed(ctx context.Context, group string) (map[int32]Commit, error) {
	var out map[int32]Commit
	err := retry(ctx, func() (err error) {
		out, err = committed(ctx, l.adm, group, l.topic)
		return err
	})
	return out, err
}

// Trim implements Log.
func (l *KafkaLog) Trim(ctx context.Context, partition int32, before int64) error {
	start, end, err := l.Bounds(ctx, partition)
	if err != nil {
		return err
	}
	if before = min(before, end-1); before <= start {
		return nil
	}
	var to kadm.Offsets
	to.AddOffset(l.topic, partition, before, -1)
	err = retry(ctx, func() error {
		resp, err := l.adm.DeleteRecords(ctx, to)
		if err != nil {
			return err
		}
		return resp.Error()
	})
	if err != nil {
		return fmt.Errorf("trim partition %d below %d: %w", partition, before, err)
	}
	return nil
}

// Durability implements Log.
func (l *KafkaLog) Durability(ctx context.Context) (Durability, error) {
	if l.cfg.Class != "" {
		return l.cfg.Class, nil
	}
	var detail kadm.TopicDetail
	var configs map[string]string
	err := retry(ctx, func() (err error) {
		if detail, err = l.describe(ctx); err == nil {
			configs, err = l.configs(ctx)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("durability of topic %s: %w", l.topic, err)
	}
	if !replicated(detail, configs) {
		return DurabilityProcess, nil
	}
	return DurabilityReplicated, nil
}

// replicated reports whether every record that is confirmed is on two brokers at least, of three or more.
func replicated(detail kadm.TopicDetail, configs map[string]string) bool {
	inSync, err := strconv.Atoi(configs["min.insync.replicas"])
	if err != nil || inSync < inSyncReplicas {
		return false
	}
	for _, p := range detail.Partitions {
		if len(p.Replicas) < replicas {
			return false
		}
	}
	return true
}

// configs returns the topic's settings.
func (l *KafkaLog) configs(ctx context.Context) (map[string]string, error) {
	all, err := l.adm.DescribeTopicConfigs(ctx, l.topic)
	if err != nil {
		return nil, fmt.Errorf("describe its settings: %w", err)
	}
	rc, err := all.On(l.topic, nil)
	if err == nil {
		err = rc.Err
	}
	if err != nil {
		return nil, fmt.Errorf("describe its settings: %w", err)
	}
	out := make(map[string]string, len(rc.Configs))
	for _, c := range rc.Configs {
		out[c.Key] = c.MaybeValue()
	}
	return out, nil
}

// transient reports whether a failed request may succeed later.
func transient(err error) bool {
	var ke *kerr.Error
	if errors.As(err, &ke) {
		return ke.Retriable
	}
	return !errors.Is(err, ErrOutOfRange) && !errors.Is(err, kgo.ErrClientClosed) &&
		!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// retry calls f a few times, within about half a second, while its error is transient: leaders move and connections
// break.
func retry(ctx context.Context, f func() error) error {
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		err := f()
		if err == nil || !transient(err) || wait > 200*time.Millisecond {
			return err
		}
		if pause(ctx, wait) != nil {
			return err
		}
	}
}

// bounds asks the leader for a partition's first offset and the one behind its last.
func bounds(ctx context.Context, cl *kgo.Client, topic string, partition int32) (start, end int64, err error) {
	if start, err = listOffset(ctx, cl, topic, partition, -2); err != nil {
		return 0, 0, err
	}
	if end, err = listOffset(ctx, cl, topic, partition, -1); err != nil {
		return 0, 0, err
	}
	return start, end, nil
}

// listOffset asks for the offset at a time: -2 is the first, -1 the end (Kafka protocol, ListOffsets).
func listOffset(ctx context.Context, cl *kgo.Client, topic string, partition int32, at int64) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Partition = partition
	rp.Timestamp = at
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return 0, fmt.Errorf("list offsets: %w", err)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("list offsets: %w", errAgain)
	}
	got := resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
		return 0, fmt.Errorf("list offsets: %w", err)
	}
	return got.Offset, nil
}

// committed asks the group's coordinator for its commits in topic.
func committed(ctx context.Context, adm *kadm.Client, group, topic string) (map[int32]Commit, error) {
	all, err := adm.FetchOffsets(ctx, group)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return map[int32]Commit{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("commits of group %s: %w", group, err)
	}
	out := make(map[int32]Commit, len(all[topic]))
	for partition, o := range all[topic] {
		switch {
		case o.Err != nil:
			return nil, fmt.Errorf("commit of group %s for partition %d: %w", group, partition, o.Err)
		case o.At >= 0:
			epoch, _ := strconv.ParseUint(o.Metadata, 10, 32) // somebody else's metadata: as if there was no epoch
			out[partition] = Commit{Offset: o.At, Epoch: contracts.Epoch(epoch)}
		}
	}
	return out, nil
}
