package edge

import (
	"bytes"
	"math"
	"os"
	"runtime/debug"
	"strconv"
)

// unknownMemory is taken for the memory limit where nothing tells it.
const unknownMemory = 1 << 30

// memoryLimit is how many bytes this process may use: the least of GOMEMLIMIT, the control group's limit (both
// versions) and the machine's memory.
func memoryLimit() int64 {
	limit := debug.SetMemoryLimit(-1)
	for _, name := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(name); err == nil {
			if n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64); err == nil && n > 0 {
				limit = min(limit, n)
			}
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		if f := bytes.Fields(b); len(f) > 1 && string(f[0]) == "MemTotal:" {
			if n, err := strconv.ParseInt(string(f[1]), 10, 64); err == nil {
				limit = min(limit, n<<10)
			}
		}
	}
	if limit == math.MaxInt64 {
		return unknownMemory
	}
	return limit
}
