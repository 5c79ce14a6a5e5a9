//go:build !planted

package planted_test

import (
	"testing"

	"github.com/parley-chat/parley/contracts/planted"
)

func TestNothingIsPlanted(t *testing.T) {
	t.Setenv("PARLEY_PLANTED", string(planted.AckFirst))
	for _, b := range planted.All {
		if planted.On(b) {
			t.Errorf("%s is on in a build without the tag", b)
		}
	}
}
