//go:build !lean

package fanout_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

// nobody is a Receiver that only counts.
type nobody struct {
	left int
	done chan struct{}
}

func (n *nobody) Receive(contracts.Lane, []byte) {
	if n.left--; n.left == 0 {
		close(n.done)
	}
}
func (n *nobody) Down(int) {}
func (n *nobody) Up(int)   {}

func benchmarkPublish(b *testing.B, size int, cfg fanout.Config, names contracts.Names) {
	client := connectWith(b, cfg)
	r := &nobody{left: b.N * size, done: make(chan struct{})}
	s := fanout.NewSubscriber(client, names, "bench", r, quiet)
	defer s.Close()
	var batch []fanout.Message
	var lanes []contracts.Lane
	for i := range size {
		lanes = append(lanes, contracts.Lane(i))
		batch = append(batch, fanout.Message{Lane: contracts.Lane(i), Body: []byte(strings.Repeat("x", 300))})
	}
	if err := s.Subscribe(b.Context(), lanes...); err != nil {
		b.Fatal(err)
	}
	var p fanout.Publisher = fanout.NewPublisher(client, names)
	if cfg.Publisher != nil {
		p = cfg.Publisher
	}
	b.ReportAllocs()
	began := processor(b)
	b.ResetTimer()
	for range b.N {
		if err := p.Publish(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	<-r.done
	b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(processor(b)-began)/1e3/float64(b.N*size), "cpu-µs/message")
}

// benchmarkEnter lets 256 callers enter rooms of 112 people through so many nodes, a room's members spread over all of
// them and all rooms open at once, and measures what a person costs the server: processor time, by its own account, and memory.
func benchmarkEnter(b *testing.B, url string, nodes int) {
	const members, callers = 112, 256
	client, names := connect(b, url), fresh()
	r := fanout.NewRoster(client, names)
	rooms := (b.N + members - 1) / members
	info := func(section, field string) float64 {
		text, err := client.Info(b.Context(), section).Result()
		if err != nil {
			return 0 // the embedded server does not tell
		}
		_, rest, _ := strings.Cut(text, field+":")
		value, _, _ := strings.Cut(rest, "\r\n")
		f, _ := strconv.ParseFloat(value, 64)
		return f
	}
	cpu := func() float64 { return info("cpu", "used_cpu_user") + info("cpu", "used_cpu_sys") }
	for i := range nodes {
		if err := r.Renew(b.Context(), contracts.NodeID(fmt.Sprint("edge-", i))); err != nil {
			b.Fatal(err)
		}
	}
	memory, began := info("memory", "used_memory"), cpu()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < b.N; i = int(next.Add(1)) - 1 {
				who := contracts.Presence{
					Room: contracts.RoomID(fmt.Sprint("load-", i%rooms)),
					User: contracts.Person{ID: contracts.UserID(fmt.Sprintf("g-%026d", i)), Name: fmt.Sprint("load-", i), Guest: true},
				}
				if _, err := r.Enter(b.Context(), contracts.NodeID(fmt.Sprint("edge-", i*7919%nodes)), []contracts.Presence{who}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric((cpu()-began)*1e6/float64(b.N), "server-µs/op")
	b.ReportMetric((info("memory", "used_memory")-memory)/float64(b.N), "server-B/op")
}

// BenchmarkEnter measures the roster: PARLEY_TEST_REDIS_URL=redis://… go test -run xxx -bench Enter -benchtime 100000x
func BenchmarkEnter(b *testing.B) {
	for _, nodes := range []int{2, 56} {
		b.Run(fmt.Sprint("embedded/nodes=", nodes), func(b *testing.B) { benchmarkEnter(b, server(b).URL(), nodes) })
		b.Run(fmt.Sprint("real/nodes=", nodes), func(b *testing.B) { benchmarkEnter(b, realURL(b), nodes) })
	}
}

// BenchmarkPublish measures publications of so many messages until one subscriber has received them.
func BenchmarkPublish(b *testing.B) {
	for _, size := range []int{1, 64} {
		b.Run(fmt.Sprint("embedded/size=", size), func(b *testing.B) {
			benchmarkPublish(b, size, fanout.Config{URL: server(b).URL()}, fresh())
		})
		b.Run(fmt.Sprint("within/size=", size), func(b *testing.B) {
			r, names := server(b), fresh()
			benchmarkPublish(b, size, fanout.Config{URL: r.URL(), Dial: r.Dial, Publisher: r.Publisher(names)}, names)
		})
		b.Run(fmt.Sprint("real/size=", size), func(b *testing.B) {
			benchmarkPublish(b, size, fanout.Config{URL: realURL(b)}, fresh())
		})
	}
}

// processor is the processor time that this process has taken.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
