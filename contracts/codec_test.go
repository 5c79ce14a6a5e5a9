package contracts_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
)

const partitions = contracts.EmbeddedPartitions

func partitionOf(room contracts.RoomID) int32 { return contracts.LaneOf(room).Partition(partitions) }

func TestRecordRoundTrip(t *testing.T) {
	tests := []struct {
		name   string
		change func(r *contracts.Record)
	}{
		{"plain", func(r *contracts.Record) {}},
		{"every field", func(r *contracts.Record) {
			r.ReplyTo = 12
			r.Meta = json.RawMessage(`{"a":[1,{"b":null}],"c":"\ud800"}`)
			r.Told = contracts.Conn{Node: "edge-1", ID: contracts.MaxInt}
		}},
		{"no text", func(r *contracts.Record) { r.Text = "" }},
		{"no name, no guest", func(r *contracts.Record) { r.From = contracts.Person{ID: "u1"} }},
		{"text with everything to escape", func(r *contracts.Record) {
			r.Text = "\x00\x01\x1f\x7f\b\f\r\n\t\"\\/</script>\u2028\u2029\u202e\ufffd\U0001F600"
		}},
		{"largest numbers", func(r *contracts.Record) { r.Stamp, r.ReplyTo = contracts.MaxInt, contracts.MaxInt }},
		{"longest ids", func(r *contracts.Record) {
			r.Room = contracts.RoomID(strings.Repeat("r", contracts.MaxIDLen))
			r.From.ID = contracts.UserID(strings.Repeat("-", contracts.MaxIDLen))
		}},
		{"longest text", func(r *contracts.Record) { r.Text = strings.Repeat("\"", 16<<10) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := sampleRecord()
			tt.change(&want)
			value, err := contracts.EncodeRecord(&want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := contracts.DecodeRecord(value, partitionOf(want.Room), partitions)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("after the round trip (-want +got):\n%s", d)
			}
			var std contracts.Record
			if err := json.Unmarshal(value[2:], &std); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, std); d != "" {
				t.Errorf("as encoding/json reads it (-want +got):\n%s", d)
			}
		})
	}
}

func TestDecodeRecordKeepsNoBytes(t *testing.T) {
	want := sampleRecord()
	want.Meta = json.RawMessage(`{"a":1}`)
	value, err := contracts.EncodeRecord(&want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := contracts.DecodeRecord(value, partitionOf(want.Room), partitions)
	if err != nil {
		t.Fatal(err)
	}
	for i := range value {
		value[i] = 'x'
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("after the bytes were reused (-want +got):\n%s", d)
	}
}

func TestEncodeRecordGolden(t *testing.T) {
	r := sampleRecord()
	r.ReplyTo = 3
	r.Meta = json.RawMessage(`{"color":"red"}`)
	got, err := contracts.EncodeRecord(&r)
	if err != nil {
		t.Fatal(err)
	}
	want := "P\x01" + `{"kind":"message","room":"lobby","from":{"id":"u1","name":"Ada Lovelace","guest":true},` +
		`"key":"01997c1e-5a00-7cc3-98c4-dc0c0c07398f","time":1790000000000,` +
		`"text":"hi everybody, \"how\" is it\ngoing tonight? ✨","reply_to":3,"meta":{"color":"red"}}`
	if string(got) != want {
		t.Errorf("EncodeRecord\n got %s\nwant %s", got, want)
	}
}

func TestEncodeRecordRefusesWhatCannotBeReadBack(t *testing.T) {
	tests := map[string]func(r *contracts.Record){
		"no kind":         func(r *contracts.Record) { r.Kind = "" },
		"bad room":        func(r *contracts.Record) { r.Room = "a.b" },
		"bad sender":      func(r *contracts.Record) { r.From.ID = "" },
		"no key":          func(r *contracts.Record) { r.Key = contracts.Key{} },
		"negative stamp":  func(r *contracts.Record) { r.Stamp = -1 },
		"reply_to":        func(r *contracts.Record) { r.ReplyTo = contracts.MaxInt + 1 },
		"meta not JSON":   func(r *contracts.Record) { r.Meta = json.RawMessage(`{"a":}`) },
		"meta not object": func(r *contracts.Record) { r.Meta = json.RawMessage(`[1]`) },
		"meta twice":      func(r *contracts.Record) { r.Meta = json.RawMessage(`{"a":1,"a":2}`) },
		"meta and more":   func(r *contracts.Record) { r.Meta = json.RawMessage(`{},"text":"other"`) },
		"bad node":        func(r *contracts.Record) { r.Told = contracts.Conn{Node: "a.b", ID: 1} },
		"bad connection":  func(r *contracts.Record) { r.Told = contracts.Conn{Node: "n", ID: contracts.MaxInt + 1} },
		"too large":       func(r *contracts.Record) { r.Text = strings.Repeat("\x01", contracts.MaxRecordBytes/6) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			r := sampleRecord()
			change(&r)
			if value, err := contracts.EncodeRecord(&r); err == nil {
				t.Errorf("encoded as %.200s", value)
			}
		})
	}
}

