package edge_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// answer reads one HTTP response with its body.
func (c *client) answer() (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatalf("read an HTTP response: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("read the body: %v", err)
	}
	return resp, string(body)
}

func TestHandshake(t *testing.T) {
	with := func(old, replacement string) string {
		if !strings.Contains(upgradeHead, old) {
			t.Fatalf("%q is not in the head", old)
		}
		return strings.Replace(upgradeHead, old, replacement, 1)
	}
	add := func(lines string) string { return with("\r\n\r\n", "\r\n"+lines+"\r\n\r\n") }
	rows := []struct {
		name, head string
		status     int
	}{
		{"good", upgradeHead, 101},
		{"POST", with("GET", "POST"), 405},
		{"HTTP/1.0", with("HTTP/1.1", "HTTP/1.0"), 505},
		{"no upgrade", with("Upgrade: websocket\r\n", ""), 426},
		{"no connection", with("Connection: Upgrade\r\n", ""), 400},
		{"version 8", with("Version: 13", "Version: 8"), 426},
		{"no key", with("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", ""), 400},
		{"a short key", with("AAAAAAAAAAAAAAAAAAAAAA==", "AAAA"), 400},
		{"two keys", add("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 400},
		{"no host", with("Host: chat.example\r\n", ""), 400},
		{"two hosts", add("Host: chat.example"), 400},
		{"a body", add("Content-Length: 2"), 400},
		{"a chunked body", add("Transfer-Encoding: chunked"), 400},
		{"a token in the query", with("/v1/ws", "/v1/ws?token=secret"), 400},
		{"bare LF", strings.ReplaceAll(upgradeHead, "\r\n", "\n"), 400},
		{"too many lines", add(strings.TrimSuffix(strings.Repeat("X: y\r\n", 101), "\r\n")), 431},
		{"too large", add("X: " + strings.Repeat("y", 9000)), 431},
		{"h2c", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400},
		{"own origin", add("Origin: https://chat.example"), 101},
		{"listed origin", add("Origin: https://good.example"), 101},
		{"null origin", add("Origin: null"), 403},
		{"another origin", add("Origin: https://chat.example.evil.com"), 403},
		{"another port", add("Origin: https://chat.example:1"), 403},
		{"two origins", add("Origin: https://chat.example\r\nOrigin: https://chat.example"), 403},
	}
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.Origins = []string{"https://good.example"} })
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				c := w.dial()
				c.t = t
				c.write([]byte(row.head))
				resp, body := c.answer()
				if resp.StatusCode != row.status {
					t.Fatalf("status %d %q, want %d", resp.StatusCode, body, row.status)
				}
				if row.status == http.StatusSwitchingProtocols {
					c.say(`{"id":1,"op":"connect","guest":"Ada"}`)
					c.reply(1)
					return
				}
				if strings.Contains(body, "secret") || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
					t.Errorf("answered with %q, headers %v", body, resp.Header)
				}
				if b, err := c.r.ReadByte(); err != io.EOF {
					t.Errorf("after the answer: %v %q", err, b)
				}
			})
		}
		want := float64(0)
		for _, row := range rows {
			if row.status != http.StatusSwitchingProtocols {
				want++
			}
		}
		if got := w.metric("refused_total"); got != want {
			t.Errorf("%v refusals counted, want %v", got, want)
		}
	})
}

func TestHandshakeInPieces(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.dial()
		for i := range len(upgradeHead) {
			c.write([]byte{upgradeHead[i]})
		}
		c.switched()

		// What comes behind the handshake in one write is served.
		c = w.dial()
		c.write(append([]byte(upgradeHead), append(text(`{"id":1,"op":"connect","guest":"Ada"}`), text(`{"id":2,"op":"ping"}`)...)...))
		c.switched()
		c.reply(1)
		c.reply(2)

		// And what comes in pieces is, with half a frame in the first.
		c = w.dial()
		f := text(`{"id":1,"op":"connect","guest":"Ada"}`)
		c.write(append([]byte(upgradeHead), f[:9]...))
		c.switched()
		c.write(f[9:])
		c.reply(1)
	})
}

func TestHandshakeTooSlow(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.HeadTime = 10 * time.Millisecond })
		for _, head := range []string{"", upgradeHead[:40]} {
			c := w.dial()
			if head != "" {
				c.write([]byte(head))
			}
			if resp, _ := c.answer(); resp.StatusCode != http.StatusRequestTimeout {
				t.Errorf("status %d", resp.StatusCode)
			}
			if _, err := c.r.ReadByte(); err != io.EOF {
				t.Errorf("after the answer: %v", err)
			}
		}
	})
}

