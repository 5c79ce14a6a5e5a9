package workers

import (
	"context"
	"errors"
	"math"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
)

// status tells what became of a message of one's own. The dispatcher is asked first: what it has forgotten is in the store.
func (w *Worker) status(ctx context.Context, r *request) (contracts.Answer, error) {
	body, err := r.body()
	if err != nil {
		return contracts.Answer{}, err
	}
	text, has, err := body.String("key")
	if err != nil {
		return contracts.Answer{}, err
	}
	if !has {
		return contracts.Answer{}, contracts.BadField("key", "status needs a key")
	}
	key, err := contracts.ParseKey(text)
	if err != nil {
		return contracts.Answer{}, err
	}
	id := contracts.Identity{Room: r.Room, Sender: r.user.ID, Key: key}
	var found contracts.StatusOK
	err = insist(ctx, func() error {
		reply, err := w.askNow(ctx, w.partition(r.Room), contracts.Question{Find: &id})
		if err != nil {
			return err
		}
		rows, _, err := w.deps.Store.Lookup(ctx, []roomlog.EntryQuery{{
			Identity: id,
			Before:   contracts.Position{Epoch: math.MaxUint32, Offset: math.MaxInt64},
		}}, nil)
		if err == nil && len(rows) != 1 {
			err = errors.New("the store did not answer the question")
		}
		switch {
		case err == nil && rows[0].Seq != 0:
			found = contracts.StatusOK{State: "stored", Seq: rows[0].Seq}
		case reply.Found != 0: // whatever became of the store: this much is certain
			found = contracts.StatusOK{State: "logged", Seq: reply.Found}
		case err != nil:
			return err
		default:
			found = contracts.StatusOK{State: "not_found"}
		}
		return nil
	})
	if err != nil {
		return contracts.Answer{}, err
	}
	return ok(found)
}
