//go:build !lean

package journal_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/journal"
)

type outcome struct {
	offset int64
	err    error
}

func appendTo(w journal.Writer, partition int32, value string) <-chan outcome {
	out := make(chan outcome, 1)
	w.Append(partition, "", []byte(value), func(offset int64, err error) { out <- outcome{offset, err} })
	return out
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// silent is the address of a broker that takes connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// TestWriterFull: what does not fit is refused before Append returns, so that who appends several in their order appends none
// behind it.
func TestWriterFull(t *testing.T) {
	w, err := journal.NewWriter(journal.Config{Brokers: []string{silent(t)}}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	for range journal.MaxBufferedRecords {
		w.Append(0, "", []byte("a"), func(int64, error) {})
	}
	late := 0
	for range 1000 {
		out := appendTo(w, 0, "b")
		select {
		case got := <-out:
			if !errors.Is(got.err, journal.ErrFull) {
				t.Fatalf("append to a full writer: %v, want %v", got.err, journal.ErrFull)
			}
		default:
			late++
		}
	}
	if late > 0 {
		t.Errorf("%d of 1000 refusals came behind Append's return", late)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("close: %v", err)
	}
}

// TestWriterGivesUp has a broker that says nothing.
func TestWriterGivesUp(t *testing.T) {
	broker := silent(t)
	bustest.Soon(t, "giving up", 5*time.Second, func() (took time.Duration) {
		w, err := journal.NewWriter(journal.Config{Brokers: []string{broker}, DeliveryTimeout: 200 * time.Millisecond}, quiet())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for i, out := range []<-chan outcome{appendTo(w, 0, "a"), appendTo(w, 0, "b"), appendTo(w, 1, "c")} {
			if got := <-out; !errors.Is(got.err, journal.ErrUnknown) {
				t.Errorf("append %d: %v, want %v", i, got.err, journal.ErrUnknown)
			}
		}
		took = time.Since(began)
		last := appendTo(w, 0, "d")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.Close(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("close: %v", err)
		}
		select {
		case got := <-last:
			if !errors.Is(got.err, journal.ErrUnknown) {
				t.Errorf("append before close: %v", got.err)
			}
		default:
			t.Error("append before close has no outcome")
		}
		return took
	})
}

// TestWriterOrderAfterUnknown has a broker that holds back one produce request until all its records have been reported
// as unknown. What is written of them afterwards, and of later ones, is in the order of the calls, each at most once.
func TestWriterOrderAfterUnknown(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "parley.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	release, held := make(chan struct{}), make(chan struct{})
	var once sync.Once
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		once.Do(func() {
			close(held)
			cluster.SleepControl(func() { <-release })
		})
		return nil, nil, false
	})
	cfg := journal.Config{Brokers: cluster.ListenAddrs(), Partitions: 1, DeliveryTimeout: 300 * time.Millisecond}
	w, err := journal.NewWriter(cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	first := appendTo(w, 0, "a")
	<-held
	second, third := appendTo(w, 0, "b"), appendTo(w, 0, "c")
	for _, out := range []<-chan outcome{first, second, third} {
		if got := <-out; !errors.Is(got.err, journal.ErrUnknown) {
			t.Fatalf("held back: %v, want %v", got.err, journal.ErrUnknown)
		}
	}
	close(release)
	for got := (outcome{err: journal.ErrUnknown}); got.err != nil; {
		if got = <-appendTo(w, 0, "d"); got.err != nil && !errors.Is(got.err, journal.ErrUnknown) {
			t.Fatal(got.err)
		}
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	log, err := journal.NewLog(cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	records, err := log.Read(t.Context(), 0, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got, order []string
	for _, r := range records {
		got = append(got, string(r.Value))
	}
	for _, v := range []string{"a", "b", "c"} {
		if len(got) > len(order) && got[len(order)] == v {
			order = append(order, v)
		}
	}
	for len(order) < len(got) {
		order = append(order, "d")
	}
	if diff := cmp.Diff(order, got); diff != "" || len(got) == 0 || got[len(got)-1] != "d" {
		t.Errorf("the log holds %v (-order +got):\n%s", got, diff)
	}
	t.Logf("the log holds %v", got)
}

func TestConfigValidate(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  journal.Config
		fine bool
	}{
		"no brokers":             {journal.Config{}, false},
		"brokers alone":          {journal.Config{Brokers: []string{"a:1"}}, true},
		"partitions not a power": {journal.Config{Brokers: []string{"a:1"}, Partitions: 12}, false},
		"unknown mechanism":      {journal.Config{Brokers: []string{"a:1"}, SASL: "gssapi", User: "u"}, false},
		"mechanism without user": {journal.Config{Brokers: []string{"a:1"}, SASL: journal.SASLPlain}, false},
		"scram":                  {journal.Config{Brokers: []string{"a:1"}, SASL: journal.SASLScramSHA512, User: "u", Password: "p", TLS: true}, true},
		"negative linger":        {journal.Config{Brokers: []string{"a:1"}, Linger: -1}, false},
	} {
		if err := tt.cfg.Validate(); (err == nil) != tt.fine {
			t.Errorf("%s: %v", name, err)
		}
	}
}
