package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/client"
)

// traffic is a number of clients that all listen to all rooms and send into all of them, and what each of them got.
type traffic struct {
	t       *testing.T
	rooms   []contracts.RoomID
	clients []*listener
	acked   atomic.Int64
	goal    int64

	mu   sync.Mutex                                              // guards sent
	sent map[contracts.RoomID]map[contracts.Key]contracts.UserID // acked
}

// listener is one client and what it got, per room in the order of arrival.
type listener struct {
	*client.Client
	mu   sync.Mutex // guards got, odd
	cond *sync.Cond
	got  map[contracts.RoomID][]got
	odd  []string
}

type got struct {
	seq contracts.Seq
	key contracts.Key
}

// newTraffic connects clients, in turn to each of the urls, and joins them to all rooms. change may alter their configuration.
func newTraffic(t *testing.T, urls []string, clients, rooms int, change ...func(*client.Config)) *traffic {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tr := &traffic{t: t, sent: make(map[contracts.RoomID]map[contracts.Key]contracts.UserID)}
	for i := range rooms {
		id := contracts.RoomID(fmt.Sprintf("room-%d", i))
		tr.rooms = append(tr.rooms, id)
		tr.sent[id] = make(map[contracts.Key]contracts.UserID)
	}
	for i := range clients {
		l := &listener{got: make(map[contracts.RoomID][]got)}
		l.cond = sync.NewCond(&l.mu)
		cfg := client.Config{URL: urls[i%len(urls)], Guest: fmt.Sprintf("guest %d", i), OnEvent: l.take}
		for _, f := range change {
			f(&cfg)
		}
		c, err := client.Dial(ctx, cfg)
		if err != nil {
			t.Fatalf("connect client %d: %v", i, err)
		}
		l.Client = c
		t.Cleanup(c.Close)
		tr.clients = append(tr.clients, l)
		for _, room := range tr.rooms {
			if _, err := c.Join(ctx, room, &contracts.Since{}); err != nil {
				t.Fatalf("join %s: %v", room, err)
			}
		}
	}
	return tr
}

func (l *listener) take(e client.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case e.Entry():
		l.got[e.Room] = append(l.got[e.Room], got{seq: e.Seq, key: e.Key})
		l.cond.Broadcast()
	case e.Kind == client.EventReset, e.Kind == client.EventJoinFailed, e.Kind == client.EventLeft:
		l.odd = append(l.odd, fmt.Sprintf("%s in %s: %v", e.Kind, e.Room, e.Err))
	}
}

// run sends messages per client and room. at says what happens once so many are acked.
func (tr *traffic) run(messages int, at map[int64]func()) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	tr.goal = int64(messages * len(tr.rooms) * len(tr.clients))
	var wg, events sync.WaitGroup
	for _, l := range tr.clients {
		for _, room := range tr.rooms {
			wg.Go(func() {
				user := l.Session().User.ID
				for i := range messages {
					ok, err := l.Send(ctx, room, fmt.Sprintf("message %d of %s", i, user))
					if err != nil {
						tr.t.Errorf("send to %s: %v", room, err)
						return
					}
					tr.mu.Lock()
					tr.sent[room][ok.Key] = user
					tr.mu.Unlock()
					if f := at[tr.acked.Add(1)]; f != nil {
						events.Go(f)
					}
				}
			})
		}
	}
	wg.Wait()
	events.Wait()
}

