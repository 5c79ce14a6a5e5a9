package workers

import (
	"context"

	"github.com/parley-chat/parley/contracts"
)

// gone takes people off rosters whose connections closed. It also renews the edge's lease on those who stay, which
// an empty one is sent for.
func (w *Worker) gone(ctx context.Context, r *request) (contracts.Answer, error) {
	for _, p := range r.Gone {
		if !contracts.ValidID(string(p.Room)) || !contracts.ValidID(string(p.User.ID)) {
			return contracts.Answer{}, contracts.BadField("gone", "the command names a bad room or person")
		}
	}
	if err := w.deps.Roster.Renew(ctx, r.Node); err != nil {
		return contracts.Answer{}, errUnavailable
	}
	if len(r.Gone) > 0 {
		w.depart(ctx, r.Node, r.Gone)
	}
	return empty(), nil
}
