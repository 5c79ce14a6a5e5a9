package contracts_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/parley-chat/parley/contracts"
)

func nested(depth int) string {
	return `{"a":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + "}"
}

func wide(keys int) string {
	var b strings.Builder
	for i := range keys {
		fmt.Fprintf(&b, `,"k%d":0`, i)
	}
	return "{" + b.String()[1:] + "}"
}

func TestParseObject(t *testing.T) {
	tests := []struct {
		name, data string
		message    string // part of the error's; "" where it is read
		field      string
	}{
		{name: "a frame", data: sendFrame},
		{name: "no field", data: `{}`},
		{name: "white space everywhere", data: " \t\r\n{ \"a\" : [ 1 , { } , [ ] ] , \"b\" : null } \n"},
		{name: "every kind of value", data: `{"a":"x","b":-0.5e+3,"c":true,"d":false,"e":null,"f":[1,2],"g":{"h":0}}`},
		{name: "every escape", data: `{"\u0061\"\\\/\b\f\n\r\t":"\ud83d\ude00"}`},
		{name: "as deep as allowed", data: nested(contracts.MaxDepth)},
		{name: "as wide as allowed", data: wide(contracts.MaxKeys)},
		{name: "the same name in different objects", data: `{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}]}`},
		{name: "1e400 stays text", data: `{"a":1e400}`},

		{name: "empty", data: ``, message: "must hold a JSON object"},
		{name: "white space only", data: " \n", message: "must hold a JSON object"},
		{name: "not JSON", data: `hello`, message: "must be a JSON object"},
		{name: "null", data: `null`, message: "must be a JSON object"},
		{name: "array", data: `[{}]`, message: "must be a JSON object"},
		{name: "string", data: `"{}"`, message: "must be a JSON object"},
		{name: "byte order mark", data: "\ufeff{}", message: "byte order mark"},
		{name: "trailing data", data: `{} {}`, message: "behind the JSON object"},
		{name: "trailing comma", data: `{"a":1,}`, message: "not JSON at byte 7"},
		{name: "trailing comma in an array", data: `{"a":[1,]}`, message: "not JSON at byte 8"},
		{name: "no comma", data: `{"a":1 "b":2}`, message: "not JSON"},
		{name: "no colon", data: `{"a" 1}`, message: "not JSON"},
		{name: "no value", data: `{"a":}`, message: "not JSON"},
		{name: "unclosed", data: `{"a":1`, message: "not JSON"},
		{name: "unclosed string", data: `{"a":"x`, message: "not JSON"},
		{name: "unclosed array", data: `{"a":[1`, message: "not JSON"},
		{name: "unclosed escape", data: `{"a":"\`, message: "not JSON"},
		{name: "name no string", data: `{a:1}`, message: "not JSON"},
		{name: "single quotes", data: `{'a':1}`, message: "not JSON"},
		{name: "comment", data: `{"a":1/**/}`, message: "not JSON"},
		{name: "NaN", data: `{"a":NaN}`, message: "not JSON"},
		{name: "Infinity", data: `{"a":-Infinity}`, message: "not JSON"},
		{name: "half a word", data: `{"a":tru}`, message: "not JSON"},
		{name: "a word and more", data: `{"a":nulls}`, message: "not JSON"},
		{name: "leading zero", data: `{"a":01}`, message: "not JSON"},
		{name: "plus", data: `{"a":+1}`, message: "not JSON"},
		{name: "no digit behind the point", data: `{"a":1.}`, message: "not JSON"},
		{name: "no digit before the point", data: `{"a":.1}`, message: "not JSON"},
		{name: "no exponent", data: `{"a":1e}`, message: "not JSON"},
		{name: "minus alone", data: `{"a":-}`, message: "not JSON"},
		{name: "control character in a string", data: "{\"a\":\"\x01\"}", message: "not JSON"},
		{name: "line feed in a string", data: "{\"a\":\"\n\"}", message: "not JSON"},
		{name: "NUL between", data: "{\"a\":\x001}", message: "not JSON"},
		{name: "unknown escape", data: `{"a":"\x41"}`, message: "not JSON"},
		{name: "short unicode escape", data: `{"a":"\u12"}`, message: "not JSON"},
		{name: "signed unicode escape", data: `{"a":"\u+123"}`, message: "not JSON"},
		{name: "bad UTF-8", data: "{\"a\":\"\xff\"}", message: "must be UTF-8"},
		{name: "surrogate in UTF-8", data: "{\"a\":\"\xed\xa0\x80\"}", message: "must be UTF-8"},
		{name: "overlong UTF-8", data: "{\"a\":\"\xc0\xaf\"}", message: "must be UTF-8"},
		{name: "name twice", data: `{"a":1,"b":2,"a":3}`, message: "twice", field: "a"},
		{name: "name twice, once escaped", data: `{"op":1,"\u006fp":2}`, message: "twice", field: "op"},
		{name: "name twice inside", data: `{"a":[{"b":1,"b":1}]}`, message: "twice", field: "b"},
		{name: "long name twice", data: `{"` + strings.Repeat("x", 100) + `":1,"` + strings.Repeat("x", 100) + `":1}`, message: "twice", field: strings.Repeat("x", 64)},
		{name: "too deep", data: nested(contracts.MaxDepth + 1), message: "deeper than 32"},
		{name: "far too deep", data: nested(100_000), message: "deeper than 32"},
		{name: "objects too deep", data: strings.Repeat(`{"a":`, 33) + "1" + strings.Repeat("}", 33), message: "deeper than 32"},
		{name: "too wide", data: wide(contracts.MaxKeys + 1), message: "more than 64"},
		{name: "too wide inside", data: `{"a":` + wide(contracts.MaxKeys+1) + `}`, message: "more than 64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := contracts.ParseObject([]byte(tt.data))
			if tt.message == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var e *contracts.Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v, want one with %q", err, tt.message)
			}
			if e.Code != contracts.CodeBadRequest || !strings.Contains(e.Message, tt.message) || e.Field != tt.field {
				t.Errorf("error %+v, want bad_request with %q and the field %q", e, tt.message, tt.field)
			}
		})
	}
}

func TestObjectGetters(t *testing.T) {
	o, err := contracts.ParseObject([]byte(`{"s":"a\u00e9\n\ud83d\ude00\\","empty":"","half":"\ud800x","swapped":"\ude00\ud83d",
		"n":7,"zero":0,"max":9007199254740991,"over":9007199254740992,"huge":123456789012345678901234567890,
		"neg":-1,"negzero":-0,"float":1.0,"exp":1e2,"digits":"7","t":true,"f":false,"null":null,"o":{"x":{"y":1}},"a":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	inner, ok, err := o.Object("o")
	if !ok || err != nil || !inner.Has("x") {
		t.Errorf("Object(o) = %v, %v", ok, err)
	}
	if raw, ok := inner.Raw("x"); !ok || string(raw) != `{"y":1}` {
		t.Errorf("Raw(x) = %s, %v", raw, ok)
	}
	if !o.Has("null") || o.Has("absent") {
		t.Error("Has: null is there, absent is not")
	}

	get := map[string]func(name string) (any, bool, error){
		"String": func(name string) (any, bool, error) { return wrap(o.String(name)) },
		"Int":    func(name string) (any, bool, error) { return wrap(o.Int(name)) },
		"Bool":   func(name string) (any, bool, error) { return wrap(o.Bool(name)) },
		"Object": func(name string) (any, bool, error) {
			_, ok, err := o.Object(name)
			return nil, ok, err
		},
	}
	tests := []struct {
		getter, field string
		want          any // an error where it is a string that begins with "!"
	}{
		{"String", "s", "a\u00e9\n\U0001F600\\"}, {"String", "empty", ""},
		{"String", "half", "!half of a surrogate"}, {"String", "swapped", "!half of a surrogate"},
		{"String", "n", "!must be a string"}, {"String", "null", "!must be a string"}, {"String", "o", "!must be a string"},
		{"Int", "n", uint64(7)}, {"Int", "zero", uint64(0)}, {"Int", "max", uint64(contracts.MaxInt)},
		{"Int", "over", "!2^53-1"}, {"Int", "huge", "!2^53-1"}, {"Int", "neg", "!must be an integer"}, {"Int", "negzero", "!must be an integer"},
		{"Int", "float", "!must be an integer"}, {"Int", "exp", "!must be an integer"}, {"Int", "digits", "!must be an integer"},
		{"Int", "null", "!must be an integer"}, {"Int", "t", "!must be an integer"},
		{"Bool", "t", true}, {"Bool", "f", false}, {"Bool", "n", "!must be true or false"}, {"Bool", "null", "!must be true or false"}, {"Bool", "s", "!must be true or false"},
		{"Object", "o", nil}, {"Object", "a", "!must be an object"}, {"Object", "s", "!must be an object"}, {"Object", "null", "!must be an object"},
	}
	for _, tt := range tests {
		got, ok, err := get[tt.getter](tt.field)
		message, _ := tt.want.(string)
		message, isErr := strings.CutPrefix(message, "!")
		if !isErr {
			if !ok || err != nil || got != tt.want {
				t.Errorf("%s(%s) = %v, %v, %v, want %v", tt.getter, tt.field, got, ok, err, tt.want)
			}
			continue
		}
		var e *contracts.Error
		if !errors.As(err, &e) || !ok || e.Code != contracts.CodeBadRequest || e.Field != tt.field || !strings.Contains(e.Message, message) {
			t.Errorf("%s(%s): %+v, want bad_request of that field with %q", tt.getter, tt.field, err, message)
		}
	}
	for name, get := range get {
		if _, ok, err := get("absent"); ok || err != nil {
			t.Errorf("%s(absent) = %v, %v", name, ok, err)
		}
	}
}

func wrap[T any](v T, ok bool, err error) (any, bool, error) { return v, ok, err }

// FuzzParseObject compares with encoding/json: whatever ParseObject reads encoding/json reads too, and to the same; what
// only encoding/json reads breaks one of the rules that ParseObject adds.
func FuzzParseObject(f *testing.F) {
	for _, s := range []string{
		sendFrame, `{}`, `{"a":"\ud83d\ude00\u00e9\"\\\/\b\f\n\r\t"}`, `{"a":"\ud800"}`, `{"a":[-1.5e+3,{"b":[null,true,false]}],"c":9007199254740991}`,
		`{"a":1,"a":2}`, `{"a":1} x`, "\ufeff{}", nested(33), wide(65), ` { "a" : 01 } `,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := contracts.ParseObject(data)
		var fields map[string]json.RawMessage
		stdErr := json.Unmarshal(data, &fields)
		if err != nil {
			var e *contracts.Error
			if !errors.As(err, &e) || e.Code != contracts.CodeBadRequest {
				t.Fatalf("error %v is no bad_request", err)
			}
			stricter := false
			for _, rule := range []string{"twice", "deeper", "more than", "UTF-8", "must be a JSON object"} { // null is an empty map
				stricter = stricter || strings.Contains(e.Message, rule)
			}
			if stdErr == nil && !stricter {
				t.Fatalf("refused with %q, and encoding/json reads it", e.Message)
			}
			return
		}
		if stdErr != nil {
			t.Fatalf("read, and encoding/json says %v", stdErr)
		}
		for name, raw := range fields {
			if strings.ContainsRune(name, utf8.RuneError) {
				continue // it may stand for half a surrogate pair
			}
			got, ok := o.Raw(name)
			if !ok || !bytes.Equal(got, raw) {
				t.Fatalf("field %q is %s, encoding/json says %s", name, got, raw)
			}
			s, _, err := o.String(name)
			var std string
			if json.Unmarshal(raw, &std) != nil || string(raw) == "null" {
				if err == nil {
					t.Fatalf("field %q is the string %q, encoding/json says it is none", name, s)
				}
			} else if err == nil && s != std || err != nil && !strings.ContainsRune(std, utf8.RuneError) {
				t.Fatalf("field %q is %q (%v), encoding/json says %q", name, s, err, std)
			}
			_, _, _ = o.Int(name)
			_, _, _ = o.Bool(name)
			_, _, _ = o.Object(name)
		}
	})
}
