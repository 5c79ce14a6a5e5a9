package workers

import (
	"context"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// refresh prolongs a connection: a guest gets a new token, everybody else brings one of the same person.
func (w *Worker) refresh(ctx context.Context, r *request) (contracts.Answer, error) {
	body, err := r.body()
	if err != nil {
		return contracts.Answer{}, err
	}
	token, _, err := body.String("token")
	if err != nil {
		return contracts.Answer{}, err
	}
	var id identity
	var renewed string
	if r.user.Guest {
		if len(w.cfg.Secret) == 0 {
			return contracts.Answer{}, errUnauthorized
		}
		id.person = r.user
		renewed = w.sign(&id)
	} else {
		if id, err = w.auth.verify(ctx, token); err != nil {
			return contracts.Answer{}, err
		}
		if id.person.ID != r.user.ID {
			return contracts.Answer{}, errUnauthorized
		}
	}
	a, err := ok(contracts.RefreshOK{
		Expires:     id.expires,
		ExpiresInMS: max(0, id.expires-contracts.Millis(time.Now())),
		Token:       renewed,
	})
	a.Connected = &contracts.Connected{User: id.person, Expires: id.expires}
	return a, err
}
