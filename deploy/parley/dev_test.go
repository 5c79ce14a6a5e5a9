package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/client"
)

// startDev runs dev for a test and returns where its WebSocket is.
func startDev(t *testing.T, args ...string) (url string) {
	t.Helper()
	addr, ops := freeAddr(t), freeAddr(t)
	dev := newProc(t, "dev", nil, append([]string{"dev", "--ephemeral", "--listen", addr, "--ops", ops, "--log-level", "warn"}, args...)...)
	dev.start()
	dev.ready(ops)
	return "ws://" + addr + "/v1/ws"
}

// TestEdgesApart: an edge that is a process of its own serves on the servers inside dev, by what dev wrote down.
func TestEdgesApart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "servers.env")
	ops := freeAddr(t)
	dev := newProc(t, "dev", nil, "dev", "--ephemeral", "--edges", "0", "--write", file, "--ops", ops, "--log-level", "warn")
	dev.start()
	dev.ready(ops)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var env []string
	for line := range strings.Lines(string(text)) {
		env = append(env, strings.ReplaceAll(strings.TrimPrefix(strings.TrimSpace(line), "export "), "'", ""))
	}
	addr, edgeOps := freeAddr(t), freeAddr(t)
	apart := newProc(t, "edge", env, "edge", "--listen", addr, "--ops", edgeOps, "--log-level", "warn")
	apart.start()
	apart.ready(edgeOps)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	heard := make(chan client.Event, 16)
	c, err := client.Dial(ctx, client.Config{URL: "ws://" + addr + "/v1/ws", Guest: "Ada", OnEvent: func(e client.Event) {
		if e.Kind == string(contracts.KindMessage) {
			heard <- e
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Join(ctx, "garden", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(ctx, "garden", "hi"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-heard:
	case <-ctx.Done():
		t.Fatal("the message did not come back")
	}
}

// TestQuitEverywhere: a person who gives up a membership hears no more of the room on any connection, on any edge.
func TestQuitEverywhere(t *testing.T) {
	url := startDev(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	here, err := client.Dial(ctx, client.Config{URL: url, Guest: "Ada"})
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	left := make(chan client.Event, 1)
	there, err := client.Dial(ctx, client.Config{URL: url, Token: here.Session().Token, OnEvent: func(e client.Event) {
		if e.Kind == client.EventLeft {
			left <- e
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if a, b := here.Session().Server.Node, there.Session().Server.Node; a == b {
		t.Fatalf("both connections are on %s", a)
	}
	for _, c := range []*client.Client{here, there} {
		if _, err := c.Join(ctx, "garden", nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := here.Request(ctx, contracts.OpLeave, map[string]any{"room": "garden", "quit": true}); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-left:
		if e.Room != "garden" {
			t.Errorf("left %s", e.Room)
		}
	case <-ctx.Done():
		t.Fatal("the other connection was not told")
	}
}

// TestStored: whoever asks for it hears, with the seq, that a message is stored; also of a retry, and also in a room that
// nobody on the edge listens to.
func TestStored(t *testing.T) {
	url := startDev(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Dial(ctx, client.Config{URL: url, Guest: "Ada"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	key, err := contracts.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		raw, err := c.Request(ctx, contracts.OpSend, map[string]any{"room": "vault", "text": "keep this", "key": key, "ack": "stored"})
		if err != nil {
			t.Fatal(err)
		}
		var got contracts.SendOK
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if got.Key != key || got.State != "stored" || got.Seq != 1 {
			t.Errorf("got %s", raw)
		}
	}
}
