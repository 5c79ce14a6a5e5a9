package wire

import (
	"bytes"
	"net/http"
	"strings"
)

// Bounds of a request's head.
const (
	MaxHead    = 8 << 10 // bytes, the blank line included
	MaxHeaders = 100
)

// Header is one header line of a request.
type Header struct {
	Name  string // as it was sent
	Value string // without white space around it
}

// Request is the head of an HTTP/1.1 or 1.0 request. Its strings are parts of one copy of the head, so that it stays
// valid when the buffer is used again.
type Request struct {
	Method  string
	Target  string // as it was sent
	Path    string // the target's path, percent-encoded as sent; "*" for OPTIONS *
	Query   string // the target's query, percent-encoded, without the question mark
	Host    string // the Host header, or the authority of a target in absolute form (RFC 9112 section 3.2.2)
	Proto   string // HTTP/1.1 or HTTP/1.0
	Headers []Header
}

// Get returns the first value of the header name, whatever the case, and "" where there is none.
func (r *Request) Get(name string) string {
	for i := range r.Headers {
		if strings.EqualFold(r.Headers[i].Name, name) {
			return r.Headers[i].Value
		}
	}
	return ""
}

// count returns how many lines have the name.
func (r *Request) count(name string) int {
	n := 0
	for i := range r.Headers {
		if strings.EqualFold(r.Headers[i].Name, name) {
			n++
		}
	}
	return n
}

// hasToken reports whether a comma-separated list in any line of the name contains the token, whatever the case.
func (r *Request) hasToken(name, token string) bool {
	for i := range r.Headers {
		if !strings.EqualFold(r.Headers[i].Name, name) {
			continue
		}
		for item := range strings.SplitSeq(r.Headers[i].Value, ",") {
			if strings.EqualFold(trim(item), token) {
				return true
			}
		}
	}
	return false
}

// ParseRequest reads the head that buf begins with (RFC 9112, and nothing that it merely tolerates). n is the head's
// length with its blank line; what stands behind it is not looked at. n == 0 without an error means that the head is not
// complete: read more and call again with all of it. The error is a 400, a 431 for a head above MaxHead or with more
// than MaxHeaders lines, or a 505; what can never become a request is refused before it is complete.
func ParseRequest(buf []byte) (req Request, n int, err *HTTPError) {
	within := buf[:min(len(buf), MaxHead)]
	end := bytes.Index(within, []byte("\r\n\r\n"))
	if end < 0 {
		if err := checkPartial(within); err != nil {
			return Request{}, 0, err
		}
		if len(buf) >= MaxHead {
			return Request{}, 0, &HTTPError{Status: http.StatusRequestHeaderFieldsTooLarge, Message: "the request's head is too large"}
		}
		return Request{}, 0, nil
	}
	n = end + 4
	if err := checkPartial(within[:n]); err != nil {
		return Request{}, 0, err
	}
	head := string(within[:end])
	line, lines, _ := strings.Cut(head, "\r\n")
	if err := req.parseLine(line); err != nil {
		return Request{}, 0, err
	}
	if err := req.parseHeaders(lines); err != nil {
		return Request{}, 0, err
	}
	if err := req.resolveHost(); err != nil {
		return Request{}, 0, err
	}
	return req, n, nil
}

// checkPartial refuses bytes that no head may begin with: control characters, line ends other than CRLF, a request
// line that does not begin with a method.
func checkPartial(b []byte) *HTTPError {
	for i, c := range b {
		switch {
		case c >= ' ' && c != 0x7F || c == '\t':
		case c == '\r' && (i+1 == len(b) || b[i+1] == '\n'):
		case c == '\n' && i > 0 && b[i-1] == '\r':
		default:
			return badRequest("a control character or a bare line end in the request's head")
		}
	}
	for i, c := range b {
		if c == ' ' && i > 0 {
			break
		}
		if !isToken(c) || i >= maxMethod {
			return badRequest("no HTTP request")
		}
	}
	return nil
}