func TestDecodeRecordRefuses(t *testing.T) {
	const body = `{"kind":"message","room":"lobby","from":{"id":"u1","name":"Ada"},"key":"01997c1e-5a00-7cc3-98c4-dc0c0c07398f","time":1,"text":"hi"}`
	replace := func(old, new string) string {
		if !strings.Contains(body, old) {
			t.Fatalf("%s is not in the record", old)
		}
		return "P\x01" + strings.Replace(body, old, new, 1)
	}
	tests := []struct {
		name, value string
		want        error
	}{
		{"good", "P\x01" + body, nil},
		{"good with an unknown field", replace(`"time"`, `"colour":[1],"time"`), nil},
		{"told nobody", replace(`"time"`, `"told":{"node":"a.b","conn":1},"time"`), nil},
		{"told a number", replace(`"time"`, `"told":7,"time"`), nil},
		{"empty", "", contracts.ErrUndecodable},
		{"header only", "P\x01", contracts.ErrUndecodable},
		{"one byte", "P", contracts.ErrUndecodable},
		{"other magic", "Q\x01" + body, contracts.ErrUndecodable},
		{"version 0", "P\x00" + body, contracts.ErrUndecodable},
		{"next version", "P\x02" + body, contracts.ErrNewerVersion},
		{"next version with other bytes behind", "P\x02\xff\xfe", contracts.ErrNewerVersion},
		{"truncated", ("P\x01" + body)[:60], contracts.ErrUndecodable},
		{"trailing", "P\x01" + body + "x", contracts.ErrUndecodable},
		{"random bytes", "P\x01\x8f\x02\xee", contracts.ErrUndecodable},
		{"not UTF-8", replace("hi", "h\xff"), contracts.ErrUndecodable},
		{"lone surrogate", replace("hi", `\ud800`), contracts.ErrUndecodable},
		{"unknown kind", replace("message", "member"), contracts.ErrUndecodable},
		{"no kind", replace("kind", "kinds"), contracts.ErrUndecodable},
		{"bad room", replace("lobby", "a.b"), contracts.ErrUndecodable},
		{"bad sender", replace("u1", "u 1"), contracts.ErrUndecodable},
		{"sender no object", replace(`{"id":"u1","name":"Ada"}`, `"u1"`), contracts.ErrUndecodable},
		{"no sender", replace(`"from"`, `"to"`), contracts.ErrUndecodable},
		{"no key", replace(`"key"`, `"keys"`), contracts.ErrUndecodable},
		{"key of another version", replace("7cc3", "4cc3"), contracts.ErrUndecodable},
		{"key a number", replace(`"01997c1e-5a00-7cc3-98c4-dc0c0c07398f"`, "12345678901234567890123456789012345678"), contracts.ErrUndecodable},
		{"time negative", replace(`"time":1`, `"time":-1`), contracts.ErrUndecodable},
		{"time a string", replace(`"time":1`, `"time":"1"`), contracts.ErrUndecodable},
		{"text a number", replace(`"hi"`, `1`), contracts.ErrUndecodable},
		{"meta no object", replace(`"hi"`, `"hi","meta":1`), contracts.ErrUndecodable},
		{"field twice", replace(`"time":1`, `"time":1,"time":2`), contracts.ErrUndecodable},
		{"room of another partition", replace("lobby", "den"), contracts.ErrUndecodable},
		{"oversized", "P\x01" + body + strings.Repeat(" ", contracts.MaxRecordBytes), contracts.ErrUndecodable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := contracts.DecodeRecord([]byte(tt.value), partitionOf("lobby"), partitions)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if tt.want != nil && !cmp.Equal(r, contracts.Record{}) {
				t.Errorf("a refused record comes with %+v", r)
			}
		})
	}
}

func TestAppendEntryGolden(t *testing.T) {
	e := contracts.Entry{Record: sampleRecord(), Seq: 58, Epoch: 2, Offset: 1234}
	const start = `{"event":"message","room":"lobby","seq":58,"epoch":2,"time":1790000000000,` +
		`"from":{"id":"u1","name":"Ada Lovelace","guest":true},"key":"01997c1e-5a00-7cc3-98c4-dc0c0c07398f",` +
		`"text":"hi everybody, \"how\" is it\ngoing tonight? ✨"`
	if got, want := string(contracts.AppendEntry(nil, &e)), start+"}"; got != want {
		t.Errorf("AppendEntry\n got %s\nwant %s", got, want)
	}
	e.ReplyTo, e.Meta = 57, json.RawMessage(`{"color":"red"}`)
	if got, want := string(contracts.AppendEntry([]byte("x"), &e)), "x"+start+`,"reply_to":57,"meta":{"color":"red"}}`; got != want {
		t.Errorf("AppendEntry\n got %s\nwant %s", got, want)
	}
	e.Blank()
	stone := strings.Replace(start[:strings.Index(start, `,"text"`)], `"name":"Ada Lovelace"`, `"name":"u1"`, 1) + `,"deleted":true,"reply_to":57}`
	if got := string(contracts.AppendEntry(nil, &e)); got != stone {
		t.Errorf("a tombstone\n got %s\nwant %s", got, stone)
	}
}

