// Package dispatch is the dispatcher: it reads the log, numbers it as the persister does, tells the rooms' lanes, and is
// the authority on each room's head.
//
//	         poll            inbox                 ┌─► publish   lanes, of all partitions at once; one at a time per server
//	log ─────────► poller ──────────► actor ───────┼─► remember  recent entries, behind it; one at a time per server
//	 │  ▲            │                 ▲  ▲        ├─► look-up   the store, for what the sequencer does not hold
//	 │  └── commit ◄─┘                 │  │        ├─► re-read   the log, for entries that the ring has dropped
//	 └── take-over (owner.go) ─────────┘  │        └─► checkpoints, each second
//	                                      └── questions over NATS
//
// One goroutine, the actor, alone touches partitions, rooms and rings. Whatever waits for somebody else runs on a
// goroutine of its own and reports back, so that a slow store or Redis holds up neither answers nor other partitions.
//
// # What is told, and when D may pass
//
// Entries are published one batch at a time, those of all partitions in one round trip; what arrives meanwhile is the next
// batch, so that batches grow under load and an idle dispatcher tells at once. On a cluster each lane group's server has
// batches of its own. Nothing waits for the cache: a reader whom it does not serve yet gets an entry from this dispatcher.
// A lane may lose a message, the last one too, so the heads of the
// rooms that changed follow each second, until Redis took five of them; edges compare. A head never runs ahead of
// what was published before it. D, the group's commit, passes an entry when two heads messages that Redis took, at
// different seconds, said its seq or a later one.
//
// # What is held
//
// Entries at or above C, the store's checkpoint, are always answerable: their encodings stay in memory while all fit
// into Config.RingBytes, then the oldest are dropped and only their offsets kept, and a reader gets them from the log
// again. Below C they stay as long as they fit. Below a room's floor everything is in the store, so that ring and
// store together are complete.
//
// # Not obvious
//
// An answer about a head does not look at the log's end first. A joiner hears the room's lane before it asks, so a record
// that is in the log but not yet read here is published after the answer, and reaches the joiner live: no hole. That is
// so from D on. Below it nothing is published, only counted up to, and a dispatcher that died before its first heads would
// leave a joiner with an old head and nobody to correct it: so no head is given until everything below D is read.
// Nor does Reply.Certain: it says that everything that was in the log when the partition was taken over is numbered.
// A client's position beyond the head came from another dispatcher, an earlier owner; that one published nothing once
// its last heartbeat was half a session timeout old, and the group gave its partition away only after a whole one, so
// what it told was in the log before the take-over.
//
// Records that were told and are gone from the log use up their numbers: clients have them. If they were above C the store
// does not show it, and written on the log looks as before. So a dispatcher that cannot read on, or finds D beyond the
// log's end, stops the partition, and commits a D beyond any end; the persister reads that and begins the next epoch.
//
// A dispatcher that takes a partition over in a new epoch knows only the rooms that it held in the one before, and none where it
// did not own the partition then; the new log may be empty, and a room may stay silent. So all lanes are told the epoch with the
// heads, until Redis took it five times, and only then is D committed in that epoch: what was committed says whether the rooms
// know.
//
// Look-ups are paced in all partitions together (lookup.go). Who takes everything over has one to make in each; a store with
// little time answers none of so many before they are given up, goes on with them unheard, and asked again at once it
// would never get anywhere.
//
// A room in which records wait for the store gives no head until they are numbered: the answer would be older than what
// was read. Other rooms go on.
package dispatch
