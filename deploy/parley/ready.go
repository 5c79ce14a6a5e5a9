package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
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
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.Ops+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.Ops, err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.Ops, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.Ops, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", strings.Join(strings.Fields(string(body)), " "))
	}
	_, err = fmt.Fprintln(s.out, "ready")
	return err
}
