package main

import (
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// realServers returns the environment that reaches the real servers, under a prefix of this test's own.
func realServers(t *testing.T) []string {
	t.Helper()
	var env []string
	for test, name := range map[string]string{
		"PARLEY_TEST_NATS_URL": "NATS_URL", "PARLEY_TEST_REDIS_URL": "REDIS_URL",
		"PARLEY_TEST_KAFKA_BROKERS": "KAFKA_BROKERS", "PARLEY_TEST_MONGODB_URI": "MONGODB_URI",
	} {
		value := os.Getenv(test)
		if value == "" {
			t.Skipf("%s is not set: `task up` or `parley up --servers-only` starts real servers and says what to set", test)
		}
		if name == "MONGODB_URI" {
			// Of a list the first; without a database, so that the prefix names it.
			value, _, _ = strings.Cut(value, ",")
			uri, err := url.Parse(value)
			if err != nil {
				t.Fatal(err)
			}
			uri.Path = "/"
			value = uri.String()
		}
		env = append(env, name+"="+value)
	}
	return append(env, fmt.Sprintf("PARLEY_PREFIX=test-%d", time.Now().UnixNano()), "PARLEY_PARTITIONS=8",
		"PARLEY_SECRET=a secret of at least thirty-two bytes")
}

// TestRolesKilled runs every role twice as a process of its own on real servers and kills each once, with -9, while 20
// clients send 10,000 messages into 10 rooms through two edges.
func TestRolesKilled(t *testing.T) {
	env := realServers(t)
	messages := 50
	if testing.Short() {
		messages = 10
	}
	procs := make(map[string]*proc)
	opsOf := make(map[string]string)
	var urls []string
	for _, role := range []string{"persist", "dispatch", "worker", "edge"} {
		for i := range 2 {
			name := fmt.Sprintf("%s-%d", role, i+1)
			ops := freeAddr(t)
			args := []string{role, "--ops", ops, "--node", name, "--log-level", "warn"}
			if role == "edge" {
				addr := freeAddr(t)
				urls = append(urls, "ws://"+addr+"/v1/ws")
				args = append(args, "--listen", addr, "--drain-limit", "1s")
			}
			p := newProc(t, name, env, args...)
			p.start()
			procs[name], opsOf[name] = p, ops
		}
	}
	for name, p := range procs {
		p.ready(opsOf[name])
	}
	tr := newTraffic(t, urls, 20, 10)
	goal := int64(messages * 200)
	again := func(name string) func() {
		return func() {
			procs[name].kill()
			procs[name].start()
			procs[name].ready(opsOf[name])
		}
	}
	tr.run(messages, map[int64]func(){
		goal * 1 / 10: again("edge-1"), goal * 3 / 10: again("worker-1"),
		goal * 5 / 10: again("dispatch-1"), goal * 7 / 10: again("persist-1"),
	})
	tr.check()
	for _, role := range []string{"edge", "worker", "dispatch", "persist"} {
		for i := range 2 {
			name := fmt.Sprintf("%s-%d", role, i+1)
			if code := procs[name].stop(); code != 0 {
				t.Errorf("%s stopped with code %d", name, code)
			}
		}
	}
}
