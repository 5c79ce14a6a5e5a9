package wire_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
	"unsafe"

	"github.com/gobwas/ws"
	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/wire"
)

const (
	continuation = 0x0
	text         = 0x1
	binaryOp     = 0x2
	closeOp      = 0x8
	ping         = 0x9
	pong         = 0xA
	fin          = 0x80
)

// masked is a client's frame. first is its first byte: fin, reserved bits and opcode.
func masked(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n <= 125:
		b = append(b, 0x80|byte(n))
	case n <= 0xFFFF:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{0x1F, 0xA3, byte(len(payload)), 0x5C}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return b
}

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

// raw is bytes as they stand, in hexadecimal with blanks.
func raw(hex string) []byte {
	var b []byte
	for f := range strings.FieldsSeq(hex) {
		var c byte
		if _, err := fmt.Sscanf(f, "%02x", &c); err != nil {
			panic(err)
		}
		b = append(b, c)
	}
	return b
}

// read feeds input in pieces of the given size and tells what came of it, one line per event.
func read(t testing.TB, input []byte, size int, lim *wire.Limits) []string {
	t.Helper()
	var r wire.Reader
	var got []string
	for at := 0; at < len(input); at += size {
		data := bytes.Clone(input[at:min(at+size, len(input))])
		for {
			ev, rest, err := r.Next(data, lim)
			if err != nil {
				if r.Partial() || r.Buffered() != 0 || r.Cap() != 0 {
					t.Fatalf("a failed reader keeps %d bytes", r.Cap())
				}
				return append(got, fmt.Sprintf("fail %d", err.Code))
			}
			if ev.Op == wire.OpNone {
				if len(rest) != 0 {
					t.Fatalf("OpNone with %d bytes left", len(rest))
				}
				break
			}
			got = append(got, describe(ev))
			data = rest
		}
		if !r.Partial() && r.Cap() != 0 {
			t.Fatalf("a buffer of %d bytes is held for nothing", r.Cap())
		}
		if most := 2*(at+len(data)+size) + 128; r.Cap() > most {
			t.Fatalf("a buffer of %d bytes for %d that arrived", r.Cap(), at+size)
		}
	}
	return got
}

func describe(ev wire.Event) string {
	switch ev.Op {
	case wire.OpClose:
		return fmt.Sprintf("close %d %q", ev.Code, ev.Payload)
	case wire.OpPing:
		return fmt.Sprintf("ping %q", ev.Payload)
	case wire.OpPong:
		return fmt.Sprintf("pong %q", ev.Payload)
	case wire.OpText:
		if len(ev.Payload) > 200 {
			return fmt.Sprintf("text of %d, sum %x", len(ev.Payload), sum(ev.Payload))
		}
		return fmt.Sprintf("text %q", ev.Payload)
	}
	return fmt.Sprintf("op %d", ev.Op)
}

func sum(b []byte) (s uint32) {
	for _, c := range b {
		s = s*16777619 ^ uint32(c)
	}
	return s
}

