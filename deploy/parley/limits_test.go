//go:build !lean

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// TestDevLimits: `dev --limits` tells a client what holds and exports it; dev without tells and holds nothing.
func TestDevLimits(t *testing.T) {
	for _, on := range []bool{false, true} {
		addr, ops := freeAddr(t), freeAddr(t)
		args := []string{"dev", "--ephemeral", "--edges", "1", "--listen", addr, "--ops", ops, "--log-level", "warn"}
		if on {
			args = append(args, "--limits")
		}
		p := newProc(t, "dev", nil, args...)
		p.start()
		p.ready(ops)
		text := string(httpGet(t, "http://"+ops+"/metrics"))
		want := map[bool]string{false: " 0\n", true: " 20\n"}[on]
		if i := strings.Index(text, "parley_edge_limit_frames_per_second{"); i < 0 || !strings.HasSuffix(text[i:i+strings.IndexByte(text[i:], '\n')+1], want) {
			t.Errorf("limits %v: no gauge of frames with %q", on, want)
		}
		if state := httpGet(t, "http://"+ops+"/readyz?verbose"); !bytes.Contains(state, []byte("breaker closed")) {
			t.Errorf("operators are told %s", state)
		}
		limits := connectLimits(t, addr)
		if on && (limits.FramesPerS != 20 || limits.SendsPerS != 5) || !on && (limits.FramesPerS != 0 || limits.SendsPerS != 0) {
			t.Errorf("limits %v: a client is told %+v", on, limits)
		}
		p.kill()
	}
}

func httpGet(t *testing.T, url string) []byte {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// connectLimits connects by hand and returns the limits of the reply.
func connectLimits(t *testing.T, addr string) contracts.Limits {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(patience))
	const ask = `{"id":1,"op":"connect","guest":"Ada"}`
	head := "GET /v1/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	frame := append([]byte{0x81, 0x80 | byte(len(ask)), 0, 0, 0, 0}, ask...) // masked with zeroes
	if _, err := nc.Write(append([]byte(head), frame...)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(nc)
	if _, err := r.ReadString('{'); err != nil {
		t.Fatal(err)
	}
	var reply struct {
		OK struct{ Limits contracts.Limits }
	}
	if err := json.NewDecoder(io.MultiReader(strings.NewReader("{"), r)).Decode(&reply); err != nil {
		t.Fatal(err)
	}
	return reply.OK.Limits
}
