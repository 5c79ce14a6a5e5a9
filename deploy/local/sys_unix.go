//go:build unix

package local

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

const supported = true

// signalGroup signals the process group that pid leads.
func signalGroup(pid int, sig syscall.Signal) error { return syscall.Kill(-pid, sig) }

// signalOne signals one process.
func signalOne(pid int, sig syscall.Signal) error { return syscall.Kill(pid, sig) }

// lockFile takes a lock that ends with this process, whatever ends it. It reports false when another process has it.
func lockFile(path string) (*os.File, bool, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, false, fmt.Errorf("open the lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, true, nil
}

// openFilesLimit returns how many files this process may open: now, and at most without more rights.
func openFilesLimit() (now, most uint64, err error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	return uint64(l.Cur), uint64(l.Max), nil
}

// freeDisk returns how many bytes an ordinary user may still write below dir.
func freeDisk(dir string) (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("read the free space of %s: %w", dir, err)
	}
	return uint64(st.Bavail) * uint64(st.Bsize), nil
}
