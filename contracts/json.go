package contracts

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Bounds of a client's JSON object.
const (
	MaxDepth = 32 // of nested arrays and objects, the outermost included
	MaxKeys  = 64 // of the outermost object and of each object inside it
)

// Object is one JSON object read strictly: RFC 8259 and no more, UTF-8, no duplicate names at any depth, at most MaxDepth deep
// and MaxKeys wide, nothing before or behind it but white space. Its getters name the field at fault in their errors,
// all of them *Error with CodeBadRequest. It refers to the bytes it was read from and is valid as long as they are.
type Object struct {
	fields []field
}

type field struct {
	name []byte // unescaped
	raw  []byte
}

// ParseObject reads data as an Object.
func ParseObject(data []byte) (Object, error) { return parseObject(data, make([]field, 0, 8)) }

// Parse is ParseObject into o, with o's memory.
func (o *Object) Parse(data []byte) (err error) {
	clear(o.fields)
	*o, err = parseObject(data, o.fields[:0])
	return err
}

// parseObject is ParseObject with the room for the fields.
func parseObject(data []byte, fields []field) (Object, error) {
	p := jsonParser{data: data, fields: fields}
	if err := p.top(); err != nil {
		return Object{}, err
	}
	return Object{fields: p.fields}, nil
}

// Raw returns the field's JSON text.
func (o Object) Raw(name string) ([]byte, bool) {
	for i := range o.fields {
		if string(o.fields[i].name) == name {
			return o.fields[i].raw, true
		}
	}
	return nil, false
}

// Has reports whether the field is there, be it null.
func (o Object) Has(name string) bool {
	_, ok := o.Raw(name)
	return ok
}

// String returns the field's string; ok is false where the field is absent. A lone surrogate is an error.
func (o Object) String(name string) (s string, ok bool, err error) {
	raw, ok := o.Raw(name)
	if !ok {
		return "", false, nil
	}
	if raw[0] != '"' {
		return "", true, BadField(name, fmt.Sprintf("%s must be a string", name))
	}
	s, good := unquote(raw)
	if !good {
		return "", true, BadField(name, fmt.Sprintf("%s holds half of a surrogate pair", name))
	}
	return s, true, nil
}

// Int returns the field's integer, 0 … MaxInt, written without fraction or exponent.
func (o Object) Int(name string) (n uint64, ok bool, err error) {
	raw, ok := o.Raw(name)
	if !ok {
		return 0, false, nil
	}
	n, err = strconv.ParseUint(string(raw), 10, 64)
	if err != nil || n > MaxInt {
		return 0, true, BadField(name, fmt.Sprintf("%s must be an integer from 0 to 2^53-1", name))
	}
	return n, true, nil
}

// Bool returns the field's truth value.
func (o Object) Bool(name string) (b, ok bool, err error) {
	raw, ok := o.Raw(name)
	if !ok {
		return false, false, nil
	}
	switch string(raw) {
	case "true":
		return true, true, nil
	case "false":
		return false, true, nil
	}
	return false, true, BadField(name, fmt.Sprintf("%s must be true or false", name))
}

// Object returns the field's object.
func (o Object) Object(name string) (inner Object, ok bool, err error) {
	raw, ok := o.Raw(name)
	if !ok {
		return Object{}, false, nil
	}
	if raw[0] != '{' {
		return Object{}, true, BadField(name, fmt.Sprintf("%s must be an object", name))
	}
	inner, err = ParseObject(raw)
	return inner, true, err
}

// validInside reports whether raw can stand as an object inside an Object.
func validInside(raw []byte) bool {
	p := jsonParser{data: raw}
	return raw[0] == '{' && utf8.Valid(raw) && p.object(2) == nil && p.pos == len(raw)
}

func badJSON(message string) error { return &Error{Code: CodeBadRequest, Message: message} }

type jsonParser struct {
	data []byte
	pos  int
	// fields is a stack: those of the object being read are on top of those of the objects around it.
	fields []field
}

func (p *jsonParser) top() error {
	if bytes.HasPrefix(p.data, []byte{0xEF, 0xBB, 0xBF}) {
		return badJSON("a frame must not begin with a byte order mark")
	}
	if !utf8.Valid(p.data) {
		return badJSON("a frame must be UTF-8")
	}
	p.space()
	if p.pos == len(p.data) {
		return badJSON("a frame must hold a JSON object")
	}
	if p.data[p.pos] != '{' {
		return badJSON("a frame must be a JSON object")
	}
	if err := p.object(1); err != nil {
		return err
	}
	p.space()
	if p.pos != len(p.data) {
		return badJSON("there is something behind the JSON object")
	}
	return nil
}

