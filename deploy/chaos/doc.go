// Package chaos runs a whole installation of Parley as real processes, harms it in every way it can think of while a
// crowd of clients talks through it, and has everything that was seen judged by the delivery contract.
//
//	crowd ──taps──► proxy ─► edge-1, edge-2
//	  │                        └─ proxy per link ─► nats · redis (and its replica) · kafka · mongo
//	  │ history                └─ worker, dispatch, persist: two each, a proxy per link as well
//	  ▼
//	faults (by schedule, from a seed) ─► processes: kill, stop, restart · links: hold, reset, slow … · servers' own commands
//	probes (/readyz, /metrics of each role, every second) ─► history
//	at the end: heal, rest, catch up, dump log and store ─► check ─► report
//
// Everything a run leaves lies below one directory of its own.
package chaos
