//go:build !linux

package loadtest

import "time"

func sharedNow() int64 { return time.Now().UnixNano() }
