//go:build linux

package edge_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// TestTakeOverFails has the successor die at every step before the first commitment: the predecessor serves on as if nothing
// had been, for those it had frozen and for new ones.
func TestTakeOverFails(t *testing.T) {
	steps := []struct {
		name string
		do   func(*edge.Raw)
	}{
		{"hello", func(r *edge.Raw) { r.Send('h', edge.Hello(nil)) }},
		{"welcome", func(r *edge.Raw) { r.Expect('w') }},
		{"begin", func(r *edge.Raw) { r.Send('b', "{}") }},
		{"rooms", func(r *edge.Raw) { r.Expect('r') }},
		{"ready", func(r *edge.Raw) { r.Send('y', "{}") }},
		{"accept", func(r *edge.Raw) { r.Expect('a') }},
		{"batch", func(r *edge.Raw) { r.Expect('c') }},
		{"nonsense", func(r *edge.Raw) { r.Send('q', "{}") }},
	}
	in := newInstallation(t)
	var mu sync.Mutex
	gone := 0
	in.old.worker.script(contracts.OpGone, func(q *asked) {
		mu.Lock()
		gone += len(q.Gone)
		mu.Unlock()
		q.ok(`{}`)
	})
	var clients []*client
	for range 80 { // more than one batch
		c := in.old.connected()
		c.joinAny(lobby)
		clients = append(clients, c)
	}
	partial := in.old.connected()
	seq := contracts.Seq(0)
	for n := range len(steps) + 1 {
		request := text(`{"id":7,"op":"ping"}`)
		partial.write(request[:9])
		r := edge.DialRaw(t, in.path)
		for _, step := range steps[:n] {
			step.do(r)
		}
		in.say(lobby) // while some may be frozen
		r.Close()
		in.say(lobby)
		for _, c := range clients {
			c.follow(seq+1, seq+2)
			c.quiet()
		}
		seq += 2
		partial.write(request[9:])
		partial.reply(7)
		late := in.old.connected()
		late.joinAny(lobby)
		_ = late.nc.Close()
		until(t, "it serves on", func() bool { return in.old.server.Ready() == nil && in.old.server.Connections() == len(clients)+1 })
		if t.Failed() {
			t.Fatalf("after step %d", n)
		}
	}
	mu.Lock()
	if gone != 0 {
		t.Errorf("%d people are reported gone", gone)
	}
	mu.Unlock()
	// And then it works.
	if _, report := in.takeOver(); report.Connections != len(clients)+1 {
		t.Errorf("taken over: %+v", report)
	}
	in.say(lobby)
	for _, c := range clients {
		c.follow(seq+1, seq+1)
	}
}

// TestTakeOverFailsLate has the successor die behind a commitment: what it had is lost, the rest is served on.
func TestTakeOverFailsLate(t *testing.T) {
	in := newInstallation(t)
	gone := make(chan int, 100)
	in.old.worker.script(contracts.OpGone, func(q *asked) {
		if len(q.Gone) > 0 {
			gone <- len(q.Gone)
		}
		q.ok(`{}`)
	})
	user := 0
	in.old.worker.script(contracts.OpConnect, func(q *asked) {
		user++
		q.answer(connectAnswer(contracts.UserID(fmt.Sprintf("u%d", user)), time.Hour))
	})
	var clients []*client
	for range 150 {
		c := in.old.connected()
		c.joinAny(lobby)
		clients = append(clients, c)
	}
	r := edge.DialRaw(t, in.path)
	r.Send('h', edge.Hello(nil))
	r.Expect('w')
	r.Send('b', "{}")
	r.Expect('r')
	r.Send('y', "{}")
	r.Expect('a')
	r.Expect('c')
	r.Send('k', "{}")
	r.Expect('g')
	r.Close()
	until(t, "it serves on", func() bool { return in.old.server.Ready() == nil })
	left := in.old.server.Connections()
	if left >= len(clients) || left < len(clients)-64 {
		t.Errorf("%d of %d are left", left, len(clients))
	}
	in.say(lobby)
	served := 0
	for _, c := range clients {
		if m, err := c.next(); err == nil && m.Seq == 1 {
			served++
			c.quiet()
		}
	}
	if served != left {
		t.Errorf("%d of %d are served", served, left)
	}
	told := 0
	for told < len(clients)-left {
		select {
		case n := <-gone:
			told += n
		case <-time.After(patience):
			t.Fatalf("%d of the %d who are lost are reported gone", told, len(clients)-left)
		}
	}
}

