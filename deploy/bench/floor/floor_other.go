//go:build !linux

package floor

import (
	"context"
	"errors"
)

// Config says how to broadcast.
type Config struct {
	Listen  string
	Batched bool
	First   string
}

// Serve works on Linux alone: it is about epoll.
func Serve(context.Context, Config, func(addr string)) error {
	return errors.New("the floor needs epoll, which is Linux's")
}
