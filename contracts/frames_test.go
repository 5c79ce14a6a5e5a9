package contracts_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
)

// goldenFrames returns testdata/frames: one frame per file, named request.OP[.variant], reply.OP[.variant], reply.error or
// event.EVENT[.variant].
func goldenFrames(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/frames/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden frames: %v", err)
	}
	frames := make(map[string][]byte)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		frames[strings.TrimSuffix(filepath.Base(file), ".json")] = bytes.TrimSuffix(data, []byte("\n"))
	}
	return frames
}

// split takes request.send.full apart into request and send.
func split(name string) (kind, what string) {
	parts := strings.SplitN(name, ".", 3)
	return parts[0], parts[1]
}

func TestGoldenFramesFitTheSchema(t *testing.T) {
	root := readSchema(t)
	for name, frame := range goldenFrames(t) {
		kind, what := split(name)
		var v map[string]any
		if err := json.Unmarshal(frame, &v); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		definition := what
		switch kind {
		case "event":
			if v["event"] != what {
				t.Errorf("%s is the event %v", name, v["event"])
			}
			definition = "event"
		case "reply":
			if err := root.Definitions["reply"].check(root, name, v); err != nil {
				t.Error(err)
			}
			if definition += "OK"; what != "error" {
				v, _ = v["ok"].(map[string]any)
			} else {
				v, definition = v["error"].(map[string]any), "error"
			}
		}
		if err := (&schema{Ref: "#/definitions/" + definition}).check(root, name, v); err != nil {
			t.Error(err)
		}
	}
}

func TestGoldenRequestsParse(t *testing.T) {
	for name, frame := range goldenFrames(t) {
		kind, what := split(name)
		if kind != "request" {
			continue
		}
		o, err := contracts.ParseObject(frame)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if op, ok, err := o.String("op"); !ok || err != nil || op != what {
			t.Errorf("%s has the op %q, %v", name, op, err)
		}
		if room, ok, err := o.String("room"); ok {
			if _, roomErr := contracts.ParseRoomID(room); err != nil || roomErr != nil {
				t.Errorf("%s: room %q: %v, %v", name, room, err, roomErr)
			}
		}
		if key, ok, err := o.String("key"); ok {
			if _, keyErr := contracts.ParseKey(key); err != nil || keyErr != nil {
				t.Errorf("%s: key %q: %v, %v", name, key, err, keyErr)
			}
		}
		if text, ok, err := o.String("text"); ok && (err != nil || contracts.ValidateText(text, 16<<10, 4000) != nil) {
			t.Errorf("%s: text %q: %v", name, text, err)
		}
	}
}

// TestGoldenRepliesEncode reads each reply into its Go type and expects the same bytes back.
func TestGoldenRepliesEncode(t *testing.T) {
	types := map[string]func() any{
		"connect": func() any { return new(contracts.ConnectOK) }, "join": func() any { return new(contracts.JoinOK) },
		"leave": func() any { return new(struct{}) }, "send": func() any { return new(contracts.SendOK) },
		"history": func() any { return new(contracts.HistoryOK) }, "status": func() any { return new(contracts.StatusOK) },
		"typing": func() any { return new(struct{}) }, "presence": func() any { return new(contracts.PresenceOK) },
		"rooms": func() any { return new(contracts.RoomsOK) }, "refresh": func() any { return new(contracts.RefreshOK) },
		"ping": func() any {
			return new(struct {
				Time int64 `json:"time"`
			})
		},
		"error": func() any { return new(contracts.Error) },
	}
	for name, frame := range goldenFrames(t) {
		kind, what := split(name)
		if kind != "reply" {
			continue
		}
		var reply struct {
			ID    uint64          `json:"id"`
			OK    json.RawMessage `json:"ok"`
			Error json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(frame, &reply); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		body := reply.OK
		if body == nil {
			body = reply.Error
		}
		newType := types[what]
		if newType == nil {
			t.Errorf("%s: no type", name)
			continue
		}
		v := newType()
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(v); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := contracts.Marshal(v)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s (%v)\n got %s\nwant %s", name, err, got, body)
		}
	}
}

// TestGoldenEntriesEncode reads each message and expects AppendEntry to give the same bytes, also from a log record.
func TestGoldenEntriesEncode(t *testing.T) {
	for name, frame := range goldenFrames(t) {
		if kind, what := split(name); kind != "event" || what != string(contracts.KindMessage) {
			continue
		}
		var in struct {
			Event   contracts.Kind
			Room    contracts.RoomID
			Seq     contracts.Seq
			Epoch   contracts.Epoch
			Time    int64
			From    contracts.Person
			Key     contracts.Key
			Text    string
			ReplyTo contracts.Seq `json:"reply_to"`
			Meta    json.RawMessage
		}
		if err := json.Unmarshal(frame, &in); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		r := contracts.Record{Kind: in.Event, Room: in.Room, From: in.From, Key: in.Key, Stamp: in.Time, Text: in.Text, ReplyTo: in.ReplyTo, Meta: in.Meta}
		value, err := contracts.EncodeRecord(&r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		back, err := contracts.DecodeRecord(value, partitionOf(r.Room), partitions)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := contracts.AppendEntry(nil, &contracts.Entry{Record: back, Seq: in.Seq, Epoch: in.Epoch})
		if !bytes.Equal(got, frame) {
			t.Errorf("%s\n got %s\nwant %s", name, got, frame)
		}
	}
}

// constants returns the string constants of a type that this package declares, without those of ops for edges alone.
func constants(t *testing.T, typeName string) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.CONST {
				continue
			}
			for _, spec := range group.Specs {
				value := spec.(*ast.ValueSpec)
				if id, ok := value.Type.(*ast.Ident); ok && id.Name == typeName {
					values = append(values, strings.Trim(value.Values[0].(*ast.BasicLit).Value, `"`))
				}
			}
		}
	}
	edges := []string{string(contracts.OpGuest), string(contracts.OpRepair), string(contracts.OpGone)}
	values = slices.DeleteFunc(values, func(v string) bool { return typeName == "Op" && slices.Contains(edges, v) })
	slices.Sort(values)
	return values
}

