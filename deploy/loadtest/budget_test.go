package loadtest

import (
	"testing"
	"time"
	"unsafe"
)

// TestConnectionIsSmall bounds what an idle connection costs the load tester: its record, one room and a guest's token
// must stay well below 1 KiB, so that the rest is the allocator's and the runtime's.
func TestConnectionIsSmall(t *testing.T) {
	const token = 400 // bytes of a guest's token, generously
	if n := unsafe.Sizeof(conn{}) + unsafe.Sizeof(membership{}) + token; n > 700 {
		t.Errorf("%d bytes per connection, want at most 700", n)
	}
}

// TestDeliveryAllocatesNothing: what a connection receives most must cost the collector nothing.
func TestDeliveryAllocatesNothing(t *testing.T) {
	p := &plan{Run: "abcdef", Prefix: "load-x", Rooms: 1, Conns: 2, Shards: 1, Loops: 1}
	l := &loop{plan: p, clock: newClock(), conns: make([]conn, 2), reader: newReader(p), tally: newTally()}
	c := &l.conns[1]
	c.index, c.state = 1, connected
	c.rooms = []membership{{state: listening, known: true, live: true}}
	text := appendMark(nil, p.Run, mark{room: 0, sender: 0, n: 1, intended: l.clock.now()}, 128)
	frame := append([]byte(`{"event":"message","room":"load-x-0","seq":1,"epoch":1,"time":5,"from":{"id":"u","name":"n"},"text":"`), text...)
	frame = append(frame, `"}`...)
	l.now = l.clock.now() + int64(time.Millisecond)
	l.text(c, frame) // the first one fills the reader
	allocations := testing.AllocsPerRun(1000, func() {
		c.rooms[0].ledger.start(0)
		l.text(c, frame)
	})
	if allocations != 0 {
		t.Errorf("%v allocations per delivery, want none", allocations)
	}
	if got := l.tally.counts[nDelivered]; got != 1002 {
		t.Errorf("%d deliveries counted, want 1,002", got)
	}
}
