//go:build unix

package main

import (
	"fmt"
	"os"
	"syscall"
)

// ownDirectory reports why a directory is not this user's alone, if it is not.
func ownDirectory(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("directory %s is not this user's alone: name the socket with --handover PATH", dir)
	}
	return nil
}
