package contracts_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
)

var connects = []contracts.ConnectOK{
	{},
	{
		User: contracts.Person{ID: "g-1", Name: "A \"ä😀\u2028<&>", Guest: true}, Token: "a.b.c", Expires: 1 << 52, ExpiresInMS: -7, Session: "s", Time: 5, Ping: 25,
		Limits: contracts.Limits{
			TextBytes: 1, TextRunes: 2, FrameBytes: 3, MetaBytes: 4, ReplyBytes: 1 << 40, Page: 6, ResumeEntries: 7, Rooms: 8, SendsPerS: 2.5,
			FramesPerS: 1e30, KeyAgeMS: 1 << 50,
		},
		Durability: "d\\", Server: contracts.Server{Name: "parley", Version: "v1 \x01", Node: "n"},
	},
	{Limits: contracts.Limits{SendsPerS: 1e-9, FramesPerS: -20}},
}

// TestAppendConnectOK against the encoder that reflects.
func TestAppendConnectOK(t *testing.T) {
	for i := range connects {
		want := connects[i]
		var got contracts.ConnectOK
		b := contracts.AppendConnectOK([]byte("x"), &want)
		if err := json.Unmarshal(b[1:], &got); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		var fields, wanted map[string]any
		plain, err := contracts.Marshal(&want)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b[1:], &fields); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(plain, &wanted); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wanted, fields); diff != "" {
			t.Errorf("-json +got:\n%s", diff)
		}
		a, err := contracts.Marshal(&contracts.Answer{Connected: &contracts.Connected{User: want.User, Expires: want.Expires, OK: &want}})
		if err != nil {
			t.Fatal(err)
		}
		sameAnswer(t, a)
	}
}

// TestDecodeWithoutReflection: what each connect, join and send costs an edge or a worker is read without it.
func TestDecodeWithoutReflection(t *testing.T) {
	a, err := contracts.Marshal(&contracts.Answer{Connected: &contracts.Connected{User: connects[1].User, Expires: 9, OK: &connects[1]}})
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{
		string(a), `{"ok":{},"joined":{"state":"new","epoch":1,"head":2}}`, `{"connected":{"user":{"id":"a","name":"b"},"expires":5},"ok":{}}`,
	} {
		if !contracts.DecodesAnswer([]byte(data)) {
			t.Errorf("answer %s is left to encoding/json", data)
		}
	}
	for _, data := range []string{
		`{"op":"connect","node":"e","conn":1,"left_ms":5,"body":{}}`,
		`{"op":"join","node":"e","conn":1,"left_ms":5,"user":{"id":"x","name":"y"},"room":"a","passed":{"epoch":1,"seq":2},"body":{}}`,
	} {
		if !contracts.DecodesCommand([]byte(data)) {
			t.Errorf("command %s is left to encoding/json", data)
		}
	}
}

func BenchmarkDecodeConnected(b *testing.B) {
	data, err := contracts.Marshal(&contracts.Answer{Connected: &contracts.Connected{User: connects[1].User, Expires: 9, OK: &connects[1]}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var a contracts.Answer
		if err := contracts.DecodeAnswer(data, &a); err != nil {
			b.Fatal(err)
		}
	}
}
