package workers_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/workers"
)

// What is put together by hand must be what encoding/json makes of the contract's types.
func TestHandEncodings(t *testing.T) {
	f := newWorld(t, nil)
	for _, n := range []contracts.Seq{0, 1, 3} {
		entries := f.numbered("lobby", 1, n)
		raw := make([]json.RawMessage, 0, n)
		for _, e := range entries {
			raw = append(raw, e.JSON)
		}
		same := func(name string, got []byte, v any) {
			t.Helper()
			want, err := contracts.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("%s:\n%s, want\n%s", name, got, want)
			}
		}
		j := contracts.JoinOK{Room: "a-b_C", State: contracts.JoinMore, Epoch: 1<<32 - 1, Head: contracts.MaxInt, First: 1, Online: 12, Entries: raw}
		same("join", workers.JoinOK(&j, entries), j)
		h := contracts.HistoryOK{Epoch: 2, Head: 99, More: n > 1, Entries: raw}
		same("history", workers.HistoryOK(&h, entries), h)
		key := contracts.Key{1, 2, 3, 6: 0x7f, 8: 0xbf}
		same("send", workers.SendOK(key, 1_790_000_000_000), contracts.SendOK{Key: key, Time: 1_790_000_000_000})
		for _, a := range []contracts.Answer{
			{OK: json.RawMessage("{}")},
			{OK: workers.HistoryOK(&h, entries)},
			{OK: workers.JoinOK(&j, entries), Joined: &contracts.Joined{State: contracts.JoinReset, Epoch: 3, Head: 7}},
			{Err: contracts.BadField("text", "text must be a string")},
			{OK: json.RawMessage("{}"), Entries: entries},
			{Batch: []contracts.Answer{{OK: json.RawMessage("{}")}, {Err: contracts.NewError(contracts.CodeOverloaded, "x")}}},
			{Connected: &contracts.Connected{User: ada, Expires: 5, OK: &contracts.ConnectOK{User: ada}}},
			{Connected: &contracts.Connected{User: contracts.Person{ID: "g-1", Name: "<\"é", Guest: true}, Expires: 5}, OK: json.RawMessage(`{"a":1}`)},
		} {
			got, err := workers.EncodeAnswer(&a, 0)
			if err != nil {
				t.Fatal(err)
			}
			same("answer", got, a)
		}
	}
	if _, err := workers.EncodeAnswer(&contracts.Answer{OK: json.RawMessage(`"` + strings.Repeat("x", 100) + `"`)}, 100); err == nil {
		t.Error("an answer above the limit was encoded")
	}
}
