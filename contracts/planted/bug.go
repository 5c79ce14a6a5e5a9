// Package planted holds mistakes that other chat systems make, each behind one condition at the place where it would be
// made. Builds without the tag planted have none: On is false for the compiler, which drops the branches. With the tag,
// PARLEY_PLANTED names the one that a process makes. The checker and the simulation under deploy/chaos must catch each.
package planted

// Bug names a mistake.
type Bug string

// The mistakes.
const (
	AckFirst        Bug = "ack-first"        // a worker acks before the log has confirmed
	CheckpointFirst Bug = "checkpoint-first" // the persister moves C, then writes what is below it
	NewestUnbounded Bug = "newest-unbounded" // a room goes on from its newest stored row, wherever that stands in the log
	RedisCounter    Bug = "redis-counter"    // seqs come from a counter outside the log
	NoGapCheck      Bug = "no-gap-check"     // an edge passes on what it hears without looking at the seq
	NoHeads         Bug = "no-heads"         // the dispatcher never tells heads
	CommitFirst     Bug = "commit-first"     // D passes what is not announced
	DuplicateOK     Bug = "duplicate-ok"     // a stored key makes any copy a duplicate; a duplicate makes a whole bulk good
	WorkerPublishes Bug = "worker-publishes" // a worker tells the room before it asks the log
	StaleCache      Bug = "stale-cache"      // the part of a room that the cache has is answered as all of it
	DescriptorReuse Bug = "descriptor-reuse" // an edge closes a descriptor twice, when it is another connection's
)

// All lists the mistakes.
var All = []Bug{
	AckFirst, CheckpointFirst, NewestUnbounded, RedisCounter, NoGapCheck, NoHeads, CommitFirst, DuplicateOK, WorkerPublishes, StaleCache, DescriptorReuse,
}
