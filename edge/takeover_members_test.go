//go:build linux

package edge_test

import (
	"bufio"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// shout publishes an entry of 30 KiB to every edge that hears it.
func (in *installation) shout(room contracts.RoomID) contracts.Seq {
	in.mu.Lock()
	in.heads[room]++
	seq, worlds := in.heads[room], in.worlds
	in.mu.Unlock()
	for _, w := range worlds {
		w.shout(room, seq)
	}
	return seq
}

// TestTakeOverBehind moves a client that is behind in its room: it is told what was given up before and after, once.
func TestTakeOverBehind(t *testing.T) {
	in := newInstallation(t, narrow)
	slow, quick := in.old.connected(), in.old.connected()
	slow.joinAny(lobby)
	quick.joinAny(lobby)
	// The kernel takes more for a while; after that nothing moves.
	for still := 0; still < 50; still++ {
		if quick.entry(in.shout(lobby)); in.old.metric("behind_connections") == 0 {
			still = 0
		}
	}
	told := in.old.metric("slow_gaps_total")
	w, report := in.takeOver()
	if report.Connections != 2 || in.old.metric("slow_gaps_total") != told {
		t.Fatalf("taken over: %+v, and it was not behind any more", report)
	}
	head := in.shout(lobby)
	quick.entry(head)
	at, gaps := contracts.Seq(0), 0
	for at < head {
		switch m := slow.get(); {
		case m.Event == "message" && m.Seq == at+1:
			at++
		case m.Event == "gap" && m.from() == at+1 && m.To >= m.from() && m.To <= head:
			at = m.To
			gaps++
		default:
			t.Fatalf("behind %d: %.100s", at, m.raw)
		}
	}
	if gaps == 0 {
		t.Error("no gap was told")
	}
	slow.entry(in.shout(lobby))
	slow.quiet()
	if n := w.metric("behind_connections") + w.metric("outbound_bytes"); n != 0 {
		t.Errorf("something is left: %v", n)
	}
}

// TestTakeOverStoring moves connections twice while messages of theirs wait to be stored: the persister tells their first edge's ids.
func TestTakeOverStoring(t *testing.T) {
	in := newInstallation(t, func(c *edge.Config, _ *edge.Deps) { c.StoredTime = time.Hour })
	var clients []*client
	var sent []*asked
	for range 10 {
		c := in.old.connected()
		c.sendStored(10, "a", 1)
		q := in.old.worker.next(t, contracts.OpSend)
		q.ok(okOf(1))
		c.quiet()
		c.sendStored(11, "a", 2)
		in.old.worker.next(t, contracts.OpSend).ok(okOf(2))
		c.quiet()
		clients, sent = append(clients, c), append(sent, q)
	}
	_ = clients[9].nc.Close()
	until(t, "one leaves", func() bool { return in.old.server.Connections() == 9 })
	for range 2 {
		w, _ := in.takeOver()
		if err := w.server.Offer(edge.HandoverConfig{Path: in.path}); err != nil {
			t.Fatal(err)
		}
		in.old = w
		until(t, "the lane is heard", func() bool { return w.ear.hears("a") })
	}
	for i, c := range clients[:9] {
		told := storedOf(t, sent[i], "a", 2, 8)
		in.old.ear.publish(told, told)
		if got, want := c.stored(11), (storedReply{key(2), "stored", 8}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		c.quiet()
		in.old.ear.publish(storedOf(t, sent[i], "a", 1, 7))
		if got, want := c.stored(10), (storedReply{key(1), "stored", 7}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		c.quiet()
	}
	if n := in.old.server.Former(); n != 0 {
		t.Errorf("%d ids of the predecessor are kept for nothing", n)
	}
}

// TestTakeOverEpoch begins a new epoch in the middle: each member is told so once, whichever edge has it
// (not always with the head: a member that comes afterwards learns it when it joins).
func TestTakeOverEpoch(t *testing.T) {
	in := newInstallation(t)
	var clients []*client
	for range 150 {
		c := in.old.connected()
		c.joinAny(lobby)
		clients = append(clients, c)
	}
	for range 5 {
		in.say(lobby)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		in.takeOver()
	}()
	until(t, "connections move", func() bool { return in.old.server.Ready() != nil })
	in.mu.Lock()
	worlds := in.worlds
	in.mu.Unlock()
	for _, w := range worlds {
		w.ear.publish(headOf(lobby, 2, 3))
	}
	<-over
	for i, c := range clients {
		c.follow(1, 5)
		if m := c.get(); m.Event != "reset" || m.Room != lobby || m.Epoch != 2 {
			t.Fatalf("client %d: got %s", i, m.raw)
		}
		c.quiet()
	}
}

// TestTakeOverOldEpoch takes a member of an epoch that has ended by the time it comes.
func TestTakeOverOldEpoch(t *testing.T) {
	in := &installation{t: t, path: filepath.Join(t.TempDir(), "s"), old: build(t, "n1", false), heads: map[contracts.RoomID]contracts.Seq{}}
	successor := make(chan *world, 1)
	_, peer, done := predecessorOf(t, in.path, `{"rooms":[{"r":"lobby","k":true,"e":1,"s":8}],"generation":9}`, oneBatch, true, func() {
		(<-successor).ear.publish(entryOf(lobby, 2, 1))
	})
	w, err := in.successor()
	if err != nil {
		t.Fatal(err)
	}
	successor <- w
	if report, err := w.server.TakeOver(context.Background()); err != nil || report.Connections != 1 {
		t.Errorf("taken over: %+v, %v", report, err)
	}
	<-done
	c := &client{t: t, nc: peer, r: bufio.NewReader(peer)}
	if m := c.get(); m.raw != "{}" {
		t.Errorf("the rest of the output came as %q", m.raw)
	}
	if m := c.get(); m.Event != "reset" || m.Epoch != 2 {
		t.Errorf("got %s", m.raw)
	}
	c.write(text(`{"id":3,"op":"ping"}`)[1:]) // its first byte is in the reader
	c.reply(3)
}

// TestTakeOverHandshake completes a handshake between the successor's first connection and the predecessor's last.
func TestTakeOverHandshake(t *testing.T) {
	in := newInstallation(t)
	for range 150 { // the first batch
		in.old.connected()
	}
	half, whole := in.old.dial(), in.old.dial()
	half.write([]byte(upgradeHead[:30]))
	until(t, "it is there", func() bool { return in.old.metric("accepted_total") == 152 })
	r := edge.DialRaw(t, in.path)
	r.Send('h', edge.Hello(nil))
	r.Expect('w')
	r.Send('b', "{}")
	r.Expect('r')
	r.Send('y', "{}")
	r.Expect('a')
	r.Expect('c')
	half.write([]byte(upgradeHead[30:]))
	half.switched()
	whole.write([]byte(upgradeHead))
	whole.switched()
	r.Close()
	until(t, "it serves on", func() bool { return in.old.server.Ready() == nil })
	for _, c := range []*client{half, whole} {
		c.say(`{"id":1,"op":"connect","guest":"Ada"}`)
		c.reply(1)
		c.quiet()
	}
}

// TestTakeOverAwaitsNATS has the successor take nothing as long as it could not serve.
func TestTakeOverAwaitsNATS(t *testing.T) {
	in := newInstallation(t)
	c := in.old.connected()
	w, err := in.successor()
	if err != nil {
		t.Fatal(err)
	}
	w.worker.down.Store(true) // the predecessor's is the same
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if report, err := w.server.TakeOver(ctx); err == nil || !strings.Contains(err.Error(), "NATS") {
		t.Errorf("taken over without NATS: %+v, %v", report, err)
	}
	w.worker.down.Store(false)
	c.quiet()
	if w, err = in.successor(); err != nil {
		t.Fatal(err)
	}
	w.worker.down.Store(true)
	moved := make(chan error, 1)
	go func() {
		report, err := w.server.TakeOver(context.Background())
		if err == nil && report.Connections != 1 {
			err = fmt.Errorf("%d taken over", report.Connections)
		}
		moved <- err
	}()
	c.quiet()
	w.worker.down.Store(false)
	if err := <-moved; err != nil {
		t.Error(err)
	}
	c.quiet()
}
