package workers

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/parley-chat/parley/contracts"
)

// rated is how many people's, and how many rooms', send rates are remembered.
const rated = 100_000

// sendRates limits sends per person or per room, with a burst of two seconds' worth. A nil one limits nothing.
type sendRates[K comparable] struct {
	perS float64
	all  *cache[K, *rate.Limiter]
}

func newSendRates[K comparable](perS float64) *sendRates[K] {
	if perS <= 0 {
		return nil
	}
	return &sendRates[K]{perS: perS, all: newCache[K, *rate.Limiter](rated)}
}

// take counts one send and returns how long it must wait first: 0 if it may be done now.
func (s *sendRates[K]) take(of K, now time.Time) time.Duration {
	if s == nil {
		return 0
	}
	l := s.all.getOrPut(of, func() *rate.Limiter {
		return rate.NewLimiter(rate.Limit(s.perS), max(1, int(2*s.perS)))
	})
	r := l.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// limitSend says how long a send must wait, as an error, or nil.
func (w *Worker) limitSend(r *request, now time.Time) error {
	if wait := w.sends.take(r.user.ID, now); wait > 0 {
		return contracts.NewError(contracts.CodeRateLimited, "too many messages").After(wait)
	}
	if wait := w.roomSends.take(r.Room, now); wait > 0 {
		return contracts.NewError(contracts.CodeRateLimited, "too many messages in this room").After(wait)
	}
	return nil
}
