package edge_test

import (
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// behindProxy trusts the test's own address.
func behindProxy(l edge.Limits) func(*edge.Config, *edge.Deps) {
	l.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	return limited(l)
}

func headFrom(ip string) []byte {
	return []byte(strings.Replace(upgradeHead, "\r\n\r\n", "\r\nX-Forwarded-For: "+ip+"\r\n\r\n", 1))
}

// refused reads an HTTP error behind which the connection ends.
func (c *client) refused(status int) {
	c.t.Helper()
	resp, body := c.answer()
	if resp.StatusCode != status || resp.Header.Get("Retry-After") == "" {
		c.t.Errorf("answered %d %q with %v, want %d", resp.StatusCode, body, resp.Header, status)
	}
	if b, err := c.r.ReadByte(); err == nil {
		c.t.Errorf("%q follows", b)
	}
	_ = c.nc.Close()
}

// forgets waits until nothing is remembered of those who left.
func (w *world) forgets() {
	w.t.Helper()
	until(w.t, "the counts", func() bool {
		a, b, c, d := w.server.Counted()
		return a+b+c+d == 0
	})
}

func TestPerIP(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, behindProxy(edge.Limits{PerIP: 2}))
		dial := func(ip string) *client {
			c := w.dial()
			c.write(headFrom(ip))
			return c
		}
		first := dial("203.0.113.7")
		first.switched()
		// The second comes behind a request, on a connection of the HTTP server.
		second := w.dial()
		second.write([]byte("GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n"))
		second.answer()
		second.write(headFrom("203.0.113.7"))
		second.switched()
		dial("203.0.113.7").refused(http.StatusTooManyRequests)
		third := w.dial()
		third.write([]byte("GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n"))
		third.answer()
		third.write(headFrom("203.0.113.7"))
		if resp, _ := third.answer(); resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
			t.Errorf("answered %d with %v", resp.StatusCode, resp.Header)
		}
		if n := w.metricOf("limited_total", "connections_per_ip"); n != 2 {
			t.Errorf("%v counted", n)
		}
		if n := w.metricOf("refused_total", "429"); n != 2 {
			t.Errorf("%v refusals counted", n)
		}
		var others []*client
		for _, ip := range []string{"203.0.113.8", "2001:db8::1", "2001:db8::2"} {
			c := dial(ip)
			c.switched()
			others = append(others, c)
		}
		dial("2001:db8::3").refused(http.StatusTooManyRequests) // of the same /64
		for range 3 {                                           // nobody in particular
			others = append(others, w.open())
		}
		_ = first.nc.Close()
		until(t, "the end", func() bool { return w.server.Connections() == 7 })
		again := dial("203.0.113.7")
		again.switched()
		for _, c := range append(others, second, third, again) {
			_ = c.nc.Close()
		}
		w.forgets()
	})
}

func TestPerIPBehindUntrusted(t *testing.T) {
	w := newWorld(t, false, limited(edge.Limits{PerIP: 1}))
	for range 3 { // what they say is not believed, and who they are is nobody
		c := w.dial()
		c.write(headFrom("203.0.113.7"))
		c.switched()
	}
}

func TestProxyProtocol(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, behindProxy(edge.Limits{PerIP: 1, ProxyProtocol: true}))
		for _, row := range proxyHeaders {
			c := w.dial()
			c.write([]byte(row.header + upgradeHead))
			if !row.ok {
				if resp, _ := c.answer(); resp.StatusCode != http.StatusBadRequest {
					t.Errorf("%s: %s", row.name, resp.Status)
				}
				continue
			}
			c.switched()
			c.say(`{"id":1,"op":"connect","guest":"Ada"}`)
			c.reply(1)
			if row.told != "" { // one more of that address, in pieces
				d := w.dial()
				for _, b := range []byte(row.header + upgradeHead) {
					d.write([]byte{b})
				}
				d.refused(http.StatusTooManyRequests)
			}
			_ = c.nc.Close()
			w.forgets()
		}
		// The API is served behind the header too, and an upgrade there counts for the same address.
		const header = "PROXY TCP4 203.0.113.7 10.0.0.1 5000 80\r\n"
		c := w.dial()
		c.write([]byte(header + "GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n"))
		c.answer()
		c.write([]byte(upgradeHead))
		c.switched()
		d := w.dial()
		d.write([]byte(header + upgradeHead))
		d.refused(http.StatusTooManyRequests)
	})
	w := newWorld(t, false, limited(edge.Limits{ProxyProtocol: true, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}))
	c := w.dial()
	c.write([]byte("PROXY TCP4 203.0.113.7 10.0.0.1 5000 80\r\n" + upgradeHead))
	if resp, _ := c.answer(); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a peer that is not trusted: %s", resp.Status)
	}
}