func TestFull(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.MaxConnections = 1 })
		first := w.connected()
		c := w.dial()
		c.write([]byte(upgradeHead))
		if resp, _ := c.answer(); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("status %d, headers %v", resp.StatusCode, resp.Header)
		}
		if w.server.Ready() == nil {
			t.Error("a full edge is ready")
		}
		_ = first.nc.Close()
		until(t, "the place of a closed connection", func() bool { return w.server.Connections() == 0 })
		w.connected()
	})
}

// TestReady: an edge that lacks what it needs says so, and what it is.
func TestReady(t *testing.T) {
	w := newWorld(t, false)
	for _, tt := range []struct {
		lacks string
		take  func(away bool)
	}{
		{"NATS", w.worker.down.Store},
		{"Redis", w.ear.deaf.Store},
	} {
		if err := w.server.Ready(); err != nil {
			t.Errorf("with all it needs: %v", err)
		}
		tt.take(true)
		if err := w.server.Ready(); err == nil || !strings.Contains(err.Error(), tt.lacks) {
			t.Errorf("without %s: %v", tt.lacks, err)
		}
		tt.take(false)
	}
}

func TestHTTP(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprintf(w, "page %s", r.URL.Path) })
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(_ *edge.Config, d *edge.Deps) { d.Page = page })
		var last contracts.Command
		echo := func(q *asked) {
			last = q.Command
			q.ok(`{"fine":true}`)
		}
		for _, op := range []contracts.Op{contracts.OpGuest, contracts.OpHistory, contracts.OpSend} {
			w.worker.script(op, echo)
		}
		c := w.dial() // one connection for all
		const auth, js = "Authorization: Bearer tok\r\n", "Content-Type: application/json\r\n"
		for _, row := range []struct {
			line, headers, body string
			status              int
			want                string // in the body
			asked               string // in the command, as JSON
		}{
			{"GET /", "", "", 200, "page /", ""},
			{"GET /assets/app.js", "", "", 200, "page /assets/app.js", ""},
			{"POST /", "", "", 405, "bad_request", ""},
			{"GET /v1/nothing", "", "", 404, "not_found", ""},
			{"GET /v1/", "", "", 404, "not_found", ""},
			{"GET /v1/guests", "", "", 405, "bad_request", ""},
			{"DELETE /v1/rooms/a/entries", auth, "", 405, "bad_request", ""},
			{"GET /v1/rooms/a/messages", auth, "", 405, "bad_request", ""},
			{"POST /v1/guests", js, `{"name":"Ada"}`, 200, "fine", `"op":"guest"`},
			{"POST /v1/guests", "", `{"name":"Ada"}`, 415, "content-type", ""},
			{"POST /v1/guests", "Content-Type: text/plain\r\n", `{"name":"Ada"}`, 415, "content-type", ""},
			{"POST /v1/guests", "Content-Type: application/json; charset=utf-8\r\n", `{"name":"Ada"}`, 200, "fine", `"op":"guest"`},
			{"POST /v1/guests", js, `{"name":`, 400, "bad_request", ""},
			{"POST /v1/guests", js, `[]`, 400, "bad_request", ""},
			{"POST /v1/guests", js, ``, 400, "bad_request", ""},
			{"POST /v1/rooms/a/messages", js + auth, `{"text":"hi"}`, 201, "fine", `"token":"tok","room":"a","body":{"text":"hi"}`},
			{"POST /v1/rooms/a/messages", js, `{"text":"hi"}`, 401, "unauthorized", ""},
			{"POST /v1/rooms/a/messages", js + "Authorization: Basic eA==\r\n", `{"text":"hi"}`, 401, "unauthorized", ""},
			{"POST /v1/rooms/a/messages", js + auth + auth, `{"text":"hi"}`, 401, "unauthorized", ""},
			{"POST /v1/rooms/a.b/messages", js + auth, `{"text":"hi"}`, 400, "bad_room", ""},
			{"GET /v1/rooms/a/entries?before=7&limit=2", auth, "", 200, "fine", `"before":7`},
			{"GET /v1/rooms/a/entries?limit=0&other=x", auth, "", 200, "fine", `"body":{"op":"history","limit":0}`},
			{"GET /v1/rooms/a/entries?before=", auth, "", 400, `"field":"before"`, ""},
			{"GET /v1/rooms/a/entries?before=-1", auth, "", 400, `"field":"before"`, ""},
			{"GET /v1/rooms/a/entries?before=1.5", auth, "", 400, `"field":"before"`, ""},
			{"GET /v1/rooms/a/entries?before=1e3", auth, "", 400, `"field":"before"`, ""},
			{"GET /v1/rooms/a/entries?before=x", auth, "", 400, `"field":"before"`, ""},
			{"GET /v1/rooms/a/entries?after=9007199254740992", auth, "", 400, `"field":"after"`, ""},
			{"GET /v1/rooms/a/entries?limit[$gt]=1", auth, "", 200, "fine", `"body":{"op":"history"}`},
			{"GET /v1/rooms/a/entries?limit=1&limit=2", auth, "", 400, `"field":"limit"`, ""},
			{"GET /v1/rooms/a/entries?before=%zz", auth, "", 400, `"field":"query"`, ""},
			{"GET /v1/rooms/%2e%2e/entries", auth, "", 400, "bad_room", ""},
			{"GET /v1/ws", "", "", 426, "", ""},
		} {
			last = contracts.Command{}
			c.write(fmt.Appendf(nil, "%s HTTP/1.1\r\nHost: chat.example\r\n%sContent-Length: %d\r\n\r\n%s", row.line, row.headers, len(row.body), row.body))
			resp, body := c.answer()
			cmd, err := json.Marshal(last)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != row.status || !strings.Contains(body, row.want) || row.asked != "" && !strings.Contains(string(cmd), row.asked) {
				t.Errorf("%s: status %d %s, asked %s", row.line, resp.StatusCode, body, cmd)
			}
			if row.asked == "" && last.Op != "" {
				t.Errorf("%s: a worker was asked: %s", row.line, cmd)
			}
			for _, name := range []string{"Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy"} {
				if resp.Header.Get(name) == "" {
					t.Errorf("%s: no %s", row.line, name)
				}
			}
			if strings.Contains(resp.Header.Get("Content-Security-Policy"), "unsafe") || resp.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s: %v", row.line, resp.Header)
			}
			if resp.StatusCode == http.StatusMethodNotAllowed && resp.Header.Get("Allow") == "" {
				t.Errorf("%s: no Allow", row.line)
			}
		}

		// A body above the bound, and errors of a worker.
		c.write(fmt.Appendf(nil, "POST /v1/guests HTTP/1.1\r\nHost: a\r\n%sContent-Length: %d\r\n\r\n", js, 70<<10))
		c.write(fmt.Appendf(nil, `{"name":"%s"}`, strings.Repeat("x", 70<<10-11)))
		if resp, body := c.answer(); resp.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(body, "too_large") {
			t.Errorf("a large body: %d %s", resp.StatusCode, body)
		}
		w.worker.script(contracts.OpHistory, func(q *asked) { q.err(contracts.CodeOverloaded) })
		c = w.dial()
		c.write([]byte("GET /v1/rooms/a/entries HTTP/1.1\r\nHost: a\r\n" + auth + "\r\n"))
		if resp, body := c.answer(); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "1" {
			t.Errorf("overloaded: %d %s %v", resp.StatusCode, body, resp.Header)
		}
		w.worker.script(contracts.OpHistory, func(q *asked) { q.answer(`{}`) })
		c.write([]byte("GET /v1/rooms/a/entries HTTP/1.1\r\nHost: a\r\n" + auth + "\r\n"))
		if resp, body := c.answer(); resp.StatusCode != http.StatusInternalServerError {
			t.Errorf("an empty answer: %d %s", resp.StatusCode, body)
		}
	})
}

