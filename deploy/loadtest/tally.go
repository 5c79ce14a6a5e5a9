package loadtest

import (
	"fmt"
	"maps"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// count is one of the things that a loop counts.
type count int

const (
	nOpened    count = iota // connections logged in, each time
	nCut                    // connections ended by the server, the network or a storm
	nMoved                  // connections that moved because their server asked for it
	nSent                   // messages written for the first time
	nRetried                // messages written again
	nAcked                  // messages accepted
	nRefused                // messages refused for good
	nUnsent                 // messages whose time came while their sender could not send
	nOwed                   // deliveries that the accepted messages make
	nDelivered              // live entries received
	nMeasured               // live entries received whose intended time lies in the measured window
	nRecovered              // entries received by resuming
	nResumes                // rooms resumed with a position
	nResets                 // resumes answered by reset: what lay between is not judged
	nSkipped                // entries that resets skipped
	nGaps                   // gaps that the server announced
	nAnnounced              // entries in them
	nEvents                 // events that are no entries
	nStrangers              // entries that are no messages of this run
	nBytes                  // bytes received
	nReads                  // reads that brought something
	nHistory                // pages of history read
	nActions                // typing, joins, leaves
	nLost                   // judged at the end: entries never received
	nLostAcked              // accepted messages that their sender never received
	nDoubled                // entries or messages received twice
	nReordered              // entries received late, or a sender's messages out of order
	nForeign                // entries of a room that the connection was not in
	nMalformed              // frames that broke the protocol
	numCounts
)

// timing is one of the durations that a loop measures.
type timing int

const (
	tNow      timing = iota // intended time to delivery, everything: for the screen
	tDelivery               // intended time to delivery, the measured window alone
	tAck                    // intended time to acceptance
	tConnect                // dialling to the answer to connect
	tJoin                   // join to its answer
	tHistory                // history to its answer
	tResume                 // loss of the connection to the resumed room
	tBehind                 // intended time to the write: the generator's own lateness
	numTimings
)

var timingNames = [numTimings]string{"now", "delivery", "ack", "connect", "join", "history", "resume", "generator late"}

// maxTiming is the longest duration told apart, in microseconds.
const maxTiming = 120_000_000

// tally is what loops counted and measured. It adds up over loops, processes and seconds.
type tally struct {
	counts  [numCounts]int64
	timings [numTimings]*hdrhistogram.Histogram
	errors  map[string]int64 // by cause
	// As of now, not since the last time.
	connected, listening, memberships int64
	missing                           int64 // entries in open holes
	waiting                           int64 // messages sent and not yet answered or not yet come back
	dead                              int64 // connections given up
}

func newTally() *tally {
	t := &tally{errors: map[string]int64{}}
	for i := range t.timings {
		digits := 2
		if timing(i) == tNow || timing(i) == tDelivery {
			digits = 3
		}
		t.timings[i] = hdrhistogram.New(1, maxTiming, digits)
	}
	return t
}

// time records nanoseconds.
func (t *tally) time(what timing, ns int64) {
	us := min(max(ns/1000, 1), maxTiming)
	_ = t.timings[what].RecordValue(us) // in range, so it cannot fail
}

func (t *tally) fail(cause string) { t.errors[cause]++ }

// add puts u's counts and timings on top of t's, and u's present state in addition to t's.
func (t *tally) add(u *tally) {
	for i, n := range u.counts {
		t.counts[i] += n
	}
	for i, h := range u.timings {
		t.timings[i].Merge(h)
	}
	for cause, n := range u.errors {
		t.errors[cause] += n
	}
	t.connected += u.connected
	t.listening += u.listening
	t.memberships += u.memberships
	t.missing += u.missing
	t.waiting += u.waiting
	t.dead += u.dead
}

// now forgets the present state, so that the next one can be added.
func (t *tally) clearNow() {
	t.connected, t.listening, t.memberships, t.missing, t.waiting, t.dead = 0, 0, 0, 0, 0, 0
}

// reset makes t empty.
func (t *tally) reset() {
	t.counts = [numCounts]int64{}
	for _, h := range t.timings {
		if h.TotalCount() > 0 {
			h.Reset()
		}
	}
	clear(t.errors)
	t.clearNow()
}

// wireTally is a tally between processes.
type wireTally struct {
	Counts  []int64
	Timings [][]int64 // pairs of a duration in microseconds and how often it was seen
	Errors  map[string]int64
	Now     [6]int64
}

// wire makes pairs, of which a quarter of a second brings few: the library's own encoding compresses, which costs a
// process more memory than a thousand connections.
func (t *tally) wire() wireTally {
	w := wireTally{Counts: t.counts[:], Timings: make([][]int64, numTimings), Errors: maps.Clone(t.errors)}
	w.Now = [6]int64{t.connected, t.listening, t.memberships, t.missing, t.waiting, t.dead}
	for i, h := range t.timings {
		if h.TotalCount() == 0 {
			continue
		}
		for _, bar := range h.Distribution() {
			if bar.Count > 0 {
				w.Timings[i] = append(w.Timings[i], bar.From, bar.Count)
			}
		}
	}
	return w
}

// into makes t what w says.
func (w wireTally) into(t *tally) error {
	t.reset()
	copy(t.counts[:], w.Counts)
	for i, pairs := range w.Timings {
		if i >= int(numTimings) || len(pairs)%2 != 0 {
			return fmt.Errorf("read timings: %d of kind %d", len(pairs), i)
		}
		for ; len(pairs) > 0; pairs = pairs[2:] {
			if err := t.timings[i].RecordValues(pairs[0], pairs[1]); err != nil {
				return fmt.Errorf("read timings: %w", err)
			}
		}
	}
	maps.Copy(t.errors, w.Errors)
	t.connected, t.listening, t.memberships, t.missing, t.waiting, t.dead =
		w.Now[0], w.Now[1], w.Now[2], w.Now[3], w.Now[4], w.Now[5]
	return nil
}