// check compares what everybody got with what was acked and with the history.
func (tr *traffic) check() {
	t := tr.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	total := 0
	for _, room := range tr.rooms {
		want := len(tr.sent[room])
		total += want
		history := tr.history(ctx, room)
		if len(history) != want {
			t.Errorf("%s: history has %d entries, %d were acked", room, len(history), want)
		}
		seen := make(map[contracts.Key]bool)
		for i, g := range history {
			if g.seq != contracts.Seq(i+1) {
				t.Fatalf("%s: entry %d of the history has seq %d", room, i+1, g.seq)
			}
			if seen[g.key] {
				t.Errorf("%s: key %s stands twice in the history", room, g.key)
			}
			seen[g.key] = true
			if _, acked := tr.sent[room][g.key]; !acked {
				t.Errorf("%s: key %s was never acked", room, g.key)
			}
		}
		for i, l := range tr.clients {
			entries := l.await(ctx, room, want)
			if len(entries) != want {
				t.Errorf("%s: client %d got %d of %d entries", room, i, len(entries), want)
			}
			for j, g := range entries {
				if j >= len(history) || g != history[j] {
					t.Fatalf("%s: client %d got seq %d (%s) as its entry %d, where the history differs", room, i, g.seq, g.key, j+1)
				}
			}
		}
	}
	if int64(total) != tr.goal {
		t.Errorf("%d acked, %d sent", total, tr.goal)
	}
	for i, l := range tr.clients {
		l.mu.Lock()
		for _, odd := range l.odd {
			t.Errorf("client %d: %s", i, odd)
		}
		l.mu.Unlock()
	}
}

// await waits until the client has n entries of a room, or ctx ends.
func (l *listener) await(ctx context.Context, room contracts.RoomID, n int) []got {
	stop := context.AfterFunc(ctx, l.cond.Broadcast)
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.got[room]) < n && ctx.Err() == nil {
		l.cond.Wait()
	}
	return l.got[room]
}

// history reads a whole room, page by page.
func (tr *traffic) history(ctx context.Context, room contracts.RoomID) (all []got) {
	tr.t.Helper()
	for {
		after := contracts.Seq(0)
		if len(all) > 0 {
			after = all[len(all)-1].seq
		}
		raw, err := tr.clients[0].Request(ctx, contracts.OpHistory, map[string]any{"room": room, "after": after, "limit": 200})
		if err != nil {
			tr.t.Fatalf("history of %s: %v", room, err)
		}
		var page struct {
			Entries []struct {
				Seq contracts.Seq `json:"seq"`
				Key contracts.Key `json:"key"`
			} `json:"entries"`
			More bool `json:"more"`
		}
		if err := json.Unmarshal(raw, &page); err != nil {
			tr.t.Fatal(err)
		}
		for _, e := range page.Entries {
			all = append(all, got{seq: e.Seq, key: e.Key})
		}
		if !page.More || len(page.Entries) == 0 {
			return all
		}
	}
}

// TestDevKilled kills everything at once, with -9, while 20 clients send 10,000 messages into 10 rooms through two edges.
func TestDevKilled(t *testing.T) {
	messages := 50
	if testing.Short() {
		messages = 10
	}
	addr, ops := freeAddr(t), freeAddr(t)
	dev := newProc(t, "dev", nil, "dev", "--data", t.TempDir(), "--listen", addr, "--ops", ops, "--log-level", "warn")
	dev.start()
	dev.ready(ops)
	tr := newTraffic(t, []string{"ws://" + addr + "/v1/ws"}, 20, 10)
	nodes := make(map[contracts.NodeID]bool)
	for _, l := range tr.clients {
		nodes[l.Session().Server.Node] = true
	}
	if len(nodes) != 2 {
		t.Errorf("clients are on %v, not on two edges", nodes)
	}
	goal := int64(messages * 200)
	again := func() {
		dev.kill()
		dev.start()
		dev.ready(ops)
	}
	tr.run(messages, map[int64]func(){goal * 4 / 10: again})
	tr.check()
	bustest.Soon(t, "the stop", 5*time.Second, func() (took time.Duration) {
		began := time.Now()
		if code := dev.stop(); code != 0 {
			t.Errorf("stopped with code %d", code)
		}
		took = time.Since(began)
		dev.start()
		dev.ready(ops)
		return took
	})
	// What was acked is there after a clean restart too.
	tr.check()
}
