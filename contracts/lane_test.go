package contracts_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
)

func envelopes() []contracts.Envelope {
	return []contracts.Envelope{
		{Kind: contracts.EnvelopeEntry, Room: "lobby", Epoch: 1, Seq: 58, Body: []byte(`{"event":"message"}`)},
		{Kind: contracts.EnvelopeHead, Room: "lobby", Epoch: 1<<32 - 1, Seq: contracts.MaxInt, Body: []byte{}},
		{
			Kind: contracts.EnvelopeEvent, Room: contracts.RoomID(strings.Repeat("r", 64)), Body: bytes.Repeat([]byte("x"), 300),
			Except: contracts.Conn{Node: contracts.NodeID(strings.Repeat("n", 64)), ID: 1<<64 - 1},
		},
		{Kind: contracts.EnvelopeEpoch, Epoch: 3, Body: []byte{}},
		{Kind: contracts.EnvelopeLeft, Room: "lobby", User: "ada", Except: contracts.Conn{Node: "edge-1", ID: 7}, Body: []byte(`{"event":"left"}`)},
		{
			Kind: contracts.EnvelopeStored, Room: "lobby", Epoch: 2, Seq: 9, Key: contracts.Key{1, 2, 15: 3},
			Except: contracts.Conn{Node: "edge-1", ID: 7}, Body: []byte{},
		},
		{Kind: 200, Room: "r", Body: []byte{0, 255}}, // a kind of a later release
	}
}

func TestEnvelopeRoundTrip(t *testing.T) {
	want := envelopes()
	var message []byte
	for i := range want {
		message = contracts.AppendEnvelope(message, &want[i])
	}
	var got []contracts.Envelope
	for len(message) > 0 {
		e, rest, err := contracts.NextEnvelope(message)
		if err != nil {
			t.Fatal(err)
		}
		got, message = append(got, e), rest
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("envelopes (-want +got):\n%s", d)
	}
}

func TestNextEnvelopeRefusesEveryTruncation(t *testing.T) {
	for _, e := range envelopes() {
		message := contracts.AppendEnvelope(nil, &e)
		for n := range message {
			if got, _, err := contracts.NextEnvelope(message[:n]); !errors.Is(err, contracts.ErrEnvelope) {
				t.Fatalf("%d of %d bytes of kind %d are read as %+v, %v", n, len(message), e.Kind, got, err)
			}
		}
	}
}

func TestNextEnvelopeRefuses(t *testing.T) {
	tests := map[string]string{
		"empty":            "",
		"JSON":             `{"event":"message"}`,
		"huge length":      "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		"endless length":   "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		"no room":          "\x01\x05\x00\x01\x01\x00\x00",
		"bad room":         "\x01\x08\x03a.b\x01\x01\x00\x00",
		"room too long":    "\x01\x07\x40ab\x01\x01\x00\x00",
		"epoch too large":  "\x01\x0b\x01a\xff\xff\xff\xff\x7f\x01\x00\x00\x00",
		"seq too large":    "\x01\x10\x01a\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00\x00",
		"bad node":         "\x01\x08\x01a\x01\x01\x02a:\x00",
		"inner cut":        "\x01\x02\x01a",
		"longer than told": "\x01\x20\x01a\x01\x01\x00\x00",
	}
	for name, message := range tests {
		if e, _, err := contracts.NextEnvelope([]byte(message)); !errors.Is(err, contracts.ErrEnvelope) {
			t.Errorf("%s is read as %+v, %v", name, e, err)
		}
	}
}

func FuzzNextEnvelope(f *testing.F) {
	var all []byte
	for _, e := range envelopes() {
		all = contracts.AppendEnvelope(all, &e)
		f.Add(contracts.AppendEnvelope(nil, &e))
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, message []byte) {
		for len(message) > 0 {
			e, rest, err := contracts.NextEnvelope(message)
			if err != nil {
				return
			}
			if len(rest) >= len(message) {
				t.Fatal("an envelope of no bytes")
			}
			if !contracts.ValidID(string(e.Room)) && (e.Kind != contracts.EnvelopeEpoch || e.Room != "") {
				t.Fatalf("room %q", e.Room)
			}
			back, rest2, err := contracts.NextEnvelope(contracts.AppendEnvelope(nil, &e))
			if err != nil || len(rest2) != 0 || !cmp.Equal(e, back) {
				t.Fatalf("%+v comes back as %+v, %v", e, back, err)
			}
			message = rest
		}
	})
}
