// Package loadtest drives a chat server with very many connections and keeps account of every message. It speaks the
// public protocol alone, as a stranger would: it works against any address and knows nothing of the server's inside.
//
//	Run ── plan ── probe (one connection: who answers, which limits hold)
//	 │
//	 ├─ shard (this process)              one shard per process; more processes where
//	 ├─ shard (parley load --shard) …     the descriptor limit of one does not suffice
//	 │    └─ loop, loop …                 one goroutine each: sockets, schedule, ledger
//	 │         └─ network                 epoll on Linux, goroutines elsewhere and for TLS
//	 └─ every second: collect ── merge ── screen, timeline; at the end: judge ── Report
//
// Three properties make its figures worth reading:
//
//   - The schedule is open: a message has an intended time, whatever the server does, and its latency is counted from
//     there. A server that stalls is charged for every message that should have been sent meanwhile.
//   - The ledger is exact: every connection holds, per room, the position up to which it has everything and the holes
//     in it. Each message is numbered by its sender too, so that one that was accepted and never numbered by the server
//     is missed as well.
//   - The generator watches itself: its processor time and how late it was with its own sends. Where it was the
//     bottleneck, the report says so.
package loadtest
