package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/deploy/loadtest"
)

func TestParseMemory(t *testing.T) {
	text := "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 500 kB\nBuffers: 10 kB\nCached: 200 kB\nSwapCached: 5 kB\nAnonPages: 300 kB\nHugePages_Total: 0\n"
	got, err := parseMemory([]byte(text))
	want := memory{total: 1000 << 10, available: 500 << 10, user: 300 << 10, kernel: 385 << 10}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if _, err := parseMemory([]byte("MemTotal: 1000 kB\n")); err == nil {
		t.Error("half of the figures were taken")
	}
}

// TestCrowd: as many edges as the descriptors ask for, each with its share, and the figures in the table.
func TestCrowd(t *testing.T) {
	c := crowd{connections: 1_000_000, members: 100, meet: 4, active: 50, rate: 50, hold: time.Minute}
	if c.edges() != 57 {
		t.Errorf("%d edges", c.edges())
	}
	config := c.config("parley", &peer{urls: []string{"a:1", "b:1"}, pids: []int{1, 2}})
	if err := config.Validate(); err != nil || config.Meet != 2 {
		t.Errorf("meet on %d of two edges: %v", config.Meet, err)
	}
	r := loadtest.Report{Servers: &loadtest.Servers{BytesPerConnection: 800, MemoryBytes: 1 << 30, Cores: 0.25}}
	r.Connections = loadtest.Connections{Listening: 1 << 20, AtEnd: 999_999, RampS: 500, PerSecond: 2000}
	var out strings.Builder
	c.write(&out, r, memory{kernel: 1 << 30}, memory{kernel: 9 << 30, user: 2 << 30, available: 3 << 30, total: 24 << 30})
	want := `
| what | figure |
| --- | --- |
| connections held | 999999 of 1000000, on 57 edges, rooms of 100 that meet on 4 of them |
| time to connect, log in and join | 500 s, 2000/s |
| edges, per connection | 800 bytes; 1.00 GiB in all |
| kernel, per connection and end | 4.00 KiB; 8.00 GiB in all |
| all processes, load tester included | 2.00 GiB |
| available memory, at the least | 3.00 of 24.00 GiB |
| processors while held | edges 0.25 cores, load tester 0.00 cores, all 0 % busy |
| rooms that talked | 50, 0 messages/s, 0 deliveries/s, p50 0.0 p99 0.0 ms |
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}
