package contracts_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/parley-chat/parley/contracts"
)

func TestParseRoomID(t *testing.T) {
	tests := []struct {
		id    string
		valid bool
	}{
		{"lobby", true}, {"A-Z_a-z_0-9", true}, {"-", true}, {"_", true}, {strings.Repeat("x", 64), true},
		{"", false}, {strings.Repeat("x", 65), false}, {"a.b", false}, {"*", false}, {">", false}, {"$SYS", false},
		{"{x}", false}, {"../", false}, {"a\r\nb", false}, {"\u0430", false}, {"a b", false}, {"a:b", false}, {"a/b", false}, {"a\x00", false}, {"a\xff", false},
	}
	for _, tt := range tests {
		room, err := contracts.ParseRoomID(tt.id)
		if (err == nil) != tt.valid || tt.valid && string(room) != tt.id {
			t.Errorf("ParseRoomID(%q) = %q, %v, want valid: %v", tt.id, room, err, tt.valid)
		}
		if err != nil && !errors.Is(err, &contracts.Error{Code: contracts.CodeBadRoom}) {
			t.Errorf("ParseRoomID(%q): %v, want bad_room", tt.id, err)
		}
		if contracts.ValidID(tt.id) != tt.valid {
			t.Errorf("ValidID(%q) = %v", tt.id, !tt.valid)
		}
	}
}

func TestParseKey(t *testing.T) {
	const good = "01997c1e-5a00-7cc3-98c4-dc0c0c07398f"
	tests := []struct {
		key   string
		valid bool
	}{
		{good, true}, {strings.ToUpper(good), true}, {"ffffffff-ffff-7fff-bfff-ffffffffffff", true}, {"00000000-0000-7000-8000-000000000000", true},
		{"", false}, {good[:35], false}, {good + "0", false},
		{"{" + good[:34] + "}", false}, {"urn:uuid:" + good, false}, {strings.ReplaceAll(good, "-", ""), false},
		{"01997c1e-5a00-4cc3-98c4-dc0c0c07398f", false}, // version 4
		{"01997c1e-5a00-1cc3-98c4-dc0c0c07398f", false}, // version 1
		{"01997c1e-5a00-7cc3-58c4-dc0c0c07398f", false}, // another variant
		{"01997c1e-5a00-7cc3-c8c4-dc0c0c07398f", false}, // another variant
		{"00000000-0000-0000-0000-000000000000", false},
		{"01997c1e-5a00-7cc3-98c4-dc0c0c07398g", false},
		{"01997c1e_5a00_7cc3_98c4_dc0c0c07398f", false},
		{"01997c1e-5a00-7cc3-98c4-dc0c0c0739-f", false},
		{"-1997c1e-5a00-7cc3-98c4-dc0c0c07398f", false},
		{" 1997c1e-5a00-7cc3-98c4-dc0c0c07398f", false},
	}
	for _, tt := range tests {
		k, err := contracts.ParseKey(tt.key)
		if (err == nil) != tt.valid {
			t.Errorf("ParseKey(%q) = %v, want valid: %v", tt.key, err, tt.valid)
		}
		if tt.valid && k.String() != strings.ToLower(tt.key) {
			t.Errorf("ParseKey(%q) = %v", tt.key, k)
		}
		if !tt.valid && (!k.IsZero() || !errors.Is(err, &contracts.Error{Code: contracts.CodeBadKey})) {
			t.Errorf("ParseKey(%q) = %v, %v, want no key and bad_key", tt.key, k, err)
		}
	}
}

func TestKeyTime(t *testing.T) {
	before := time.Now().UnixMilli()
	k, err := contracts.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if got := k.Time(); got < before || got > time.Now().UnixMilli() {
		t.Errorf("a new key has the time %d, made at %d", got, before)
	}
	k, err = contracts.ParseKey("ffffffff-ffff-7000-8000-000000000000")
	if err != nil || k.Time() != 1<<48-1 {
		t.Errorf("the last key's time is %d (%v), want 2^48-1", k.Time(), err)
	}
}

func TestKeyInJSON(t *testing.T) {
	const text = `"01997c1e-5a00-7cc3-98c4-dc0c0c07398f"`
	var k contracts.Key
	if err := json.Unmarshal([]byte(strings.ToUpper(text)), &k); err != nil {
		t.Fatal(err)
	}
	if got, err := json.Marshal(k); err != nil || string(got) != text {
		t.Errorf("json.Marshal = %s, %v", got, err)
	}
	for _, bad := range []string{`""`, `1`, `"x"`, `"01997c1e-5a00-4cc3-98c4-dc0c0c07398f"`} {
		if err := json.Unmarshal([]byte(bad), &k); err == nil {
			t.Errorf("json.Unmarshal(%s) is a key", bad)
		}
	}
}

func TestPositionLess(t *testing.T) {
	ordered := []contracts.Position{{}, {Epoch: 1}, {Epoch: 1, Offset: 1}, {Epoch: 1, Offset: math.MaxInt64}, {Epoch: 2}, {Epoch: 2, Offset: 7}}
	for i, p := range ordered {
		for j, q := range ordered {
			if got := p.Less(q); got != (i < j) {
				t.Errorf("%v.Less(%v) = %v", p, q, got)
			}
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{
		"01997c1e-5a00-7cc3-98c4-dc0c0c07398f", "01997C1E-5A00-7CC3-98C4-DC0C0C07398F", "01997c1e-5a00-4cc3-98c4-dc0c0c07398f",
		"01997c1e-5a00-7cc3-98c4-dc0c0c0739-f", "------------------------------------", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := contracts.ParseKey(s)
		u, uuidErr := uuid.Parse(s)
		valid := len(s) == 36 && uuidErr == nil && u.Version() == 7 && u.Variant() == uuid.RFC4122
		if (err == nil) != valid {
			t.Fatalf("ParseKey(%q): %v; google/uuid says %v, %v", s, err, u, uuidErr)
		}
		if valid && (k != contracts.Key(u) || k.String() != u.String()) {
			t.Fatalf("ParseKey(%q) = %v, google/uuid says %v", s, k, u)
		}
	})
}
