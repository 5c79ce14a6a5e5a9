//go:build unix

package local

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// realVariable lets the test download, build and start the real servers.
const realVariable = "PARLEY_TEST_REAL_START"

func TestServersStartAndStop(t *testing.T) {
	if os.Getenv(realVariable) == "" {
		t.Skip(realVariable + " is not set")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "servers.env")
	out := &buffer{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- Up(ctx, UpOptions{Dir: dir, ServersOnly: true, Ports: PortsFree, Mongo: MongoJava, Write: file, Out: out})
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	late := time.After(5 * time.Minute)
	for written := false; !written; {
		select {
		case err := <-ended:
			t.Fatalf("Up ended: %v\n%s", err, out)
		case <-late:
			t.Fatalf("the servers did not come up:\n%s", out)
		case <-tick.C:
			_, err := os.Stat(file)
			written = err == nil
		}
	}
	lines, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	for _, name := range []string{"NATS_URL", "REDIS_URL", "KAFKA_BROKERS", "MONGODB_URI"} {
		if !strings.Contains(string(lines), "export "+name+"='") {
			t.Errorf("%s is not in the file:\n%s", name, lines)
		}
	}
	if !strings.Contains(out.String(), "not MongoDB: a stand-in") {
		t.Errorf("the stand-in is not named as one:\n%s", out)
	}
	entries, err := readPids(filepath.Join(dir, pidFile))
	if err != nil || len(entries) != 5 {
		t.Errorf("listed are %v (%v), want this process and four servers", entries, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Up: %v", err)
	}
	for _, e := range entries {
		if e.kind == kindServer && e.alive() {
			t.Errorf("%s was left running", e.name)
		}
	}
}
