package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// mountDisk makes a small disk of memory at dir, one that can be filled. It takes root.
func mountDisk(dir string, bytes int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make a small disk: %w", err)
	}
	if err := unix.Mount("parley-chaos", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		return fmt.Errorf("no disk can be filled, as mounting a small one failed: %w", err)
	}
	return nil
}

// unmountDisk gives the memory back. Who used the disk may take a moment to be gone.
func unmountDisk(dir string) error {
	var err error
	for range 50 {
		if err = unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("unmount the small disk %s: %w", dir, err)
	}
	return nil
}

// fillDisk takes all that is free on the disk of dir, until the function that is returned is called.
func fillDisk(dir string) (free func() error, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("fill the disk: %w", err)
	}
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("fill the disk: %w", err)
	}
	for size := int64(st.Bavail) * st.Bsize; size >= st.Bsize; size /= 2 { // others write meanwhile
		if info, err := f.Stat(); err == nil {
			_ = unix.Fallocate(int(f.Fd()), 0, info.Size(), size)
		}
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("fill the disk: %w", err)
	}
	return func() error { return os.Remove(path) }, nil
}

// limitFiles sets how many descriptors a process may have and returns how to undo that.
func limitFiles(pid int, n uint64) (undo func() error, err error) {
	var old unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		return nil, fmt.Errorf("read the descriptor limit of process %d: %w", pid, err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}, nil); err != nil {
		return nil, fmt.Errorf("set the descriptor limit of process %d: %w", pid, err)
	}
	return func() error { return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &old, nil) }, nil
}

// openFiles counts the descriptors of a process.
func openFiles(pid int) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0
	}
	return len(entries)
}
