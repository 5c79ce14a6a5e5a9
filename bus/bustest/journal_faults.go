package bustest

import (
	"fmt"

	"github.com/parley-chat/parley/bus/journal"
)

// Fault is what an UnsureWriter does wrong with a record. All of them happen to a real log.
type Fault int

const (
	// FaultNone: nothing.
	FaultNone Fault = iota
	// FaultFull: it is refused with ErrFull.
	FaultFull
	// FaultLost: it is not written, and its outcome is ErrUnknown.
	FaultLost
	// FaultSilent: it is written, and its outcome is ErrUnknown.
	FaultSilent
	// FaultTwice: it is written two times in a row, as when a client's retry overtakes the answer to the first.
	FaultTwice
)

// UnsureWriter is a Writer that misbehaves on purpose. It is safe for concurrent use if Fault is.
type UnsureWriter struct {
	journal.Writer
	// Fault says what is to go wrong with a record. It is called once per Append, on its goroutine.
	Fault func(partition int32, value []byte) Fault
}

// Append implements journal.Writer.
func (w *UnsureWriter) Append(partition int32, key string, value []byte, done func(offset int64, err error)) {
	switch w.Fault(partition, value) {
	case FaultFull:
		done(0, journal.ErrFull)
	case FaultLost:
		done(0, fmt.Errorf("%w: lost on purpose", journal.ErrUnknown))
	case FaultSilent:
		w.Writer.Append(partition, key, value, func(int64, error) {
			done(0, fmt.Errorf("%w: kept silent on purpose", journal.ErrUnknown))
		})
	case FaultTwice:
		w.Writer.Append(partition, key, value, done)
		w.Writer.Append(partition, key, value, func(int64, error) {})
	default:
		w.Writer.Append(partition, key, value, done)
	}
}
