// Package history is the format in which a run is written down, to be judged by package check: what clients did and saw,
// what the store and the log held at the end, which faults there were and how the processes fared. A file is JSON lines, one
// Event each. A history is any number of files: one per client process, one for the faults and probes, one for the dumps.
//
// Within one file the order of the lines is the order of what happened, as far as one client is concerned. Between files
// only At says what came first: nanoseconds of one clock that every recorder of the run reads (CLOCK_MONOTONIC on one
// machine, see SharedNow; the simulated clock in a simulation).
//
// What a client records, and when:
//
//	connected  behind the reply to connect
//	sent       before each attempt is written to the socket, retries too
//	answered   once per sent, in any order: ok; rejected: certainly not logged by this attempt (contracts.Code); unknown:
//	           unavailable, internal, a timeout, or the connection is gone. A sent that is never answered counts as unknown
//	joining    before a join is written
//	joined     behind its reply, before its entries, which are in Entries or follow as entry lines that are not live
//	entry      what the client hands to its user: after dropping what it has, in the order of the seqs
//	gap        the event; reset: the event or the state of a reply; stored: the event
//	leaving    before a leave is written; left: behind its reply, or the event (Code is the reason)
//	closed     the connection ended, whoever ended it; Code is Dropped where its user did. What the client knew of its rooms stays: the next joining resumes them
//	ended      at the end, per room in which the client still listens after everything has come to rest: it is owed the whole
//	           room up to its newest entry
package history

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/parley-chat/parley/contracts"
)

// Kind says which fields of an Event count.
type Kind string

// What clients record. All have At, Client and Conn.
const (
	Connected Kind = "connected" // User
	Sent      Kind = "sent"      // Room, User, Key, Hash, Safe
	Answered  Kind = "answered"  // Room, User, Key, Outcome, Code
	Joining   Kind = "joining"   // Room, Since
	Joined    Kind = "joined"    // Room, Since, State, Epoch, Head, First, Entries
	Received  Kind = "entry"     // Room, Seq, Epoch, Key, Sender, Hash, Live
	Page      Kind = "page"      // of history: Room, Before (0: the newest page), Head, More, Entries
	Gap       Kind = "gap"       // Room, From, To
	Reset     Kind = "reset"     // Room, Epoch, Head
	Leaving   Kind = "leaving"   // Room
	Left      Kind = "left"      // Room, Code
	Stored    Kind = "stored"    // Room, Key, Seq
	Closed    Kind = "closed"    // Code
	Ended     Kind = "ended"     // Room
)

// Dropped is the Code of a Closed whose user broke the connection off.
const Dropped = "dropped"

// What the end of a run is dumped as. Dumps come from the store and the log themselves, not through Parley.
const (
	Row        Kind = "row"        // of the store: Partition, Offset, Epoch, Room, Seq, Sender, Key, Hash, Record
	Letter     Kind = "letter"     // of the store, a dead one: Partition, Offset, Epoch, Record
	Record     Kind = "record"     // of the log: Partition, Offset, Room, Sender, Key, Hash, Record; Dead where nobody can read it
	Range      Kind = "range"      // of the log, one per partition: Partition, Epoch (the checkpoint's), Start, End (exclusive)
	Checkpoint Kind = "checkpoint" // of the store: Partition, Epoch, Offset (C)
	Private    Kind = "private"    // Room: only members may see it. The member entries say when somebody was one
)

// What the conductor of a run records.
const (
	Fault Kind = "fault" // At its start: Fault (a name for it), What (its kind), Process, Signals, Within, Silent
	Heal  Kind = "heal"  // At its end: Fault, Silent where it harmed nothing
	Probe Kind = "probe" // Process, Phase, Up, Ready, Metrics, Goroutines, Descriptors, Memory
)

// Outcome is what the answer to a send was.
type Outcome string

// Outcomes of an attempt.
const (
	OK       Outcome = "ok"
	Rejected Outcome = "rejected"
	Unknown  Outcome = "unknown"
)

// OutcomeOf is the outcome that an error code stands for.
func OutcomeOf(c contracts.Code) Outcome {
	if c.Unknown() {
		return Unknown
	}
	return Rejected
}

// Phases of a Probe that the checker compares. Both are taken at rest, with the same clients connected; of several the last counts.
const (
	Baseline = "baseline"
	Final    = "final"
)

