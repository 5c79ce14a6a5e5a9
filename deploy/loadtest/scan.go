package loadtest

import (
	"bytes"
	"errors"
)

var errJSON = errors.New("not JSON")

// walker steps through the members of a JSON object or the elements of an array without allocating. It checks no more
// than it needs to find the borders of values: a frame is counted as malformed when even these cannot be found.
type walker struct {
	rest []byte
	err  error
}

// object begins a walk over the members of an object.
func object(raw []byte) walker { return begin(raw, '{') }

// array begins a walk over the elements of an array.
func array(raw []byte) walker { return begin(raw, '[') }

func begin(raw []byte, open byte) walker {
	raw = space(raw)
	if len(raw) == 0 || raw[0] != open {
		return walker{err: errJSON}
	}
	return walker{rest: raw[1:]}
}

// member returns the next member: its name without quotes and its value as it stands.
func (w *walker) member() (name, value []byte, ok bool) {
	if !w.more('}') {
		return nil, nil, false
	}
	quoted, ok := w.value()
	w.rest = space(w.rest)
	if !ok || len(quoted) < 2 || quoted[0] != '"' || len(w.rest) == 0 || w.rest[0] != ':' {
		w.err = errJSON
		return nil, nil, false
	}
	w.rest = space(w.rest[1:])
	value, ok = w.value()
	return quoted[1 : len(quoted)-1], value, ok
}

// element returns the next element as it stands.
func (w *walker) element() (value []byte, ok bool) {
	if !w.more(']') {
		return nil, false
	}
	return w.value()
}

// more skips what stands between two values and reports whether another one follows.
func (w *walker) more(end byte) bool {
	if w.err != nil {
		return false
	}
	w.rest = space(w.rest)
	if len(w.rest) > 0 && w.rest[0] == ',' {
		w.rest = space(w.rest[1:])
	}
	if len(w.rest) == 0 {
		w.err = errJSON
		return false
	}
	return w.rest[0] != end
}

// value cuts one value off the rest.
func (w *walker) value() (raw []byte, ok bool) {
	n := valueLen(w.rest)
	if n <= 0 {
		w.err = errJSON
		return nil, false
	}
	raw, w.rest = w.rest[:n], w.rest[n:]
	return raw, true
}

func space(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\n' || b[0] == '\t' || b[0] == '\r') {
		b = b[1:]
	}
	return b
}

// valueLen is the length of the value at the beginning of b; 0 where there is none.
func valueLen(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case '"':
		return stringLen(b)
	case '{', '[':
		depth := 0
		for i := 0; i < len(b); i++ {
			switch b[i] {
			case '"':
				n := stringLen(b[i:])
				if n == 0 {
					return 0
				}
				i += n - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
		return 0
	}
	for i, c := range b {
		switch c {
		case ',', '}', ']', ' ', '\n', '\t', '\r', ':':
			return i
		}
	}
	return len(b)
}

// stringLen is the length of the string at the beginning of b with its quotes; 0 where it does not end.
func stringLen(b []byte) int {
	for i := 1; i < len(b); {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return 0
		}
		i += n
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		i++
		if slashes%2 == 0 {
			return i
		}
	}
	return 0
}

// unquoted strips the quotes of a string without escapes; what is none becomes nil. Names, codes and states have none.
func unquoted(raw []byte) []byte {
	if len(raw) < 2 || raw[0] != '"' {
		return nil
	}
	return raw[1 : len(raw)-1]
}
