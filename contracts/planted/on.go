//go:build planted

package planted

import (
	"os"
	"slices"
	"sync"
)

var (
	mu       sync.Mutex // guards both
	made     = fromEnvironment()
	counters = make(map[string]uint64)
)

func fromEnvironment() Bug {
	b := Bug(os.Getenv("PARLEY_PLANTED"))
	if b != "" && !slices.Contains(All, b) {
		panic("PARLEY_PLANTED: there is no planted bug " + string(b))
	}
	return b
}

// On reports whether this process makes the mistake.
func On(b Bug) bool {
	mu.Lock()
	defer mu.Unlock()
	return made == b
}

// Set chooses the mistake to make from now on, "" for none, and starts the counters anew.
func Set(b Bug) {
	mu.Lock()
	defer mu.Unlock()
	made = b
	clear(counters)
}

// Next is the counter of RedisCounter and WorkerPublishes.
func Next(name string) uint64 {
	mu.Lock()
	defer mu.Unlock()
	counters[name]++
	return counters[name]
}
