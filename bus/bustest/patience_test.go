package bustest_test

import (
	"fmt"
	"io"
	"testing"

	"github.com/parley-chat/parley/bus/bustest"
)

// TestOutputEnds: who logs behind a test's end harms nobody.
func TestOutputEnds(t *testing.T) {
	var out io.Writer
	t.Run("over", func(t *testing.T) {
		out = bustest.Output(t)
		if n, err := fmt.Fprintln(out, "during the test"); n != 16 || err != nil {
			t.Errorf("wrote %d bytes, %v", n, err)
		}
	})
	if n, err := fmt.Fprintln(out, "behind it"); n != 10 || err != nil {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
}