func TestTakeOverRefused(t *testing.T) {
	in := newInstallation(t)
	c := in.old.connected()
	for name, hello := range map[string]string{
		"version 2":    edge.Hello(map[string]any{"version": 2}),
		"listens on":   edge.Hello(map[string]any{"listen": ":1"}),
		"installation": edge.Hello(map[string]any{"prefix": "other"}),
		"partitions":   edge.Hello(map[string]any{"partitions": 16}),
		"ulimit":       edge.Hello(map[string]any{"descriptors": 256}),
		"message":      `"nonsense`,
	} {
		r := edge.DialRaw(t, in.path)
		r.Send('h', hello)
		if body := r.Expect('x'); !strings.Contains(body, name) {
			t.Errorf("%s was refused with %s", hello, body)
		}
		r.Close()
	}
	// One at a time.
	first := edge.DialRaw(t, in.path)
	defer first.Close()
	first.Send('h', edge.Hello(nil))
	first.Expect('w')
	if _, err := in.successor(); err == nil || !strings.Contains(err.Error(), "refuses") {
		t.Errorf("a second successor: %v", err)
	}
	if err := build(t, "n2", false).server.Offer(edge.HandoverConfig{Path: in.path}); err == nil || !strings.Contains(err.Error(), "another edge") {
		t.Errorf("offered twice at one path: %v", err)
	}
	c.quiet()

	if _, err := edge.CallPredecessor(context.Background(), in.path+"x", edge.Config{}); !errors.Is(err, edge.ErrNoPredecessor) {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := edge.CallPredecessor(context.Background(), in.path, edge.Config{Portable: true}); err == nil || !strings.Contains(err.Error(), "epoll") {
		t.Errorf("portable: %v", err)
	}
	if err := newWorld(t, true).server.Offer(edge.HandoverConfig{Path: in.path + "p"}); err == nil || !strings.Contains(err.Error(), "epoll") {
		t.Errorf("portable offers: %v", err)
	}
}

// predecessorOf plays a predecessor up to the first batch, which it commits if commit is set, and dies. What is to happen meanwhile
// does when the successor hears the rooms.
func predecessorOf(t *testing.T, path string, rooms, batch string, commit bool, meanwhile ...func()) (listener net.Listener, peer net.Conn, done chan struct{}) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	peer, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	served, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	done = edge.AcceptRaw(t, path, func(r *edge.Raw) {
		defer func() { _ = served.Close() }()
		r.Expect('h')
		r.Send('w', `{"version":1,"build":"old","pid":1,"node":"n1","connections":1}`, ln.(syscall.Conn))
		r.Expect('b')
		r.Send('r', rooms)
		if !r.Got('y') {
			return
		}
		for _, f := range meanwhile {
			f()
		}
		r.Send('a', `{}`)
		r.Send('c', batch, served.(syscall.Conn))
		if r.Got('k') && commit {
			r.Send('g', `{}`)
		}
	})
	return ln, peer, done
}

const oneBatch = `{"conns":[{"id":5,"connects":true,"user":{"id":"u1","name":"Ada"},"expires":9000000000000,"frozen":1,
	"reader":{"buffered":"gQ=="},"output":"gQJ7fQ==","rooms":[{"r":"lobby","l":true,"e":1,"n":8}],"unknown":{"later":true}}]}`

// TestTakeOverOrphan has the predecessor die behind a commitment: the successor serves on with what it has. The state is written
// down here as version 1 has it.
func TestTakeOverOrphan(t *testing.T) {
	in := &installation{t: t, path: filepath.Join(t.TempDir(), "s"), old: build(t, "n1", false), heads: map[contracts.RoomID]contracts.Seq{lobby: 9}}
	_, peer, done := predecessorOf(t, in.path, `{"rooms":[{"r":"lobby","k":true,"e":1,"s":6}],"generation":9}`, oneBatch, true)
	w, err := in.successor()
	if err != nil {
		t.Fatal(err)
	}
	report, err := w.server.TakeOver(context.Background())
	if err != nil || !report.Alone || report.Connections != 1 {
		t.Errorf("taken over: %+v, %v", report, err)
	}
	<-done
	c := &client{t: t, nc: peer, r: bufio.NewReader(peer)}
	if m := c.get(); m.raw != "{}" {
		t.Errorf("the rest of the output came as %q", m.raw)
	}
	c.follow(8, 9)
	c.write(text(`{"id":3,"op":"ping"}`)[1:]) // its first byte is in the reader
	c.reply(3)
	w.connected().quiet()
}

// TestTakeOverBroken has the predecessor die in front of the commitment, or say what cannot be understood: the successor takes nothing.
func TestTakeOverBroken(t *testing.T) {
	rooms := `{"rooms":[],"generation":9}`
	for name, try := range map[string]struct {
		rooms, batch string
		alone        bool
		err          string
	}{
		"not committed":   {rooms, oneBatch, true, ""},
		"no id":           {rooms, `{"conns":[{"id":0}]}`, false, "state"},
		"too many":        {rooms, `{"conns":[{"id":1},{"id":2}]}`, false, "descriptors"},
		"reader":          {rooms, `{"conns":[{"id":1,"connects":true,"reader":{"message":7}}]}`, false, "state"},
		"no JSON":         {rooms, `[`, false, "batch"},
		"bad room":        {`{"rooms":[{"r":"a b"}]}`, `{}`, false, "room"},
		"rooms, no user":  {rooms, `{"conns":[{"id":1,"connects":true,"rooms":[{"r":"a"}]}]}`, false, "state"},
		"stopped, no err": {rooms, `{"conns":[{"id":1,"connects":true,"stopped":[{"room":"a"}]}]}`, false, "state"},
	} {
		t.Run(name, func(t *testing.T) {
			in := &installation{t: t, path: filepath.Join(t.TempDir(), "s"), old: build(t, "n1", false)}
			_, peer, done := predecessorOf(t, in.path, try.rooms, try.batch, false)
			w, err := in.successor()
			if err != nil {
				t.Fatal(err)
			}
			report, err := w.server.TakeOver(context.Background())
			if report.Alone != try.alone || report.Connections != 0 || (err == nil) != (try.err == "") || err != nil && !strings.Contains(err.Error(), try.err) {
				t.Errorf("taken over: %+v, %v", report, err)
			}
			<-done
			if n, err := peer.Read(make([]byte, 1)); err == nil {
				t.Errorf("%d bytes were written to a connection that nobody has", n)
			}
		})
	}
}

func TestTakeOverVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	done := edge.AcceptRaw(t, path, func(r *edge.Raw) {
		r.Expect('h')
		r.Send('w', `{"version":7,"build":"0.7","node":"n1"}`, ln.(syscall.Conn))
	})
	_, err = edge.CallPredecessor(context.Background(), path, edge.Config{})
	if err == nil || !strings.Contains(err.Error(), "0.7") || !strings.Contains(err.Error(), "version 7") {
		t.Errorf("welcomed in another version: %v", err)
	}
	<-done
}
