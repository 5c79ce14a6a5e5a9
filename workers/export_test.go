package workers

import (
	"net/http"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
)

// For tests of the encodings.
var (
	JoinOK       = joinOK
	HistoryOK    = historyOK
	SendOK       = sendOK
	EncodeAnswer = encodeAnswer
)

// SetJWKSTransport makes the worker fetch keys without a network.
func (w *Worker) SetJWKSTransport(t http.RoundTripper) { w.auth.keys.client.Transport = t }

// NewLine makes a line in which one request is served at a time; add has one served in its turn.
func NewLine(serve func(rpc.Request)) (add func(rpc.Request) bool) {
	l := &line{most: 1, mostWaiting: 10, serve: func(a arrival) { serve(a.in) }}
	return func(r rpc.Request) bool { return l.add(arrival{in: r, op: contracts.OpSend}) }
}
