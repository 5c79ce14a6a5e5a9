package edge_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/parley-chat/parley/edge"
	"github.com/parley-chat/parley/edge/wire"
)

// order reads everything and returns the ids of replies, the seqs of entries behind an e, and close frames as c.
func order(t *testing.T, c *edge.BenchConn) (all string) {
	t.Helper()
	stream := c.Take(1 << 30)
	for len(stream) > 0 {
		op, payload, rest, ok := unframe(stream)
		if !ok {
			t.Fatalf("half a frame at the end: %q", stream)
		}
		stream = rest
		if op == 8 {
			all += "c "
			continue
		}
		var m message
		if err := json.Unmarshal(payload, &m); err != nil {
			t.Fatal(err)
		}
		if m.Event != "" {
			all += fmt.Sprint("e", m.Seq, " ")
		} else {
			all += fmt.Sprint(m.ID, " ")
		}
	}
	return all
}

// writes is how many system calls the connections' sockets cost so far.
func (b *slowBench) writes(t *testing.T) float64 {
	t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "parley_edge_writes_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("nobody counts writes")
	return 0
}

// TestRepliesShareAWrite with each other and with what a room has for the connection.
func TestRepliesShareAWrite(t *testing.T) {
	b := newSlowBench(t, 1<<30, mute{})
	c, other := b.Member(lobby), b.Member(lobby)
	before := b.writes(t)
	for id := uint64(1); id <= 20; id++ {
		c.Reply(id, []byte(`{}`))
	}
	if got := order(t, c); got != "" {
		t.Errorf("%s written before the round's end", got)
	}
	b.entry(lobby, 10)
	if n := b.writes(t) - before; n != 2 {
		t.Errorf("%v writes for 20 replies and an entry to two members", n)
	}
	want := ""
	for id := 1; id <= 20; id++ {
		want += fmt.Sprint(id, " ")
	}
	if got := order(t, c); got != want+"e1 " {
		t.Errorf("got %s", got)
	}
	if got := order(t, other); got != "e1 " {
		t.Errorf("the other got %s", got)
	}
}

// TestNothingOvertakesAReply: neither a large one behind it, nor a close frame, nor the end.
func TestNothingOvertakesAReply(t *testing.T) {
	sized := func(n int) []byte { return fmt.Appendf(nil, `"%0*d"`, n, 0) }
	for name, row := range map[string]struct {
		act  func(c *edge.BenchConn)
		want string
	}{
		"large": {func(c *edge.BenchConn) { c.Reply(2, sized(20<<10)); c.Reply(3, []byte(`{}`)) }, "1 2 3 "},
		"many":  {func(c *edge.BenchConn) { c.Reply(2, sized(12<<10)); c.Reply(3, sized(12<<10)) }, "1 2 3 "},
		"close": {func(c *edge.BenchConn) { c.Received(frame(0x88, []byte{3, 232})) }, "1 c "},
		"end":   {func(c *edge.BenchConn) { c.End() }, "1 "},
	} {
		b := newSlowBench(t, 1<<30, mute{})
		c := b.Member(lobby)
		c.Reply(1, []byte(`{}`))
		row.act(c)
		b.Round()
		if got := order(t, c); got != row.want {
			t.Errorf("%s: got %s, want %s", name, got, row.want)
		}
	}
}

// TestRepliesDoNotWaitForLong while more and more rooms stand in line.
func TestRepliesDoNotWaitForLong(t *testing.T) {
	const rooms = 3000
	b := newBench(t)
	for i := range rooms {
		b.Member(roomName(i))
		b.Inject(roomName(i), 1, wire.AppendText(nil, entryJSON(roomName(i), 1, 1)))
	}
	c := b.Member(lobby)
	b.Step()
	c.Reply(1, []byte(`{}`))
	writes, got := 0, ""
	for n := b.Step(); n > 0 && got == ""; n = b.Step() {
		writes += n
		got = order(t, c)
	}
	if got != "1 " || writes < 256 || writes > rooms/2 {
		t.Errorf("got %q after %d writes", got, writes)
	}
	if n := testing.AllocsPerRun(1000, func() {
		c.Reply(2, []byte(`{}`))
		b.Work()
	}); n > 1 { // the request is Reply's own
		t.Errorf("%v allocations per reply", n)
	}
}

// TestReplyThatDoesNotFit waits, what was written of it never comes twice, and an entry behind it is in its place.
func TestReplyThatDoesNotFit(t *testing.T) {
	for left := range 40 {
		b := newSlowBench(t, 1<<30, mute{})
		c := b.Member(lobby)
		c.Fill(left)
		c.Reply(1, []byte(`{}`))
		c.Reply(2, []byte(`{}`))
		b.entry(lobby, 10)
		var stream []byte
		for taken := c.Take(1 << 30); len(taken) > 0; taken = c.Take(1 << 30) {
			stream = append(stream, taken...)
		}
		c.Put(stream[edge.PortBytes-left:])
		if got := order(t, c); got != "1 2 e1 " {
			t.Errorf("%d bytes of room: got %s", left, got)
		}
		if n, stuck := b.Waiting(); n != 0 || stuck != 0 {
			t.Errorf("%d bytes of room: %d bytes in %d connections are left", left, n, stuck)
		}
	}
}
