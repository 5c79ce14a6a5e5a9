//go:build !lean

package dispatch_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/sink"
)

// brokersEnv names Kafka brokers to test against as well.
const brokersEnv = "PARLEY_TEST_KAFKA_BROKERS"

// The log's topic is deleted and made anew under a running dispatcher and persister, with fewer records than before and
// with more, so that offsets are used again. The rooms go on in the next epoch; nothing is stored twice.
func TestTopicReplaced(t *testing.T) {
	for _, records := range []int{3, 40} {
		name := map[int]string{3: "fewer records", 40: "more records"}[records]
		t.Run(name, func(t *testing.T) {
			k, err := embedded.StartKafka(embedded.KafkaConfig{Partitions: 2})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(k.Close)
			replaceTopic(t, journal.Config{Brokers: k.Addrs(), SessionTimeout: 2 * time.Second}, records) // the persister waits for a session's end
		})
		t.Run(name+", Kafka", func(t *testing.T) {
			brokers := os.Getenv(brokersEnv)
			if brokers == "" {
				t.Skipf("%s is not set", brokersEnv)
			}
			key, err := contracts.NewKey()
			if err != nil {
				t.Fatal(err)
			}
			replaceTopic(t, journal.Config{Brokers: strings.Split(brokers, ","), SessionTimeout: 6 * time.Second, Names: contracts.Names{Prefix: "parley-test-" + key.String()}}, records)
		})
	}
}

func replaceTopic(t *testing.T, kafka journal.Config, records int) {
	s := newStackOn(t, kafka)
	cl, err := kgo.NewClient(kgo.SeedBrokers(kafka.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	topic := kafka.Names.LogTopic()
	t.Cleanup(func() { // real brokers outlive the test
		if cl, err := kgo.NewClient(kgo.SeedBrokers(kafka.Brokers...)); err == nil {
			defer cl.Close()
			_, _ = kadm.NewClient(cl).DeleteTopics(t.Context(), topic)
		}
	})
	if err := s.reader.Ensure(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	stop := s.persistAs(sink.Config{KeepEvery: 200 * time.Millisecond, SessionTimeout: s.kafka.SessionTimeout, CallTimeout: time.Second})
	defer stop()
	defer s.dispatch()()

	room := roomN(0)
	id := contracts.LaneOf(room).Partition(2)
	var sent []contracts.Record
	for range 10 {
		sent = append(sent, s.keys.record(string(room), "x"))
		s.append(sent[len(sent)-1])
	}
	stored := func(epoch contracts.Epoch, n int) func() bool {
		return func() bool {
			c, _, err := s.store.Checkpoint(t.Context(), id)
			return err == nil && c.Epoch == epoch && c.Offset == int64(n)
		}
	}
	s.await("the records to be stored", stored(1, 10))
	if _, err := kadm.NewClient(cl).DeleteTopics(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	s.await("the topic to be gone", func() bool {
		topics, err := kadm.NewClient(cl).ListTopics(t.Context(), topic)
		return err == nil && topics[topic].Err != nil
	})
	if err := s.reader.Ensure(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	s.retry(sent[4]) // the writer has to notice, too
	for range records - 1 {
		s.append(s.keys.record(string(room), "y"))
	}
	s.await("the next epoch", stored(2, records))
	page, err := s.store.Page(t.Context(), room, 1, contracts.MaxInt, 1000, false)
	if err != nil || len(page) != 10+records-1 {
		t.Fatalf("%d rows, %v, want %d", len(page), err, 10+records-1)
	}
	for i, e := range page {
		if e.Seq != contracts.Seq(i+1) || (e.Epoch == 2) != (i >= 10) {
			t.Errorf("row %d has seq %d in epoch %d", i, e.Seq, e.Epoch)
		}
	}
	for e := s.next(); e.Epoch != 2 || e.Seq != page[len(page)-1].Seq; e = s.next() {
		if e.Epoch == 1 && e.Seq > 10 {
			t.Errorf("told %d of the old epoch", e.Seq)
		}
	}
	s.await("the head", func() bool {
		r := s.ask(id, contracts.Question{Heads: []contracts.RoomID{room}, LeftMS: bustest.Patience.Milliseconds()})
		return r.Err == nil && r.Epoch == 2 && r.Heads[0].Seq == page[len(page)-1].Seq
	})
}

// retry appends a record until the log takes it.
func (s *stack) retry(r contracts.Record) {
	s.t.Helper()
	value, err := contracts.EncodeRecord(&r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.await("the log to take a record", func() bool {
		done := make(chan error, 1)
		s.writer.Append(contracts.LaneOf(r.Room).Partition(2), string(r.Room), value, func(_ int64, err error) { done <- err })
		return <-done == nil
	})
}
