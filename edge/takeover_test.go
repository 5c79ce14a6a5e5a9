//go:build linux

package edge_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// TestTakeOver moves connections in every state to another server while their rooms have traffic.
func TestTakeOver(t *testing.T) {
	in := newInstallation(t)
	old := in.old
	const listeners, before, last = 150, 20, 400

	for range before {
		in.say(lobby)
	}
	var all []*client
	for range listeners {
		c := old.connected()
		c.joinAny(lobby)
		all = append(all, c)
	}
	fresh, half, partial, fragments, elsewhere := old.open(), old.dial(), old.connected(), old.connected(), old.connected()
	half.write([]byte(upgradeHead[:30]))
	request := text(`{"id":7,"op":"ping"}`)
	partial.write(request[:len(request)-5])
	whole := []byte(`{"id":8,"op":"history","room":"a","x":"ö"}`)
	fragments.write(frame(0x01, whole[:10]))
	middle := frame(0x00, whole[10:20])
	fragments.write(middle[:3])
	elsewhere.joinAny("quiet-room")
	until(t, "half a head is read", func() bool { return old.metric("accepted_total") == listeners+5 })

	// A request under way is answered before its connection moves; what is behind it waits for the successor.
	busy := old.connected()
	busy.send(2, "a", 2)
	send := old.worker.next(t, contracts.OpSend)

	var traffic sync.WaitGroup
	traffic.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range last - before {
			<-tick.C
			in.say(lobby)
		}
	})
	var readers sync.WaitGroup
	for _, c := range all {
		readers.Go(func() { c.follow(before+1, last) })
	}
	moved := make(chan *world)
	go func() {
		w, report := in.takeOver()
		t.Logf("%+v", report)
		if want := listeners + 6; report.Connections != want || report.Alone {
			t.Errorf("taken over: %+v instead of %d connections", report, want)
		}
		moved <- w
	}()
	until(t, "only the busy one is left", func() bool { return old.server.Connections() == 1 })
	busy.send(3, "a", 3)
	send.ok(`{"key":"k"}`)
	busy.reply(2)
	w := <-moved
	w.worker.next(t, contracts.OpSend).ok(`{"key":"l"}`)
	if m := busy.reply(3); m.OK == nil {
		t.Errorf("what waited was answered %s", m.raw)
	}
	traffic.Wait()
	readers.Wait()

	// Everything goes on where it was.
	fresh.say(`{"id":1,"op":"connect","guest":"Ada"}`)
	if m := fresh.reply(1); m.OK == nil || !strings.Contains(m.raw, `"node":"n1"`) {
		t.Errorf("connect after the take-over: %s", m.raw)
	}
	half.write([]byte(upgradeHead[30:]))
	half.switched()
	partial.write(request[len(request)-5:])
	partial.reply(7)
	fragments.write(middle[3:])
	fragments.write(frame(0x80, whole[20:]))
	if q := w.worker.next(t, contracts.OpHistory); !bytes.Contains(mustJSON(t, q.Body), []byte("ö")) {
		t.Errorf("the fragments came to %s", q.Body)
	} else {
		q.ok(`{"entries":[]}`)
	}
	fragments.reply(8)
	in.say("quiet-room")
	elsewhere.entry(1)
	for _, c := range append(all, fresh, half, partial, fragments, elsewhere, busy) {
		if c != half {
			c.quiet()
		}
	}
	newcomer := w.connected()
	newcomer.joinAny(lobby)
	in.say(lobby)
	newcomer.entry(last + 1)
	if got := w.server.Connections(); got != listeners+6+1 { // and half, which is one by now
		t.Errorf("the successor holds %d connections", got)
	}
	if got := w.metric("gaps_total") + w.metric("closed_total"); got != 0 {
		t.Errorf("%v gaps and closes", got)
	}
}

func mustJSON(t *testing.T, b []byte) []byte {
	t.Helper()
	if len(b) == 0 {
		t.Fatal("a question without a body")
	}
	return b
}

// TestTakeOverStuck moves a connection whose client does not read, with a frame that is written in part.
func TestTakeOverStuck(t *testing.T) {
	in := newInstallation(t, func(c *edge.Config, _ *edge.Deps) { c.OutboundBytes = 64 << 20 })
	c := in.old.connected()
	c.joinAny(lobby)
	blob := strings.Repeat("x", 60_000)
	const last = 300 // about 18 MB, more than the sockets' buffers take
	publish := func(from, to contracts.Seq) {
		for seq := from; seq <= to; seq++ {
			e := entryOf(lobby, 1, seq)
			e.Body = fmt.Appendf(nil, `{"event":"message","room":"%s","seq":%d,"epoch":1,"text":"%s"}`, lobby, seq, blob)
			in.mu.Lock()
			in.heads[lobby] = seq
			worlds := in.worlds
			in.mu.Unlock()
			for _, w := range worlds {
				w.ear.publish(e)
			}
		}
	}
	publish(1, last)
	until(t, "the loop has delivered", func() bool { return in.old.metric("deliveries_total") == last })
	_, report := in.takeOver()
	if report.Connections != 1 {
		t.Fatalf("taken over: %+v", report)
	}
	publish(last+1, last+5)
	c.follow(1, last+5)
	c.quiet()
}