// maxMethod is the length of the longest method that is read.
const maxMethod = 32

func (r *Request) parseLine(line string) *HTTPError {
	method, rest, ok1 := strings.Cut(line, " ")
	target, proto, ok2 := strings.Cut(rest, " ")
	if !ok1 || !ok2 || !isTokens(method) || target == "" {
		return badRequest("malformed request line")
	}
	major, minor, ok := strings.Cut(strings.TrimPrefix(proto, "HTTP/"), ".")
	switch {
	case proto == "HTTP/1.1" || proto == "HTTP/1.0":
	case !strings.HasPrefix(proto, "HTTP/") || !ok || !isDigit(major) || !isDigit(minor):
		return badRequest("malformed request line")
	case method == "PRI": // the preface of HTTP/2 (RFC 9113 section 3.4)
		return badRequest("HTTP/2 is not spoken here")
	default:
		return &HTTPError{Status: http.StatusHTTPVersionNotSupported, Message: "HTTP/1.1 is spoken here"}
	}
	for i := 0; i < len(target); i++ {
		if c := target[i]; c <= ' ' || c >= 0x7F || c == '#' {
			return badRequest("malformed request target")
		}
	}
	r.Method, r.Target, r.Proto = method, target, proto
	origin := target
	switch {
	case target[0] == '/':
	case target == "*" && method == http.MethodOptions:
		r.Path = target
		return nil
	default:
		scheme, rest, ok := strings.Cut(target, "://")
		if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
			return badRequest("malformed request target")
		}
		at := strings.IndexAny(rest, "/?")
		if at < 0 {
			at = len(rest)
		}
		r.Host, origin = rest[:at], rest[at:]
		if !validHost(r.Host) {
			return badRequest("malformed request target")
		}
	}
	r.Path, r.Query, _ = strings.Cut(origin, "?")
	if r.Path == "" {
		r.Path = "/"
	}
	return nil
}

func (r *Request) parseHeaders(lines string) *HTTPError {
	if lines == "" {
		return nil
	}
	count := strings.Count(lines, "\r\n") + 1
	if count > MaxHeaders {
		return &HTTPError{Status: http.StatusRequestHeaderFieldsTooLarge, Message: "too many header lines"}
	}
	r.Headers = make([]Header, 0, count)
	for line := range strings.SplitSeq(lines, "\r\n") {
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isTokens(name) { // also a folded line and a space before the colon
			return badRequest("malformed header line")
		}
		r.Headers = append(r.Headers, Header{Name: name, Value: trim(value)})
	}
	return nil
}

// resolveHost sets Host (RFC 9112 section 3.2): exactly one line in HTTP/1.1, at most one in 1.0.
func (r *Request) resolveHost() *HTTPError {
	switch n := r.count("Host"); {
	case n == 0 && r.Proto == "HTTP/1.0":
		return nil
	case n != 1:
		return badRequest("a request needs one Host header")
	}
	host := r.Get("Host")
	if !validHost(host) {
		return badRequest("malformed Host header")
	}
	if r.Host == "" {
		r.Host = host
	}
	return nil
}

// validHost reports whether s may be a host with or without a port. It keeps out what would mean something to whoever
// composes a URL of it.
func validHost(s string) bool {
	if s == "" || len(s) > 255+6 {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '.', c == '-', c == '_', c == ':', c == '[', c == ']', c == '%', c == '~':
		default:
			return false
		}
	}
	return true
}

func trim(s string) string { return strings.Trim(s, " \t") }

func isDigit(s string) bool { return len(s) == 1 && s[0] >= '0' && s[0] <= '9' }

func isTokens(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isToken(s[i]) {
			return false
		}
	}
	return s != ""
}

// isToken reports whether c may stand in a method or header name (RFC 9110 section 5.6.2).
func isToken(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
