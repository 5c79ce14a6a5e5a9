//go:build linux

package edge

import (
	"encoding/json"
	"net"
	"syscall"
	"testing"
)

// Raw is one side of a take-over that a test plays.
type Raw struct {
	t testing.TB
	l *link
}

// DialRaw is a successor.
func DialRaw(t testing.TB, path string) *Raw {
	t.Helper()
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return newRaw(t, nc.(*net.UnixConn))
}

// AcceptRaw is a predecessor that waits for one successor and then plays it.
func AcceptRaw(t testing.TB, path string, play func(*Raw)) (done chan struct{}) {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	done = make(chan struct{})
	go func() {
		defer close(done)
		nc, err := ln.AcceptUnix()
		_ = ln.Close()
		if err != nil {
			t.Error(err)
			return
		}
		r := newRaw(t, nc)
		defer r.Close()
		play(r)
	}()
	return done
}

func newRaw(t testing.TB, nc *net.UnixConn) *Raw {
	l, err := newLink(nc)
	if err != nil {
		t.Error(err)
		_ = nc.Close()
	}
	return &Raw{t: t, l: l}
}

// Send sends a message of a kind with a JSON body and sockets.
func (r *Raw) Send(kind byte, body string, sockets ...syscall.Conn) {
	var fds []int
	for _, s := range sockets {
		fd, err := duplicate(s)
		if err != nil {
			r.t.Error(err)
			return
		}
		fds = append(fds, fd)
	}
	if err := r.l.sendRaw(kind, []byte(body), fds); err != nil {
		r.t.Logf("send %q: %v", kind, err)
	}
	closeAllRaw(fds)
}

// Expect receives a message of one kind and drops its descriptors.
func (r *Raw) Expect(kind byte) (body string) {
	got, b, fds, err := r.l.receive(Patience)
	closeAllRaw(fds)
	if err != nil || got != kind {
		r.t.Errorf("got %q %s, %v instead of message %q", got, b, err, kind)
	}
	return string(b)
}

// Got reports whether a message of that kind comes next.
func (r *Raw) Got(kind byte) bool {
	got, _, fds, err := r.l.receive(Patience)
	closeAllRaw(fds)
	return err == nil && got == kind
}

// Close ends it.
func (r *Raw) Close() { r.l.close() }

// Hello is a hello that suits an edge of newWorld, with a change.
func Hello(change map[string]any) string {
	m := map[string]any{"version": takeOverVersion, "build": "test", "listen": "127.0.0.1:0", "prefix": "", "partitions": 8, "descriptors": 20000}
	for k, v := range change {
		m[k] = v
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// Former is how many ids of a predecessor are kept.
func (s *Server) Former() (n int) {
	s.former.Range(func(any, any) bool { n++; return true })
	return n
}
