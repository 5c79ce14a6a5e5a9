package loadtest_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/parley-chat/parley/deploy/loadtest"
)

// listenTo answers every connection to a loopback port until the test ends and returns the address.
func listenTo(t *testing.T, answer func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			sock, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer sock.Close()
				answer(sock)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

// TestCannotBegin: whatever is wrong with the address is one line that says what to do, and no run.
func TestCannotBegin(t *testing.T) {
	status := func(line string) func(net.Conn) {
		return func(sock net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(sock))
			_, _ = io.WriteString(sock, "HTTP/1.1 "+line+"\r\nContent-Length: 0\r\n\r\n")
		}
	}
	nobody := func(t *testing.T) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	answering := func(answer func(net.Conn)) func(*testing.T) string {
		return func(t *testing.T) string { return listenTo(t, answer) }
	}
	tests := map[string]struct {
		url   func(*testing.T) string
		token string
		want  string
	}{
		"nobody listens":       {url: nobody, want: "nothing listens there"},
		"another web server":   {url: answering(status("404 Not Found")), want: "is there a Parley server at this address and path?"},
		"a full server":        {url: answering(status("503 Service Unavailable")), want: "takes no more connections now"},
		"too many from here":   {url: answering(status("429 Too Many Requests")), want: "takes no more connections now"},
		"no web server":        {url: answering(func(sock net.Conn) { _, _ = io.WriteString(sock, "220 mail.example ESMTP\r\n") }), want: "does not speak WebSocket"},
		"nothing is answered":  {url: answering(func(net.Conn) {}), want: "no answer to the upgrade"},
		"an untrusted server":  {url: func(*testing.T) string { return strings.Replace(secure.URL, "https", "wss", 1) + "/v1/ws" }, want: "--insecure"},
		"no TLS":               {url: func(t *testing.T) string { return "wss://" + listenTo(t, status("400 Bad Request")) }, want: "speaks no TLS: use ws://"},
		"no such host":         {url: func(*testing.T) string { return "ws://parley.invalid" }, want: "parley.invalid"},
		"a token that is void": {url: func(t *testing.T) string { s := newLiar(); s.token = "right"; return s.listen(t) }, token: "wrong", want: "connect was refused: unauthorized"},
		"another protocol": {url: answering(func(sock net.Conn) {
			if _, err := ws.Upgrade(sock); err == nil {
				_ = wsutil.WriteServerText(sock, []byte("welcome"))
				_, _ = io.Copy(io.Discard, sock)
			}
		}), want: "not Parley's protocol"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := small()
			c.URLs, c.Token = []string{tt.url(t)}, tt.token
			_, err := loadtest.Run(t.Context(), c, io.Discard)
			if err == nil {
				t.Fatal("it began")
			}
			if text := err.Error(); !strings.Contains(text, tt.want) || strings.Contains(text, "\n") {
				t.Errorf("it says %q, want one line with %q", text, tt.want)
			}
		})
	}
}

// TestOverTLS: TLS changes nothing about what is counted.
func TestOverTLS(t *testing.T) {
	with := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer with.Close()
	s := newLiar()
	s.tls = with.TLS
	s.misdeed = every(5, drops)
	c := small()
	c.URLs, c.Insecure = []string{"wss://" + s.listen(t) + "/v1/ws"}, true
	r := run(t, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Connections.Listening != 12 || r.Ledger.Lost != int64(s.did[drops]) || r.Ledger.Lost == 0 {
		t.Errorf("%d connections, %d lost, the server dropped %d; errors %v", r.Connections.Listening, r.Ledger.Lost, s.did[drops], r.Errors)
	}
}

// TestFullServerIsNamed: connections that are turned away come again, and the report names the limit.
func TestFullServerIsNamed(t *testing.T) {
	s := newLiar()
	s.full = 8
	c := small()
	c.URLs, c.RampTimeout = []string{s.listen(t)}, 5*time.Second
	r := run(t, c)
	if r.Connections.Listening != 7 || r.ExitCode() != loadtest.ExitPartial { // one was the probe
		t.Errorf("%d connections, exit code %d", r.Connections.Listening, r.ExitCode())
	}
	if !slices.ContainsFunc(r.LimitsMet, func(l string) bool { return strings.HasPrefix(l, "connections or handshakes of the server") }) {
		t.Errorf("limits met %q, errors %v", r.LimitsMet, r.Errors)
	}
}

// TestServerDies: a server that goes away in the middle and stays away ends the run early, with the reason.
func TestServerDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLiar()
		var gone atomic.Bool
		s.refuse = func(n int) string {
			if n == 60 {
				gone.Store(true)
				for c := range s.conns {
					c.end()
				}
			}
			return ""
		}
		c := small().WithDial(func() (net.Conn, error) {
			if gone.Load() {
				return nil, syscall.ECONNREFUSED
			}
			return s.dial()
		})
		c.Duration = time.Minute
		r, err := loadtest.Run(context.Background(), c, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		s.close()
		if !strings.Contains(r.Ended, "every connection was lost and none came back") || !strings.Contains(r.Ended, "connection refused") || r.ExitCode() != loadtest.ExitPartial {
			t.Errorf("exit code %d, ended %q", r.ExitCode(), r.Ended)
		}
	})
}

// TestSoakIsShortenedByHand: the soak scenario does what chat does, for as long as one says.
func TestSoakIsShortenedByHand(t *testing.T) {
	s := newLiar()
	c := small()
	c.URLs, c.Scenario, c.Churn = []string{s.listen(t)}, loadtest.Soak, 0.5
	r := run(t, c)
	if r.ExitCode() != loadtest.ExitOK || r.Traffic.Actions == 0 || r.Setup.DurationS != 1 {
		t.Errorf("exit code %d, %d actions, %g s, ended %q, errors %v", r.ExitCode(), r.Traffic.Actions, r.Setup.DurationS, r.Ended, r.Errors)
	}
}

// TestEntriesAreBounded: whoever is not in the room yet counts, so that a server that is slow with joins is not asked for
// more and more of them.
func TestEntriesAreBounded(t *testing.T) {
	s := newLiar()
	s.mute = true
	c := small()
	c.Connections, c.Loops, c.RampTimeout = 500, 1, 3*time.Second
	inMemory(t, s, c, func(r loadtest.Report) {
		s.mu.Lock()
		defer s.mu.Unlock()
		joins := 0
		for _, room := range s.rooms {
			joins += room.joins
		}
		if joins != 96 || r.Connections.Listening != 0 {
			t.Errorf("%d joins were under way, %d connections listen", joins, r.Connections.Listening)
		}
	})
}