// TestHideEntry makes the same of an encoding as of the entry itself, whatever a person may have written.
func TestHideEntry(t *testing.T) {
	for _, text := range []string{"hi", `","time":1,"text":"`, "\x00\u2028é<&>"} {
		e := contracts.Entry{Record: sampleRecord(), Seq: 58, Epoch: 3}
		e.Text, e.From.Name, e.Meta, e.ReplyTo = text, `a,"time":1,`, json.RawMessage(`{"text":"x","time":2}`), 4
		whole := contracts.AppendEntry(nil, &e)
		if got := contracts.HideEntry(whole, e.Stamp); string(got) != string(whole) {
			t.Errorf("hid what is not older: %s", got)
		}
		e.Blank()
		stone := string(contracts.AppendEntry(nil, &e))
		for range 2 { // a tombstone stays one
			whole = contracts.HideEntry(whole, e.Stamp+1)
			if string(whole) != stone {
				t.Errorf("hidden\n got %s\nwant %s", whole, stone)
			}
		}
	}
	for _, odd := range []string{"", "{", `{"event":"member","room":"a","seq":1,"epoch":1,"time":5,"change":"joined"}`, `{"event":"message","room":"a","seq":1,"epoch":1,"time":x,`, `,"time":5,`} {
		if got := string(contracts.HideEntry([]byte(odd), 100)); got != odd {
			t.Errorf("%q became %q", odd, got)
		}
	}
}

func TestAppendString(t *testing.T) {
	for _, s := range []string{
		"", "plain", "\x00\x1f\x7f", "\"\\/", "\b\f\n\r\t", "é✨\U0001F600", "\u2028\u2029", "<&>", "\ufffd",
		"a\xffb", "\xed\xa0\x80", "\xf0\x9f\x98", "tail\xc3",
	} {
		got := contracts.AppendString(nil, s)
		var back string
		if err := json.Unmarshal(got, &back); err != nil {
			t.Errorf("%q became %s: %v", s, got, err)
			continue
		}
		var want strings.Builder // every bad byte is one U+FFFD
		for _, r := range s {
			want.WriteRune(r)
		}
		if back != want.String() {
			t.Errorf("%q became %q, want %q", s, back, want.String())
		}
		if strings.IndexFunc(string(got), func(r rune) bool { return r < 0x20 }) >= 0 {
			t.Errorf("%q became %q, with a raw control character", s, got)
		}
	}
}

func TestHotPathAllocs(t *testing.T) {
	r := sampleRecord()
	value, err := contracts.EncodeRecord(&r)
	if err != nil {
		t.Fatal(err)
	}
	frame := []byte(sendFrame)
	e := contracts.Entry{Record: r, Seq: 58, Epoch: 1}
	buf := make([]byte, 0, 1024)
	envelope := contracts.Envelope{Kind: contracts.EnvelopeEntry, Room: r.Room, Seq: 58, Body: value}
	tests := []struct {
		name string
		max  float64
		do   func()
	}{
		{"ParseObject", 1, func() { _, _ = contracts.ParseObject(frame) }},
		{"EncodeRecord", 1, func() { _, _ = contracts.EncodeRecord(&r) }},
		{"DecodeRecord", 5, func() { _, _ = contracts.DecodeRecord(value, partitionOf(r.Room), partitions) }},
		{"AppendEntry", 0, func() { contracts.AppendEntry(buf, &e) }},
		{"AppendEnvelope", 0, func() { contracts.AppendEnvelope(buf, &envelope) }},
	}
	for _, tt := range tests {
		if got := testing.AllocsPerRun(100, tt.do); got > tt.max {
			t.Errorf("%s allocates %v times, at most %v are planned", tt.name, got, tt.max)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	for _, text := range []string{"hi", "\"\\\n\u2028\U0001F600"} {
		r := sampleRecord()
		r.Text, r.ReplyTo, r.Meta = text, 7, json.RawMessage(`{"a":[1e5,true,null,"\u00e9"]}`)
		value, err := contracts.EncodeRecord(&r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		// One partition holds every room.
		r, err := contracts.DecodeRecord(value, 0, 1)
		if err != nil {
			if !errors.Is(err, contracts.ErrUndecodable) && !errors.Is(err, contracts.ErrNewerVersion) {
				t.Fatalf("error %v is of no kind", err)
			}
			return
		}
		again, err := contracts.EncodeRecord(&r)
		if err != nil {
			if len(value) > contracts.MaxRecordBytes/6 {
				return // escapes may be longer than what they stand for
			}
			t.Fatalf("decoded, but not encoded: %v", err)
		}
		back, err := contracts.DecodeRecord(again, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r, back); d != "" {
			t.Errorf("after a round trip (-first +second):\n%s", d)
		}
		if !json.Valid(contracts.AppendEntry(nil, &contracts.Entry{Record: r, Seq: 1, Epoch: 1})) {
			t.Error("its entry is not JSON")
		}
	})
}
