package sink

import (
	"errors"
	"fmt"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
)

// Status is how far a partition is.
type Status struct {
	Partition int32
	Epoch     contracts.Epoch
	Stored    int64  // C: every record below it is in the store
	Read      int64  // the next record to be read
	End       int64  // the log's end, as last seen
	Alarm     string // why it stands still; empty where it does not
	Why       string // the same in a word, as in the metric's label

	oldest int64  // the stamp of the first record that is read and not stored, in Unix milliseconds; 0: there is none
	fresh  bool   // the store has no checkpoint
	target *int64 // the log's end at the assignment; nil before that is known
}

// Lag is how many records are not stored.
func (s Status) Lag() int64 { return max(0, s.End-s.Stored) }

// LagTime is the age of the oldest record that is read and not stored, by the clock of the worker that accepted it.
func (s Status) LagTime() time.Duration {
	if s.oldest == 0 {
		return 0
	}
	return max(0, time.Since(time.UnixMilli(s.oldest)))
}

// commit is what the group is told.
func (s Status) commit() journal.Commit { return journal.Commit{Offset: s.Stored, Epoch: s.Epoch} }

// Status returns how far each owned partition is, ascending.
func (s *Sink) Status() []Status {
	var all []Status
	for _, p := range s.snapshot() {
		all = append(all, p.status())
	}
	return all
}

// graceful is for how long a persister in the group without any partition counts as one that waits for its first, and
// a partition that could not be taken over as one that will be tried again.
const graceful = 30 * time.Second

// quietGroup is after how long without a word of the consumer group a persister says so: before the group gives its
// partitions away, which takes the session timeout.
const quietGroup = 3 * time.Second

// quiet is how long the group has not confirmed this member; 0 before it first did. The caller holds mu.
func (s *Sink) quiet() time.Duration {
	if s.consumer == nil || s.consumer.Alive().IsZero() {
		return 0
	}
	return time.Since(s.consumer.Alive())
}

// Ready is nil when every owned partition has stored the log up to where it ended at the assignment, and none stands
// still, and the group knows this member. The error names what lacks. Whoever needs the whole log stored also counts what Status returns: partitions come
// one by one.
func (s *Sink) Ready() error {
	lacks, waiting := s.taking()
	all := s.Status()
	if waiting && len(all)+len(lacks) == 0 {
		return errors.New("persister has no partitions yet")
	}
	for _, st := range all {
		switch {
		case st.Alarm != "":
			lacks = append(lacks, fmt.Errorf("partition %d stopped: %s", st.Partition, st.Alarm))
		case st.target == nil || st.Stored < *st.target:
			lacks = append(lacks, fmt.Errorf("partition %d: %d records to store", st.Partition, st.Lag()))
		}
	}
	return errors.Join(lacks...)
}

// taking tells what hinders the take-over of partitions, and whether the first one is still waited for.
func (s *Sink) taking() (lacks []error, waiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, a := range s.attempts {
		if time.Since(a.at) < graceful {
			lacks = append(lacks, fmt.Errorf("partition %d: %w", id, a.err))
		}
	}
	if quiet := s.quiet(); quiet > quietGroup {
		lacks = append(lacks, fmt.Errorf("the log's group has been silent for %.1f s", quiet.Seconds()))
	}
	spare := s.consumer != nil && !s.consumer.Alive().IsZero() && time.Since(s.joined) > graceful
	return lacks, !s.assigned && !spare
}

// CaughtUp reports whether every owned partition has stored all that its log was seen to hold.
func (s *Sink) CaughtUp() bool {
	if s.Ready() != nil {
		return false
	}
	for _, st := range s.Status() {
		if st.Lag() > 0 {
			return false
		}
	}
	return true
}
