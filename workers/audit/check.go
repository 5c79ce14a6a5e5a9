package audit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/parley-chat/parley/bus/fanout/recent"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
)

// Kind is which promise is broken.
type Kind string

// The kinds of findings.
const (
	// Lost: a record below the checkpoint has no row, or an entry that was numbered is nowhere.
	Lost Kind = "lost"
	// Doubled: one message has two numbers.
	Doubled Kind = "doubled"
	// Disordered: the numbers of a room do not follow the log.
	Disordered Kind = "disordered"
	// Differing: a row or the cache says something else than the log.
	Differing Kind = "differing"
	// LateNumber: a record has waited for its number for too long.
	LateNumber Kind = "late_number"
	// LateStore: a record has waited for too long to be stored.
	LateStore Kind = "late_store"
)

// Finding is one broken promise.
type Finding struct {
	Kind   Kind
	Offset int64 // of the record concerned
	Room   contracts.RoomID
	Seq    contracts.Seq // 0: none
	Key    contracts.Key
	Detail string
}

// askTime bounds one question to a dispatcher.
const askTime = 2 * time.Second

// stretch is a sample: consecutive records of a partition and what the store has of them.
type stretch struct {
	partition  int32
	checkpoint contracts.Checkpoint
	records    []numbered
	findings   []Finding
}

// numbered is one record that can be read.
type numbered struct {
	contracts.Record
	offset int64
	hash   contracts.Hash
	row    roomlog.Found // the row of its identity at or below it; Seq 0: none
}

// own reports whether the record's row was made of itself and not of an earlier copy.
func (n *numbered) own(epoch contracts.Epoch) bool {
	return n.row.Seq != 0 && n.row.Position == (contracts.Position{Epoch: epoch, Offset: n.offset})
}

func (s *stretch) find(kind Kind, n *numbered, detail string, args ...any) {
	s.findings = append(s.findings, Finding{
		Kind: kind, Offset: n.offset, Room: n.Room, Seq: n.row.Seq, Key: n.Key, Detail: fmt.Sprintf(detail, args...),
	})
}

// check compares the stretch of a partition that begins at an offset. checked is how many records it could read.
func (a *Auditor) check(ctx context.Context, partition int32, from int64) (findings []Finding, checked int, err error) {
	raw, err := a.deps.Log.Read(ctx, partition, from, a.cfg.Records)
	if err != nil {
		return nil, 0, fmt.Errorf("read the log: %w", err)
	}
	s := &stretch{partition: partition}
	// The checkpoint is read after the log and before the rows: all below it was stored by then.
	var found bool
	if s.checkpoint, found, err = a.deps.Store.Checkpoint(ctx, partition); err != nil {
		return nil, 0, fmt.Errorf("read the checkpoint: %w", err)
	}
	if !found {
		s.checkpoint.Epoch = 1
	}
	for _, r := range raw {
		record, err := contracts.DecodeRecord(r.Value, partition, a.cfg.Partitions)
		if err == nil { // a dead letter has no number
			s.records = append(s.records, numbered{Record: record, offset: r.Offset, hash: contracts.HashRecord(r.Value)})
		}
	}
	if len(s.records) == 0 {
		return nil, 0, nil
	}
	if err := a.rows(ctx, s); err != nil {
		return nil, 0, err
	}
	s.order()
	if err := a.late(ctx, s); err != nil {
		return nil, 0, err
	}
	if err := a.room(ctx, s); err != nil {
		return nil, 0, err
	}
	after, _, err := a.deps.Store.Checkpoint(ctx, partition)
	if err != nil {
		return nil, 0, fmt.Errorf("read the checkpoint: %w", err)
	}
	if found && after.Epoch != s.checkpoint.Epoch {
		return nil, 0, errMoving
	}
	return s.findings, len(s.records), nil
}

// rows asks the store for the row of each record.
func (a *Auditor) rows(ctx context.Context, s *stretch) error {
	queries := make([]roomlog.EntryQuery, len(s.records))
	for i := range s.records {
		n := &s.records[i]
		queries[i] = roomlog.EntryQuery{
			Identity: n.Identity(), Before: contracts.Position{Epoch: s.checkpoint.Epoch, Offset: n.offset + 1},
		}
	}
	rows, _, err := a.deps.Store.Lookup(ctx, queries, nil)
	if err != nil {
		return fmt.Errorf("look up %d records: %w", len(queries), err)
	}
	for i := range s.records {
		n := &s.records[i]
		n.row = rows[i]
		if n.row.Seq == 0 && n.offset < s.checkpoint.Offset {
			s.find(Lost, n, "no row, and the checkpoint is %d", s.checkpoint.Offset)
		}
	}
	return nil
}

// order checks that each room's numbers follow the log, one by one.
func (s *stretch) order() {
	last := make(map[contracts.RoomID]contracts.Seq)
	seen := make(map[contracts.Identity]int64)
	for i := range s.records {
		n := &s.records[i]
		if !n.own(s.checkpoint.Epoch) {
			continue
		}
		if before, twice := seen[n.Identity()]; twice {
			s.find(Doubled, n, "the record at %d has a number too", before)
		}
		seen[n.Identity()] = n.offset
		if prev := last[n.Room]; prev != 0 && n.row.Seq != prev+1 {
			s.find(Disordered, n, "follows seq %d", prev)
		}
		last[n.Room] = n.row.Seq
	}
}

