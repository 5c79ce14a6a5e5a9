package mongo_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

// BenchmarkReads asks 20,000 rows in 200 rooms for 500 identities, half of which are there, for 200 heads, for a page of 50
// and for the newest 500 rows of the only partition.
func BenchmarkReads(b *testing.B) {
	uris := os.Getenv(uriVariable)
	if uris == "" {
		b.Skipf("%s is not set", uriVariable)
	}
	const rows, rooms, bulk = 20_000, 200, 500
	uri, _, _ := strings.Cut(uris, ",")
	s := open(b, uri)
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	if err := s.Prepare(ctx, 8); err != nil {
		b.Fatal(err)
	}
	all := make([]store.Entry, rows)
	for i := range all {
		e := &all[i]
		e.Record = contracts.Record{
			Kind: contracts.KindMessage, Room: contracts.RoomID(fmt.Sprint("room-", i%rooms)), Stamp: int64(i),
			From: contracts.Person{ID: contracts.UserID(fmt.Sprint("user-", i%1000)), Name: "Ann"}, Text: "hello, world",
		}
		e.Key = benchKey(i)
		e.Seq, e.Epoch, e.Offset = contracts.Seq(i/rooms+1), 1, int64(i)
	}
	prev := contracts.Checkpoint{}
	for at := 0; at < rows; at += bulk {
		next := contracts.Checkpoint{Epoch: 1, Offset: int64(at + bulk), Sequencer: roomlog.Version}
		if err := s.Append(ctx, all[at:at+bulk], prev, next); err != nil {
			b.Fatal(err)
		}
		prev = next
	}
	before := contracts.Position{Epoch: 1, Offset: rows}
	var entries []roomlog.EntryQuery
	for i := range bulk {
		id := all[i*37%rows].Identity()
		if i%2 == 0 {
			id.Key = benchKey(rows + i)
		}
		entries = append(entries, roomlog.EntryQuery{Identity: id, Before: before})
	}
	var heads []roomlog.HeadQuery
	for i := range rooms {
		heads = append(heads, roomlog.HeadQuery{Room: all[i].Room, Before: before})
	}
	b.Run("identities", func(b *testing.B) {
		for b.Loop() {
			found, _, err := s.Lookup(ctx, entries, nil)
			if err != nil || found[1].Seq == 0 || found[0].Seq != 0 {
				b.Fatal(found[:2], err)
			}
		}
	})
	b.Run("heads", func(b *testing.B) {
		for b.Loop() {
			if _, found, err := s.Lookup(ctx, nil, heads); err != nil || found[0].Seq != rows/rooms {
				b.Fatal(found[:1], err)
			}
		}
	})
	b.Run("page", func(b *testing.B) {
		for b.Loop() {
			if page, err := s.Page(ctx, all[0].Room, 1, contracts.MaxInt, 50, true); err != nil || len(page) != 50 {
				b.Fatal(len(page), err)
			}
		}
	})
	b.Run("above", func(b *testing.B) {
		from := contracts.Position{Epoch: 1, Offset: rows - 500}
		for b.Loop() {
			if above, err := s.Above(ctx, 0, from); err != nil || len(above) != 500 {
				b.Fatal(len(above), err)
			}
		}
	})
}

func benchKey(i int) (k contracts.Key) {
	binary.BigEndian.PutUint64(k[:], uint64(1_700_000_000_000+i)<<16)
	k[6], k[8] = 0x70, 0x80
	return k
}
