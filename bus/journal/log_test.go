//go:build !lean

package journal_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/journal"
)

// TestEnsureCopies has Ensure find clusters of one and of three brokers, and a topic of one replica that somebody made.
func TestEnsureCopies(t *testing.T) {
	for name, c := range map[string]struct {
		brokers int
		made    bool
		asked   int16 // replicas of the topic that Ensure makes
		want    journal.Durability
		warns   bool
	}{
		"one broker":                  {brokers: 1, asked: -1, want: journal.DurabilityProcess},
		"three brokers":               {brokers: 3, asked: 3, want: journal.DurabilityReplicated},
		"three brokers, one's topic":  {brokers: 3, made: true, want: journal.DurabilityProcess, warns: true},
		"a lone broker and its topic": {brokers: 1, made: true, want: journal.DurabilityProcess},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, err := kfake.NewCluster(kfake.NumBrokers(c.brokers))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cluster.Close)
			if c.made {
				cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
				if err != nil {
					t.Fatal(err)
				}
				defer cl.Close()
				all := "2"
				if made, err := kadm.NewClient(cl).CreateTopics(t.Context(), partitions, 1, map[string]*string{"min.insync.replicas": &all}, "parley.log"); err != nil || made.Error() != nil {
					t.Fatal(err, made.Error())
				}
			}
			var asked atomic.Int32
			cluster.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
				cluster.KeepControl()
				asked.Store(int32(req.(*kmsg.CreateTopicsRequest).Topics[0].ReplicationFactor))
				return nil, nil, false
			})
			var said bytes.Buffer
			log, err := journal.NewLog(journal.Config{Brokers: cluster.ListenAddrs(), Partitions: partitions},
				slog.New(slog.NewTextHandler(&said, nil)))
			if err != nil {
				t.Fatal(err)
			}
			if err := log.Ensure(t.Context(), partitions); err != nil {
				t.Fatal(err)
			}
			got, err := log.Durability(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("durability %s, want %s", got, c.want)
			}
			if got := int16(asked.Load()); got != c.asked {
				t.Errorf("made with %d replicas, want %d", got, c.asked)
			}
			if err := log.Close(); err != nil { // before said is read
				t.Fatal(err)
			}
			if warns := strings.Contains(said.String(), "a lost broker"); warns != c.warns {
				t.Errorf("warned of too few replicas: %v, want %v:\n%s", warns, c.warns, said.String())
			}
		})
	}
}

