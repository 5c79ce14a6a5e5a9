//go:build !lean

package journal_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/parley-chat/parley/bus/journal"
)

// TestEnsureCopies has Ensure find clusters of one and of three brokers, and a topic of one replica that somebody made.
func TestEnsureCopies(t *testing.T) {
	for name, c := range map[string]struct {
		brokers int
		seeded  bool
		want    journal.Durability
		warns   bool
	}{
		"one broker":                  {brokers: 1, want: journal.DurabilityProcess},
		"three brokers":               {brokers: 3, want: journal.DurabilityReplicated},
		"three brokers, one's topic":  {brokers: 3, seeded: true, want: journal.DurabilityProcess, warns: true},
		"a lone broker and its topic": {brokers: 1, seeded: true, want: journal.DurabilityProcess},
	} {
		t.Run(name, func(t *testing.T) {
			opts := []kfake.Opt{kfake.NumBrokers(c.brokers), kfake.DefaultNumPartitions(partitions)}
			if c.seeded {
				opts = append(opts, kfake.SeedTopics(partitions, "parley.log"))
			}
			cluster, err := kfake.NewCluster(opts...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cluster.Close)
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
			if err := log.Close(); err != nil { // before said is read
				t.Fatal(err)
			}
			if warns := strings.Contains(said.String(), "a lost broker"); warns != c.warns {
				t.Errorf("warned of too few replicas: %v, want %v:\n%s", warns, c.warns, said.String())
			}
		})
	}
}
