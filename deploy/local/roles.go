package local

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// secretBytes of randomness sign the guests' tokens.
const secretBytes = 32

// role is one process of Parley.
type role struct {
	name    string // edge-1
	command string // edge
	listen  port   // of edges; number 0 for the others
	ops     port
}

// planRoles names the roles and gives them ports, in the order in which they are shown.
func planRoles(o UpOptions) ([]*role, error) {
	var roles []*role
	var free []*port
	for _, group := range []struct {
		command string
		n       int
	}{{"dispatch", o.Dispatchers}, {"persist", o.Persisters}, {"worker", o.Workers}, {"edge", o.Edges}} {
		for i := range group.n {
			rl := &role{name: fmt.Sprintf("%s-%d", group.command, i+1), command: group.command}
			rl.listen.name, rl.ops.name = rl.name, rl.name+"'s ops"
			free = append(free, &rl.ops)
			if rl.command == "edge" && o.Port == 0 {
				free = append(free, &rl.listen)
			}
			if rl.command == "edge" && o.Port != 0 {
				rl.listen.number = o.Port + i
				if err := checkPort(rl.listen, "--port 18080"); err != nil {
					return nil, err
				}
			}
			roles = append(roles, rl)
		}
	}
	return roles, freePorts(free...)
}

// env is what a role is told beside its name.
func (rl *role) env(a addresses, secret string, more []string) []string {
	// PARLEY_… wins over the conventional names, and one may be left in this process's environment.
	var env []string
	for _, pair := range a.conventional() {
		env = append(env, pair, "PARLEY_"+pair)
	}
	env = append(env, "PARLEY_SECRET="+secret, "PARLEY_NODE="+rl.name, "PARLEY_OPS="+rl.ops.addr())
	if rl.command == "edge" {
		env = append(env, "PARLEY_LISTEN="+rl.listen.addr(), "PARLEY_DRAIN_LIMIT=1s") // all edges stop together: there is nowhere to move
	}
	if os.Getenv("PARLEY_LIMITS") == "" {
		env = append(env, "PARLEY_LIMITS=false") // as in dev: whoever tries a load here meets none
	}
	if os.Getenv("PARLEY_LOG_FORMAT") == "" {
		env = append(env, "PARLEY_LOG_FORMAT=text") // people read it here, though it comes through a pipe
	}
	return append(env, more...)
}

// startRoles starts the roles side by side, waits until each is ready, and prints where they are reached.
func (r *runner) startRoles(ctx context.Context, a addresses) error {
	secret, err := KeepSecret(filepath.Join(r.opts.Data, "secret"))
	if err != nil {
		return err
	}
	roles, err := planRoles(r.opts)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, rl := range roles {
		g.Go(func() error {
			c, err := r.start(spec{
				kind: kindRole, name: rl.name, path: r.opts.Binary, args: []string{rl.command}, env: rl.env(a, secret, r.opts.Env),
				drop: []string{"PORT", "PARLEY_PORT"}, // one port for every edge
			})
			if err != nil {
				return err
			}
			if err := r.ready(ctx, c, 30*time.Second, func(ctx context.Context) error { return AskReady(ctx, rl.ops.addr()) }); err != nil {
				return err
			}
			r.up(c, rl.ops.addr(), "its operators' port")
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, rl := range roles {
		if rl.command == "edge" {
			r.out.line(rl.name, "page http://%s/  WebSocket and HTTP API on the same port", rl.listen.addr())
		}
		r.out.line(rl.name, "ops  http://%s/readyz?verbose  /metrics  /debug/pprof/", rl.ops.addr())
	}
	return nil
}

// AskReady asks the process with the operators' port at an address whether it is ready. The error is what it says is missing,
// or that it does not answer.
func AskReady(ctx context.Context, addr string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", addr, err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", addr, err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("ask %s: %w", addr, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", strings.Join(strings.Fields(string(body)), " "))
	}
	return nil
}

// KeepSecret returns the installation's secret, which a file holds, and makes one the first time. Only the user may read the
// file. It fails where the file has less than a secret needs: that was put there by hand.
func KeepSecret(path string) (string, error) {
	data, err := os.ReadFile(path)
	secret := strings.TrimSpace(string(data))
	if err == nil && len(secret) < secretBytes {
		return "", fmt.Errorf("the secret in %s is shorter than %d bytes: delete the file for a new one", path, secretBytes)
	}
	if err == nil {
		return secret, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the secret: %w", err)
	}
	var random [secretBytes]byte
	_, _ = rand.Read(random[:]) // never fails
	secret = hex.EncodeToString(random[:])
	return secret, writeFile(path, []byte(secret+"\n"), 0o600)
}
