package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTable(t *testing.T) {
	a, b := &peer{name: "floor"}, &peer{name: "edge"}
	table := newTable([]benchCase{{name: "1x1000", figure: "deliveries per CPU-s"}, {name: "two", figure: "deliveries per CPU-s"}}, []*peer{a, b})
	for _, v := range []float64{100, 900, 200} {
		table.add(0, a, v, 4)
	}
	table.add(0, b, 3000, 0)
	table.add(1, b, 7, 0)
	table.note("something")
	var out strings.Builder
	if err := table.write(&out); err != nil {
		t.Fatal(err)
	}
	want := `case    figure                floor         edge
1x1000  deliveries per CPU-s  200 p99 4 ms  3.0 k (× 15.00)
two     deliveries per CPU-s  –             7
note: something
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestPeers(t *testing.T) {
	got, err := parsePeer("edges=127.0.0.1:8080+127.0.0.1:8081=12+13")
	want := &peer{name: "edges", urls: []string{"127.0.0.1:8080", "127.0.0.1:8081"}, pids: []int{12, 13}, edges: 2}
	if err != nil || !cmp.Equal(want, got, cmp.AllowUnexported(peer{})) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "a=b", "a=b=c", "a=b=1=2"} {
		if _, err := parsePeer(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