// TestTakeOverState moves what is remembered of a connection beside its bytes.
func TestTakeOverState(t *testing.T) {
	in := newInstallation(t)
	// The room's messages are refused until the failed one comes again.
	stopped := in.old.connected()
	stopped.send(2, "a", 2)
	in.old.worker.next(t, contracts.OpSend).err(contracts.CodeUnavailable)
	stopped.fails(2, contracts.CodeUnavailable)
	w, _ := in.takeOver()
	stopped.send(3, "a", 3)
	stopped.fails(3, contracts.CodeUnavailable)
	stopped.send(4, "a", 2)
	w.worker.next(t, contracts.OpSend).ok(`{"key":"k"}`)
	stopped.reply(4)
	stopped.quiet()
}

// TestTakeOverTwice hands over to a successor that hands over to another one.
func TestTakeOverTwice(t *testing.T) {
	in := newInstallation(t)
	c := in.old.connected()
	c.joinAny(lobby)
	for n := range contracts.Seq(3) {
		in.say(lobby)
		c.entry(2*n + 1)
		w, report := in.takeOver()
		if report.Connections != 1 {
			t.Errorf("take-over %d: %+v", n+1, report)
		}
		if err := w.server.Offer(edge.HandoverConfig{Path: in.path}); err != nil {
			t.Fatal(err)
		}
		in.old = w
		in.say(lobby)
		c.entry(2*n + 2)
	}
	c.quiet()
}

// TestTakeOverPresence sees that nobody is reported gone by a take-over, and that who leaves afterwards is.
func TestTakeOverPresence(t *testing.T) {
	in := newInstallation(t)
	var mu sync.Mutex
	gone := 0
	count := func(q *asked) {
		mu.Lock()
		gone += len(q.Gone)
		mu.Unlock()
		q.ok(`{}`)
	}
	in.old.worker.script(contracts.OpGone, count)
	a, b := in.old.connected(), in.old.connected()
	a.joinAny(lobby)
	b.joinAny(lobby)
	w, _ := in.takeOver()
	w.worker.script(contracts.OpGone, count)
	_ = a.nc.Close()
	until(t, "the successor sees the end", func() bool { return w.server.Connections() == 1 })
	b.quiet()
	mu.Lock()
	if gone != 0 {
		t.Errorf("%d people are reported gone, with a connection left", gone)
	}
	mu.Unlock()
	_ = b.nc.Close()
	until(t, "who left is reported", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return gone == 1
	})
}

// TestTakeOverCounts has the successor count connections per address and per person as its predecessor did.
func TestTakeOverCounts(t *testing.T) {
	in := newInstallation(t, func(c *edge.Config, _ *edge.Deps) {
		c.Limits.PerIP, c.Limits.PerUser = 3, 2
		c.Limits.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	from := func(w *world, address string) (*client, string) {
		c := w.dial()
		c.write([]byte(strings.Replace(upgradeHead, "Host:", "X-Forwarded-For: "+address+"\r\nHost:", 1)))
		status, err := c.r.Peek(12)
		if err != nil {
			t.Fatal(err)
		}
		return c, string(status[9:])
	}
	var first *client
	for i := range 3 {
		c, status := from(in.old, "203.0.113.7")
		if status != "101" {
			t.Fatalf("connection %d was answered %s", i+1, status)
		}
		if i == 0 {
			c.switched()
			c.say(`{"id":1,"op":"connect","guest":"Ada"}`)
			c.reply(1)
			first = c
		}
	}
	second := in.old.connected()
	w, _ := in.takeOver()
	if _, status := from(w, "203.0.113.7"); status != "429" {
		t.Errorf("a fourth connection was answered %s", status)
	}
	if _, status := from(w, "203.0.113.8"); status != "101" {
		t.Errorf("somebody else was answered %s", status)
	}
	w.connected().quiet()
	// One of the person's two earlier ones had to go; which is the older is not kept.
	until(t, "a third connection of one person replaces one", func() bool { return w.metric("closed_total") == 1 })
	closed := make(chan bool, 2)
	for _, c := range []*client{first, second} {
		c.write(text(`{"id":9,"op":"ping"}`))
		m, err := c.next()
		closed <- err != nil || m.closing == contracts.CloseReplaced
	}
	if a, b := <-closed, <-closed; a == b {
		t.Errorf("closed: %v and %v", a, b)
	}
}
