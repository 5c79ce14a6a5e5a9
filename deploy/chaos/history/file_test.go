package history_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

func key(t *testing.T) contracts.Key {
	t.Helper()
	k, err := contracts.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestReadGivesWhatWasWritten(t *testing.T) {
	k := key(t)
	want := []history.Event{
		{Kind: history.Sent, At: 17, Client: "c1", Conn: 2, Room: "r", User: "u", Key: k, Hash: history.HashBody("<hi>")},
		{Kind: history.Joined, At: 18, Client: "c1", Conn: 2, Room: "r", Since: &history.Position{Epoch: 1, Seq: 4}, State: contracts.JoinComplete, Epoch: 1, Head: 5, First: 1,
			Entries: []history.Entry{{Seq: 5, Epoch: 1, Key: k, Sender: "u", Hash: strings.Repeat("x", 300<<10)}}},
		{Kind: history.Probe, At: 19, Process: "edge-1", Phase: history.Final, Up: true, Metrics: map[string]float64{"a_total": 3}, Descriptors: 9},
	}
	var file bytes.Buffer
	w := history.NewWriter(&file)
	for _, e := range want {
		w.Add(e)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// The writer of the second file was killed in the middle of a line.
	for name, content := range map[string]string{"a.jsonl": file.String(), "b.jsonl": "{\"kind\":\"heal\",\"at\":20}\n{\"kind\":\"clo"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want = append(want, history.Event{Kind: history.Heal, At: 20, Source: "b.jsonl:1"})
	want[0].Source, want[1].Source, want[2].Source = "a.jsonl:1", "a.jsonl:2", "a.jsonl:3"
	var got []history.Event
	if err := history.ReadDir(dir, func(e history.Event) { got = append(got, e) }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read something else (-written +read):\n%s", diff)
	}
}

func TestReadNamesTheLineItCannotRead(t *testing.T) {
	err := history.Read("x.jsonl", strings.NewReader("{\"kind\":\"heal\"}\n{\"kind\":\n"), func(history.Event) {})
	if err == nil || !strings.Contains(err.Error(), "x.jsonl:2") {
		t.Errorf("got %v, want an error about x.jsonl:2", err)
	}
	if err := history.ReadDir(t.TempDir(), func(history.Event) {}); err == nil {
		t.Error("an empty folder was read as a history")
	}
}

func TestSharedNowGoesOn(t *testing.T) {
	if a, b := history.SharedNow(), history.SharedNow(); a <= 0 || b < a {
		t.Errorf("the clock read %d, then %d", a, b)
	}
}
