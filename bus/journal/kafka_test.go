//go:build !lean

package journal_test

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
)

// brokersEnv names a real Kafka, comma-separated, for the tests that can use one.
const brokersEnv = "PARLEY_TEST_KAFKA_BROKERS"

const partitions = 4

// fixture makes a fixture of a configuration.
func fixture(t *testing.T, cfg journal.Config) bustest.JournalFixture {
	log := slog.New(slog.NewTextHandler(bustest.Output(t), nil))
	cfg.Partitions = partitions
	return bustest.JournalFixture{
		Partitions:     cfg.Partitions,
		SessionTimeout: cfg.SessionTimeout,
		Writer:         func() (journal.Writer, error) { return journal.NewWriter(cfg, log) },
		Consumer: func(group string, owner journal.Owner) (journal.Consumer, error) {
			return journal.NewConsumer(cfg, group, owner, log)
		},
		Log: func() (journal.Log, error) { return journal.NewLog(cfg, log) },
	}
}

// startKafka starts a broker that ends with the test.
func startKafka(t testing.TB, cfg embedded.KafkaConfig) *embedded.Kafka {
	t.Helper()
	if cfg.Partitions == 0 {
		cfg.Partitions = partitions
	}
	k, err := embedded.StartKafka(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func TestJournalEmbedded(t *testing.T) {
	for _, within := range []bool{false, true} {
		t.Run(fmt.Sprintf("within the process %v", within), func(t *testing.T) {
			bustest.Journal(t, func(t *testing.T) bustest.JournalFixture {
				k := startKafka(t, embedded.KafkaConfig{})
				cfg := journal.Config{Brokers: k.Addrs(), SessionTimeout: time.Second, Class: k.Class()}
				if within {
					cfg.Dial = k.Dial
				}
				f := fixture(t, cfg)
				f.Interrupt = func() func() {
					k.Interrupt()
					return k.Resume
				}
				return f
			})
		})
	}
}

var installations atomic.Int64

func TestJournalReal(t *testing.T) {
	brokers := os.Getenv(brokersEnv)
	if brokers == "" {
		t.Skipf("%s is not set", brokersEnv)
	}
	bustest.Journal(t, func(t *testing.T) bustest.JournalFixture {
		names := contracts.Names{Prefix: fmt.Sprintf("test-%d-%d", time.Now().UnixNano(), installations.Add(1))}
		f := fixture(t, journal.Config{Brokers: strings.Split(brokers, ","), Names: names, SessionTimeout: 6 * time.Second, Linger: time.Millisecond})
		f.Groups = names.Prefix + "-"
		return f
	})
}
