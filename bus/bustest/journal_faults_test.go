package bustest_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/parley-chat/parley/bus/bustest"
	"github.com/parley-chat/parley/bus/journal"
)

// written is a Writer that keeps what it is given.
type written struct{ values []string }

func (w *written) Append(_ int32, _ string, value []byte, done func(int64, error)) {
	w.values = append(w.values, string(value))
	done(int64(len(w.values)-1), nil)
}
func (*written) Close(context.Context) error { return nil }

func TestUnsureWriter(t *testing.T) {
	for _, tt := range []struct {
		fault  bustest.Fault
		copies int
		err    error
	}{
		{bustest.FaultNone, 1, nil},
		{bustest.FaultFull, 0, journal.ErrFull},
		{bustest.FaultLost, 0, journal.ErrUnknown},
		{bustest.FaultSilent, 1, journal.ErrUnknown},
		{bustest.FaultTwice, 2, nil},
	} {
		under := &written{}
		w := &bustest.UnsureWriter{Writer: under, Fault: func(int32, []byte) bustest.Fault { return tt.fault }}
		calls := 0
		w.Append(0, "", []byte("v"), func(_ int64, err error) {
			calls++
			if !errors.Is(err, tt.err) {
				t.Errorf("fault %d: %v, want %v", tt.fault, err, tt.err)
			}
		})
		if calls != 1 || !slices.Equal(under.values, slices.Repeat([]string{"v"}, tt.copies)) {
			t.Errorf("fault %d: %d outcomes, written %v", tt.fault, calls, under.values)
		}
	}
}
