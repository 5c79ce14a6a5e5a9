package contracts

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// MaxNameRunes is the length limit of a display name, in runes.
const MaxNameRunes = 64

// ValidateText checks a message's text, which is kept byte for byte. Refused, all with Field "text": more than maxBytes
// or maxRunes (CodeTooLarge); what is not UTF-8, holds a control character other than \n and \t (U+0000–001F,
// U+007F–009F), or shows nothing at all (CodeBadRequest). A limit of 0 is off.
func ValidateText(s string, maxBytes, maxRunes int) error {
	if maxBytes > 0 && len(s) > maxBytes {
		return &Error{Code: CodeTooLarge, Message: fmt.Sprintf("text is longer than %d bytes", maxBytes), Field: "text"}
	}
	if maxRunes > 0 && len(s) > maxRunes && utf8.RuneCountInString(s) > maxRunes {
		return &Error{Code: CodeTooLarge, Message: fmt.Sprintf("text is longer than %d characters", maxRunes), Field: "text"}
	}
	return validateVisible("text", s, "\n\t")
}

// ValidateName checks a display name: 1 to MaxNameRunes runes of UTF-8, no control characters, not blank. The error is
// CodeBadRequest with Field "name".
func ValidateName(s string) error {
	if utf8.RuneCountInString(s) > MaxNameRunes {
		return BadField("name", fmt.Sprintf("name is longer than %d characters", MaxNameRunes))
	}
	return validateVisible("name", s, "")
}

// validateVisible refuses bad UTF-8, control characters but those in allowed, and what shows nothing.
func validateVisible(field, s, allowed string) error {
	if !utf8.ValidString(s) {
		return BadField(field, field+" must be UTF-8")
	}
	visible := false
	for _, r := range s {
		if r < 0x20 || r >= 0x7F && r <= 0x9F {
			ok := false
			for _, a := range allowed {
				ok = ok || a == r
			}
			if !ok {
				return BadField(field, fmt.Sprintf("%s holds the control character U+%04X", field, r))
			}
			continue
		}
		visible = visible || !invisible(r)
	}
	if !visible {
		return BadField(field, field+" must not be empty or blank")
	}
	return nil
}

// invisible reports whether r shows nothing by itself: white space, format characters (zero-width space and joiners,
// marks of direction, tags), variation selectors, and letters that are defined to be blank.
func invisible(r rune) bool {
	if r < 0x80 {
		return r == ' '
	}
	switch r {
	case 0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0:
		return true
	}
	return unicode.IsSpace(r) || unicode.In(r, unicode.Cf, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
}
