//go:build !lean

package fanout_test

import (
	"strings"
	"testing"

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

func benchmarkPublish(b *testing.B, url string) {
	const size = 64
	client, names := connect(b, url), fresh()
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
	p := fanout.NewPublisher(client, names)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := p.Publish(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	<-r.done
	b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "messages/s")
}

// BenchmarkPublish measures batches of 64 messages until one subscriber has received them.
func BenchmarkPublish(b *testing.B) {
	b.Run("embedded", func(b *testing.B) { benchmarkPublish(b, server(b).URL()) })
	b.Run("real", func(b *testing.B) { benchmarkPublish(b, realURL(b)) })
}
