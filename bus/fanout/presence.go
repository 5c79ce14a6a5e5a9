package fanout

import (
	"context"

	"github.com/parley-chat/parley/contracts"
)

// Roster knows who listens to which room, through which edge. It is a cache: a lost one fills up again as people join.
// It is safe for concurrent use.
type Roster interface {
	// Enter adds people and returns, per element, whether the person was not in the room before through any live
	// node, and how many different people are in it now. Besides an error it returns nothing, or what was done all the
	// same; the Change of an element that failed is empty.
	Enter(ctx context.Context, node contracts.NodeID, who []contracts.Presence) ([]Change, error)
	// Leave removes people and returns, per element, whether the person is now gone from the room, and how many stay.
	// Errors are as with Enter.
	Leave(ctx context.Context, node contracts.NodeID, who []contracts.Presence) ([]Change, error)
	// List returns how many different people are in the room, and at most limit of them, by id.
	List(ctx context.Context, room contracts.RoomID, limit int) (count int, people []contracts.Person, err error)
	// Renew keeps a node's people listed for another while; a node that stops renewing for 15 s counts as gone.
	Renew(ctx context.Context, node contracts.NodeID) error
	// Turn reports whether a large room's presence may be told now: at most once in 5 s over all workers.
	Turn(ctx context.Context, room contracts.RoomID) (bool, error)
}

// Change is what an Enter or Leave did.
type Change struct {
	Changed bool
	Count   int
	// Order rises with each Change of a room through one Roster. The calls of many callers may end in another order.
	Order uint64
}
