package edge

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"net/netip"
	"strings"

	"github.com/parley-chat/parley/edge/wire"
)

// Whose connection it is. The peer is the other end of the socket, or the source that a trusted peer's PROXY header
// names. A trusted peer speaks for others: the client is the last address in X-Forwarded-For that is not trusted itself.
//
// A private or loopback peer that nothing vouches for is most likely a balancer, or a machine of one's own: it is nobody
// in particular, and the limit per address is off for it. A balancer with a public address must be named in
// TrustedProxies, or the limit must be switched off, as its clients would share one address.

// clientIP returns the client's address, the zero one where it cannot be told. told is the PROXY header's, if any.
func (l *Limits) clientIP(peer, told netip.Addr, forwarded []string) netip.Addr {
	named := told.IsValid()
	if named {
		peer = told
	}
	peer = peer.Unmap()
	if l.trusts(peer) {
		return l.forwarded(forwarded)
	}
	if !named && nobody(peer) {
		return netip.Addr{}
	}
	return peer
}

// forwarded reads X-Forwarded-For from its end, to which each proxy appends whom it heard.
func (l *Limits) forwarded(lines []string) netip.Addr {
	all := strings.Split(strings.Join(lines, ","), ",")
	for i := len(all) - 1; i >= 0; i-- {
		ip, ok := parseAddr(strings.TrimSpace(all[i]))
		if !ok {
			return netip.Addr{}
		}
		if !l.trusts(ip) {
			return ip
		}
	}
	return netip.Addr{}
}

// parseAddr reads an address with or without a port.
func parseAddr(s string) (netip.Addr, bool) {
	ip, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		with, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		ip = with.Addr()
	}
	return ip.Unmap().WithZone(""), true
}

func (l *Limits) trusts(ip netip.Addr) bool {
	for _, p := range l.TrustedProxies {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// shared is the range of carriers' address translation, RFC 6598: many clients, or a cloud's balancer.
var shared = netip.MustParsePrefix("100.64.0.0/10")

func nobody(ip netip.Addr) bool {
	return !ip.IsValid() || ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || shared.Contains(ip)
}

// forwardedFor are the lines of a request that name whom proxies heard.
func forwardedFor(req *wire.Request) (lines []string) {
	for i := range req.Headers {
		if strings.EqualFold(req.Headers[i].Name, "X-Forwarded-For") {
			lines = append(lines, req.Headers[i].Value)
		}
	}
	return lines
}

var errProxyHeader = &wire.HTTPError{Status: http.StatusBadRequest, Message: "the PROXY protocol is spoken here, by trusted proxies"}

var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

const (
	maxProxyLine  = 107 // version 1, line end included
	maxProxyBlock = 1024
)

// readProxy reads the header of the PROXY protocol that b begins with, version 1 or 2. n is its length, 0 where it is not
// complete; told is the zero address where the proxy speaks for itself or does not know.
func readProxy(b []byte) (told netip.Addr, n int, bad *wire.HTTPError) {
	switch {
	case bytes.HasPrefix(b, proxySignature):
		return readProxy2(b)
	case bytes.HasPrefix(b, []byte("PROXY ")):
	case bytes.HasPrefix(proxySignature, b), bytes.HasPrefix([]byte("PROXY "), b):
		return told, 0, nil
	default:
		return told, 0, errProxyHeader
	}
	line, _, whole := bytes.Cut(b[:min(len(b), maxProxyLine)], []byte("\r\n"))
	if !whole {
		if len(b) >= maxProxyLine {
			return told, 0, errProxyHeader
		}
		return told, 0, nil
	}
	n = len(line) + 2
	fields := strings.Split(string(line), " ")
	if fields[1] == "UNKNOWN" {
		return told, n, nil
	}
	if len(fields) != 6 || fields[1] != "TCP4" && fields[1] != "TCP6" {
		return told, 0, errProxyHeader
	}
	told, err := netip.ParseAddr(fields[2])
	if err != nil || told.Is4() != (fields[1] == "TCP4") {
		return netip.Addr{}, 0, errProxyHeader
	}
	return told.Unmap().WithZone(""), n, nil
}

func readProxy2(b []byte) (told netip.Addr, n int, bad *wire.HTTPError) {
	if len(b) < 16 {
		return told, 0, nil
	}
	command, family, size := b[12], b[13], int(binary.BigEndian.Uint16(b[14:]))
	if command>>4 != 2 || command&0xF > 1 || size > maxProxyBlock {
		return told, 0, errProxyHeader
	}
	if n = 16 + size; len(b) < n {
		return told, 0, nil
	}
	block := b[16:n]
	switch {
	case command&0xF == 0: // LOCAL: the proxy's own, a health check
	case family>>4 == 1 && size >= 12:
		told = netip.AddrFrom4([4]byte(block))
	case family>>4 == 2 && size >= 36:
		told = netip.AddrFrom16([16]byte(block)).Unmap()
	case family>>4 == 1 || family>>4 == 2:
		return told, 0, errProxyHeader
	}
	return told, n, nil
}
