// Package contracts is what the parts of Parley say to each other and to their clients: frames, commands, log
// records, names and errors. It imports nothing of ours and nothing outside the standard library but google/uuid,
// so that every other package, and any client, may depend on it.
//
// A message passes through these types in this order:
//
//	client frame   → Object        (json.go)      one strict JSON object, as the client sent it
//	edge → worker  → Command       (commands.go)  who asks, the time left and the client's object
//	worker → log   → Record        (entries.go)   what was decided, before it has a number
//	log → rooms    → Entry         (entries.go)   a Record with its room's seq; one encoding for live, history and join
//	Redis → edges  → Envelope      (lane.go)      an Entry's bytes, a room's head or an ephemeral event on a lane
package contracts
