package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
)

// JournalFixture makes the parts of one log, which nobody else uses. The suite closes what it makes.
type JournalFixture struct {
	// Partitions of the log, at least 2.
	Partitions int
	// Groups begins the names of the consumer groups. Defaults to nothing.
	Groups   string
	Writer   func() (journal.Writer, error)
	Consumer func(group string, owner journal.Owner) (journal.Consumer, error)
	Log      func() (journal.Log, error)
	// SessionTimeout of the consumers.
	SessionTimeout time.Duration
	// Interrupt makes the log unreachable until resume is called. nil: that cannot be done, and what needs it is
	// skipped.
	Interrupt func() (resume func())
}

// Journal runs the conformance suite of package journal's ports. start returns a fresh, empty log for each test.
func Journal(t *testing.T, start func(t *testing.T) JournalFixture) {
	tests := []struct {
		name string
		run  func(t *testing.T, s *journalSuite)
	}{
		{"offsets follow the order of the calls", testJournalAppendOrder},
		{"what is not taken is said at once", testJournalAppendRefused},
		{"a full buffer refuses", testJournalAppendFull},
		{"closing the writer waits for what is queued", testJournalWriterClose},
		{"ensure checks the partition count", testJournalEnsure},
		{"ranges are read in order", testJournalRead},
		{"trim keeps the last record", testJournalTrim},
		{"a reader gets what was and what is appended", testJournalPoll},
		{"a reader of an empty partition learns that it has caught up", testJournalCaughtUp},
		{"poll ends in time", testJournalPollTime},
		{"commits carry the epoch and are where the next one starts", testJournalCommit},
		{"commits go on beside the polling", testJournalCommitBeside},
		{"two members share, and hand over without a hole", testJournalRebalance},
		{"a slow assign holds up nobody else", testJournalSlowAssign},
		{"a failed assign is tried again", testJournalFailedAssign},
		{"an offset out of range stops the partition until it is restarted", testJournalOutOfRange},
		{"an outage leaves no hole", testJournalOutage},
		{"a member that is given up loses its partitions and takes them anew", testJournalLose},
		{"the group confirms its members", testJournalAlive},
		{"a closed consumer says so", testJournalConsumerClose},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &journalSuite{JournalFixture: start(t)}
			s.ctx, s.cancel = context.WithTimeout(context.Background(), 2*Patience)
			t.Cleanup(s.cancel)
			var err error
			if s.writer, err = s.Writer(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.writer.Close(s.ctx); err != nil {
					t.Errorf("close writer: %v", err)
				}
			})
			if s.log, err = s.Log(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.log.Close(); err != nil {
					t.Errorf("close log: %v", err)
				}
			})
			if err := s.log.Ensure(s.ctx, s.Partitions); err != nil {
				t.Fatal(err)
			}
			tt.run(t, s)
		})
	}
}

// journalSuite is what every test of the suite works with.
type journalSuite struct {
	JournalFixture
	ctx    context.Context // of one test
	cancel context.CancelFunc
	writer journal.Writer
	log    journal.Log
}

type appended struct {
	offset int64
	err    error
}

// append appends value and returns where its outcome will come.
func (s *journalSuite) append(w journal.Writer, partition int32, value []byte) <-chan appended {
	out := make(chan appended, 2)
	w.Append(partition, "room", value, func(offset int64, err error) { out <- appended{offset, err} })
	return out
}

// fill appends values v<from> … v<to-1> to a partition and waits for them.
func (s *journalSuite) fill(t *testing.T, partition int32, from, to int) {
	t.Helper()
	var outs []<-chan appended
	for i := from; i < to; i++ {
		outs = append(outs, s.append(s.writer, partition, fmt.Appendf(nil, "v%d", i)))
	}
	for _, out := range outs {
		if got := <-out; got.err != nil {
			t.Fatal(got.err)
		}
	}
}

// journalValues returns the values that fill appends.
func journalValues(from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprint("v", i))
	}
	return out
}

