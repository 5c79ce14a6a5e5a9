package workers

import "net/http"

// For tests of the encodings.
var (
	JoinOK       = joinOK
	HistoryOK    = historyOK
	SendOK       = sendOK
	EncodeAnswer = encodeAnswer
)

// SetJWKSTransport makes the worker fetch keys without a network.
func (w *Worker) SetJWKSTransport(t http.RoundTripper) { w.auth.keys.client.Transport = t }