func TestUpgradeBehindRequest(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		const plain = "GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n"
		request := func(c *client, id int) {
			c.say(`{"id":%d,"op":"ping"}`, id)
			c.reply(uint64(id))
		}
		// On its own, and with everything in one write: the request, the handshake and 20 KB of frames.
		c := w.dial()
		c.write([]byte(plain))
		c.answer()
		c.write([]byte(upgradeHead))
		c.switched()
		c.say(`{"id":1,"op":"connect","guest":"Ada"}`)
		c.reply(1)
		for i := range 50 {
			request(c, i+2)
		}

		c = w.dial()
		all := append([]byte(plain+upgradeHead), text(`{"id":1,"op":"connect","guest":"Ada"}`)...)
		for i := range 10 {
			all = append(all, text(`{"id":%d,"op":"ping","pad":"%01000d"}`, i+2, 0)...)
		}
		c.write(all)
		c.answer()
		c.switched()
		c.reply(1)
		for i := range 10 {
			c.reply(uint64(i + 2))
		}

		// A body on the upgrade is refused here too.
		c = w.dial()
		c.write([]byte(plain))
		c.answer()
		c.write([]byte(strings.Replace(upgradeHead, "\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1)))
		if resp, body := c.answer(); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("a body: %d %s", resp.StatusCode, body)
		}
		if got := w.server.Connections(); got != 2 {
			t.Errorf("%d connections", got)
		}
	})
}

func TestPageAbsent(t *testing.T) {
	w := newWorld(t, false)
	c := w.dial()
	c.write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	if resp, _ := c.answer(); resp.StatusCode != http.StatusNotFound || resp.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}
