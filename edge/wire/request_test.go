package wire_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/edge/wire"
)

const goodHead = "GET /v1/ws HTTP/1.1\r\nHost: chat.example:8080\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// head is a request with the lines, each of which gets its CRLF.
func head(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

// with is goodHead with old replaced.
func with(old, replacement string) string {
	if !strings.Contains(goodHead, old) {
		panic("no " + old)
	}
	return strings.Replace(goodHead, old, replacement, 1)
}

func TestParseRequest(t *testing.T) {
	tests := []struct {
		name  string
		input string
		want  wire.Request
	}{
		{
			name:  "the smallest",
			input: head("GET / HTTP/1.1", "Host: a"),
			want:  wire.Request{Method: "GET", Target: "/", Path: "/", Host: "a", Proto: "HTTP/1.1", Headers: []wire.Header{{Name: "Host", Value: "a"}}},
		},
		{
			name:  "a query, white space, no value, bytes above ASCII",
			input: head("POST /v1/rooms?a=1?&b=%20 HTTP/1.1", "hOST:\t [::1]:80 \t", "X-Empty:", "x-name: J\xc3\xbcrgen"),
			want: wire.Request{Method: "POST", Target: "/v1/rooms?a=1?&b=%20", Path: "/v1/rooms", Query: "a=1?&b=%20", Host: "[::1]:80", Proto: "HTTP/1.1",
				Headers: []wire.Header{{Name: "hOST", Value: "[::1]:80"}, {Name: "X-Empty"}, {Name: "x-name", Value: "J\xc3\xbcrgen"}}},
		},
		{
			name:  "absolute form",
			input: head("GET http://real.example:81?q HTTP/1.1", "Host: other"),
			want: wire.Request{Method: "GET", Target: "http://real.example:81?q", Path: "/", Query: "q", Host: "real.example:81", Proto: "HTTP/1.1",
				Headers: []wire.Header{{Name: "Host", Value: "other"}}},
		},
		{
			name:  "asterisk",
			input: head("OPTIONS * HTTP/1.1", "Host: a"),
			want:  wire.Request{Method: "OPTIONS", Target: "*", Path: "*", Host: "a", Proto: "HTTP/1.1", Headers: []wire.Header{{Name: "Host", Value: "a"}}},
		},
		{
			name:  "HTTP/1.0 without Host or any header",
			input: head("GET / HTTP/1.0"),
			want:  wire.Request{Method: "GET", Target: "/", Path: "/", Proto: "HTTP/1.0"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			buf := []byte(tt.input + "\x81\x00behind\nit")
			for cut := range len(tt.input) {
				if _, n, err := wire.ParseRequest(buf[:cut]); n != 0 || err != nil {
					t.Fatalf("%d bytes of it: n = %d, %v", cut, n, err)
				}
			}
			got, n, err := wire.ParseRequest(buf)
			if err != nil || n != len(tt.input) {
				t.Fatalf("n = %d, %v; want %d", n, err, len(tt.input))
			}
			clear(buf) // the request must not refer to it
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRequestRefuses(t *testing.T) {
	manyHeaders := func(n int) string {
		return "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", n-1) + "\r\n"
	}
	long := func(n int) string { // a head of n bytes
		s := "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n"
		return strings.Replace(s, "X: ", "X: "+strings.Repeat("y", n-len(s)), 1)
	}
	tests := []struct {
		name   string
		input  string
		status int // 0: not refused
	}{
		{"100 headers", manyHeaders(100), 0},
		{"101 headers", manyHeaders(101), 431},
		{"8 KiB", long(wire.MaxHead), 0},
		{"8 KiB + 1", long(wire.MaxHead + 1), 431},
		{"8 KiB without an end", long(wire.MaxHead + 5)[:wire.MaxHead], 431},
		{"bare LF", "GET / HTTP/1.1\nHost: a\n\n", 400},
		{"bare LF inside a value", head("GET / HTTP/1.1", "Host: a", "X: y\nZ: w"), 400},
		{"bare CR", head("GET / HTTP/1.1", "Host: a", "X: y\rz"), 400},
		{"NUL", head("GET / HTTP/1.1", "Host: a", "X: y\x00z"), 400},
		{"escape", head("GET / HTTP/1.1", "Host: a", "X: \x1b[31m"), 400},
		{"DEL", head("GET / HTTP/1.1", "Host: a", "X: \x7f"), 400},
		{"obs-fold", head("GET / HTTP/1.1", "Host: a", "X: y", " z"), 400},
		{"obs-fold first", head("GET / HTTP/1.1", " X: y", "Host: a"), 400},
		{"space before colon", head("GET / HTTP/1.1", "Host : a"), 400},
		{"no colon", head("GET / HTTP/1.1", "Host: a", "X"), 400},
		{"no name", head("GET / HTTP/1.1", "Host: a", ": y"), 400},
		{"name above ASCII", head("GET / HTTP/1.1", "Host: a", "\xc3\xbc: y"), 400},
		{"no Host", head("GET / HTTP/1.1", "X: y"), 400},
		{"no header", head("GET / HTTP/1.1"), 400},
		{"Host twice", head("GET / HTTP/1.1", "Host: a", "host: a"), 400},
		{"Host twice in 1.0", head("GET / HTTP/1.0", "Host: a", "Host: b"), 400},
		{"empty Host", head("GET / HTTP/1.1", "Host:"), 400},
		{"Host with a path", head("GET / HTTP/1.1", "Host: a/b"), 400},
		{"Host with a user", head("GET / HTTP/1.1", "Host: u@a"), 400},
		{"two spaces", head("GET  / HTTP/1.1", "Host: a"), 400},
		{"a space in the target", head("GET /a b HTTP/1.1", "Host: a"), 400},
		{"no target", head("GET HTTP/1.1", "Host: a"), 400},
		{"no version", head("GET /", "Host: a"), 400},
		{"fragment", head("GET /#a HTTP/1.1", "Host: a"), 400},
		{"target above ASCII", head("GET /\xc3\xbc HTTP/1.1", "Host: a"), 400},
		{"a tab in the target", head("GET /\t HTTP/1.1", "Host: a"), 400},
		{"authority form", head("CONNECT a:80 HTTP/1.1", "Host: a"), 400},
		{"another scheme", head("GET ftp://a/ HTTP/1.1", "Host: a"), 400},
		{"no host in absolute form", head("GET http:///x HTTP/1.1", "Host: a"), 400},
		{"asterisk with GET", head("GET * HTTP/1.1", "Host: a"), 400},
		{"method with a colon", head("G:T / HTTP/1.1", "Host: a"), 400},
		{"version of letters", head("GET / HTTP/x.y", "Host: a"), 400},
		{"version in lower case", head("GET / http/1.1", "Host: a"), 400},
		{"HTTP/2.0", head("GET / HTTP/2.0", "Host: a"), 505},
		{"HTTP/0.9", head("GET / HTTP/0.9", "Host: a"), 505},
		{"HTTP/1.2", head("GET / HTTP/1.2", "Host: a"), 505},
		{"an empty line first", "\r\n" + goodHead, 400},

		// What never ends: refused as soon as it cannot be a request.
		{"h2c preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
		{"TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400},
		{"random bytes", "\x8f\x13\xe1\x00", 400},
		{"letters without end", strings.Repeat("A", 33), 400},
		{"a space first", " GET", 400},
		{"a NUL in an incomplete head", "GET /v1/ws HTTP/1.1\r\nX: \x00", 400},
		{"nothing", "", 0},
		{"one CR at the end", "GET / HTTP/1.1\r", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, n, err := wire.ParseRequest([]byte(tt.input))
			switch {
			case tt.status == 0 && err != nil:
				t.Fatalf("refused: %v", err)
			case tt.status != 0 && err == nil:
				t.Fatalf("not refused, n = %d; want %d", n, tt.status)
			case tt.status != 0 && (err.Status != tt.status || n != 0):
				t.Fatalf("%v, n = %d; want %d", err, n, tt.status)
			}
		})
	}
}

func TestCheckUpgrade(t *testing.T) {
	const (
		host    = "Host: chat.example:8080\r\n"
		version = "Sec-WebSocket-Version: 13\r\n"
		key     = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	)
	origin := func(lines ...string) string {
		return with(version, version+"Origin: "+strings.Join(lines, "\r\nOrigin: ")+"\r\n")
	}
	allowed := []string{"https://good.com", "http://app.example:9000"}
	tests := []struct {
		name   string
		input  string
		status int // 0: allowed
		header string
	}{
		{name: "good", input: goodHead},
		{name: "case and lists", input: with("Upgrade: websocket\r\nConnection: keep-alive, Upgrade", "upgrade: h2c , WebSocket\r\nconnection: keep-alive\r\nCONNECTION: UPGRADE")},
		{name: "another path", input: with("/v1/ws", "/"), status: 404},
		{name: "POST", input: with("GET", "POST"), status: 405, header: "Allow: GET\r\n"},
		{name: "HEAD", input: with("GET", "HEAD"), status: 405, header: "Allow: GET\r\n"},
		{name: "HTTP/1.0", input: with("HTTP/1.1", "HTTP/1.0"), status: 505},
		{name: "no Upgrade", input: with("Upgrade: websocket\r\n", ""), status: 426, header: "Upgrade: websocket\r\n"},
		{name: "Upgrade to h2c", input: with("Upgrade: websocket", "Upgrade: h2c"), status: 426, header: "Upgrade: websocket\r\n"},
		{name: "no Connection", input: with("Connection: keep-alive, Upgrade\r\n", ""), status: 400},
		{name: "Connection without upgrade", input: with("keep-alive, Upgrade", "keep-alive, xupgrade"), status: 400},
		{name: "no version", input: with(version, ""), status: 426, header: "Sec-WebSocket-Version: 13\r\n"},
		{name: "version 8", input: with("Version: 13", "Version: 8"), status: 426, header: "Sec-WebSocket-Version: 13\r\n"},
		{name: "version twice", input: with(version, version+version), status: 426, header: "Sec-WebSocket-Version: 13\r\n"},
		{name: "no key", input: with(key, ""), status: 400},
		{name: "key of 15 bytes", input: with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j"), status: 400},
		{name: "key of 18 bytes in 24", input: with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZUFB"), status: 400},
		{name: "key that is no base64", input: with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j!Q=="), status: 400},
		{name: "key twice", input: with(key, key+key), status: 400},
		{name: "body", input: with(version, version+"Content-Length: 3\r\n"), status: 400},
		{name: "empty body", input: with(version, version+"Content-Length: 0\r\n")},
		{name: "a second length", input: with(version, version+"Content-Length: 0\r\nContent-Length: 3\r\n"), status: 400},
		{name: "chunks", input: with(version, version+"Transfer-Encoding: chunked\r\n"), status: 400},

		{name: "token in the query", input: with("/v1/ws", "/v1/ws?v=1&token=secret"), status: 400},
		{name: "access_token", input: with("/v1/ws", "/v1/ws?ACCESS_TOKEN=secret"), status: 400},
		{name: "escaped token", input: with("/v1/ws", "/v1/ws?%74oken=secret"), status: 400},
		{name: "token behind a semicolon", input: with("/v1/ws", "/v1/ws?a;token=secret"), status: 400},
		{name: "bad escape", input: with("/v1/ws", "/v1/ws?%zz=1"), status: 400},
		{name: "another query", input: with("/v1/ws", "/v1/ws?lang=en&x=token")},

		{name: "same host", input: origin("http://chat.example:8080")},
		{name: "same host, TLS in front", input: origin("https://Chat.Example:8080")},
		{name: "default ports", input: strings.Replace(origin("https://chat.example"), host, "Host: chat.example:443\r\n", 1)},
		{name: "default port spelled", input: strings.Replace(origin("http://chat.example:80"), host, "Host: chat.example\r\n", 1)},
		{name: "listed", input: origin("https://good.com")},
		{name: "listed with its port", input: origin("http://app.example:9000")},
		{name: "listed, default port spelled", input: origin("https://good.com:443")},
		{name: "null", input: origin("null"), status: 403},
		{name: "empty", input: origin(""), status: 403},
		{name: "other port", input: origin("http://chat.example:8081"), status: 403},
		{name: "no port", input: origin("http://chat.example"), status: 403},
		{name: "other scheme", input: origin("ftp://chat.example:8080"), status: 403},
		{name: "extension", input: origin("chrome-extension://chat.example:8080"), status: 403},
		{name: "listed in another scheme", input: origin("http://good.com"), status: 403},
		{name: "listed at another port", input: origin("https://good.com:444"), status: 403},
		{name: "listed as a prefix", input: origin("https://good.com.evil.com"), status: 403},
		{name: "listed as a suffix", input: origin("https://evilgood.com"), status: 403},
		{name: "listed as a user", input: origin("https://good.com@evil.com"), status: 403},
		{name: "with a path", input: origin("http://chat.example:8080/"), status: 403},
		{name: "two", input: origin("https://good.com", "https://good.com"), status: 403},
		{name: "two in one", input: origin("https://good.com https://good.com"), status: 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, n, herr := wire.ParseRequest([]byte(tt.input))
			if herr != nil || n == 0 {
				t.Fatalf("n = %d, %v", n, herr)
			}
			err := req.CheckUpgrade(allowed)
			switch {
			case tt.status == 0 && err != nil:
				t.Fatalf("refused: %v", err)
			case tt.status != 0 && (err == nil || err.Status != tt.status):
				t.Fatalf("%v, want %d", err, tt.status)
			case tt.status != 0 && !strings.Contains(err.Header, tt.header):
				t.Fatalf("header %q, want %q", err.Header, tt.header)
			}
		})
	}
}

// TestAppendSwitching uses the key and the answer of RFC 6455 section 1.3.
func TestAppendSwitching(t *testing.T) {
	const accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
	for offer, want := range map[string]string{
		"": "", "parley.v1": "parley.v1", "chat, parley.v1": "parley.v1", "PARLEY.V1": "", "parley.v10": "",
		"chat\r\nSec-WebSocket-Protocol: parley.v1": "parley.v1",
	} {
		input := goodHead
		if offer != "" {
			input = with("Upgrade: websocket\r\n", "Upgrade: websocket\r\nSec-WebSocket-Protocol: "+offer+"\r\n")
		}
		req, _, herr := wire.ParseRequest([]byte(input))
		if herr != nil {
			t.Fatal(herr)
		}
		answer := wire.AppendSwitching([]byte(nil), &req)
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), nil)
		if err != nil {
			t.Fatalf("%v in %q", err, answer)
		}
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		got := []string{res.Status, res.Header.Get("Upgrade"), res.Header.Get("Connection"), res.Header.Get("Sec-WebSocket-Accept"), res.Header.Get("Sec-WebSocket-Protocol")}
		if diff := cmp.Diff([]string{"101 Switching Protocols", "websocket", "Upgrade", accept, want}, got); diff != "" {
			t.Errorf("offer %q (-want +got):\n%s", offer, diff)
		}
	}
}

func TestAppendHTTPError(t *testing.T) {
	answer := wire.AppendHTTPError([]byte("before"), &wire.HTTPError{Status: 503, Message: "full", Header: "Retry-After: 7\r\n"})
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(bytes.TrimPrefix(answer, []byte("before")))), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := []any{res.Status, res.Close, res.ContentLength, res.Header.Get("Retry-After"), res.Header.Get("Content-Type"), string(body)}
	if diff := cmp.Diff([]any{"503 Service Unavailable", true, int64(5), "7", "text/plain; charset=utf-8", "full\n"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzParseRequest holds every head that is accepted against net/http, which accepts more, and against its own pieces.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(goodHead))
	f.Fuzz(func(t *testing.T, input []byte) {
		req, n, herr := wire.ParseRequest(bytes.Clone(input))
		if herr != nil {
			if n != 0 || herr.Status < 400 || herr.Status > 599 {
				t.Fatalf("n = %d, %v", n, herr)
			}
			return
		}
		if n == 0 {
			return
		}
		if n > min(len(input), wire.MaxHead) || len(req.Headers) > wire.MaxHeaders || !bytes.HasSuffix(input[:n], []byte("\r\n\r\n")) {
			t.Fatalf("n = %d of %d, %d headers", n, len(input), len(req.Headers))
		}
		for cut := range n {
			if _, m, err := wire.ParseRequest(input[:cut]); m != 0 || err != nil {
				t.Fatalf("accepted whole, but %d bytes of it: n = %d, %v", cut, m, err)
			}
		}
		again, m, herr := wire.ParseRequest(input[:n])
		if diff := cmp.Diff(req, again); herr != nil || m != n || diff != "" {
			t.Fatalf("what stands behind the head changes it: %d, %v\n%s", m, herr, diff)
		}
		if herr := req.CheckUpgrade(nil); herr == nil {
			if req.Method != http.MethodGet || req.Path != wire.Path {
				t.Fatalf("allowed: %+v", req)
			}
			if answer := wire.AppendSwitching(nil, &req); len(answer) > 256 || bytes.Count(answer, []byte("\r\n\r\n")) != 1 {
				t.Fatalf("answer %q", answer)
			}
		}
		std, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(input[:n])))
		if err != nil {
			return // net/http also refuses bad framing of bodies and bad escapes, which are no part of this
		}
		if std.Method != req.Method || std.RequestURI != req.Target || std.Host != req.Host && req.Target[0] == '/' {
			t.Fatalf("net/http reads %s %s for %s, this %s %s for %s", std.Method, std.RequestURI, std.Host, req.Method, req.Target, req.Host)
		}
	})
}

func BenchmarkParseRequest(b *testing.B) {
	buf := []byte(goodHead)
	b.ReportAllocs()
	for b.Loop() {
		req, _, err := wire.ParseRequest(buf)
		if err != nil || req.CheckUpgrade(nil) != nil {
			b.Fatal("refused")
		}
	}
}
