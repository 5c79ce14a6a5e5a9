package workers

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/parley-chat/parley/contracts"
)

// ratedPeople is how many people's send rates are remembered.
const ratedPeople = 100_000

// sendRates limits sends per person, with a burst of two seconds' worth. A nil one limits nothing.
type sendRates struct {
	perS float64
	all  *cache[contracts.UserID, *rate.Limiter]
}

func newSendRates(perS float64) *sendRates {
	if perS <= 0 {
		return nil
	}
	return &sendRates{perS: perS, all: newCache[contracts.UserID, *rate.Limiter](ratedPeople)}
}

// take counts one send and returns how long the person must wait first: 0 if it may be done now.
func (s *sendRates) take(user contracts.UserID, now time.Time) time.Duration {
	if s == nil {
		return 0
	}
	l := s.all.getOrPut(user, func() *rate.Limiter {
		return rate.NewLimiter(rate.Limit(s.perS), max(1, int(2*s.perS)))
	})
	r := l.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}
