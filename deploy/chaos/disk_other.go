//go:build !linux

package chaos

import "errors"

var errLinux = errors.New("only Linux can do this: fill a disk, limit the descriptors of another process")

func mountDisk(string, int64) error                { return errLinux }
func unmountDisk(string) error                     { return nil }
func fillDisk(string) (func() error, error)        { return nil, errLinux }
func limitFiles(int, uint64) (func() error, error) { return nil, errLinux }
func openFiles(int) int                            { return 0 }
