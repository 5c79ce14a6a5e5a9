// Package check judges a history (package history) by the promises of the delivery contract: it knows nothing of the servers
// but what clients saw, what the store and the log hold at the end, and how the processes fared.
//
// A Checker takes the events of all files in any order of the files, each file's in its own, and keeps per message, per room
// and per client what it needs; Finish compares. What it says is wrong is wrong for a reader of the history alone: each
// Violation names the lines that contradict each other.
package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// Config is what counts as good where the contract leaves a choice.
type Config struct {
	// Settle is how long after a heal figures are not judged yet. Defaults to 10 s.
	Settle time.Duration
	// Deadline is the longest that a send may take: what was sent less than that before a fault is not judged. Defaults to 5 s.
	Deadline time.Duration
	// SignalWithin is how soon a fault must show. Defaults to 5 s.
	SignalWithin time.Duration
	// FanoutP99 is what the 99th percentile from send to live delivery must stay below at rest. Defaults to 250 ms.
	FanoutP99 time.Duration
	// FanoutSamples is how many deliveries a quiet stretch needs to be judged by itself. Defaults to 200.
	FanoutSamples int
	// AckShare is the share of the attempts outside fault windows that must be answered ok. Defaults to 0.999.
	AckShare float64
	// ResumeEntries is how far behind a resume may be without a reset. Defaults to 1,000.
	ResumeEntries contracts.Seq
	// Goroutines, Descriptors and Memory (bytes) are how far a process may be above its baseline at the end. They default to
	// 1/5 + 20, 1/20 + 10 and 1/2 + 64 MiB.
	Goroutines, Descriptors, Memory Tolerance
	// Pools is how many descriptors more than that a process may have whose pool of connections grows while answers are slow
	// and is slow to shrink, by role: a process's name up to the "-".
	Pools map[string]int64
	// LastEpoch is the highest epoch that a partition may be in at the end. Defaults to any: a log may lose what it held.
	LastEpoch contracts.Epoch
	// PerKind is how many violations of one kind are listed; all are counted. Defaults to 20.
	PerKind int
}

// Tolerance allows base·(1+Share)+Extra.
type Tolerance struct {
	Share float64
	Extra int64
}

func (t Tolerance) limit(base int64) int64 { return base + int64(float64(base)*t.Share) + t.Extra }

func (c Config) withDefaults() Config {
	c.Settle = cmp.Or(c.Settle, 10*time.Second)
	c.Deadline = cmp.Or(c.Deadline, 5*time.Second)
	c.SignalWithin = cmp.Or(c.SignalWithin, 5*time.Second)
	c.FanoutP99 = cmp.Or(c.FanoutP99, 250*time.Millisecond)
	c.FanoutSamples = cmp.Or(c.FanoutSamples, 200)
	c.AckShare = cmp.Or(c.AckShare, 0.999)
	c.ResumeEntries = cmp.Or(c.ResumeEntries, 1000)
	c.Goroutines = cmp.Or(c.Goroutines, Tolerance{Share: 0.2, Extra: 20})
	c.Descriptors = cmp.Or(c.Descriptors, Tolerance{Share: 0.05, Extra: 10})
	c.Memory = cmp.Or(c.Memory, Tolerance{Share: 0.5, Extra: 64 << 20})
	c.PerKind = cmp.Or(c.PerKind, 20)
	return c
}

// Kind is what sort of promise was broken.
type Kind string

// What can be wrong. Promises are those of the delivery contract.
const (
	Lost         Kind = "lost"         // acked, but not stored (promise 1)
	Unlogged     Kind = "unlogged"     // acked, but not in the log that should hold it (promise 1)
	Doubled      Kind = "doubled"      // one message, two places; or one place, two messages (promises 1, 3)
	Appeared     Kind = "appeared"     // rejected on every attempt, yet there (promise 2)
	Ghost        Kind = "ghost"        // nobody sent it
	Body         Kind = "body"         // another text than anybody sent under this key
	Hole         Kind = "hole"         // the seqs of a room are not 1 … N
	Numbering    Kind = "numbering"    // the store is not the fold of the log (rule 1)
	Unburied     Kind = "unburied"     // the dead letters are not the records that nobody can read (rule 1)
	Order        Kind = "order"        // acked or seen before the other was sent, yet behind it; or log order broken (promise 4)
	Pipeline     Kind = "pipeline"     // one connection's sends to one room changed places (promise 4)
	Disagreement Kind = "disagreement" // two receivers, or a receiver and the store, differ about one place (promise 4)
	Epoch        Kind = "epoch"        // an entry of another epoch than its room is in, or than it is stored with; an epoch begun without need
	Missing      Kind = "missing"      // a member went past an entry without a word (promises 5, 6, 7)
	Unpulled     Kind = "unpulled"     // a gap was told, and never filled
	Tail         Kind = "tail"         // a member at rest lacks the newest entries
	Repeated     Kind = "repeated"     // a member got an entry twice
	Backwards    Kind = "backwards"    // a member got an older entry after a newer one
	Leak         Kind = "leak"         // an entry of a room not listened to, left, or closed to this person (promise 7)
	BadReset     Kind = "bad_reset"    // a resume that could be served was answered reset, or a reset told without a new epoch (promise 6)
	BadStored    Kind = "bad_stored"   // a stored event that the store contradicts (rule 17)
	Unsettled    Kind = "unsettled"    // at the end the checkpoint stands before, or beyond, the log's end
	Unseen       Kind = "unseen"       // a fault that neither /readyz nor a metric showed
	Slow         Kind = "slow"         // live delivery at rest took too long
	Unanswered   Kind = "unanswered"   // too few sends outside fault windows were acked
	Goroutines   Kind = "goroutines"   // not back at the baseline
	Descriptors  Kind = "descriptors"  // not back at the baseline
	Memory       Kind = "memory"       // not back at the baseline
	Malformed    Kind = "malformed"    // the history contradicts itself: the recorder is wrong, not the servers
)

