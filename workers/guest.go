package workers

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// guestPrefix begins the ids of guests.
const guestPrefix = "g-"

// guest makes a new guest's token, for POST /v1/guests.
func (w *Worker) guest(_ context.Context, r *request) (contracts.Answer, error) {
	body, err := r.body()
	if err != nil {
		return contracts.Answer{}, err
	}
	name, _, err := body.String("name")
	if err != nil {
		return contracts.Answer{}, err
	}
	id, token, err := w.newGuest(name, "name")
	if err != nil {
		return contracts.Answer{}, err
	}
	return ok(contracts.GuestOK{Token: token, User: id.person, Expires: id.expires})
}

// newGuest makes a person and a token. field is where the client gave the name.
func (w *Worker) newGuest(name, field string) (identity, string, error) {
	if err := contracts.ValidateName(name); err != nil {
		e := *contracts.AsError(err)
		e.Field = field
		return identity{}, "", &e
	}
	if len(w.cfg.Secret) == 0 {
		return identity{}, "", errUnauthorized
	}
	id := identity{person: contracts.Person{
		ID:    guestID(time.Now()),
		Name:  name,
		Guest: true,
	}}
	return id, w.sign(&id), nil
}

// sign makes a new token for a guest and takes over its expiry.
func (w *Worker) sign(id *identity) string {
	token, expires := w.auth.sign(id.person)
	id.expires = expires
	return token
}

// guestID makes an id that nobody can guess, and that is above those made before: a store keeps memberships by
// their users, and those of guests, who are mostly new, would otherwise each touch another page of it.
func guestID(now time.Time) contracts.UserID {
	const digits = "0123456789abcdefghijklmnopqrstuv" // rise with their values
	b := append(make([]byte, 0, len(guestPrefix)+26), guestPrefix...)
	for shift := 40; shift >= 0; shift -= 5 {
		b = append(b, digits[contracts.Millis(now)>>shift&31])
	}
	return contracts.UserID(append(b, strings.ToLower(rand.Text()[:17])...)) // 85 bits
}
