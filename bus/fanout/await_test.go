//go:build !lean

package fanout_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/redis/go-redis/v9"

	"github.com/parley-chat/parley/bus/embedded"
	"github.com/parley-chat/parley/bus/fanout"
)

// TestAwait: a server that is away is named once, without credentials, and once more when it has come.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		failures := 3
		// One made by the library's defaults looks the name up, and what package net makes for that would belong to this bubble.
		client, err := fanout.Config{URL: "redis://h:1"}.Connect()
		if err != nil {
			t.Fatal(err)
		}
		client.AddHook(&answers{failures: &failures})
		fanout.Await(t.Context(), client, "redis://me:secret@h:1/0?x=secret, i:2", slog.New(slog.NewTextHandler(&out, nil)))
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		got := out.String()
		if failures != 0 || strings.Count(got, "waiting for Redis") != 1 || strings.Count(got, "connected to redis") != 1 ||
			strings.Count(got, "redis://h:1/0,redis://i:2") != 2 || strings.Contains(got, "secret") {
			t.Errorf("logged:\n%s", got)
		}
	})
}

// answers refuses some commands and accepts the rest, without a connection.
type answers struct {
	redis.Hook
	failures *int
}

func (a *answers) DialHook(next redis.DialHook) redis.DialHook { return next }

func (a *answers) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(_ context.Context, cmd redis.Cmder) error {
		if *a.failures > 0 {
			*a.failures--
			cmd.SetErr(context.DeadlineExceeded)
			return cmd.Err()
		}
		return nil
	}
}

func (a *answers) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// TestPing: a cluster of which one master does not answer has not given a sign of life.
func TestPing(t *testing.T) {
	one, err := embedded.StartRedis()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = one.Close() }()
	other, err := embedded.StartRedis()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	addr := func(r *embedded.Redis) string { return strings.TrimPrefix(r.URL(), "redis://") }
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: []string{addr(one), addr(other)},
		ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
			return []redis.ClusterSlot{
				{Start: 0, End: 8191, Nodes: []redis.ClusterNode{{Addr: addr(one)}}},
				{Start: 8192, End: 16383, Nodes: []redis.ClusterNode{{Addr: addr(other)}}},
			}, nil
		},
	})
	defer func() { _ = client.Close() }()
	for range 4 {
		if err := fanout.Ping(t.Context(), client); err != nil {
			t.Fatalf("both are there: %v", err)
		}
	}
	other.Interrupt()
	for range 4 {
		if err := fanout.Ping(t.Context(), client); err == nil {
			t.Fatal("one is away")
		}
	}
}
