package edge_test

import (
	"testing"

	"github.com/parley-chat/parley/edge"
)

// TestBurst: memory is given back when many have come and few come still, once per burst.
func TestBurst(t *testing.T) {
	for name, looks := range map[string][]struct {
		opened, held int64
		over         bool
	}{
		"few":           {{500, 500, false}, {500, 500, false}, {999, 999, false}, {999, 999, false}},
		"at once":       {{5000, 5000, false}, {5000, 5000, true}, {5000, 5000, false}, {5001, 5001, false}},
		"over a while":  {{5000, 5000, false}, {9000, 9000, false}, {9100, 9100, true}, {9100, 9100, false}},
		"a trickle":     {{500, 500, false}, {1000, 1000, false}, {1050, 1050, true}, {2000, 2000, false}, {2050, 2050, true}},
		"among many":    {{80_000, 80_000, false}, {80_000, 80_000, true}, {85_000, 80_000, false}, {85_000, 80_000, false}, {90_000, 80_000, false}, {90_001, 80_000, true}},
		"a second time": {{2000, 2000, false}, {2000, 2000, true}, {4000, 2000, false}, {4000, 0, true}},
	} {
		t.Run(name, func(t *testing.T) {
			var b edge.Burst
			for i, l := range looks {
				if got := b.Over(l.opened, l.held); got != l.over {
					t.Errorf("look %d: over(%d, %d) = %v", i, l.opened, l.held, got)
				}
			}
		})
	}
}
