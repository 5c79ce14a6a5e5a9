//go:build !unix

package chaos

import "syscall"

// Never sent: where there are no such signals no process can be started either (local.ErrUnsupported).
const (
	sigStop = syscall.Signal(0)
	sigCont = syscall.Signal(0)
)