// TestReadBehindANewLeader: a leader that gives out less than there is, and refuses to say where the log ends, as one that was just
// elected does (KIP-207), is not taken for the log's end.
func TestReadBehindANewLeader(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "parley.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	cfg := journal.Config{Brokers: cluster.ListenAddrs(), Partitions: 1}
	w, err := journal.NewWriter(cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"a", "b"} {
		if got := <-appendTo(w, 0, text); got.err != nil {
			t.Fatal(got.err)
		}
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var empty, refused atomic.Bool
	cluster.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if empty.Swap(true) {
			return nil, nil, false
		}
		req := r.(*kmsg.FetchRequest)
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		topic := kmsg.NewFetchResponseTopic()
		topic.Topic, topic.TopicID = req.Topics[0].Topic, req.Topics[0].TopicID
		p := kmsg.NewFetchResponseTopicPartition()
		p.Partition, p.HighWatermark = 0, 1
		topic.Partitions = append(topic.Partitions, p)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	cluster.ControlKey(int16(kmsg.ListOffsets), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if refused.Swap(true) {
			return nil, nil, false
		}
		req := r.(*kmsg.ListOffsetsRequest)
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic = req.Topics[0].Topic
		p := kmsg.NewListOffsetsResponseTopicPartition()
		p.Partition, p.ErrorCode = 0, kerr.OffsetNotAvailable.Code
		topic.Partitions = append(topic.Partitions, p)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	log, err := journal.NewLog(cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	records, err := log.Read(t.Context(), 0, 1, 10)
	if err != nil || len(records) != 1 || string(records[0].Value) != "b" {
		t.Errorf("read %v, %v, want the second record", records, err)
	}
	if !empty.Load() || !refused.Load() {
		t.Error("the leader was not asked, or not where the log ends")
	}
	if records, err := log.Read(t.Context(), 0, 2, 10); err != nil || len(records) != 0 {
		t.Errorf("read %v, %v at the end", records, err)
	}
}

// TestPing: one broker that answers is enough, whatever becomes of the others.
func TestPing(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	log, err := journal.NewLog(journal.Config{Brokers: append([]string{silent.Addr().String()}, cluster.ListenAddrs()...), Partitions: 1}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	for range 3 { // by the brokers that were named, then by those that they told of
		ctx, cancel := context.WithTimeout(t.Context(), bustest.Patience)
		err := log.Ping(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	cluster.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := log.Ping(ctx); err == nil {
		t.Error("nobody is there")
	}
}

// TestRebalanceIsShort: a group waits for members that do not come back as long as its slowest member allowed it, so none may
// leave that to the client's default of a minute.
func TestRebalanceIsShort(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "parley.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	asked := make(chan time.Duration, 1)
	cluster.ControlKey(int16(kmsg.JoinGroup), func(r kmsg.Request) (kmsg.Response, error, bool) {
		asked <- time.Duration(r.(*kmsg.JoinGroupRequest).RebalanceTimeoutMillis) * time.Millisecond
		return nil, nil, false
	})
	c, err := journal.NewConsumer(journal.Config{Brokers: cluster.ListenAddrs(), Partitions: 1}, "g", nobody{}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if got := <-asked; got != 10*time.Second {
		t.Errorf("the group is to wait %s", got)
	}
}

// nobody owns partitions and does nothing.
type nobody struct{}

func (nobody) Assign(context.Context, int32, *journal.Commit) (int64, error) { return 0, nil }
func (nobody) Revoke(context.Context, []int32)                               {}
func (nobody) Lose([]int32)                                                  {}

// TestHeldUpIsNotAlive: a member that is held up in Revoke while the group is at its next rebalance does not join it in time, maybe;
// it must not pass for alive until it is put out.
func TestHeldUpIsNotAlive(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "parley.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	cfg := journal.Config{Brokers: cluster.ListenAddrs(), Partitions: 2}
	owner := &slowOwner{assigned: make(chan int32, 2), revoking: make(chan struct{}), release: make(chan struct{})}
	first, err := journal.NewConsumer(cfg, "g", owner, quiet())
	if err != nil {
		t.Fatal(err)
	}
	var beats atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), bustest.Patience)
	defer cancel()
	poll := func(c journal.Consumer) {
		for ctx.Err() == nil {
			if _, err := c.Poll(ctx, time.Second); err != nil {
				return
			}
		}
	}
	var polling sync.WaitGroup
	polling.Go(func() { poll(first) })
	for range 2 {
		select {
		case <-owner.assigned:
		case <-ctx.Done():
			t.Fatal("nothing was assigned")
		}
	}
	second, err := journal.NewConsumer(cfg, "g", nobody{}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	polling.Go(func() { poll(second) })
	select {
	case <-owner.revoking:
	case <-ctx.Done():
		t.Fatal("nothing was revoked")
	}
	cluster.ControlKey(int16(kmsg.Heartbeat), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		beats.Add(1)
		resp := r.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = kerr.RebalanceInProgress.Code
		return resp, nil, true
	})
	after := func(n int64) time.Time {
		for from := beats.Load(); beats.Load() < from+n; {
			if pause := time.NewTimer(time.Millisecond); ctx.Err() == nil {
				<-pause.C
			} else {
				t.Fatal("no heartbeats")
			}
		}
		return first.Alive()
	}
	if was, is := after(10), after(10); !is.Equal(was) {
		t.Errorf("it is alive since %s, after 10 more heartbeats since %s", was, is)
	}
	close(owner.release)
	cancel()
	polling.Wait()
	for _, c := range []journal.Consumer{first, second} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// slowOwner takes its time to give up.
type slowOwner struct {
	nobody
	assigned chan int32
	revoking chan struct{}
	once     sync.Once
	release  chan struct{}
}

func (o *slowOwner) Assign(_ context.Context, p int32, _ *journal.Commit) (int64, error) {
	o.assigned <- p
	return 0, nil
}

func (o *slowOwner) Revoke(context.Context, []int32) {
	o.once.Do(func() { close(o.revoking) })
	<-o.release
}
