package loadtest

import (
	"math"
	"strconv"
	"strings"
)

// grouped writes a whole number with separators: 1,234,567.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// short writes a figure with about three digits: 0.042, 1.25, 18.3, 4,520.
func short(x float64) string {
	switch a := math.Abs(x); {
	case a >= 100:
		return grouped(int64(math.Round(x)))
	case x == math.Trunc(x):
		return strconv.FormatFloat(x, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(x, 'f', 2, 64)
	}
	return strings.TrimRight(strconv.FormatFloat(x, 'f', 3, 64), "0")
}

// bytesize writes a size: 512 B, 1.2 KiB, 34.5 MiB.
func bytesize(n float64) string {
	for _, unit := range [...]string{"B", "KiB", "MiB"} {
		if math.Abs(n) < 1024 {
			return short(math.Round(n*100)/100) + " " + unit
		}
		n /= 1024
	}
	return short(n) + " GiB"
}

// plural writes a number with its noun.
func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if strings.HasSuffix(noun, "s") {
		noun += "e"
	}
	return grouped(n) + " " + noun + "s"
}
