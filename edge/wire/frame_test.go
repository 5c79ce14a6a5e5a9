package wire_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/gobwas/ws"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/wire"
)

// parse reads one frame with the library and returns what stands behind it.
func parse(t *testing.T, b []byte) (ws.Frame, int) {
	t.Helper()
	r := bytes.NewReader(b)
	h, err := ws.ReadHeader(r)
	if err != nil {
		t.Fatalf("read the header of a frame of %d bytes: %v", len(b), err)
	}
	f := ws.Frame{Header: h, Payload: make([]byte, h.Length)}
	if _, err := io.ReadFull(r, f.Payload); err != nil {
		t.Fatalf("read the payload of a frame of %d bytes: %v", len(b), err)
	}
	if err := ws.CheckHeader(f.Header, ws.StateClientSide); err != nil {
		t.Fatal(err)
	}
	return f, r.Len()
}

func TestAppendText(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, contracts.MaxServerFrame} {
		payload := bytes.Repeat([]byte("x"), n)
		frame := wire.AppendText([]byte("before"), payload)[len("before"):]
		if len(frame) != wire.FrameSize(n) {
			t.Errorf("%d bytes: a frame of %d, FrameSize says %d", n, len(frame), wire.FrameSize(n))
		}
		f, behind := parse(t, frame)
		if behind != 0 || !f.Header.Fin || f.Header.OpCode != ws.OpText || !bytes.Equal(f.Payload, payload) {
			t.Errorf("%d bytes: %+v, %d behind", n, f.Header, behind)
		}
	}
}

func TestAppendControl(t *testing.T) {
	for _, op := range []wire.Op{wire.OpPing, wire.OpPong, wire.OpClose} {
		for _, n := range []int{0, 5, 125, 126} {
			f, behind := parse(t, wire.AppendControl(nil, op, bytes.Repeat([]byte("x"), n)))
			if behind != 0 || !f.Header.Fin || byte(f.Header.OpCode) != byte(op) || len(f.Payload) != min(n, 125) {
				t.Errorf("op %d, %d bytes: %+v", op, n, f.Header)
			}
		}
	}
}

func TestAppendClose(t *testing.T) {
	tests := []struct {
		code   contracts.CloseCode
		reason string
		want   string
	}{
		{contracts.CloseNormal, "", "1000 "},
		{contracts.CloseTooSlow, "too slow", "4440 too slow"},
		{contracts.CloseProtocol, strings.Repeat("x", 200), "1002 " + strings.Repeat("x", 123)},
		{contracts.CloseProtocol, strings.Repeat("€", 50), "1002 " + strings.Repeat("€", 41)},
		{contracts.CloseProtocol, "x" + strings.Repeat("€", 50), "1002 x" + strings.Repeat("€", 40)},
		{contracts.CloseProtocol, strings.Repeat("\x80", 200), "1002 "},
		{1005, "gone", "none"},
		{1006, "gone", "none"},
		{1015, "gone", "none"},
		{0, "gone", "none"},
	}
	for _, tt := range tests {
		f, behind := parse(t, wire.AppendClose(nil, tt.code, tt.reason))
		got := "none"
		if len(f.Payload) > 0 {
			code, reason := ws.ParseCloseFrameData(f.Payload)
			got = fmt.Sprintf("%d %s", code, reason)
		}
		if behind != 0 || f.Header.OpCode != ws.OpClose || got != tt.want {
			t.Errorf("%d %q: %q, want %q", tt.code, tt.reason, got, tt.want)
		}
	}
}

func TestErrorTexts(t *testing.T) {
	if got := (&wire.CloseError{Code: contracts.CloseTooBig, Reason: "too large"}).Error(); got != "1009 too large" {
		t.Error(got)
	}
	if got := (&wire.HTTPError{Status: 403, Message: "no"}).Error(); got != "403 no" {
		t.Error(got)
	}
}

func BenchmarkAppendText(b *testing.B) {
	payload := bytes.Repeat([]byte("x"), 300)
	dst := make([]byte, 0, wire.FrameSize(len(payload)))
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		dst = wire.AppendText(dst[:0], payload)
	}
}
