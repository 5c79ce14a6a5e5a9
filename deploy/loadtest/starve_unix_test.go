//go:build unix

package loadtest_test

import "golang.org/x/sys/unix"

// starve leaves this process a few descriptors.
func starve() {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 40, Max: 40}); err != nil {
		panic(err)
	}
}
