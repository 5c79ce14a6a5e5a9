// Package storetest is the conformance suite of a store.Store: what the persister and the workers rely on, written once
// and run on every adapter.
package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

// Partitions is the count with which the suite prepares its stores.
const Partitions = 8

// Run runs the suite. open gives a store that is empty, not prepared, shared with nobody, and closed at the end of the
// test that it is given.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	prepared := func(check func(*testing.T, suite)) func(*testing.T) {
		return func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			t.Cleanup(cancel)
			s := suite{Store: open(t), ctx: ctx}
			if err := s.Prepare(ctx, Partitions); err != nil {
				t.Fatalf("prepare: %v", err)
			}
			check(t, s)
		}
	}
	for _, c := range []struct {
		name  string
		check func(*testing.T, suite)
	}{
		{"prepare", testPrepare},
		{"append", testAppend},
		{"append/again", testAppendAgain},
		{"append/conflict", testConflict},
		{"append/tripwire", testTripwire},
		{"append/concurrent", testConcurrent},
		{"content", testContent},
		{"lookup/keys", testLookupKeys},
		{"lookup/heads", testLookupHeads},
		{"above", testAbove},
		{"page", testPage},
		{"blank", testBlank},
		{"blank/steps", testBlankSteps},
		{"rooms/public", testPublicRooms},
		{"rooms/members", testMembers},
		{"dead", testDead},
	} {
		t.Run(c.name, prepared(c.check))
	}
}

// whole compares bytes at once. Byte by byte, as cmp does it, a record of the largest size takes seconds, and a minute
// under the race detector.
var whole = cmp.FilterValues(func(a, b []byte) bool { return len(a) > 0 && len(b) > 0 }, cmp.Comparer(bytes.Equal))

// suite is a store under test with the context of its calls.
type suite struct {
	store.Store
	ctx context.Context
}

// key is a UUIDv7 of its own for each pair of a time in Unix milliseconds and n.
func key(ms int64, n uint32) contracts.Key {
	var k contracts.Key
	binary.BigEndian.PutUint64(k[:], uint64(ms)<<16)
	k[6], k[8] = 0x70, 0x80
	binary.BigEndian.PutUint32(k[12:], n)
	return k
}

// entry is a message whose key, hash and text follow from its place.
func entry(room contracts.RoomID, seq contracts.Seq, epoch contracts.Epoch, offset int64) store.Entry {
	e := store.Entry{
		Record: contracts.Record{
			Kind: contracts.KindMessage, Room: room, From: contracts.Person{ID: "ann", Name: "Ann"},
			Key: key(1_700_000_000_000+offset, uint32(epoch)), Stamp: 1_700_000_000_000 + offset, Text: "hello",
		},
		Seq: seq, Epoch: epoch, Offset: offset,
	}
	e.Hash = hashOf(&e)
	return e
}

func hashOf(e *store.Entry) contracts.Hash {
	value, err := contracts.EncodeRecord(&e.Record)
	if err != nil {
		panic(err)
	}
	return contracts.HashRecord(value)
}

// run is n entries of a room, seq 1 and offset 0 first.
func run(room contracts.RoomID, n int) []store.Entry {
	entries := make([]store.Entry, n)
	for i := range entries {
		entries[i] = entry(room, contracts.Seq(i+1), 1, int64(i))
	}
	return entries
}

// none stands for "there is no checkpoint".
var none contracts.Checkpoint

// at is a checkpoint of partition 3 in epoch 1.
func at(offset int64) contracts.Checkpoint {
	return contracts.Checkpoint{
		Partition: 3, Epoch: 1, Offset: offset, KeyTime: 1_700_000_000_000 + offset,
		Last: contracts.HashRecord([]byte{byte(offset)}), Sequencer: roomlog.Version,
	}
}

func (s suite) append(t *testing.T, entries []store.Entry, prev, next contracts.Checkpoint) {
	t.Helper()
	if err := s.Append(s.ctx, entries, prev, next); err != nil {
		t.Fatalf("append %d entries, checkpoint %d to %d: %v", len(entries), prev.Offset, next.Offset, err)
	}
}

func (s suite) wantCheckpoint(t *testing.T, want contracts.Checkpoint) {
	t.Helper()
	got, found, err := s.Checkpoint(s.ctx, want.Partition)
	if err != nil || !found {
		t.Fatalf("checkpoint of partition %d: found %v, %v", want.Partition, found, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("checkpoint (-want +got):\n%s", diff)
	}
}

func (s suite) wantRoom(t *testing.T, room contracts.RoomID, want []store.Entry) {
	t.Helper()
	got, err := s.Page(s.ctx, room, 1, contracts.MaxInt, len(want)+10, false)
	if err != nil {
		t.Fatalf("page: %v", err)
	}
	if diff := cmp.Diff(want, got, whole); diff != "" {
		t.Fatalf("room %s (-want +got):\n%s", room, diff)
	}
}

func testPrepare(t *testing.T, s suite) {
	if err := s.Ping(s.ctx); err != nil {
		t.Errorf("ping: %v", err)
	}
	if err := s.Prepare(s.ctx, Partitions); err != nil {
		t.Errorf("prepare again: %v", err)
	}
	if err := s.Prepare(s.ctx, 2*Partitions); !errors.Is(err, store.ErrPartitions) {
		t.Errorf("prepare for another partition count: %v, want ErrPartitions", err)
	}
	if err := s.Prepare(s.ctx, Partitions); err != nil {
		t.Errorf("prepare after a refusal: %v", err)
	}
	if all, err := s.Checkpoints(s.ctx); err != nil || len(all) != 0 {
		t.Errorf("checkpoints of an empty store: %v, %v", all, err)
	}
}