func testJournalAppendOrder(t *testing.T, s *journalSuite) {
	const n = 500
	var outs [2][]<-chan appended
	for i := range n {
		for p := range outs {
			outs[p] = append(outs[p], s.append(s.writer, int32(p), fmt.Appendf(nil, "v%d", i)))
		}
	}
	for p := range outs {
		for i, out := range outs[p] {
			if got := <-out; got.err != nil || got.offset != int64(i) {
				t.Fatalf("append %d to partition %d: offset %d, error %v", i, p, got.offset, got.err)
			}
		}
		got, err := s.log.Read(s.ctx, int32(p), 0, 2*n)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(journalValues(0, n), recordValues(got)); diff != "" {
			t.Errorf("partition %d holds (-want +got):\n%s", p, diff)
		}
	}
}

func recordValues(records []journal.Record) []string {
	var out []string
	for _, r := range records {
		out = append(out, string(r.Value))
	}
	return out
}

func testJournalAppendRefused(t *testing.T, s *journalSuite) {
	got := <-s.append(s.writer, 0, make([]byte, contracts.MaxRecordBytes+1))
	if !errors.Is(got.err, journal.ErrTooLarge) {
		t.Errorf("an oversized record: %v, want %v", got.err, journal.ErrTooLarge)
	}
	if got := <-s.append(s.writer, 0, make([]byte, contracts.MaxRecordBytes)); got.err != nil || got.offset != 0 {
		t.Errorf("a record of the largest size: offset %d, %v", got.offset, got.err)
	}
	if err := s.writer.Close(s.ctx); err != nil {
		t.Error(err)
	}
	if got := <-s.append(s.writer, 0, nil); !errors.Is(got.err, journal.ErrClosed) {
		t.Errorf("append after close: %v, want %v", got.err, journal.ErrClosed)
	}
}

func testJournalAppendFull(t *testing.T, s *journalSuite) {
	if s.Interrupt == nil {
		t.Skip("this log cannot be interrupted")
	}
	s.fill(t, 0, 0, 1)
	resume := s.Interrupt()
	value := make([]byte, 128<<10)
	var accepted []<-chan appended
	var refused <-chan appended
	for refused == nil && len(accepted) < 10_000 {
		out := s.append(s.writer, 0, value)
		// A refusal comes at once, but on a goroutine of its own; nothing else can come while the log is away.
		select {
		case got := <-out:
			if !errors.Is(got.err, journal.ErrFull) {
				t.Fatalf("append %d: %v, want %v", len(accepted), got.err, journal.ErrFull)
			}
			refused = out
		case <-time.After(time.Millisecond):
			accepted = append(accepted, out)
		}
	}
	if refused == nil {
		t.Fatalf("%d records of %d bytes were taken", len(accepted), len(value))
	}
	resume()
	last := int64(-1)
	taken := 0
	for i, out := range accepted {
		select {
		case got := <-out:
			if errors.Is(got.err, journal.ErrFull) {
				continue // its refusal came late
			}
			if got.err != nil || got.offset <= last {
				t.Fatalf("append %d after the outage: offset %d behind %d, %v", i, got.offset, last, got.err)
			}
			last = got.offset
			taken++
		case <-s.ctx.Done():
			t.Fatalf("append %d of %d is not confirmed after the outage", i, len(accepted))
		}
	}
	if _, end, err := s.log.Bounds(s.ctx, 0); err != nil || end != int64(1+taken) {
		t.Errorf("the log ends at %d (%v), want %d: every record once", end, err, 1+taken)
	}
}