// Position is a client's place in a room.
type Position struct {
	Epoch contracts.Epoch `json:"epoch"`
	Seq   contracts.Seq   `json:"seq"`
}

// Entry is one entry as a client got it.
type Entry struct {
	Seq    contracts.Seq    `json:"seq"`
	Epoch  contracts.Epoch  `json:"epoch"`
	Key    contracts.Key    `json:"key"`
	Sender contracts.UserID `json:"sender"`
	// Hash is HashBody of what came; empty where what came is the present state and not the first (edited, deleted).
	Hash string `json:"hash,omitempty"`
}

// Event is one line. Which fields count stands beside its Kind.
type Event struct {
	Kind   Kind   `json:"kind"`
	At     int64  `json:"at,omitempty"`     // nanoseconds of the run's clock
	Client string `json:"client,omitempty"` // one client over all its connections, unique in the history
	Conn   uint64 `json:"conn,omitempty"`   // 1, 2, 3 … for each connection of the client

	Room contracts.RoomID `json:"room,omitempty"`
	User contracts.UserID `json:"user,omitempty"` // whom the client is connected as
	// Key, Sender and Hash are those of one message. Hash is HashBody.
	Key    contracts.Key    `json:"key,omitzero"`
	Sender contracts.UserID `json:"sender,omitempty"`
	Hash   string           `json:"hash,omitempty"`

	Outcome Outcome `json:"outcome,omitempty"`
	Code    string  `json:"code,omitempty"`

	Seq    contracts.Seq       `json:"seq,omitempty"`
	Epoch  contracts.Epoch     `json:"epoch,omitempty"`
	Live   bool                `json:"live,omitempty"`
	Since  *Position           `json:"since,omitempty"`
	State  contracts.JoinState `json:"state,omitempty"`
	Safe   bool                `json:"safe,omitempty"` // the answer may wait until the message is stored
	Head   contracts.Seq       `json:"head,omitempty"`
	First  contracts.Seq       `json:"first,omitempty"`
	From   contracts.Seq       `json:"from,omitempty"`
	To     contracts.Seq       `json:"to,omitempty"`
	Before contracts.Seq       `json:"before,omitempty"`
	More   bool                `json:"more,omitempty"`
	// Entries are those of a join's reply or of a page of history, ascending.
	Entries []Entry `json:"entries,omitempty"`

	Partition int32 `json:"partition,omitempty"`
	Offset    int64 `json:"offset,omitempty"`
	Start     int64 `json:"start,omitempty"`
	End       int64 `json:"end,omitempty"`
	Dead      bool  `json:"dead,omitempty"`
	// Record is contracts.HashRecord of the log record, in hex.
	Record string `json:"record,omitempty"`
	// Member and Change are those of a member entry: whose membership it is about, and what became of it.
	Member contracts.UserID `json:"member,omitempty"`
	Change string           `json:"change,omitempty"`

	Fault string `json:"fault,omitempty"`
	What  string `json:"what,omitempty"`
	// Signals are names of metrics of which at least one must change soon after the fault, at any process or, behind its name and a
	// space, at that one; with >x behind a name it must be above x. A process that is not ready or not there shows the fault as
	// well.
	Signals []string `json:"signals,omitempty"`
	// Within is how soon it must show, in nanoseconds; 0 leaves that to the checker.
	Within int64 `json:"within,omitempty"`
	// Silent marks a fault that no server can notice, such as a client that reads slowly.
	Silent bool `json:"silent,omitempty"`

	Process     string             `json:"process,omitempty"` // role and number; the same for its successor
	Phase       string             `json:"phase,omitempty"`   // Baseline, Final, or none
	Up          bool               `json:"up,omitempty"`      // it answered
	Ready       bool               `json:"ready,omitempty"`   // /readyz said so, and nothing is degraded
	Metrics     map[string]float64 `json:"metrics,omitempty"` // by name with labels, those that signals name
	Goroutines  int                `json:"goroutines,omitempty"`
	Descriptors int                `json:"descriptors,omitempty"`
	Memory      int64              `json:"memory,omitempty"` // bytes: PSS, or RSS where there is no PSS

	// Source is where the line was read: file:line. It is not written.
	Source string `json:"-"`
}

// HashBody identifies a message's text.
func HashBody(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}
