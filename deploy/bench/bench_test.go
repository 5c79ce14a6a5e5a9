package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

// TestMain lets the test's own program be a floor, as the real one is.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-serve") {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

func TestTable(t *testing.T) {
	table := newTable([]benchCase{{name: "1x1000", figure: "deliveries per CPU-s"}, {name: "two", figure: "deliveries per CPU-s"}}, []system{{name: "floor", floor: true}, {name: "batched", floor: true}, {name: "edge"}})
	for _, v := range []float64{100, 900, 200} {
		table.add(0, 0, v, 4)
	}
	table.add(0, 1, 6000, 0)
	table.add(0, 2, 3000, 0)
	table.add(1, 2, 7, 0)
	table.note("something")
	var out strings.Builder
	if err := table.write(&out); err != nil {
		t.Fatal(err)
	}
	want := `| case   | figure               | floor        | batched         | edge                    |
| ------ | -------------------- | ------------ | --------------- | ----------------------- |
| 1x1000 | deliveries per CPU-s | 200 p99 4 ms | 6.0 k (× 30.00) | 3.0 k (× 15.00, × 0.50) |
| two    | deliveries per CPU-s | –            | –               | 7                       |

In parentheses: the ratio to each floor, from left to right.
note: something
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestPeers(t *testing.T) {
	got, err := parsePeer("edges=127.0.0.1:8080+127.0.0.1:8081=12+13")
	if err != nil {
		t.Fatal(err)
	}
	two, err := got.start(t.Context(), 2)
	want := &peer{urls: []string{"127.0.0.1:8080", "127.0.0.1:8081"}, pids: []int{12, 13}}
	if err != nil || got.name != "edges" || !cmp.Equal(want, two, cmp.AllowUnexported(peer{})) {
		t.Errorf("got %q %+v, %v", got.name, two, err)
	}
	if _, err := got.start(t.Context(), 1); !errors.Is(err, errNoSuch) {
		t.Errorf("two edges were taken for one: %v", err)
	}
	for _, bad := range []string{"", "a=b", "a=b=c", "a=b=1=2"} {
		if _, err := parsePeer(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestReadEnv(t *testing.T) {
	got, err := readEnv("export NATS_URL='nats://127.0.0.1:1'\nexport PARLEY_PARTITIONS='8'\n")
	if diff := cmp.Diff(map[string]string{"NATS_URL": "nats://127.0.0.1:1", "PARLEY_PARTITIONS": "8"}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := readEnv("half a li"); err == nil {
		t.Error("half a file was taken")
	}
}

// TestComparesFloors runs the whole program on what starts at once: the floors, in one case with one edge and in one with
// two.
func TestComparesFloors(t *testing.T) {
	var out strings.Builder
	err := run(t.Context(), []string{"-own", "single,batched", "-cases", "100x100,100x100-two", "-rounds", "1", "-duration", "200ms", "-warmup", "100ms"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| 100x100 ", "| 100x100-two ", "| floor ", "| floor batched "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "–") || strings.Contains(out.String(), "exit code") {
		t.Errorf("something was not measured:\n%s", out.String())
	}
}

// TestPathRefuses: what lies behind the edges is compared with nothing else.
func TestPathRefuses(t *testing.T) {
	for _, args := range [][]string{{"-cases", "log-hop,pairs"}, {"-cases", "history", "-servers", "some"}, {"-cases", "history", "-servers", "real"}} {
		for _, name := range []string{"NATS_URL", "REDIS_URL", "KAFKA_BROKERS", "MONGODB_URI"} {
			t.Setenv(name, "")
		}
		if err := run(t.Context(), args, &strings.Builder{}); err == nil {
			t.Errorf("%v has no error", args)
		}
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, []string{"-own", "single", "-rounds", "1", "-cases", "pairs"}, &strings.Builder{}); err == nil {
		t.Error("an interrupted comparison has no error")
	}
}
