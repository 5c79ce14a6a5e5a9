//go:build !lean

package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/journal"
)

// kafkaOwner starts at its group's commits and lets the poller know what they are.
type kafkaOwner struct{ given chan *journal.Commit }

func (o kafkaOwner) Assign(_ context.Context, partition int32, c *journal.Commit) (int64, error) {
	if partition == 0 {
		o.given <- c
	}
	if c == nil {
		return 0, nil
	}
	return c.Offset, nil
}
func (kafkaOwner) Revoke(context.Context, []int32) {}
func (kafkaOwner) Lose([]int32)                    {}

// session is a start of an installation: a broker, and a writer and a reader of its partition 0.
type session struct {
	t        *testing.T
	kafka    *embedded.Kafka
	writer   *journal.KafkaWriter
	consumer *journal.KafkaConsumer
	owner    kafkaOwner
	stopped  bool // the broker is, before its clients
	closed   bool
}

func startSession(t *testing.T, cfg embedded.KafkaConfig) *session {
	t.Helper()
	s := &session{t: t, owner: kafkaOwner{make(chan *journal.Commit, 10)}}
	cfg.Partitions = 2
	var err error
	if s.kafka, err = embedded.StartKafka(cfg); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	jc := journal.Config{Brokers: s.kafka.Addrs(), Partitions: 2, Class: s.kafka.Class(), SessionTimeout: 3 * bustest.Patience}
	if s.writer, err = journal.NewWriter(jc, log); err != nil {
		t.Fatal(err)
	}
	if s.consumer, err = journal.NewConsumer(jc, "g", s.owner, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

func (s *session) close() {
	if s.closed {
		return
	}
	s.closed = true
	err := errors.Join(s.consumer.Close(), s.writer.Close(context.Background()))
	if err != nil && !s.stopped { // without a broker there is no leaving the group
		s.t.Error(err)
	}
	s.kafka.Close()
}

func (s *session) append(from, to int) {
	s.t.Helper()
	errs := make(chan error, to-from)
	for i := from; i < to; i++ {
		s.writer.Append(0, "", fmt.Appendf(nil, "v%d", i), func(_ int64, err error) { errs <- err })
	}
	for range to - from {
		if err := <-errs; err != nil {
			s.t.Fatal(err)
		}
	}
}

// read returns the next n values. Neither a session nor a rebalance runs out in the time that it has.
func (s *session) read(n int) (out []string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), bustest.Patience/2)
	defer cancel()
	for len(out) < n {
		batches, err := s.consumer.Poll(ctx, time.Second)
		if err != nil {
			s.t.Fatalf("after %d values: %v", len(out), err)
		}
		for _, b := range batches {
			if b.Err != nil {
				s.t.Fatal(b.Err)
			}
			for _, r := range b.Records {
				out = append(out, string(r.Value))
			}
		}
	}
	return out
}

func sequence(from, to int) (out []string) {
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprint("v", i))
	}
	return out
}

// TestKafkaSurvives ends a broker in three ways and starts it again: what was confirmed and committed is there, and a
// member that is gone without a word does not hold up its successor, which would wait for the end of its session.
func TestKafkaSurvives(t *testing.T) {
	for _, sync := range []bool{false, true} {
		for _, tt := range []struct {
			name string
			// end ends s, and returns the directory to go on with.
			end func(t *testing.T, s *session, dir string) string
		}{
			{"clean stop", func(_ *testing.T, s *session, dir string) string {
				s.close()
				return dir
			}},
			{"broker stopped before its clients", func(_ *testing.T, s *session, dir string) string {
				s.kafka.Close()
				s.stopped = true
				s.close()
				return dir
			}},
			{"killed", func(t *testing.T, _ *session, dir string) string {
				// What another process would find if this one ended here.
				found := t.TempDir()
				if err := os.CopyFS(found, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				return found
			}},
		} {
			t.Run(fmt.Sprintf("%s, sync %v", tt.name, sync), func(t *testing.T) {
				dir := t.TempDir()
				s := startSession(t, embedded.KafkaConfig{Dir: dir, Sync: sync})
				s.append(0, 1000)
				s.read(1000)
				if err := s.consumer.Commit(t.Context(), map[int32]journal.Commit{0: {Offset: 700, Epoch: 3}}); err != nil {
					t.Fatal(err)
				}
				<-s.owner.given
				dir = tt.end(t, s, dir)

				s = startSession(t, embedded.KafkaConfig{Dir: dir, Sync: sync})
				first := s.read(1)
				if diff := cmp.Diff(&journal.Commit{Offset: 700, Epoch: 3}, <-s.owner.given); diff != "" {
					t.Errorf("commit (-want +got):\n%s", diff)
				}
				s.append(1000, 1010)
				got := append(first, s.read(310-len(first))...)
				if diff := cmp.Diff(sequence(700, 1010), got); diff != "" {
					t.Errorf("read (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestKafkaKeepsItsPartitionCount(t *testing.T) {
	dir := t.TempDir()
	k, err := embedded.StartKafka(embedded.KafkaConfig{Dir: dir, Partitions: 2})
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	if k, err = embedded.StartKafka(embedded.KafkaConfig{Dir: dir, Partitions: 4}); err == nil {
		k.Close()
		t.Error("started with another partition count")
	}
}

func TestKafkaClass(t *testing.T) {
	for _, tt := range []struct {
		cfg  embedded.KafkaConfig
		want journal.Durability
	}{
		{embedded.KafkaConfig{}, journal.DurabilityVolatile},
		{embedded.KafkaConfig{Dir: t.TempDir()}, journal.DurabilityProcess},
		{embedded.KafkaConfig{Dir: t.TempDir(), Sync: true}, journal.DurabilityPower},
	} {
		k, err := embedded.StartKafka(tt.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := k.Class(); got != tt.want {
			t.Errorf("class %q, want %q", got, tt.want)
		}
		k.Close()
	}
}
