package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/workers/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// system is everything that an auditor looks into: one partition of a log, and what was made of it.
type system struct {
	records    []journal.Record
	checkpoint contracts.Checkpoint
	rows       []contracts.Entry // in order of position
	cached     map[contracts.RoomID][]contracts.NumberedJSON
	heads      map[contracts.RoomID]contracts.Seq
	found      map[contracts.Identity]contracts.Seq
	storeErr   error
	reads      int
	onRead     func(n int)
	onPage     func()
}

// newSystem has three rooms, duplicates, a dead letter, and a tail that is numbered and not stored.
func newSystem(t *testing.T) *system {
	t.Helper()
	s := &system{
		cached: make(map[contracts.RoomID][]contracts.NumberedJSON),
		heads:  make(map[contracts.RoomID]contracts.Seq), found: make(map[contracts.Identity]contracts.Seq),
	}
	const stored = 100
	for i := range int64(120) {
		if i == 50 {
			s.records = append(s.records, journal.Record{Offset: i, Value: []byte("garbage")})
			continue
		}
		n := i
		if i%20 == 19 {
			n = i - 6 // a copy of an earlier record of the same room
		}
		room := contracts.RoomID([]string{"lobby", "den", "hall"}[n%3])
		r := contracts.Record{
			Kind: contracts.KindMessage, Room: room, From: contracts.Person{ID: "ada"}, Text: fmt.Sprint("text ", n),
			Key: contracts.Key{0, 0, 0, 0, 0, byte(n), 0x70, 0, 0x80, byte(n)}, Stamp: time.Now().UnixMilli(),
		}
		value, err := contracts.EncodeRecord(&r)
		if err != nil {
			t.Fatal(err)
		}
		s.records = append(s.records, journal.Record{Offset: i, Value: value})
		if s.found[r.Identity()] != 0 {
			continue
		}
		s.heads[room]++
		s.found[r.Identity()] = s.heads[room]
		e := contracts.Entry{Record: r, Seq: s.heads[room], Epoch: 1, Offset: i, Hash: contracts.HashRecord(value)}
		s.cached[room] = append(s.cached[room], contracts.NumberedJSON{Seq: e.Seq, JSON: contracts.AppendEntry(nil, &e)})
		if i < stored {
			s.rows = append(s.rows, e)
		}
	}
	s.checkpoint = contracts.Checkpoint{Epoch: 1, Offset: stored}
	return s
}

func (s *system) Bounds(context.Context, int32) (start, end int64, err error) {
	return 0, 1, nil // a sample begins at offset 0
}

func (s *system) Read(_ context.Context, _ int32, from int64, max int) ([]journal.Record, error) {
	s.reads++
	if s.onRead != nil {
		s.onRead(s.reads)
	}
	return s.records[from:min(int(from)+max, len(s.records))], nil
}

func (s *system) Checkpoint(context.Context, int32) (contracts.Checkpoint, bool, error) {
	return s.checkpoint, true, s.storeErr
}

func (s *system) Lookup(_ context.Context, entries []roomlog.EntryQuery, _ []roomlog.HeadQuery) (found, _ []roomlog.Found, err error) {
	for _, q := range entries {
		var f roomlog.Found
		for i := range s.rows {
			if r := &s.rows[i]; r.Identity() == q.Identity && r.Position().Less(q.Before) {
				f = roomlog.Found{Seq: r.Seq, Position: r.Position()}
			}
		}
		found = append(found, f)
	}
	return found, nil, nil
}

func (s *system) Page(_ context.Context, room contracts.RoomID, from, to contracts.Seq, limit int, _ bool) (page []contracts.Entry, err error) {
	if s.onPage != nil {
		s.onPage()
	}
	for _, r := range s.rows {
		if r.Room == room && r.Seq >= from && r.Seq <= to && len(page) < limit {
			page = append(page, r)
		}
	}
	return page, nil
}

func (s *system) Append(context.Context, []recent.Entry) error { panic("an auditor writes nothing") }

// cache is the recent.Cache of a system.
type cache struct{ *system }

func (c cache) Read(_ context.Context, queries []recent.Query) (all [][]contracts.NumberedJSON, err error) {
	for _, q := range queries {
		var hit []contracts.NumberedJSON
		for _, e := range c.cached[q.Room] {
			if e.Seq >= q.From && e.Seq <= q.To {
				hit = append(hit, e)
			}
		}
		all = append(all, hit)
	}
	return all, nil
}

// dispatcher is the rpc.Client of a system.
type dispatcher struct {
	rpc.Client // nil: what is not overridden is not called
	*system
}

func (d dispatcher) Ask(_ string, body []byte, _ time.Duration, done func([]byte, error)) {
	var q contracts.Question
	if err := json.Unmarshal(body, &q); err != nil {
		done(nil, err)
		return
	}
	reply := contracts.Reply{Epoch: 1}
	for _, room := range q.Heads {
		reply.Heads = append(reply.Heads, contracts.Head{Seq: d.heads[room]})
	}
	if q.Find != nil {
		reply.Found = d.found[*q.Find]
	}
	raw, err := json.Marshal(reply)
	done(raw, err)
}