func TestDocumentsNameWhatTheCodeHas(t *testing.T) {
	asyncapi, err := os.ReadFile("asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// keys returns the names at one indentation below a top-level section of asyncapi.yaml.
	keys := func(section string) []string {
		_, text, ok := strings.Cut("\n"+string(asyncapi), "\n"+section+":\n")
		if !ok {
			t.Fatalf("asyncapi.yaml has no %s", section)
		}
		text = regexp.MustCompile(`(?m)^\S`).Split(text, 2)[0]
		var names []string
		for _, m := range regexp.MustCompile(`(?m)^  (\w+):`).FindAllStringSubmatch(text, -1) {
			names = append(names, m[1])
		}
		slices.Sort(names)
		return names
	}
	named := func(pattern string) []string {
		var names []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(asyncapi), -1) {
			names = append(names, m[1])
		}
		slices.Sort(names)
		return names
	}
	root := readSchema(t)
	var opsInSchema, opsInFrames, eventsInSchema, eventsInFrames []string
	for _, s := range root.Definitions["request"].OneOf {
		opsInSchema = append(opsInSchema, strings.TrimPrefix(s.Ref, "#/definitions/"))
	}
	for _, s := range root.Definitions["event"].OneOf {
		event := root.Definitions[strings.TrimPrefix(s.Ref, "#/definitions/")].Properties["event"]
		eventsInSchema = append(eventsInSchema, event.Const.(string))
	}
	frames := goldenFrames(t)
	for name := range frames {
		switch kind, what := split(name); kind {
		case "request":
			opsInFrames = append(opsInFrames, what)
		case "event":
			eventsInFrames = append(eventsInFrames, what)
		}
	}
	for _, list := range []*[]string{&opsInSchema, &opsInFrames, &eventsInSchema, &eventsInFrames} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	codes := slices.Clone(root.Definitions["code"].Enum)
	slices.Sort(codes)
	ops, events := constants(t, "Op"), append(constants(t, "Event"), constants(t, "Kind")...)
	slices.Sort(events)
	closeCodes := append(constants(t, "CloseCode"), "1005", "1006") // those that stand for none, which only clients see
	slices.Sort(closeCodes)
	operations := slices.DeleteFunc(keys("operations"), func(name string) bool { return name == "events" })
	for _, tt := range []struct {
		what, where string
		want, got   []string
	}{
		{"ops", "asyncapi.yaml", ops, operations},
		{"ops", "the schema", ops, opsInSchema},
		{"ops", "the golden frames", ops, opsInFrames},
		{"error codes", "asyncapi.yaml", constants(t, "Code"), keys("x-errors")},
		{"error codes", "the schema", constants(t, "Code"), codes},
		{"events", "asyncapi.yaml", events, named(`(?m)^    (\w+)Event: `)},
		{"close codes", "asyncapi.yaml", closeCodes, named(`(?m)^    "(\d{4})": `)},
		{"events", "the schema", events, eventsInSchema},
		{"events", "the golden frames", events, eventsInFrames},
	} {
		if d := cmp.Diff(tt.want, tt.got); d != "" {
			t.Errorf("%s in the code (-) and in %s (+):\n%s", tt.what, tt.where, d)
		}
	}
	for _, op := range ops {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(frames)), func(name string) bool {
			kind, what := split(name)
			return kind == "reply" && what == op
		}) {
			t.Errorf("no golden reply to %s", op)
		}
	}
}

// TestDocumentsReferToTheSchema looks up every reference of asyncapi.yaml and openapi.yaml into the schema.
func TestDocumentsReferToTheSchema(t *testing.T) {
	root := readSchema(t)
	for _, name := range []string{"asyncapi.yaml", "openapi.yaml"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		refs := regexp.MustCompile(`\$ref: ["'](\./[^"']*)["']`).FindAllStringSubmatch(string(text), -1)
		if len(refs) == 0 {
			t.Errorf("%s does not refer to the schema", name)
		}
		for _, ref := range refs {
			definition, ok := strings.CutPrefix(ref[1], "./schema/frame.schema.json#/definitions/")
			if !ok || root.Definitions[definition] == nil {
				t.Errorf("%s refers to %s", name, ref[1])
			}
		}
	}
}
