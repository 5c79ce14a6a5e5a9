package edge_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/parley-chat/parley/edge"
)

func TestClientIP(t *testing.T) {
	l := &edge.Limits{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48"), netip.MustParsePrefix("192.0.2.1/32")}}
	for _, row := range []struct {
		name, peer, told string
		forwarded        []string
		want             string
	}{
		{"a public peer", "203.0.113.7", "", nil, "203.0.113.7"},
		{"a public peer is not believed", "203.0.113.7", "", []string{"198.51.100.1"}, "203.0.113.7"},
		{"a private peer is nobody", "192.168.1.1", "", nil, ""},
		{"a private peer is not believed", "192.168.1.1", "", []string{"198.51.100.1"}, ""},
		{"loopback", "127.0.0.1", "", nil, ""},
		{"loopback 6", "::1", "", nil, ""},
		{"link-local", "fe80::1%eth0", "", nil, ""},
		{"carrier", "100.64.3.4", "", nil, ""},
		{"none", "", "", nil, ""},
		{"mapped", "::ffff:203.0.113.7", "", nil, "203.0.113.7"},
		{"a trusted peer", "10.1.2.3", "", []string{"198.51.100.1"}, "198.51.100.1"},
		{"a trusted peer, mapped", "::ffff:10.1.2.3", "", []string{"198.51.100.1"}, "198.51.100.1"},
		{"a trusted peer says nothing", "10.1.2.3", "", nil, ""},
		{"a trusted peer says nonsense", "10.1.2.3", "", []string{"unknown"}, ""},
		{"the client's own words come first", "10.1.2.3", "", []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1"},
		{"two trusted proxies", "10.1.2.3", "", []string{"198.51.100.1, 10.9.9.9"}, "198.51.100.1"},
		{"two lines", "10.1.2.3", "", []string{"1.1.1.1", "198.51.100.1,192.0.2.1"}, "198.51.100.1"},
		{"with a port", "10.1.2.3", "", []string{"198.51.100.1:1234"}, "198.51.100.1"},
		{"6 with a port", "10.1.2.3", "", []string{"[2001:db8::1]:1234"}, "2001:db8::1"},
		{"6 in brackets", "10.1.2.3", "", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"a client inside", "10.1.2.3", "", []string{"192.168.7.7"}, "192.168.7.7"},
		{"trusted all the way", "10.1.2.3", "", []string{"10.1.1.1"}, ""},
		{"told", "10.1.2.3", "203.0.113.7", nil, "203.0.113.7"},
		{"told, private", "10.1.2.3", "192.168.7.7", nil, "192.168.7.7"},
		{"told, is a proxy", "10.1.2.3", "2001:db8:1::5", []string{"198.51.100.1"}, "198.51.100.1"},
		{"told, not believed further", "10.1.2.3", "203.0.113.7", []string{"198.51.100.1"}, "203.0.113.7"},
	} {
		if got := edge.ClientIP(l, row.peer, row.told, row.forwarded...); got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}

func proxy2(command, family byte, block string) string {
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{command, family, byte(len(block) >> 8), byte(len(block))}) + block
}

var proxyHeaders = []struct {
	name, header string
	told         string // "": the proxy's own
	ok           bool
}{
	{"v1 TCP4", "PROXY TCP4 203.0.113.7 10.0.0.1 5000 80\r\n", "203.0.113.7", true},
	{"v1 TCP6", "PROXY TCP6 2001:db8::7 ::1 5000 80\r\n", "2001:db8::7", true},
	{"v1 unknown", "PROXY UNKNOWN\r\n", "", true},
	{"v1 unknown with more", "PROXY UNKNOWN ffff:: ffff:: 1 2\r\n", "", true},
	{"v1 mixed", "PROXY TCP6 203.0.113.7 10.0.0.1 5000 80\r\n", "", false},
	{"v1 no address", "PROXY TCP4 x 10.0.0.1 5000 80\r\n", "", false},
	{"v1 too few", "PROXY TCP4 203.0.113.7\r\n", "", false},
	{"v1 too long", "PROXY TCP4 " + strings.Repeat("1", 100) + "\r\n", "", false},
	{"v2 TCP4", proxy2(0x21, 0x11, "\xcb\x00\x71\x07\x0a\x00\x00\x01\x13\x88\x00\x50"), "203.0.113.7", true},
	{"v2 with more", proxy2(0x21, 0x11, "\xcb\x00\x71\x07\x0a\x00\x00\x01\x13\x88\x00\x50\x03\x00\x04abcd"), "203.0.113.7", true},
	{"v2 TCP6", proxy2(0x21, 0x21, "\x20\x01\x0d\xb8"+strings.Repeat("\x00", 11)+"\x07"+strings.Repeat("\x00", 20)), "2001:db8::7", true},
	{"v2 local", proxy2(0x20, 0, ""), "", true},
	{"v2 unix", proxy2(0x21, 0x31, strings.Repeat("x", 216)), "", true},
	{"v2 too short", proxy2(0x21, 0x11, "\xcb\x00\x71\x07"), "", false},
	{"v2 version", proxy2(0x11, 0x11, "\xcb\x00\x71\x07\x0a\x00\x00\x01\x13\x88\x00\x50"), "", false},
	{"v2 command", proxy2(0x22, 0x11, "\xcb\x00\x71\x07\x0a\x00\x00\x01\x13\x88\x00\x50"), "", false},
	{"v2 too long", proxy2(0x21, 0x11, strings.Repeat("x", 2000)), "", false},
	{"none", "GET / HTTP/1.1\r\n", "", false},
	{"almost", "PROXX", "", false},
}

func TestReadProxy(t *testing.T) {
	for _, row := range proxyHeaders {
		for cut := range len(row.header) {
			if _, n, ok := edge.ReadProxy([]byte(row.header[:cut])); row.ok && (n != 0 || !ok) {
				t.Errorf("%s: %d bytes of it are read as %d, %v", row.name, cut, n, ok)
			}
		}
		told, n, ok := edge.ReadProxy([]byte(row.header + "GET"))
		switch {
		case ok != row.ok:
			t.Errorf("%s: read %v", row.name, ok)
		case ok && (n != len(row.header) || told.IsValid() != (row.told != "") || told.IsValid() && told.String() != row.told):
			t.Errorf("%s: %d of %d bytes, %s", row.name, n, len(row.header), told)
		}
	}
}

func FuzzProxy(f *testing.F) {
	for _, row := range proxyHeaders {
		f.Add([]byte(row.header))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		told, n, ok := edge.ReadProxy(b)
		if n > len(b) || !ok && (n != 0 || told.IsValid()) || n == 0 && told.IsValid() {
			t.Errorf("%q: %d bytes, %s, %v", b, n, told, ok)
		}
	})
}