// late looks for records that wait.
func (a *Auditor) late(ctx context.Context, s *stretch) error {
	i := slices.IndexFunc(s.records, func(n numbered) bool {
		return n.row.Seq == 0 && n.offset >= s.checkpoint.Offset && time.Since(time.UnixMilli(n.Stamp)) > a.cfg.Late
	})
	if i < 0 {
		return nil
	}
	n := &s.records[i] // the others wait behind it
	s.find(LateStore, n, "the checkpoint is %d", s.checkpoint.Offset)
	id := n.Identity()
	reply, err := a.ask(ctx, s.partition, contracts.Question{Find: &id})
	if err == nil && reply.Found == 0 {
		s.find(LateNumber, n, "the dispatcher does not know it")
	}
	return ctx.Err() // a dispatcher that does not answer is late itself, and others tell of it
}

// room compares one room of the stretch in all its places: the same one whenever the stretch is looked at.
func (a *Auditor) room(ctx context.Context, s *stretch) error {
	var members []*numbered // of the room, in order
	chance := rand.New(rand.NewPCG(uint64(s.partition), uint64(s.records[0].offset)))
	for _, at := range chance.Perm(len(s.records)) {
		if s.records[at].own(s.checkpoint.Epoch) {
			for i := range s.records {
				if n := &s.records[i]; n.Room == s.records[at].Room && n.own(s.checkpoint.Epoch) {
					members = append(members, n)
				}
			}
			break
		}
	}
	if len(members) == 0 {
		return nil
	}
	slices.SortStableFunc(members, func(a, b *numbered) int { return cmp.Compare(a.row.Seq, b.row.Seq) })
	first, last := members[0], members[len(members)-1]
	rows, err := a.deps.Store.Page(ctx, first.Room, first.row.Seq, last.row.Seq, a.cfg.Records, false)
	if err != nil {
		return fmt.Errorf("read room %s: %w", first.Room, err)
	}
	bySeq := make(map[contracts.Seq]*contracts.Entry, len(rows))
	keys := make(map[contracts.Identity]contracts.Seq, len(rows))
	for i := range rows {
		row := &rows[i]
		bySeq[row.Seq] = row
		if other, twice := keys[row.Identity()]; twice {
			s.findings = append(s.findings, Finding{
				Kind: Doubled, Offset: row.Offset, Room: row.Room, Seq: row.Seq, Key: row.Key, Detail: fmt.Sprintf("is stored as %d too", other),
			})
		}
		keys[row.Identity()] = row.Seq
	}
	for _, n := range members {
		switch row := bySeq[n.row.Seq]; {
		case row == nil:
			s.find(Lost, n, "the room's page lacks it")
		case row.Identity() != n.Identity() || row.Offset != n.offset || row.Hash != n.hash:
			s.find(Differing, n, "the row is of the record at %d", row.Offset)
		}
	}
	if err := a.cache(ctx, s, members, bySeq); err != nil {
		return err
	}
	reply, err := a.ask(ctx, s.partition, contracts.Question{Heads: []contracts.RoomID{first.Room}})
	if err == nil && reply.Epoch == s.checkpoint.Epoch && len(reply.Heads) == 1 && reply.Heads[0].Seq < last.row.Seq {
		s.find(Lost, last, "the dispatcher's head is %d", reply.Heads[0].Seq)
	}
	return ctx.Err()
}

// cache compares what the cache has of a room with its rows.
func (a *Auditor) cache(ctx context.Context, s *stretch, members []*numbered, rows map[contracts.Seq]*contracts.Entry) error {
	first, last := members[0], members[len(members)-1]
	cached, err := a.deps.Recent.Read(ctx, []recent.Query{{
		Room: first.Room, Epoch: s.checkpoint.Epoch, From: first.row.Seq, To: last.row.Seq,
	}})
	if err != nil || len(cached) != 1 {
		return ctx.Err() // a cache that is away says nothing wrong
	}
	bySeq := make(map[contracts.Seq][]byte, len(cached[0]))
	for _, e := range cached[0] {
		bySeq[e.Seq] = e.JSON
	}
	for _, n := range members {
		row, said := rows[n.row.Seq], bySeq[n.row.Seq]
		// The text of a tombstone is gone from the row alone.
		if row != nil && said != nil && row.Text != "" && !bytes.Equal(said, contracts.AppendEntry(nil, row)) {
			s.find(Differing, n, "the cache has %.200s", said)
		}
	}
	return nil
}

// ask puts a question to a partition's dispatcher.
func (a *Auditor) ask(ctx context.Context, partition int32, q contracts.Question) (reply contracts.Reply, err error) {
	q.LeftMS = askTime.Milliseconds()
	body, err := contracts.Marshal(&q)
	if err != nil {
		return reply, err
	}
	got := make(chan error, 1)
	var raw []byte
	a.deps.Ask.Ask(a.cfg.Names.Dispatch(partition), body, askTime, func(b []byte, err error) {
		raw = b
		got <- err
	})
	select {
	case err = <-got:
	case <-ctx.Done():
		return reply, ctx.Err()
	}
	if err == nil {
		err = json.Unmarshal(raw, &reply)
	}
	if err == nil && reply.Err != nil {
		err = reply.Err
	}
	return reply, err
}