func TestPerUser(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, limited(edge.Limits{PerUser: 2}))
		first, second := w.connected(), w.connected()
		w.worker.script(contracts.OpConnect, func(q *asked) { q.answer(connectAnswer("u2", 3600e9)) })
		other := w.connected()
		w.worker.script(contracts.OpConnect, func(q *asked) { q.answer(connectAnswer("u1", 3600e9)) })
		third := w.connected()
		first.closes(contracts.CloseReplaced)
		if n := w.metricOf("limited_total", "connections_per_user"); n != 1 {
			t.Errorf("%v counted", n)
		}
		for _, c := range []*client{second, third, other} {
			c.quiet()
		}
		_ = second.nc.Close() // who leaves makes room
		until(t, "the end", func() bool { return w.server.Connections() == 2 })
		fourth := w.connected()
		third.quiet()
		for _, c := range []*client{third, fourth, other} {
			_ = c.nc.Close()
		}
		w.forgets()
	})
}

func TestHandshakeRate(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, limited(edge.Limits{HandshakesPerS: 2}))
		good, bad := 0, 0
		for range 30 {
			c := w.dial()
			c.write([]byte(upgradeHead))
			resp, _ := c.answer()
			switch resp.StatusCode {
			case http.StatusSwitchingProtocols:
				good++
			case http.StatusServiceUnavailable:
				bad++
				if resp.Header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
			default:
				t.Fatal(resp.Status)
			}
			_ = c.nc.Close()
		}
		if n := w.metricOf("limited_total", "handshakes"); good < 4 || bad == 0 || n != float64(bad) {
			t.Errorf("%d good, %d refused, %v counted", good, bad, n)
		}
	})
}

func TestHandshaking(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) {
			c.Loops, c.Limits.Handshaking = 1, 2
		})
		before := w.connected() // is one no more
		half := []*client{w.dial(), w.dial()}
		until(t, "two heads to come", func() bool { _, _, n, _ := w.server.Counted(); return n == 2 })
		for range 3 {
			w.dial().refused(http.StatusServiceUnavailable)
		}
		if n := w.metricOf("limited_total", "handshaking"); n != 3 {
			t.Errorf("%v counted", n)
		}
		before.quiet()
		half[0].write([]byte(upgradeHead))
		half[0].switched()
		w.connected()
		_ = half[1].nc.Close()
		w.forgets()
	})
}

// TestManyStall: 500 sockets that send their head byte by byte and 500 that stop inside a frame cost others nothing, and leave
// nothing behind.
func TestManyStall(t *testing.T) {
	if testing.Short() {
		t.Skip("opens a thousand sockets and counts what the whole process holds")
	}
	for _, portable := range []bool{false, true} {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) {
			c.Limits = edge.DefaultLimits()
			c.Limits.HandshakesPerS = 0
		})
		other := w.connected()
		goroutines, files := runtime.NumGoroutine(), descriptors(t)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var stalled []*client
		f := text(`{"id":2,"op":"ping"}`)
		w.worker.script(contracts.OpConnect, func(q *asked) { q.answer(connectAnswer(contracts.UserID(strconv.FormatUint(q.Conn, 10)), 3600e9)) })
		for i := range 500 {
			c := w.open()
			c.say(`{"id":1,"op":"connect","guest":"Ada"}`)
			c.reply(1)
			c.write(f[:1+i%(len(f)-1)])
			stalled = append(stalled, c)
		}
		for range 500 {
			stalled = append(stalled, w.dial())
		}
		for at := range 10 {
			for _, c := range stalled[500:] {
				c.write([]byte{upgradeHead[at]})
			}
			other.quiet()
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int(after.HeapAlloc) - int(before.HeapAlloc); grown > 64<<20 {
			t.Errorf("1,000 stalled sockets hold %d bytes", grown)
		}
		w.connected()
		for _, c := range stalled {
			_ = c.nc.Close()
		}
		until(t, "what was there before", func() bool {
			return w.server.Connections() == 2 && runtime.NumGoroutine() <= goroutines+4 && descriptors(t) <= files+2
		})
		other.quiet()
	}
}

// TestHandshakeFlood: more handshakes than are taken, at once; whoever is refused is told, and those who are in do not notice.
func TestHandshakeFlood(t *testing.T) {
	if testing.Short() {
		t.Skip("opens thousands of sockets")
	}
	w := newWorld(t, false, func(c *edge.Config, _ *edge.Deps) { c.Limits = edge.Limits{HandshakesPerS: 50, Handshaking: 100} })
	other := w.connected()
	files := descriptors(t)
	refused := 0
	for range 10 {
		var wave []*client
		for range 150 {
			c := w.dial()
			wave = append(wave, c)
		}
		for _, c := range wave {
			_, _ = c.nc.Write([]byte(upgradeHead))
		}
		for _, c := range wave {
			resp, err := http.ReadResponse(c.r, nil)
			if err == nil && resp.StatusCode == http.StatusServiceUnavailable {
				refused++
			}
			_ = c.nc.Close()
		}
		other.quiet()
	}
	if refused == 0 {
		t.Error("nobody was refused")
	}
	if n := w.metricOf("limited_total", "handshaking") + w.metricOf("limited_total", "handshakes"); n < float64(refused) {
		t.Errorf("%v counted, %d refused", n, refused)
	}
	until(t, "what was there before", func() bool { return w.server.Connections() == 1 && descriptors(t) <= files })
	w.forgets()
}
