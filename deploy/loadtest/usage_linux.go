package loadtest

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is the unit of processor time in /proc: USER_HZ, 100 on every Linux architecture that Go knows.
const clockTick = time.Second / 100

// ownUsage is what this process has consumed.
func ownUsage() usage {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return usage{}
	}
	u := usage{CPU: time.Duration(r.Utime.Nano() + r.Stime.Nano())}
	u.Memory, _ = residentMemory("self")
	return u
}

// processUsage is what another process of this machine has consumed.
func processUsage(pid int) (usage, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return usage{}, fmt.Errorf("read what process %d consumes: %w", pid, err)
	}
	// The second field is the name in parentheses and may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return usage{}, fmt.Errorf("read what process %d consumes: unknown form of stat", pid)
	}
	user, _ := parseUint(fields[11])
	system, _ := parseUint(fields[12])
	memory, err := residentMemory(strconv.Itoa(pid))
	return usage{CPU: time.Duration(user+system) * clockTick, Memory: memory}, err
}

// residentMemory is the proportional set size where it may be read, otherwise the resident one, in bytes.
func residentMemory(pid string) (int64, error) {
	for _, source := range [...]struct{ file, field string }{{"smaps_rollup", "Pss:"}, {"status", "VmRSS:"}} {
		text, err := os.ReadFile("/proc/" + pid + "/" + source.file)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(text) {
			if rest, ok := bytes.CutPrefix(line, []byte(source.field)); ok {
				kb, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte(" "))
				n, _ := parseUint(kb)
				return int64(n) << 10, nil
			}
		}
	}
	return 0, fmt.Errorf("read the memory of process %s: not readable", pid)
}

// machineBusy is the processor time that everything on this machine has used, and what there was.
func machineBusy() (busy, all time.Duration) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	for i, field := range bytes.Fields(line) {
		if i == 0 || i > 8 {
			continue
		}
		n, _ := parseUint(field)
		all += time.Duration(n) * clockTick
		if i != 4 && i != 5 { // idle, iowait
			busy += time.Duration(n) * clockTick
		}
	}
	return busy, all
}

// descriptors is how many files this process may open.
func descriptors() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<20))
}