func TestReader(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 4096) // 64 KiB
	fragments := func(n int, payload string) []byte {
		b := masked(text, payload)
		for range n - 2 {
			b = append(b, masked(continuation, payload)...)
		}
		return append(b, masked(fin|continuation, payload)...)
	}
	tests := []struct {
		name  string
		input []byte
		lim   *wire.Limits
		want  []string
	}{
		{name: "text", input: masked(fin|text, "hi"), want: []string{`text "hi"`}},
		{name: "empty text", input: masked(fin|text, ""), want: []string{`text ""`}},
		{name: "text of 125", input: masked(fin|text, big[:125]), want: []string{fmt.Sprintf("text %q", big[:125])}},
		{name: "text of 126", input: masked(fin|text, big[:126]), want: []string{fmt.Sprintf("text %q", big[:126])}},
		{name: "text of 65535", input: masked(fin|text, big[:65535]), want: []string{fmt.Sprintf("text of 65535, sum %x", sum([]byte(big[:65535])))}},
		{name: "text of 64 KiB", input: masked(fin|text, big), want: []string{fmt.Sprintf("text of 65536, sum %x", sum([]byte(big)))}},
		{name: "ping", input: masked(fin|ping, "x"), want: []string{`ping "x"`}},
		{name: "ping of 125", input: masked(fin|ping, big[:125]), want: []string{fmt.Sprintf("ping %q", big[:125])}},
		{name: "pong without payload", input: masked(fin|pong, ""), want: []string{`pong ""`}},
		{name: "fragments", input: join(masked(text, "he"), masked(continuation, "l"), masked(fin|continuation, "lo")), want: []string{`text "hello"`}},
		{name: "empty fragments", input: join(masked(text, ""), masked(continuation, ""), masked(fin|continuation, "")), want: []string{`text ""`}},
		{
			name:  "control frames between fragments",
			input: join(masked(text, "a"), masked(fin|ping, "1"), masked(continuation, "b"), masked(fin|pong, "2"), masked(fin|continuation, "c"), masked(fin|text, "d")),
			want:  []string{`ping "1"`, `pong "2"`, `text "abc"`, `text "d"`},
		},
		{name: "close between fragments", input: join(masked(text, "a"), masked(fin|closeOp, "\x03\xe8bye")), want: []string{`close 1000 "bye"`}},
		{name: "a rune across fragments", input: join(masked(text, "\xe2\x82"), masked(fin|continuation, "\xac")), want: []string{`text "€"`}},
		{name: "64 fragments", input: fragments(64, "x"), want: []string{fmt.Sprintf("text %q", strings.Repeat("x", 64))}},
		{name: "65 fragments", input: fragments(65, "x"), want: []string{"fail 1008"}},
		{name: "200,000 empty fragments", input: fragments(200_000, ""), want: []string{"fail 1008"}},
		{name: "fragments up to the setting", input: fragments(3, "x"), lim: &wire.Limits{Fragments: 3}, want: []string{`text "xxx"`}},
		{name: "fragments above the setting", input: fragments(4, "x"), lim: &wire.Limits{Fragments: 3}, want: []string{"fail 1008"}},

		{name: "unmasked", input: raw("81 02 68 69"), want: []string{"fail 1002"}},
		{name: "unmasked behind a good one", input: join(masked(fin|text, "a"), raw("81 02 68 69")), want: []string{`text "a"`, "fail 1002"}},
		{name: "RSV1", input: masked(fin|0x40|text, "a"), want: []string{"fail 1002"}},
		{name: "RSV2", input: masked(fin|0x20|text, "a"), want: []string{"fail 1002"}},
		{name: "RSV3", input: masked(fin|0x10|ping, "a"), want: []string{"fail 1002"}},
		{name: "fragmented ping", input: masked(ping, "a"), want: []string{"fail 1002"}},
		{name: "fragmented close", input: masked(closeOp, "\x03\xe8"), want: []string{"fail 1002"}},
		{name: "ping of 126", input: masked(fin|ping, big[:126]), want: []string{"fail 1002"}},
		{name: "close of 126", input: masked(fin|closeOp, big[:126]), want: []string{"fail 1002"}},
		{name: "continuation first", input: masked(fin|continuation, "a"), want: []string{"fail 1002"}},
		{name: "continuation behind a message", input: join(masked(fin|text, "a"), masked(continuation, "b")), want: []string{`text "a"`, "fail 1002"}},
		{name: "text inside fragments", input: join(masked(text, "a"), masked(fin|text, "b")), want: []string{"fail 1002"}},
		{name: "binary inside fragments", input: join(masked(text, "a"), masked(fin|binaryOp, "b")), want: []string{"fail 1002"}},
		{name: "binary", input: masked(fin|binaryOp, "a"), want: []string{"fail 1003"}},
		{name: "binary in fragments", input: masked(binaryOp, "a"), want: []string{"fail 1003"}},

		{name: "bad UTF-8", input: masked(fin|text, "a\xffb"), want: []string{"fail 1007"}},
		{name: "half a rune", input: masked(fin|text, "a\xe2\x82"), want: []string{"fail 1007"}},
		{name: "surrogate", input: masked(fin|text, "\xed\xa0\x80"), want: []string{"fail 1007"}},
		{name: "overlong", input: masked(fin|text, "\xc0\xaf"), want: []string{"fail 1007"}},
		{name: "bad UTF-8 across fragments", input: join(masked(text, "\xe2"), masked(fin|continuation, "\x28\xa1")), want: []string{"fail 1007"}},
		{name: "bad UTF-8 in a ping", input: masked(fin|ping, "\xff"), want: []string{`ping "\xff"`}},

		{name: "close without a code", input: masked(fin|closeOp, ""), want: []string{`close 1005 ""`}},
		{name: "close of one byte", input: masked(fin|closeOp, "\x03"), want: []string{"fail 1002"}},
		{name: "close with a reason", input: masked(fin|closeOp, "\x0f\xa0grüß"), want: []string{`close 4000 "grüß"`}},
		{name: "bad UTF-8 in a close reason", input: masked(fin|closeOp, "\x03\xe8\xff"), want: []string{"fail 1007"}},
		{name: "data behind close", input: join(masked(fin|closeOp, "\x03\xe8"), masked(fin|text, "a"), raw("ff ff")), want: []string{`close 1000 ""`}},

		{name: "5 as 16 bits", input: raw("81 fe 00 05 00 00 00 00 61 61 61 61 61"), want: []string{"fail 1002"}},
		{name: "125 as 16 bits", input: raw("81 fe 00 7d"), want: []string{"fail 1002"}},
		{name: "5 as 64 bits", input: raw("81 ff 00 00 00 00 00 00 00 05"), want: []string{"fail 1002"}},
		{name: "65535 as 64 bits", input: raw("81 ff 00 00 00 00 00 00 ff ff"), want: []string{"fail 1002"}},
		{name: "the highest bit of a length", input: raw("81 ff 80 00 00 00 00 01 00 00"), want: []string{"fail 1002"}},
		{name: "2^62", input: raw("81 ff 40 00 00 00 00 00 00 00"), want: []string{"fail 1009"}},
		{name: "2^63-1", input: raw("81 ff 7f ff ff ff ff ff ff ff"), want: []string{"fail 1009"}},
		{name: "2^62 in a fragment", input: join(masked(text, "a"), raw("80 ff 40 00 00 00 00 00 00 00")), want: []string{"fail 1009"}},
		{name: "64 KiB + 1", input: raw("81 ff 00 00 00 00 00 01 00 01"), want: []string{"fail 1009"}},
		{name: "64 KiB + 1 in fragments", input: join(masked(text, big[:65000]), masked(continuation, big[:536]), masked(fin|continuation, "x")), want: []string{"fail 1009"}},
		{name: "size at the setting", input: masked(fin|text, "1234"), lim: &wire.Limits{MessageBytes: 4}, want: []string{`text "1234"`}},
		{name: "size above the setting", input: masked(fin|text, "12345"), lim: &wire.Limits{MessageBytes: 4}, want: []string{"fail 1009"}},
		{name: "a ping is no part of the message", input: join(masked(text, "1234"), masked(fin|ping, "56"), masked(fin|continuation, "")), lim: &wire.Limits{MessageBytes: 4}, want: []string{`ping "56"`, `text "1234"`}},
		{name: "a TLS hello", input: raw("16 03 01 00 f4 01 00 00 f0 03 03"), want: []string{"fail 1002"}},
	}
	for op := range byte(16) {
		if op == 0 || op == 1 || op == 2 || op >= 8 && op <= 10 {
			continue
		}
		tests = append(tests, struct {
			name  string
			input []byte
			lim   *wire.Limits
			want  []string
		}{name: fmt.Sprintf("reserved opcode %d", op), input: masked(fin|op, ""), want: []string{"fail 1002"}})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{len(tt.input), 1, 2, 3, 7, 13, 4096} {
				if size > len(tt.input) {
					continue
				}
				if diff := cmp.Diff(tt.want, read(t, tt.input, size, tt.lim)); diff != "" {
					t.Fatalf("in pieces of %d (-want +got):\n%s", size, diff)
				}
			}
		})
	}
}