func (p *jsonParser) space() {
	for p.pos < len(p.data) {
		switch p.data[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

func (p *jsonParser) syntax() error {
	return badJSON("not JSON at byte " + strconv.Itoa(p.pos))
}

// object reads one object and leaves its fields on the stack. p.pos is at its brace.
func (p *jsonParser) object(depth int) error {
	if depth > MaxDepth {
		return badJSON(fmt.Sprintf("JSON deeper than %d", MaxDepth))
	}
	first := len(p.fields)
	p.pos++
	p.space()
	if p.pos < len(p.data) && p.data[p.pos] == '}' {
		p.pos++
		return nil
	}
	for {
		start := p.pos
		if err := p.str(); err != nil {
			return err
		}
		name := p.data[start+1 : p.pos-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			s, _ := unquote(p.data[start:p.pos])
			name = []byte(s)
		}
		for i := range p.fields[first:] {
			if bytes.Equal(p.fields[first+i].name, name) {
				return BadField(string(name[:min(len(name), MaxIDLen)]), "a name stands twice in one object")
			}
		}
		if len(p.fields)-first == MaxKeys {
			return badJSON(fmt.Sprintf("an object has more than %d names", MaxKeys))
		}
		p.space()
		if p.pos == len(p.data) || p.data[p.pos] != ':' {
			return p.syntax()
		}
		p.pos++
		p.space()
		valueStart := p.pos
		if err := p.value(depth); err != nil {
			return err
		}
		p.fields = append(p.fields, field{name: name, raw: p.data[valueStart:p.pos]})
		p.space()
		if p.pos == len(p.data) {
			return p.syntax()
		}
		switch p.data[p.pos] {
		case ',':
			p.pos++
			p.space()
		case '}':
			p.pos++
			return nil
		default:
			return p.syntax()
		}
	}
}

func (p *jsonParser) array(depth int) error {
	if depth > MaxDepth {
		return badJSON(fmt.Sprintf("JSON deeper than %d", MaxDepth))
	}
	p.pos++
	p.space()
	if p.pos < len(p.data) && p.data[p.pos] == ']' {
		p.pos++
		return nil
	}
	for {
		if err := p.value(depth); err != nil {
			return err
		}
		p.space()
		if p.pos == len(p.data) {
			return p.syntax()
		}
		switch p.data[p.pos] {
		case ',':
			p.pos++
			p.space()
		case ']':
			p.pos++
			return nil
		default:
			return p.syntax()
		}
	}
}

func (p *jsonParser) value(depth int) error {
	if p.pos == len(p.data) {
		return p.syntax()
	}
	switch c := p.data[p.pos]; {
	case c == '{':
		around := len(p.fields)
		err := p.object(depth + 1)
		p.fields = p.fields[:around]
		return err
	case c == '[':
		return p.array(depth + 1)
	case c == '"':
		return p.str()
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	case c == 't':
		return p.word("true")
	case c == 'f':
		return p.word("false")
	case c == 'n':
		return p.word("null")
	}
	return p.syntax()
}

func (p *jsonParser) word(w string) error {
	if !bytes.HasPrefix(p.data[p.pos:], []byte(w)) {
		return p.syntax()
	}
	p.pos += len(w)
	return nil
}

// str reads a string; p.pos must be at its quote.
func (p *jsonParser) str() error {
	if p.pos == len(p.data) || p.data[p.pos] != '"' {
		return p.syntax()
	}
	p.pos++
	for {
		for p.pos < len(p.data) && plain[p.data[p.pos]] {
			p.pos++
		}
		if p.pos == len(p.data) {
			return p.syntax()
		}
		switch c := p.data[p.pos]; {
		case c == '"':
			p.pos++
			return nil
		case c < 0x20:
			return p.syntax()
		case c == '\\':
			if p.pos+1 >= len(p.data) {
				return p.syntax()
			}
			switch p.data[p.pos+1] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				p.pos += 2
			case 'u':
				if _, ok := hex4(p.data[p.pos+2:]); !ok {
					return p.syntax()
				}
				p.pos += 6
			default:
				return p.syntax()
			}
		}
	}
}

// plain marks the bytes that stand for themselves in a string.
var plain = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= 0x20 && c != '"' && c != '\\'
	}
	return t
}()

func (p *jsonParser) digits() bool {
	start := p.pos
	for p.pos < len(p.data) && p.data[p.pos] >= '0' && p.data[p.pos] <= '9' {
		p.pos++
	}
	return p.pos > start
}

func (p *jsonParser) number() error {
	if p.data[p.pos] == '-' {
		p.pos++
	}
	if p.pos < len(p.data) && p.data[p.pos] == '0' {
		p.pos++
	} else if !p.digits() {
		return p.syntax()
	}
	if p.pos < len(p.data) && p.data[p.pos] == '.' {
		p.pos++
		if !p.digits() {
			return p.syntax()
		}
	}
	if p.pos < len(p.data) && (p.data[p.pos] == 'e' || p.data[p.pos] == 'E') {
		p.pos++
		if p.pos < len(p.data) && (p.data[p.pos] == '+' || p.data[p.pos] == '-') {
			p.pos++
		}
		if !p.digits() {
			return p.syntax()
		}
	}
	return nil
}

func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		d, ok := hexDigit(c)
		if !ok {
			return 0, false
		}
		r = r<<4 | rune(d)
	}
	return r, true
}

func hexDigit(c byte) (value byte, ok bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// unquote reads a JSON string that str accepted. It is false where an escape is half of a surrogate pair.
func unquote(raw []byte) (string, bool) {
	inner := raw[1 : len(raw)-1]
	at := bytes.IndexByte(inner, '\\')
	if at < 0 {
		return string(inner), true
	}
	var text strings.Builder
	text.Grow(len(inner))
	for at >= 0 {
		text.Write(inner[:at])
		escape := inner[at+1]
		inner = inner[at+2:]
		if escape != 'u' {
			text.WriteByte(unescaped(escape))
		} else {
			r, _ := hex4(inner)
			inner = inner[4:]
			if utf16.IsSurrogate(r) {
				if len(inner) < 6 || inner[0] != '\\' || inner[1] != 'u' {
					return "", false
				}
				low, _ := hex4(inner[2:])
				if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
					return "", false
				}
				inner = inner[6:]
			}
			text.WriteRune(r)
		}
		at = bytes.IndexByte(inner, '\\')
	}
	text.Write(inner)
	return text.String(), true
}

// unescaped is the character that a backslash and c stand for.
func unescaped(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c
}