// Violation is one broken promise and the lines that show it.
type Violation struct {
	Kind     Kind             `json:"kind"`
	Room     contracts.RoomID `json:"room,omitempty"`
	Seq      contracts.Seq    `json:"seq,omitempty"`
	Key      contracts.Key    `json:"key,omitzero"`
	Client   string           `json:"client,omitempty"`
	What     string           `json:"what"`
	Evidence []string         `json:"evidence,omitempty"` // file:line, or what a line said
}

// Checker collects a history. It is not safe for concurrent use.
type Checker struct {
	cfg    Config
	report Report

	messages map[contracts.Identity]*message
	attempts map[attemptID]*attempt
	conns    map[connRoom]*pipeline
	rooms    map[contracts.RoomID]*room
	clients  map[string]*client
	texts    map[string]string // interned

	partitions map[int32]*partition
	logged     map[contracts.Identity]bool // what any record says
	faults     []*fault
	probes     map[string][]history.Event
	stored     []history.Event
	delays     delays
	from, to   int64 // of all times
}

// New returns an empty Checker.
func New(cfg Config) *Checker {
	return &Checker{
		cfg:        cfg.withDefaults(),
		report:     Report{Counts: make(map[Kind]int)},
		messages:   make(map[contracts.Identity]*message),
		attempts:   make(map[attemptID]*attempt),
		conns:      make(map[connRoom]*pipeline),
		rooms:      make(map[contracts.RoomID]*room),
		clients:    make(map[string]*client),
		texts:      make(map[string]string),
		partitions: make(map[int32]*partition),
		logged:     make(map[contracts.Identity]bool),
		probes:     make(map[string][]history.Event),
		delays:     make(delays),
	}
}

// Add takes the next event of one of the files.
func (c *Checker) Add(e history.Event) {
	e.Client, e.Hash = c.intern(e.Client), c.intern(e.Hash)
	e.Room = contracts.RoomID(c.intern(string(e.Room)))
	e.User, e.Sender = contracts.UserID(c.intern(string(e.User))), contracts.UserID(c.intern(string(e.Sender)))
	if e.At != 0 {
		if c.from == 0 || e.At < c.from {
			c.from = e.At
		}
		c.to = max(c.to, e.At)
	}
	switch e.Kind {
	case history.Connected:
		cl := c.client(e.Client)
		cl.user, cl.conn = e.User, e.Conn
		c.report.Figures.Connections++
	case history.Sent:
		c.sent(&e)
	case history.Answered:
		c.answered(&e)
	case history.Joining, history.Joined, history.Received, history.Gap, history.Reset, history.Leaving, history.Left, history.Closed, history.Ended:
		c.seen(&e)
	case history.Page:
		c.page(&e)
	case history.Stored:
		c.stored = append(c.stored, e)
	case history.Row:
		c.row(&e)
	case history.Record, history.Letter, history.Range, history.Checkpoint:
		c.log(&e)
	case history.Private:
		c.room(e.Room).private = true
	case history.Fault, history.Heal:
		c.fault(&e)
	case history.Probe:
		c.probes[e.Process] = append(c.probes[e.Process], e)
	default:
		c.violate(Violation{Kind: Malformed, What: fmt.Sprintf("a line of unknown kind %q", e.Kind), Evidence: []string{e.Source}})
	}
}

// Finish judges everything that was added. The Checker is used up.
func (c *Checker) Finish() *Report {
	rooms := slices.Sorted(maps.Keys(c.rooms))
	for _, id := range rooms {
		c.rows(c.rooms[id])
	}
	c.folds()
	c.fates()
	for _, id := range rooms {
		c.agreement(c.rooms[id])
		c.realTime(c.rooms[id])
	}
	c.pipelines()
	c.members()
	c.storedEvents()
	c.load()
	c.costs()
	c.visible()
	c.resources()
	c.report.finish(c)
	return &c.report
}

func (c *Checker) violate(v Violation) {
	if c.report.Counts[v.Kind]++; c.report.Counts[v.Kind] <= c.cfg.PerKind {
		c.report.Violations = append(c.report.Violations, v)
	}
}

// intern keeps one copy of each text: a history repeats the same few names millions of times.
func (c *Checker) intern(s string) string {
	if s == "" {
		return ""
	}
	if kept, ok := c.texts[s]; ok {
		return kept
	}
	c.texts[s] = s
	return s
}

func (c *Checker) room(id contracts.RoomID) *room {
	r := c.rooms[id]
	if r == nil {
		r = &room{id: id}
		c.rooms[id] = r
	}
	return r
}

func (c *Checker) client(name string) *client {
	cl := c.clients[name]
	if cl == nil {
		cl = &client{name: name, views: make(map[contracts.RoomID]*view)}
		c.clients[name] = cl
	}
	return cl
}