func TestReaderCloseCodes(t *testing.T) {
	good := func(c int) bool {
		return c >= 1000 && c <= 1003 || c >= 1007 && c <= 1014 || c >= 3000 && c <= 4999
	}
	for code := 0; code <= 0xFFFF; code++ {
		input := masked(fin|closeOp, string([]byte{byte(code >> 8), byte(code)}))
		want := "fail 1002"
		if good(code) {
			want = fmt.Sprintf("close %d %q", code, "")
		}
		if diff := cmp.Diff([]string{want}, read(t, input, len(input), nil)); diff != "" {
			t.Fatalf("%d: %s", code, diff)
		}
	}
}

// corpus is frames of every kind and length of header, in one stream.
func corpus() []byte {
	return join(
		masked(fin|text, `{"id":1,"op":"connect","guest":"Ada"}`), masked(fin|ping, "p"), masked(text, "gr"), masked(fin|pong, ""),
		masked(continuation, "\xc3"), masked(fin|ping, strings.Repeat("y", 125)), masked(fin|continuation, "\xbc\xc3\x9f"),
		masked(fin|text, strings.Repeat("long ", 60)), masked(fin|text, ""), masked(text, ""), masked(fin|continuation, strings.Repeat("z", 300)),
		masked(fin|closeOp, "\x03\xe9later"), masked(fin|text, "lost"),
	)
}

