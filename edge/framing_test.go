package edge_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

func TestFramesInPieces(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		c := w.connected()
		for _, b := range text(`{"id":2,"op":"ping"}`) {
			c.write([]byte{b})
		}
		c.reply(2)

		var many []byte
		for id := 3; id < 3000; id++ {
			many = append(many, text(`{"id":%d,"op":"ping"}`, id)...)
		}
		go func() { _, _ = c.nc.Write(many) }()
		for id := 3; id < 3000; id++ {
			c.reply(uint64(id))
		}

		whole := []byte(`{"id":3000,"op":"ping"}`)
		c.write(frame(0x01, whole[:5]))
		c.write(frame(0x89, []byte("between")))
		c.write(frame(0x00, whole[5:9]))
		c.write(frame(0x80, whole[9:]))
		if m := c.get(); m.op != 10 || m.raw != "between" {
			t.Fatalf("got %q instead of the pong", m.raw)
		}
		c.reply(3000)
		c.write(frame(0x8A, nil)) // a pong that nobody asked for
		c.quiet()
	})
}

func TestBadFrames(t *testing.T) {
	unmasked := []byte{0x81, 2, '{', '}'}
	for _, row := range []struct {
		name  string
		bytes []byte
		code  contracts.CloseCode
	}{
		{"binary", frame(0x82, []byte{1}), contracts.CloseUnsupported},
		{"unmasked", unmasked, contracts.CloseProtocol},
		{"reserved bit", frame(0xC1, []byte("{}")), contracts.CloseProtocol},
		{"reserved opcode", frame(0x83, nil), contracts.CloseProtocol},
		{"continuation first", frame(0x80, nil), contracts.CloseProtocol},
		{"fragmented ping", frame(0x09, nil), contracts.CloseProtocol},
		{"not UTF-8", frame(0x81, []byte{0xFF}), contracts.CloseInvalidUTF8},
		{"too large", []byte{0x81, 0xFF, 0x40, 0, 0, 0, 0, 0, 0, 0}, contracts.CloseTooBig},
		{"one byte too large", frame(0x81, make([]byte, 64<<10+1)), contracts.CloseTooBig},
		{"too many fragments", append(frame(0x01, nil), bytes.Repeat(frame(0x00, nil), 200)...), contracts.ClosePolicy},
		{"close of one byte", frame(0x88, []byte{3}), contracts.CloseProtocol},
		{"close", frame(0x88, []byte{0x03, 0xE8}), contracts.CloseNormal},
		{"close without a code", frame(0x88, nil), contracts.CloseNormal},
		{"close of its own", frame(0x88, []byte{0x0F, 0xA0}), 4000},
	} {
		t.Run(row.name, func(t *testing.T) {
			transports(t, func(t *testing.T, portable bool) {
				w := newWorld(t, portable)
				c := w.connected()
				c.write(row.bytes)
				// Input that nobody reads must not reset the close frame away.
				_, _ = c.nc.Write(bytes.Repeat(text(`{"op":"ping"}`), 2000))
				c.closes(row.code)
				if n := w.metric("closed_total"); n != 1 {
					t.Errorf("%v ends counted", n)
				}
				until(t, "the end", func() bool { return w.server.Connections() == 0 })
			})
		})
	}
}

func TestHangUp(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable)
		// What is sent and the end of input arrive at once: both are seen, without any timer.
		for range 20 {
			c := w.connected()
			_, _ = c.nc.Write(text(`{"op":"ping"}`))
			_ = c.nc.Close()
		}
		until(t, "the ends", func() bool { return w.server.Connections() == 0 })
	})
}

func TestSilence(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.Ping, c.Pong = 250*time.Millisecond, 2*time.Second })
		c := w.connected()
		for range 3 { // who answers stays
			if m := c.get(); m.op != 9 {
				t.Fatalf("got %q instead of a ping", m.raw)
			}
			c.write(frame(0x8A, nil))
		}
		if m := c.get(); m.op != 9 {
			t.Fatalf("got %q instead of a ping", m.raw)
		}
		if m, err := c.next(); err == nil {
			t.Fatalf("got %q instead of the end", m.raw)
		}
		until(t, "the end", func() bool { return w.server.Connections() == 0 })
	})
}

func TestHalfMessage(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.FrameTime = 500 * time.Millisecond })
		slow, quick := w.connected(), w.connected()
		f := text(`{"id":2,"op":"ping"}`)
		slow.write(f[:10])
		for id := range 20 { // costs others nothing
			quick.say(`{"id":%d,"op":"ping"}`, id+1)
			quick.reply(uint64(id + 1))
		}
		slow.closes(contracts.ClosePolicy)
	})
}

func TestCloseUnanswered(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, func(c *edge.Config, _ *edge.Deps) { c.CloseTime = 0 })
		c := w.connected()
		c.write(frame(0x82, nil))
		if m := c.get(); m.closing != contracts.CloseUnsupported {
			t.Fatalf("got %q", m.raw)
		}
		// The client neither answers nor closes: it is waited for, for a while.
		if _, err := c.next(); err != io.EOF {
			t.Fatalf("after the close frame: %v", err)
		}
		until(t, "the end", func() bool { return w.server.Connections() == 0 })
	})
}
