//go:build !linux

package loadtest

import (
	"errors"
	"runtime"
	"time"
)

// ownUsage knows only the memory that Go holds: what a process consumes is read from Linux's /proc.
func ownUsage() usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{Memory: int64(m.Sys)}
}

func processUsage(int) (usage, error) {
	return usage{}, errors.New("--pid works on Linux alone; --metrics works everywhere")
}

func machineBusy() (busy, all time.Duration) { return 0, 0 }

// descriptors is a guess that is safe on the systems where it is needed.
func descriptors() int { return 4096 }