func TestReaderEveryChop(t *testing.T) {
	input := corpus()
	want := read(t, input, len(input), nil)
	if len(want) != 9 {
		t.Fatalf("%d events in one piece: %q", len(want), want)
	}
	for size := 1; size < len(input); size++ {
		if diff := cmp.Diff(want, read(t, input, size, nil)); diff != "" {
			t.Fatalf("in pieces of %d (-whole +pieces):\n%s", size, diff)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var r wire.Reader
		var got []string
		for rest := bytes.Clone(input); len(rest) > 0; {
			n := min(1+random.IntN(40), len(rest))
			data := rest[:n:n]
			rest = rest[n:]
			for {
				ev, behind, err := r.Next(data, nil)
				if err != nil {
					t.Fatal(err)
				}
				if ev.Op == wire.OpNone {
					break
				}
				got = append(got, describe(ev))
				data = behind
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("in random pieces (-whole +pieces):\n%s", diff)
		}
	}
}

func TestReaderAfterFailure(t *testing.T) {
	var r wire.Reader
	if _, _, err := r.Next(raw("c1 80 00 00 00 00"), nil); err == nil || err.Code != contracts.CloseProtocol {
		t.Fatalf("RSV1: %v", err)
	}
	if ev, _, err := r.Next(masked(fin|text, "a"), nil); err == nil || err.Code != contracts.CloseProtocol {
		t.Fatalf("a frame behind a failure: %v, %v", ev, err)
	}
}

func TestReaderSizeAndState(t *testing.T) {
	var r wire.Reader
	if size := unsafe.Sizeof(r); size > 40 {
		t.Errorf("a Reader takes %d bytes, above 40", size)
	}
	step := func(data []byte, partial bool, buffered int) {
		t.Helper()
		if _, _, err := r.Next(data, nil); err != nil {
			t.Fatal(err)
		}
		if r.Partial() != partial || r.Buffered() != buffered {
			t.Fatalf("partial %v, buffered %d; want %v, %d", r.Partial(), r.Buffered(), partial, buffered)
		}
	}
	step(nil, false, 0)
	frame := masked(fin|text, "hello")
	step(frame[:1], true, 1)
	step(frame[1:8], true, 8)
	step(frame[8:], false, 0)
	step(masked(text, ""), true, 0)
	step(masked(continuation, "abc"), true, 3)
	step(masked(fin|ping, "x")[:3], true, 6)
	step(masked(fin|ping, "x")[3:], true, 3)
	step(masked(fin|continuation, ""), false, 0)
}

// TestReaderAnnounced announces 64 KiB and sends ten bytes: the buffer follows what came.
func TestReaderAnnounced(t *testing.T) {
	var r wire.Reader
	if _, _, err := r.Next(raw("81 ff 00 00 00 00 00 01 00 00 01 02 03 04 05 06 07 08 09 0a"), nil); err != nil {
		t.Fatal(err)
	}
	if r.Cap() > 128 {
		t.Errorf("%d bytes are held for 24 that came", r.Cap())
	}
}

func TestReaderAllocs(t *testing.T) {
	whole := join(masked(fin|text, strings.Repeat("x", 200)), masked(fin|ping, "p"), masked(fin|text, "y"))
	data := bytes.Clone(whole)
	var r wire.Reader
	events := 0
	allocs := testing.AllocsPerRun(100, func() {
		copy(data, whole)
		for rest := data; len(rest) > 0; events++ {
			_, behind, err := r.Next(rest, nil)
			if err != nil {
				t.Fatal(err)
			}
			rest = behind
		}
	})
	if allocs != 0 || events != 3*101 {
		t.Errorf("%v allocations for whole frames, %d events", allocs, events)
	}
}

// TestCipher holds the library's unmasking, which is assembly on some machines, against the definition.
func TestCipher(t *testing.T) {
	const guard = 40
	mask := [4]byte{0xA1, 0x02, 0x7F, 0xC4}
	for length := range 300 {
		for shift := range 17 {
			for offset := range 5 {
				buf := bytes.Repeat([]byte{0x55}, guard+shift+length+guard)
				want := bytes.Clone(buf)
				for i := range length {
					want[guard+shift+i] ^= mask[(offset+i)%4]
				}
				ws.Cipher(buf[guard+shift:guard+shift+length], mask, offset)
				if !bytes.Equal(buf, want) {
					t.Fatalf("length %d, shift %d, offset %d: the bytes differ from the definition", length, shift, offset)
				}
			}
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(corpus(), uint16(1))
	f.Fuzz(func(t *testing.T, input []byte, chop uint16) {
		lim := &wire.Limits{MessageBytes: 512, Fragments: 4}
		size := max(1, int(chop)%(len(input)+1))
		whole := read(t, input, max(1, len(input)), lim)
		if diff := cmp.Diff(whole, read(t, input, size, lim)); diff != "" {
			t.Fatalf("in pieces of %d (-whole +pieces):\n%s", size, diff)
		}
		out := 0
		for _, line := range whole {
			if strings.HasPrefix(line, "text") && !utf8.ValidString(line) {
				t.Fatalf("a message that is not UTF-8: %q", line)
			}
			out++
		}
		if out > len(input)/6+1 {
			t.Fatalf("%d events from %d bytes", out, len(input))
		}
	})
}

func benchmarkReader(b *testing.B, frame []byte, size int) {
	data := bytes.Clone(frame)
	var r wire.Reader
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		copy(data, frame)
		for at := 0; at < len(data); at += size {
			if _, _, err := r.Next(data[at:min(at+size, len(data))], nil); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkReaderWhole100(b *testing.B) {
	frame := masked(fin|text, strings.Repeat("x", 100))
	benchmarkReader(b, frame, len(frame))
}

func BenchmarkReaderWhole16K(b *testing.B) {
	frame := masked(fin|text, strings.Repeat("x", 16<<10))
	benchmarkReader(b, frame, len(frame))
}

func BenchmarkReaderChopped100(b *testing.B) {
	benchmarkReader(b, masked(fin|text, strings.Repeat("x", 100)), 60)
}

func BenchmarkReaderChopped16K(b *testing.B) {
	benchmarkReader(b, masked(fin|text, strings.Repeat("x", 16<<10)), 1460)
}
