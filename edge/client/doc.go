// Package client speaks the public protocol, version 1, to any server that has it. It knows nothing of Parley beyond
// contracts, so what it measures and asserts is what a stranger would see.
//
// A Client keeps one connection alive: it connects again as the close codes tell it to, joins its rooms again from
// where it was, and sends what has no answer yet again under the same keys.
//
//	Join, Send, Request ─┐                              ┌─ OnEvent, OnState
//	  (any goroutine)    │ requests                     │  (one at a time)
//	                ┌────▼─────┐   bytes   ┌────────┐   │
//	                │  Client  ├──────────►│ writer │──►│ socket
//	                │ rooms,   │           └────────┘   │
//	                │ outboxes │◄──────────────────── run ◄── socket
//	                └──────────┘   replies, entries, timers
//
// One goroutine, run, opens connections, reads them and works off whatever is due, by the read deadline; each
// connection has a second one that writes.
//
// # Non-obvious
//
// An entry that comes too early (a seq beyond the position + 1) is dropped, not kept: the join that it causes gives it
// again, in its place, as a reply reaches at least as far as what the server has sent before.
//
// Behind a send that got a retryable error the server refuses all sends to that room until the key comes again. So a
// room's outbox waits until nothing of it is in flight, and then goes out whole, in its order. If the caller of the
// failed send has given up, a leave tells the server, and a join follows it where the room was joined.
package client