// audited takes one sample of s and returns the metrics that are not 0.
func audited(t *testing.T, s *system) string {
	t.Helper()
	reg := prometheus.NewRegistry()
	a := audit.New(audit.Config{Partitions: 1}, audit.Deps{
		Log: s, Store: s, Recent: cache{s}, Ask: dispatcher{system: s}, Logger: slog.New(slog.DiscardHandler), Registerer: reg,
	})
	a.Sample(t.Context(), 0)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimSuffix(strings.TrimPrefix(f.GetName(), "parley_audit_"), "_total")
			for _, l := range m.GetLabel() {
				name += "/" + l.GetValue()
			}
			if v := m.GetCounter().GetValue(); v != 0 {
				got = append(got, fmt.Sprint(name, " ", v))
			}
		}
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
	slices.Sort(got)
	return strings.Join(got, ", ")
}

// row returns the row of the record at an offset, in place.
func (s *system) row(t *testing.T, offset int64) int {
	t.Helper()
	at := slices.IndexFunc(s.rows, func(e contracts.Entry) bool { return e.Offset == offset })
	if at < 0 {
		t.Fatalf("no row at %d", offset)
	}
	return at
}

// TestAudit breaks one thing at a time. Breaks that only the comparison of one room shows are made in all rooms.
func TestAudit(t *testing.T) {
	const fine = "records 119, samples/done 1"
	tests := []struct {
		name   string
		change func(t *testing.T, s *system)
		want   string
		part   bool // want is a part of what is found: the rest depends on the room that is compared
	}{
		{"nothing wrong", func(*testing.T, *system) {}, fine, false},
		{"a row is gone", func(t *testing.T, s *system) {
			at := s.row(t, 30)
			s.rows = slices.Delete(s.rows, at, at+1)
		}, "disordered 1, lost 1, " + fine, false},
		{"rows swapped", func(t *testing.T, s *system) {
			a, b := s.row(t, 30), s.row(t, 33)
			s.rows[a].Seq, s.rows[b].Seq = s.rows[b].Seq, s.rows[a].Seq
		}, "disordered", true},
		{"a number skipped", func(_ *testing.T, s *system) {
			for i := range s.rows {
				if s.rows[i].Offset >= 40 && s.rows[i].Room == "lobby" {
					s.rows[i].Seq++
				}
			}
			s.heads["lobby"]++
			s.cached["lobby"] = nil
		}, "disordered 1, " + fine, false},
		{"a copy has a number", func(t *testing.T, s *system) {
			// The record at 19 repeats the one at 13.
			first := s.rows[s.row(t, 13)]
			second, at := first, s.row(t, 20)
			for i := range s.rows {
				switch r := &s.rows[i]; {
				case r.Room != first.Room:
				case r.Offset < 19:
					second.Seq = r.Seq + 1
				default:
					r.Seq++
				}
			}
			second.Offset = 19
			s.rows = slices.Insert(s.rows, at, second)
			s.heads[first.Room]++
			clear(s.cached)
		}, "doubled", true}, // by the order, and by the page where it is of this room
		{"the row of another record", func(t *testing.T, s *system) {
			for i := range s.rows {
				s.rows[i].Hash[0]++
			}
		}, "differing", true},
		{"the cache says something else", func(t *testing.T, s *system) {
			for _, entries := range s.cached {
				entries[3].JSON = []byte(`{"event":"message"}`)
			}
		}, "differing 1, " + fine, false},
		{"a cache with a hole", func(t *testing.T, s *system) { clear(s.cached) }, fine, false},
		{"a tombstone", func(t *testing.T, s *system) {
			for i := range s.rows {
				s.rows[i].Text = ""
			}
		}, fine, false},
		{"a head behind the store", func(t *testing.T, s *system) {
			for room := range s.heads {
				s.heads[room] = 2
			}
		}, "lost 1, " + fine, false},
		{"stored late", func(*testing.T, *system) { time.Sleep(time.Minute) }, "late/store 1, " + fine, false},
		{"numbered late", func(_ *testing.T, s *system) {
			time.Sleep(time.Minute)
			clear(s.found)
		}, "late/number 1, late/store 1, " + fine, false},
		{"not yet late", func(*testing.T, *system) { time.Sleep(20 * time.Second) }, fine, false},
		{"the store is away", func(_ *testing.T, s *system) { s.storeErr = errors.New("away") }, "samples/failed 1", false},
		{"a new epoch meanwhile", func(_ *testing.T, s *system) {
			s.onPage = func() { s.checkpoint.Epoch++ }
		}, "samples/failed 1", false},
		{"wrong only for a moment", func(t *testing.T, s *system) {
			at := s.row(t, 30)
			gone := s.rows[at]
			s.rows = slices.Delete(s.rows, at, at+1)
			s.onRead = func(n int) {
				if n == 2 {
					s.rows = slices.Insert(s.rows, at, gone)
				}
			}
		}, fine, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(t)
				tt.change(t, s)
				if got := audited(t, s); got != tt.want && !(tt.part && strings.Contains(got, tt.want)) {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		})
	}
}
