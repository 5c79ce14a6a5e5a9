//go:build planted

package sim_test

import (
	"flag"
	"testing"

	"github.com/parley-chat/parley/contracts/planted"
)

var plantedSeeds = flag.Int("sim.planted", 150, "walks in which a planted bug must be found")

// TestPlantedBugsAreFound makes each mistake that lives in the simulated parts, and wants it found within some walks.
func TestPlantedBugsAreFound(t *testing.T) {
	t.Cleanup(func() { planted.Set("") })
	for _, bug := range planted.All {
		if bug == planted.DescriptorReuse {
			continue // the simulation has no descriptors; a fault run has
		}
		t.Run(string(bug), func(t *testing.T) {
			for s := range *plantedSeeds {
				planted.Set(bug)
				r, _, trouble := walk(t, uint64(s))
				if !r.Good() || len(trouble) > 0 {
					t.Logf("found in walk %d: %v %.2000q", s, r.Counts, trouble)
					return
				}
			}
			t.Errorf("not found in %d walks", *plantedSeeds)
		})
	}
}
