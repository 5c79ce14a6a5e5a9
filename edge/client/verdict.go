package client

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/gobwas/ws"

	"github.com/parley-chat/parley/contracts"
)

const (
	backoffBase = 500 * time.Millisecond
	backoffMost = 30 * time.Second
	// steady is how long a connection must have stood for the backoff to begin anew.
	steady = 60 * time.Second
	// afterFlood is the least wait after a 4429.
	afterFlood = 5 * time.Second

	closeAbnormal contracts.CloseCode = 1006
)

// backoff returns random(0, min(30 s, 0.5 s · 2ⁿ)).
func backoff(n int) time.Duration {
	most := backoffMost
	if n < 6 {
		most = backoffBase << n
	}
	return rand.N(most)
}

// action is what a client does about the end of a connection.
type action int

const (
	again action = iota // connect again
	renew               // get another token, then connect again, once
	stop
)

// verdict is the protocol's table of close codes.
func verdict(code contracts.CloseCode) (action, time.Duration) {
	switch code {
	case contracts.CloseUnauthorized:
		return renew, 0
	case contracts.CloseRateLimited:
		return again, afterFlood
	case contracts.CloseProtocol, contracts.CloseUnsupported, contracts.CloseInvalidUTF8, contracts.ClosePolicy,
		contracts.CloseTooBig, contracts.CloseBadRequests, contracts.CloseBanned, contracts.CloseReplaced:
		return stop, 0
	}
	if code >= 4500 && code <= 4549 {
		return stop, 0
	}
	return again, 0
}

// judge is verdict for any error that ends a connection or an attempt at one.
func judge(err error) (action, time.Duration) {
	var closed *CloseError
	if errors.As(err, &closed) {
		return verdict(closed.Code)
	}
	var status *statusError
	if errors.As(err, &status) {
		switch {
		case status.code >= 500, status.code == http.StatusTooManyRequests, status.code == http.StatusRequestTimeout:
			return again, status.retryAfter
		}
		return stop, 0
	}
	if errors.Is(err, ws.ErrHandshakeBadSecAccept) || errors.Is(err, ws.ErrHandshakeBadSubProtocol) {
		return stop, 0
	}
	return again, 0
}

// retryAfter is how long to wait before the same request goes out again. tries counts the times in a row that the server left
// that to the client, and no others: one such answer behind many that named a wait is the first of its kind.
func retryAfter(e *contracts.Error, tries *int) time.Duration {
	if e.RetryAfterMS > 0 {
		return min(time.Duration(e.RetryAfterMS)*time.Millisecond, time.Minute)
	}
	*tries++
	return backoff(*tries - 1)
}
