package contracts_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
)

var commands = []string{
	`{"op":"send","node":"edge-1","conn":7,"left_ms":4999,"user":{"id":"ann","name":"Ann"},"room":"lobby","body":{"id":1,"op":"send","room":"lobby","text":"hi"}}`,
	`{"op":"send","node":"edge-1","conn":18446744073709551615,"left_ms":1,"user":{"id":"g-1","name":"A \"\u00e4\ud83d\ude00\"","guest":true},"room":"lobby","batch":[{"id":1}, {"id":2} ,3]}`,
	`{"op":"send","node":"e","left_ms":-5,"batch":[],"token":"a.b.c"}`,
	`{"op":"join","node":"e","left_ms":5,"passed":{"epoch":1,"seq":2},"body":{}}`,
	`{"op":"gone","node":"e","left_ms":5,"gone":[{"room":"a","user":{"id":"x","name":"y"}}]}`,
	`{"op":"ping","node":"e","left_ms":5,"user":null,"body":null,"batch":null,"conn":null}`,
	`{"op":"ping","op":"send","node":"e"}`,
	`{"OP":"ping","node":"e","unknown":[1,2]}`,
	`{"op":"ping","node":"\ud800","user":{"id":"x","name":"y","guest":false,"more":1}}`,
	`{"op":1}`, `{"conn":1.5}`, `{"conn":-1}`, `{"left_ms":1e3}`, `{"user":[]}`, `{"user":{"guest":1}}`, `{"batch":{}}`,
	`{"user":{"id":"x"},"user":{"name":"y"}}`, `{"batch":[1],"batch":[2,3]}`, `{"conn":1,"conn":2}`, `{"body":{"a":1},"body":null}`, `{"left_ms":-}`, `{"left_ms":`, `{"user":{"guest":t}}`, `{"user":{"guest":true}`,
	`[]`, `null`, ``, `{`, `{} x`, "\xff", `{"op":"` + "\xff" + `"}`,
}

var answers = []string{
	`{"connected":{"user":{"id":"a","name":"b","guest":true},"expires":5,"ok":{"user":{"id":"a","name":"b"},"expires":5,"expires_in_ms":-1,"session":"s","time":1,"ping":2,"limits":{"text_bytes":1,"sends_per_s":1.5},"durability":"d","server":{"name":"n","version":"v","node":"e"}}}}`,
	`{"connected":null}`, `{"connected":{"ok":null}}`, `{"connected":{"ok":{"limits":[]}}}`, `{"connected":{"ok":{"ping":1.5}}}`, `{"connected":{"ok":{"limits":{"sends_per_s":1e999}}}}`,
	`{"connected":{"ok":{"limits":{"page":1e2}}}}`, `{"connected":{"ok":{"limits":{"frames_per_s":-0.5e-3}}}}`, `{"connected":{"expires":9223372036854775808}}`, `{"connected":{"Expires":1}}`,
	`{"ok":{"key":"k","time":5}}`, `{"ok":{}}`, `{"ok":null}`, `{"batch":[]}`, `{"batch":[{"ok":{"key":"k"}},{"ok":7}]}`,
	`{"batch":[{"ok":{}},{"err":{"code":"internal","message":"m"}}]}`, `{"batch":[{"batch":[{"ok":1}]}]}`, `{"batch":[null]}`,
	`{"err":{"code":"internal","message":"m"}}`, `{"ok":{},"joined":{"state":"new","epoch":1,"head":2}}`, `{}`, `{"ok":1,"ok":2}`,
	`{"ok":{},"joined":{"state":"new","epoch":"1"}}`, `{"joined":{},"ok":{}}`, `{"ok":{},"joined":null}`, `{"ok":{},"joined":{"head":-1}}`,
	`{"ok":{},"batch":[],"joined":{"epoch":18446744073709551615,"more":1}}`,
	`{"ok":{},"joined":{"epoch":4294967296}}`, `{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"k":1,"l":1,"m":1}`,
	`{"connected":{},"connected":{"expires":5}}`, `{"connected":{"ok":{"ping":1},"ok":{"time":2}}}`, `{"connected":{"ok":{"limits":{"page":1},"limits":{"rooms":2}}}}`,
	`{"ok":{},"joined":{"head":1},"joined":{"epoch":2}}`, `{"batch":[{"ok":1}],"batch":[{"joined":{"head":2}}]}`, `{"ok":{},}`, `{,"ok":{}}`, `{"ok":{}"batch":[]}`,
	`{"batch":[,]}`, `{"batch":[{"ok":1},]}`, ` { "ok" : { } , "joined" : { "head" : 1 } } `, `{"o\u006b":{}}`, `{"ok":{"a":1,"a":2}}`, `{"ok":01}`, `{"ok":`, `{"batch":[`,
	`[]`, `null`, ``, `{"ok"}`, `{"ok":{}`, `{"batch":7}`, ` {"ok":1}`,
}

