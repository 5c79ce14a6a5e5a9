//go:build !unix

package local

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

const supported = false

func setGroup(*exec.Cmd) {}

func startOf(int) (string, error) { return "", errors.ErrUnsupported }

func signalGroup(int, syscall.Signal) error { return errors.ErrUnsupported }

func signalOne(int, syscall.Signal) error { return errors.ErrUnsupported }

func lockFile(string) (*os.File, bool, error) { return nil, false, errors.ErrUnsupported }

func openFilesLimit() (now, most uint64, err error) { return 0, 0, errors.ErrUnsupported }

func freeDisk(string) (uint64, error) { return 0, errors.ErrUnsupported }
