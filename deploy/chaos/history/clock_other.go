//go:build !linux

package history

import "time"

// SharedNow reads a clock in nanoseconds that all processes of this machine share.
func SharedNow() int64 { return time.Now().UnixNano() }
