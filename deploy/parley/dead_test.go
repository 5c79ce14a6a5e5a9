package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/mongo"
	"github.com/parley-chat/parley/persist/store"
)

// TestDeadReplay buries garbage and, twice, a message that this release can read, as after an update, and looks after them as an
// operator does. The message must be stored once.
func TestDeadReplay(t *testing.T) {
	env := realServers(t)
	of := func(name string) string {
		for _, variable := range env {
			if value, ok := strings.CutPrefix(variable, name+"="); ok {
				return value
			}
		}
		t.Fatalf("%s is not set", name)
		return ""
	}
	ops := freeAddr(t)
	persister := newProc(t, "persist-1", env, "persist", "--ops", ops, "--node", "persist-1", "--log-level", "warn")
	persister.start()
	persister.ready(ops)

	const partitions = 8 // as realServers has it
	db, err := mongo.Open(t.Context(), mongo.Config{URI: of("MONGODB_URI"), Names: contracts.Names{Prefix: of("PARLEY_PREFIX")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	room := contracts.RoomID("graveyard")
	partition := contracts.LaneOf(room).Partition(partitions)
	key, err := contracts.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	value, err := contracts.EncodeRecord(&contracts.Record{
		Kind: contracts.KindMessage, Room: room, From: contracts.Person{ID: "ann", Name: "Ann"}, Key: key, Stamp: key.Time(), Text: "back from the dead",
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, bytes := range [][]byte{{0xff}, value, value} {
		d := store.DeadLetter{Partition: partition, Position: contracts.Position{Epoch: 1, Offset: int64(1000 + i)}, Reason: "of old", Value: bytes}
		if err := db.Bury(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	says := func(command, want string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), binary, "dead", command)
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.HasSuffix(string(out), want) {
			t.Errorf("dead %s: %v\n%s\nwant at the end: %s", command, err, out, want)
		}
	}
	says("list", "3 dead letters\n")
	says("replay", "2 replayed, 1 left\n")
	says("replay", "0 replayed, 1 left\n")
	says("list", "1 dead letters\n")

	// Both copies are in the log; the checkpoint passes what was looked at.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		c, _, err := db.Checkpoint(t.Context(), partition)
		if err != nil {
			t.Fatal(err)
		}
		if c.Offset >= 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the checkpoint stays at %+v", c)
		}
	}
	rows, err := db.Page(t.Context(), room, 1, 10, 10, false)
	if err != nil || len(rows) != 1 || rows[0].Key != key || rows[0].Text != "back from the dead" {
		t.Errorf("stored: %+v, %v", rows, err)
	}
	if code := persister.stop(); code != 0 {
		t.Errorf("the persister stopped with code %d", code)
	}
}
