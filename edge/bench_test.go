package edge_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
	"github.com/parley-chat/parley/edge/wire"
)

// mute is an rpc.Client that answers nobody.
type mute struct{}

func (mute) Ask(string, []byte, time.Duration, func([]byte, error)) {}
func (mute) MaxPayload() int                                        { return 1 << 20 }
func (mute) Up() bool                                               { return true }
func (mute) Close() error                                           { return nil }

func newBench(tb testing.TB) *edge.Bench {
	tb.Helper()
	s, err := edge.New(edge.Config{Node: "n1", Partitions: 8, InFlight: 1 << 30}, edge.Deps{Ask: mute{}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		tb.Fatal(err)
	}
	return edge.NewBench(s)
}

func roomName(i int) contracts.RoomID { return contracts.RoomID(fmt.Sprintf("room-%d", i)) }

// TestDeliveryAllocates nothing per member, and next to nothing per entry.
func TestDeliveryAllocates(t *testing.T) {
	b := newBench(t)
	for range 100 {
		b.Member(lobby)
	}
	frame := wire.AppendText(nil, entryJSON(lobby, 1, 1))
	seq := contracts.Seq(0)
	deliver := func() {
		seq++
		b.Inject(lobby, seq, frame)
		b.Work()
	}
	for range 100 {
		deliver()
	}
	if n := testing.AllocsPerRun(1000, deliver); n != 0 {
		t.Errorf("%v allocations for an entry to 100 members", n)
	}
}

// TestLateEntriesShareWrites: what comes while a loop is busy with other rooms goes out together with what waits already, and
// those rooms have their turn first.
func TestLateEntriesShareWrites(t *testing.T) {
	const rooms, lateRoom = 1000, 900
	b := newBench(t)
	frames := make([][]byte, rooms)
	for i := range rooms {
		b.Member(roomName(i))
		frames[i] = wire.AppendText(nil, entryJSON(roomName(i), 1, 1))
		b.Inject(roomName(i), 1, frames[i])
	}
	writes := b.Step()
	if writes == 0 || writes >= lateRoom {
		t.Fatalf("%d writes in the first round", writes)
	}
	b.Inject(roomName(0), 2, frames[0])
	b.Inject(roomName(lateRoom), 2, frames[lateRoom])
	for n := b.Step(); n > 0; n = b.Step() {
		writes += n
	}
	if writes != rooms+1 {
		t.Errorf("%d writes for an entry to each of %d rooms and a late one to two of them; want %d", writes, rooms, rooms+1)
	}
}

// TestInboundFrameAllocates tells what a request costs before a worker is asked: a ping needs none.
func TestInboundFrameAllocates(t *testing.T) {
	b := newBench(t)
	c := b.Member(lobby)
	frame := text(`{"id":7,"op":"ping","pad":"as long as a usual message is, more or less, give or take a few words"}`)
	data := make([]byte, len(frame))
	receive := func() {
		copy(data, frame)
		c.Received(data)
		b.Work()
	}
	for range 100 {
		receive()
	}
	if n := testing.AllocsPerRun(1000, receive); n > 2 {
		t.Errorf("%v allocations per frame", n)
	}
}

func BenchmarkBroadcast(b *testing.B) {
	for _, shape := range []struct{ rooms, members int }{{1, 1000}, {100, 100}} {
		b.Run(fmt.Sprintf("%dx%d", shape.rooms, shape.members), func(b *testing.B) {
			w := newBench(b)
			frames := make([][]byte, shape.rooms)
			for i := range frames {
				for range shape.members {
					w.Member(roomName(i))
				}
				frames[i] = wire.AppendText(nil, entryJSON(roomName(i), 1, 1))
			}
			b.ReportAllocs()
			seq := contracts.Seq(0)
			for b.Loop() {
				seq++
				for i := range frames {
					w.Inject(roomName(i), seq, frames[i])
				}
				w.Work()
			}
			b.ReportMetric(float64(b.N)*float64(shape.rooms*shape.members)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

func BenchmarkHubReceive(b *testing.B) {
	w := newBench(b)
	w.Member(lobby)
	var body []byte
	b.ReportAllocs()
	seq := contracts.Seq(0)
	e := entryOf(lobby, 1, 1)
	for b.Loop() {
		seq++
		e.Seq = seq
		body = contracts.AppendEnvelope(body[:0], &e)
		w.Receive(lobby, body)
		w.Work()
	}
}

func BenchmarkJoinLeave(b *testing.B) {
	w := newBench(b)
	c := w.Member(lobby)
	b.ReportAllocs()
	for b.Loop() {
		c.Enter("other")
		c.Exit()
		w.Forgotten()
	}
}

func BenchmarkInboundFrame(b *testing.B) {
	w := newBench(b)
	c := w.Member(lobby)
	frame := text(`{"id":7,"op":"ping","room":"lobby","key":"%s","text":"hi everybody, how is it going tonight?"}`, key(1))
	data := make([]byte, len(frame))
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		copy(data, frame)
		c.Received(data)
		w.Work()
	}
}
