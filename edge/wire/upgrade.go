package wire

import (
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"

	"github.com/parley-chat/parley/contracts"
)

// Path is where the WebSocket is.
const Path = "/v1/ws"

// acceptGUID is what a key is hashed with (RFC 6455 section 1.3).
const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// keyLen is the length of a Sec-WebSocket-Key: 16 bytes in base64.
const keyLen = 24

// CheckUpgrade reports why the request gets no WebSocket (RFC 6455 section 4.2.1), or nil. A request without an
// Origin is allowed, for it does not come from a browser; one with an Origin must have that of the host it was sent to, in http
// or https (who ends TLS in front of us tells nothing of it), or one of allowedOrigins ("https://chat.example:8443").
// A token in the query is refused: queries end up in logs.
func (r *Request) CheckUpgrade(allowedOrigins []string) *HTTPError {
	switch {
	case r.Path != Path:
		return &HTTPError{Status: http.StatusNotFound, Message: "no WebSocket here"}
	case r.Method != http.MethodGet:
		return &HTTPError{Status: http.StatusMethodNotAllowed, Message: "a WebSocket is asked for with GET", Header: "Allow: GET\r\n"}
	case r.Proto != "HTTP/1.1":
		return &HTTPError{Status: http.StatusHTTPVersionNotSupported, Message: "a WebSocket needs HTTP/1.1"}
	case !r.hasToken("Upgrade", "websocket"):
		return &HTTPError{Status: http.StatusUpgradeRequired, Message: "this is a WebSocket", Header: "Upgrade: websocket\r\n"}
	case !r.hasToken("Connection", "upgrade"):
		return badRequest("the Connection header does not name upgrade")
	case r.count("Sec-WebSocket-Version") != 1 || r.Get("Sec-WebSocket-Version") != "13":
		return &HTTPError{Status: http.StatusUpgradeRequired, Message: "WebSocket version 13 is spoken here",
			Header: "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"}
	case r.count("Sec-WebSocket-Key") != 1 || !validKey(r.Get("Sec-WebSocket-Key")):
		return badRequest("a WebSocket needs one Sec-WebSocket-Key of 16 bytes")
	case r.count("Transfer-Encoding") > 0 || !r.emptyBody():
		return badRequest("the request for a WebSocket has no body")
	case r.tokenInQuery():
		return badRequest("a token does not belong in the query: send it with connect")
	case !r.originAllowed(allowedOrigins):
		return &HTTPError{Status: http.StatusForbidden, Message: "this Origin is not allowed"}
	}
	return nil
}

// AppendSwitching appends the answer to a request that CheckUpgrade allows, and selects contracts.Subprotocol where it
// is offered.
func AppendSwitching(dst []byte, r *Request) []byte {
	var nonce [keyLen + len(acceptGUID)]byte
	sum := sha1.Sum(append(append(nonce[:0], r.Get("Sec-WebSocket-Key")...), acceptGUID...))
	dst = append(dst, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	dst = base64.StdEncoding.AppendEncode(dst, sum[:])
	if r.offers(contracts.Subprotocol) {
		dst = append(dst, "\r\nSec-WebSocket-Protocol: "...)
		dst = append(dst, contracts.Subprotocol...)
	}
	return append(dst, "\r\n\r\n"...)
}

// offers reports whether the subprotocol is offered; their names are compared case and all.
func (r *Request) offers(subprotocol string) bool {
	for i := range r.Headers {
		if !strings.EqualFold(r.Headers[i].Name, "Sec-WebSocket-Protocol") {
			continue
		}
		for item := range strings.SplitSeq(r.Headers[i].Value, ",") {
			if trim(item) == subprotocol {
				return true
			}
		}
	}
	return false
}

func validKey(key string) bool {
	if len(key) != keyLen {
		return false
	}
	var raw [keyLen]byte
	n, err := base64.StdEncoding.Decode(raw[:], []byte(key))
	return err == nil && n == 16
}

func (r *Request) emptyBody() bool {
	for i := range r.Headers {
		if strings.EqualFold(r.Headers[i].Name, "Content-Length") && r.Headers[i].Value != "0" {
			return false
		}
	}
	return true
}

// tokenInQuery reports whether a parameter has a name under which clients of other servers send their tokens. A name
// that cannot be unescaped counts as one.
func (r *Request) tokenInQuery() bool {
	for pair := range strings.FieldsFuncSeq(r.Query, func(c rune) bool { return c == '&' || c == ';' }) {
		raw, _, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(raw)
		if err != nil {
			return true
		}
		switch strings.ToLower(name) {
		case "token", "access_token", "id_token", "auth_token", "auth", "authorization", "jwt":
			return true
		}
	}
	return false
}

func (r *Request) originAllowed(allowed []string) bool {
	n := r.count("Origin")
	if n == 0 {
		return true
	}
	origin := r.Get("Origin")
	scheme, host, ok := strings.Cut(origin, "://")
	scheme = strings.ToLower(scheme)
	if n > 1 || !ok || !validHost(host) {
		return false
	}
	host = withoutPort(scheme, host)
	if (scheme == "http" || scheme == "https") && strings.EqualFold(host, withoutPort(scheme, r.Host)) {
		return true
	}
	for _, a := range allowed {
		s, h, _ := strings.Cut(a, "://")
		if s = strings.ToLower(s); s == scheme && strings.EqualFold(withoutPort(s, h), host) {
			return true
		}
	}
	return false
}

// withoutPort takes the scheme's own port off a host.
func withoutPort(scheme, host string) string {
	switch scheme {
	case "http":
		return strings.TrimSuffix(host, ":80")
	case "https":
		return strings.TrimSuffix(host, ":443")
	}
	return host
}