func testJournalWriterClose(t *testing.T, s *journalSuite) {
	w, err := s.Writer()
	if err != nil {
		t.Fatal(err)
	}
	var outs []<-chan appended
	for i := range 100 {
		outs = append(outs, s.append(w, 1, fmt.Appendf(nil, "v%d", i)))
	}
	if err := w.Close(s.ctx); err != nil {
		t.Fatal(err)
	}
	for i, out := range outs {
		select {
		case got := <-out:
			if got.err != nil {
				t.Errorf("append %d: %v", i, got.err)
			}
		default:
			t.Fatalf("append %d has no outcome after close", i)
		}
	}
	if err := w.Close(s.ctx); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func testJournalEnsure(t *testing.T, s *journalSuite) {
	if err := s.log.Ensure(s.ctx, s.Partitions); err != nil {
		t.Errorf("ensure again: %v", err)
	}
	if err := s.log.Ensure(s.ctx, 2*s.Partitions); err == nil {
		t.Error("ensure with another partition count: no error")
	}
	if _, err := s.log.Durability(s.ctx); err != nil {
		t.Error(err)
	}
}

func testJournalRead(t *testing.T, s *journalSuite) {
	if start, end, err := s.log.Bounds(s.ctx, 1); err != nil || start != 0 || end != 0 {
		t.Errorf("bounds of an empty partition: %d, %d, %v", start, end, err)
	}
	if got, err := s.log.Read(s.ctx, 1, 0, 10); err != nil || len(got) != 0 {
		t.Errorf("read of an empty partition: %v, %v", got, err)
	}
	s.fill(t, 1, 0, 100)
	s.fill(t, 1, 100, 250)
	for _, tt := range []struct {
		from int64
		max  int
		want []string
		err  error
	}{
		{0, 1000, journalValues(0, 250), nil},
		{0, 1, journalValues(0, 1), nil},
		{17, 5, journalValues(17, 22), nil},
		{90, 20, journalValues(90, 110), nil},
		{249, 5, journalValues(249, 250), nil},
		{250, 5, nil, nil},
		{251, 5, nil, journal.ErrOutOfRange},
	} {
		got, err := s.log.Read(s.ctx, 1, tt.from, tt.max)
		if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
			t.Errorf("read %d from %d: %v, want %v", tt.max, tt.from, err, tt.err)
		}
		if diff := cmp.Diff(tt.want, recordValues(got)); diff != "" {
			t.Errorf("read %d from %d (-want +got):\n%s", tt.max, tt.from, diff)
		}
	}
	if start, end, err := s.log.Bounds(s.ctx, 1); err != nil || start != 0 || end != 250 {
		t.Errorf("bounds: %d, %d, %v", start, end, err)
	}
}

func testJournalTrim(t *testing.T, s *journalSuite) {
	if err := s.log.Trim(s.ctx, 0, 10); err != nil {
		t.Errorf("trim an empty partition: %v", err)
	}
	s.fill(t, 0, 0, 20)
	for _, tt := range []struct{ before, start int64 }{{5, 5}, {3, 5}, {1000, 19}, {1000, 19}} {
		if err := s.log.Trim(s.ctx, 0, tt.before); err != nil {
			t.Errorf("trim below %d: %v", tt.before, err)
		}
		if start, end, err := s.log.Bounds(s.ctx, 0); err != nil || start != tt.start || end != 20 {
			t.Errorf("bounds after trim below %d: %d, %d, %v", tt.before, start, end, err)
		}
	}
	s.fill(t, 1, 0, 3)
	all, err := s.log.Extents(s.ctx)
	if want := []journal.Extent{{Start: 19, End: 20}, {End: 3}}; err != nil || len(all) != s.Partitions || !slices.Equal(all[:2], want) {
		t.Errorf("extents: %v, %v; want %v", all, err, want)
	}
	if _, err := s.log.Read(s.ctx, 0, 18, 10); !errors.Is(err, journal.ErrOutOfRange) {
		t.Errorf("read what was trimmed: %v", err)
	}
	if got, err := s.log.Read(s.ctx, 0, 19, 10); err != nil || !slices.Equal(recordValues(got), journalValues(19, 20)) {
		t.Errorf("read what was kept: %v, %v", recordValues(got), err)
	}
}
