package contracts_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// schema is the part of JSON Schema (draft 7) that schema/frame.schema.json uses.
type schema struct {
	Ref         string             `json:"$ref"`
	Schema      string             `json:"$schema"`
	Title       string             `json:"title"`
	Description string             `json:"description"`
	Definitions map[string]*schema `json:"definitions"`
	Type        string             `json:"type"`
	Required    []string           `json:"required"`
	Properties  map[string]*schema `json:"properties"`
	Items       *schema            `json:"items"`
	OneOf       []*schema          `json:"oneOf"`
	Enum        []string           `json:"enum"`
	Const       any                `json:"const"`
	Pattern     string             `json:"pattern"`
	MinLength   int                `json:"minLength"`
	MaxLength   int                `json:"maxLength"`
	Minimum     *float64           `json:"minimum"`
	Maximum     *float64           `json:"maximum"`
}

func readSchema(t *testing.T) *schema {
	t.Helper()
	f, err := os.Open("schema/frame.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	d := json.NewDecoder(f)
	d.DisallowUnknownFields() // a keyword that check does not know
	s := new(schema)
	if err := d.Decode(s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSchemaOfRequests(t *testing.T) {
	root := readSchema(t)
	for request, fits := range map[string]bool{
		`{"op":"join","room":"a","since":{"epoch":1,"seq":5}}`:          true,
		`{"op":"join","room":"a","since":{"epoch":0,"seq":0}}`:          true,
		`{"op":"join","room":"a","since":{"seq":0}}`:                    true,
		`{"op":"join","room":"a","since":{"seq":5}}`:                    false,
		`{"op":"connect","guest":"` + strings.Repeat("é", 64) + `"}`:    true,
		`{"op":"connect","guest":"` + strings.Repeat("é", 65) + `"}`:    false,
		`{"op":"connect","guest":""}`:                                   false,
		`{"op":"send","room":"a","text":"\n"}`:                          true, // what is blank no schema tells
		`{"op":"send","room":"a","text":""}`:                            false,
		`{"op":"send","room":"a","text":"hi","meta":{"any":[{"a":1}]}}`: true,
		`{"op":"send","room":"a","text":"hi","meta":[]}`:                false,
		`{"op":"send","room":"a b","text":"hi"}`:                        false,
	} {
		var v any
		if err := json.Unmarshal([]byte(request), &v); err != nil {
			t.Fatal(err)
		}
		if err := root.Definitions["request"].check(root, "request", v); (err == nil) != fits {
			t.Errorf("%s: %v, want it to fit: %v", request, err, fits)
		}
	}
}

// check says what is wrong with v at path by s. It also refuses fields that s does not list: the golden frames and the
// schema are to tell the same.
func (s *schema) check(root *schema, path string, v any) error {
	if s.Ref != "" {
		to := root.Definitions[strings.TrimPrefix(s.Ref, "#/definitions/")]
		if to == nil {
			return fmt.Errorf("%s: no definition %s", path, s.Ref)
		}
		return to.check(root, path, v)
	}
	if len(s.OneOf) > 0 {
		var fits int
		var errs []string
		for _, one := range s.OneOf {
			if err := one.check(root, path, v); err != nil {
				errs = append(errs, err.Error())
			} else {
				fits++
			}
		}
		if fits != 1 {
			return fmt.Errorf("%s: fits %d of %d: %s", path, fits, len(s.OneOf), strings.Join(errs, "; "))
		}
		return nil
	}
	if s.Const != nil && v != s.Const {
		return fmt.Errorf("%s: %v is not %v", path, v, s.Const)
	}
	if s.Enum != nil {
		text, _ := v.(string)
		if !strings.Contains("\n"+strings.Join(s.Enum, "\n")+"\n", "\n"+text+"\n") {
			return fmt.Errorf("%s: %v is none of %v", path, v, s.Enum)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		return s.checkObject(root, path, v)
	case []any:
		if s.Type != "array" {
			return fmt.Errorf("%s: an array, want %s", path, s.Type)
		}
		for i, item := range v {
			if err := s.Items.check(root, fmt.Sprintf("%s[%d]", path, i), item); err != nil {
				return err
			}
		}
	case string:
		if s.Type != "string" && s.Enum == nil && s.Const == nil {
			return fmt.Errorf("%s: a string, want %s", path, s.Type)
		}
		if n := utf8.RuneCountInString(v); n < s.MinLength || s.MaxLength > 0 && n > s.MaxLength {
			return fmt.Errorf("%s: %d characters, want %d to %d", path, n, s.MinLength, s.MaxLength)
		}
		if s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(v) {
			return fmt.Errorf("%s: %q does not match %s", path, v, s.Pattern)
		}
	case float64:
		if s.Type != "number" && (s.Type != "integer" || v != float64(int64(v))) {
			return fmt.Errorf("%s: %v, want %s", path, v, s.Type)
		}
		if s.Minimum != nil && v < *s.Minimum || s.Maximum != nil && v > *s.Maximum {
			return fmt.Errorf("%s: %v is out of range", path, v)
		}
	case bool:
		if s.Type != "boolean" && s.Const == nil {
			return fmt.Errorf("%s: %v, want %s", path, v, s.Type)
		}
	case nil:
		return fmt.Errorf("%s: null", path)
	}
	return nil
}

func (s *schema) checkObject(root *schema, path string, v map[string]any) error {
	if s.Type != "object" {
		return fmt.Errorf("%s: an object, want %s", path, s.Type)
	}
	for _, name := range s.Required {
		if _, ok := v[name]; !ok {
			return fmt.Errorf("%s: no %s", path, name)
		}
	}
	if s.Properties == nil {
		return nil // any object, as meta
	}
	for name, inner := range v {
		property := s.Properties[name]
		if property == nil {
			return fmt.Errorf("%s: %s is not in the schema", path, name)
		}
		if err := property.check(root, path+"."+name, inner); err != nil {
			return err
		}
	}
	return nil
}
