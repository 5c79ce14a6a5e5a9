package contracts_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/parley-chat/parley/contracts"
)

func TestValidateText(t *testing.T) {
	for _, tt := range []struct {
		name string
		text string
		want contracts.Code // empty: accepted
	}{
		{"plain", "hi", ""},
		{"line feed and tab", "a\n\tb", ""},
		{"bidi override is kept", "\u202Eabc", ""},
		{"script is text", "<script>x</script>", ""},
		{"family emoji with joiners", "👩\u200D👩\u200D👧", ""},
		{"heart with variation selector", "❤\uFE0F", ""},
		{"no-break space inside", "a\u00A0b", ""},
		{"as long as allowed", strings.Repeat("ä", 20), ""},
		{"one rune too many", strings.Repeat("ä", 21), contracts.CodeTooLarge},
		{"one byte too many", strings.Repeat("x", 65), contracts.CodeTooLarge},
		{"empty", "", contracts.CodeBadRequest},
		{"blanks", "  \n\t ", contracts.CodeBadRequest},
		{"ideographic space", "\u3000", contracts.CodeBadRequest},
		{"zero-width space", "\u200B\u200B", contracts.CodeBadRequest},
		{"zero-width joiner", "\u200D", contracts.CodeBadRequest},
		{"byte order mark", "\uFEFF", contracts.CodeBadRequest},
		{"word joiner and blank", "\u2060 ", contracts.CodeBadRequest},
		{"hangul filler", "\u3164", contracts.CodeBadRequest},
		{"braille blank", "\u2800", contracts.CodeBadRequest},
		{"variation selector alone", "\uFE0F", contracts.CodeBadRequest},
		{"tags", "\U000E0041", contracts.CodeBadRequest},
		{"NUL", "a\x00", contracts.CodeBadRequest},
		{"carriage return", "a\r\n", contracts.CodeBadRequest},
		{"escape", "\x1b[31m", contracts.CodeBadRequest},
		{"delete", "a\x7f", contracts.CodeBadRequest},
		{"C1 control", "a\u0085", contracts.CodeBadRequest},
		{"last C1 control", "a\u009F", contracts.CodeBadRequest},
		{"not UTF-8", "a\xff", contracts.CodeBadRequest},
		{"surrogate in bytes", "a\xed\xa0\x80", contracts.CodeBadRequest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkField(t, contracts.ValidateText(tt.text, 64, 20), tt.want, "text")
		})
	}
	if err := contracts.ValidateText(strings.Repeat("x", 1<<16), 0, 0); err != nil {
		t.Errorf("with limits of 0: %v", err)
	}
}

func TestValidateName(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   string
		want contracts.Code
	}{
		{"plain", "Ada", ""},
		{"64 runes", strings.Repeat("é", 64), ""},
		{"65 runes", strings.Repeat("é", 65), contracts.CodeBadRequest},
		{"empty", "", contracts.CodeBadRequest},
		{"blank", " \u00A0", contracts.CodeBadRequest},
		{"zero width", "\u200B", contracts.CodeBadRequest},
		{"line feed", "A\nB", contracts.CodeBadRequest},
		{"tab", "A\tB", contracts.CodeBadRequest},
		{"not UTF-8", "\xc3", contracts.CodeBadRequest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkField(t, contracts.ValidateName(tt.in), tt.want, "name")
		})
	}
}

func checkField(t *testing.T, err error, want contracts.Code, field string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		return
	}
	var e *contracts.Error
	if !errors.As(err, &e) || e.Code != want || e.Field != field {
		t.Fatalf("got %v, want %s naming %s", err, want, field)
	}
}
