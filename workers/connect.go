package workers

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// connect finds out who is on a connection: the person of the token, or a new guest.
func (w *Worker) connect(ctx context.Context, r *request) (contracts.Answer, error) {
	body, err := r.body()
	if err != nil {
		return contracts.Answer{}, err
	}
	token, hasToken, err := body.String("token")
	if err != nil {
		return contracts.Answer{}, err
	}
	var id identity
	if hasToken {
		if id, err = w.auth.verify(ctx, token); err != nil {
			return contracts.Answer{}, err
		}
		if !id.person.Guest {
			token = ""
		} else if w.dueForRenewal(id) {
			token = w.sign(&id)
		}
	} else {
		name, hasName, err := body.String("guest")
		if err != nil {
			return contracts.Answer{}, err
		}
		if !hasName {
			return contracts.Answer{}, errUnauthorized
		}
		if id, token, err = w.newGuest(name, "guest"); err != nil {
			return contracts.Answer{}, err
		}
	}
	now := contracts.Millis(time.Now())
	return contracts.Answer{Connected: &contracts.Connected{
		User:    id.person,
		Expires: id.expires,
		OK: &contracts.ConnectOK{
			User:        id.person,
			Token:       token,
			Expires:     id.expires,
			ExpiresInMS: max(0, id.expires-now),
			Session:     strings.ToLower(rand.Text()[:16]),
			Time:        now,
			Limits:      w.limits(),
			Durability:  w.cfg.Durability,
			Server:      contracts.Server{Name: "parley", Version: w.cfg.Version},
		},
	}}, nil
}

// dueForRenewal reports whether a guest's token is past three quarters of its life.
func (w *Worker) dueForRenewal(id identity) bool {
	issued := id.issued
	if issued == 0 {
		issued = id.expires - w.cfg.GuestLifetime.Milliseconds()
	}
	return contracts.Millis(time.Now()) > issued+(id.expires-issued)/4*3
}

// limits are those that a worker keeps; the edge adds its own.
func (w *Worker) limits() contracts.Limits {
	l := &w.cfg.Limits
	return contracts.Limits{
		TextBytes:     l.TextBytes,
		TextRunes:     l.TextRunes,
		MetaBytes:     l.MetaBytes,
		ReplyBytes:    w.replyBytes,
		Page:          l.MaxPage,
		ResumeEntries: l.ResumeEntries,
		SendsPerS:     l.SendsPerS,
		KeyAgeMS:      l.KeyAge.Milliseconds(),
	}
}
