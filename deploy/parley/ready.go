package main

import (
	"context"
	"fmt"
	"time"

	"github.com/parley-chat/parley/deploy/local"
)

// readyWithin is how long a process may take to say whether it is ready.
const readyWithin = 3 * time.Second

type readyCmd struct {
	Ops string `name:"ops" env:"PARLEY_OPS" default:"127.0.0.1:9100" help:"The process's operators' listener."`
}

// Run asks a running process whether it is ready and fails with what is missing. A container without a shell or curl
// checks its health with it.
func (c *readyCmd) Run(ctx context.Context, s streams) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := local.AskReady(ctx, c.Ops); err != nil {
		return err
	}
	_, err := fmt.Fprintln(s.out, "ready")
	return err
}