func sameCommand(t *testing.T, data []byte) {
	t.Helper()
	var got, want contracts.Command
	wantErr := json.Unmarshal(data, &want)
	err := contracts.DecodeCommand(data, &got)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("DecodeCommand(%q): %v, want %v", data, err, wantErr)
	}
	if diff := cmp.Diff(want, got); diff != "" && err == nil {
		t.Errorf("DecodeCommand(%q), -json +got:\n%s", data, diff)
	}
}

func sameAnswer(t *testing.T, data []byte) {
	t.Helper()
	var got, want contracts.Answer
	wantErr := json.Unmarshal(data, &want)
	err := contracts.DecodeAnswer(data, &got)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("DecodeAnswer(%q): %v, want %v", data, err, wantErr)
	}
	if diff := cmp.Diff(want, got); diff != "" && err == nil {
		t.Errorf("DecodeAnswer(%q), -json +got:\n%s", data, diff)
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for _, s := range commands {
		f.Add([]byte(s))
	}
	f.Fuzz(sameCommand)
}

func FuzzDecodeAnswer(f *testing.F) {
	for _, s := range answers {
		f.Add([]byte(s))
	}
	f.Fuzz(sameAnswer)
}

func TestAppendAnswers(t *testing.T) {
	ok := contracts.Answer{OK: json.RawMessage(`{"key":"k"}`)}
	for _, list := range [][]contracts.Answer{{ok}, {ok, ok, ok}} {
		want, err := contracts.Marshal(&contracts.Answer{Batch: list})
		if err != nil {
			t.Fatal(err)
		}
		if got, all := contracts.AppendAnswers(nil, list); !all || string(got) != string(want) {
			t.Errorf("AppendAnswers = %s, %v; want %s", got, all, want)
		}
	}
	failed := contracts.Answer{Err: contracts.NewError(contracts.CodeInternal, "m")}
	if got, all := contracts.AppendAnswers([]byte("x"), []contracts.Answer{ok, failed}); all || string(got) != "x" {
		t.Errorf("AppendAnswers with an error = %s, %v; want x, false", got, all)
	}
}

func BenchmarkDecodeCommand(b *testing.B) {
	data := []byte(commands[0])
	b.Run("json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var c contracts.Command
			if err := json.Unmarshal(data, &c); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var c contracts.Command
			if err := contracts.DecodeCommand(data, &c); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecodeAnswer(b *testing.B) {
	data := []byte(`{"batch":[{"ok":{"key":"0197a1b2-0000-7000-8000-000000000000","time":1750000000000}},{"ok":{"key":"0197a1b2-0000-7000-8000-000000000001","time":1750000000000}},{"ok":{"key":"0197a1b2-0000-7000-8000-000000000002","time":1750000000000}}]}`)
	b.Run("json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var a contracts.Answer
			if err := json.Unmarshal(data, &a); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var a contracts.Answer
			if err := contracts.DecodeAnswer(data, &a); err != nil {
				b.Fatal(err)
			}
		}
	})
}
