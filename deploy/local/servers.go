package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
)

// natsVersion is the nats-server that is built where none is on PATH: the one that Parley embeds, by go.mod.
const natsVersion = "v2.15.2"

// addresses are what the roles and the tests need to reach the servers.
type addresses struct {
	nats, redis, kafka, mongo string
}

// env lists them as NAME=VALUE under the conventional names and under those of the tests on real servers.
func (a addresses) env() []string {
	return append(a.conventional(),
		"PARLEY_TEST_NATS_URL="+a.nats,
		"PARLEY_TEST_REDIS_URL="+a.redis,
		"PARLEY_TEST_KAFKA_BROKERS="+a.kafka,
		"PARLEY_TEST_MONGODB_URI="+a.mongo,
	)
}

func (a addresses) conventional() []string {
	return []string{
		"NATS_URL=" + a.nats,
		"REDIS_URL=" + a.redis,
		"KAFKA_BROKERS=" + a.kafka,
		"MONGODB_URI=" + a.mongo,
	}
}

// shell is env as lines for a shell.
func (a addresses) shell() string {
	var b strings.Builder
	for _, pair := range a.env() {
		name, value, _ := strings.Cut(pair, "=")
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	return b.String()
}

// write puts the shell lines into a file that appears whole. A URI may hold a password, so only the user may read it.
func (a addresses) write(path string) error { return writeFile(path, []byte(a.shell()), 0o600) }

// startServers starts the servers side by side and returns when all answer.
func (r *runner) startServers(ctx context.Context) (addresses, error) {
	mongo, err := r.chooseMongo()
	if err != nil {
		return addresses{}, err
	}
	ports, err := choosePorts(r.opts.Ports, mongo.needsPort())
	if err != nil {
		return addresses{}, err
	}
	var a addresses
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { a.nats, err = r.startNATS(ctx, ports.nats); return err })
	g.Go(func() (err error) { a.redis, err = r.startRedis(ctx, ports.redis); return err })
	g.Go(func() (err error) { a.kafka, err = r.startKafka(ctx, ports.kafka, ports.controller); return err })
	g.Go(func() (err error) { a.mongo, err = r.startMongo(ctx, mongo, ports.mongo); return err })
	err = g.Wait()
	return a, err
}

// up reports a server that answers.
func (r *runner) up(c *child, at, more string) {
	if more != "" {
		more = ", " + more
	}
	r.out.line(c.name, "up in %.1f s on %s%s", time.Since(c.started).Seconds(), at, more)
}

func (r *runner) startNATS(ctx context.Context, p port) (string, error) {
	s, err := r.natsServer(ctx, p)
	if err != nil {
		return "", err
	}
	return "nats://" + p.addr(), r.serve(ctx, s, p, "")
}

// serve starts a server, waits for it, and reports it.
func (r *runner) serve(ctx context.Context, s *Process, p port, note string) error {
	if err := s.Start(ctx); err != nil {
		return err
	}
	r.up(s.current(), p.addr(), note)
	return nil
}

func (r *runner) natsServer(ctx context.Context, p port) (*Process, error) {
	path, err := exec.LookPath("nats-server")
	if err != nil {
		if path, err = r.buildNATS(ctx); err != nil {
			return nil, err
		}
	}
	return &Process{
		r: r, within: 15 * time.Second,
		spec: spec{kind: kindServer, name: p.name, path: path, args: []string{"--addr", "127.0.0.1", "--port", fmt.Sprint(p.number)}},
		ask: func(context.Context) error {
			nc, err := nats.Connect("nats://"+p.addr(), nats.Timeout(time.Second), nats.NoReconnect())
			if err == nil {
				nc.Close()
			}
			return err
		},
	}, nil
}

// buildNATS builds the pinned nats-server once; its folder carries the version.
func (r *runner) buildNATS(ctx context.Context) (string, error) {
	dir := filepath.Join(r.opts.Dir, "bin", "nats-server-"+natsVersion)
	path := filepath.Join(dir, "nats-server")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if _, err := exec.LookPath("go"); err != nil {
		return "", errors.New("nats-server is neither on PATH nor can it be built without Go: install one of them (brew install nats-server, or https://go.dev/dl)")
	}
	r.out.line("nats", "building nats-server %s (about half a minute, once)", natsVersion)
	err := r.setup(ctx, spec{
		name: "nats-build", path: "go",
		args: []string{"install", "-ldflags=-s -w", "github.com/nats-io/nats-server/v2@" + natsVersion},
		// Where go.mod or GOOS say something else, the server for this machine is still what is wanted.
		env: []string{"GOBIN=" + dir, "GOFLAGS=", "GOOS=", "GOARCH="},
	})
	if err != nil {
		return "", fmt.Errorf("build nats-server: %w", err)
	}
	return path, nil
}

func (r *runner) startRedis(ctx context.Context, p port) (string, error) {
	s, err := r.redisServer(p)
	if err != nil {
		return "", err
	}
	return "redis://" + p.addr() + "/0", r.serve(ctx, s, p, "")
}

// redisServer is a Redis that keeps nothing on disk: Parley holds there only what can be told or read again.
func (r *runner) redisServer(p port, more ...string) (*Process, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("redis-server is not on PATH: apt-get install redis-server, or brew install redis")
	}
	return &Process{
		r: r, within: 15 * time.Second,
		spec: spec{kind: kindServer, name: p.name, path: path, args: append([]string{
			"--bind", "127.0.0.1", "--port", fmt.Sprint(p.number), "--dir", r.opts.Data, "--save", "", "--appendonly", "no",
		}, more...)},
		ask: func(ctx context.Context) error { return pingRedis(ctx, p) },
	}, nil
}

// pingRedis asks in the inline form of the protocol: a client library would retry and log what is expected here.
func pingRedis(ctx context.Context, p port) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", p.addr())
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	err = conn.SetDeadline(deadline)
	if err == nil {
		_, err = io.WriteString(conn, "PING\r\n")
	}
	answer := make([]byte, len("+PONG\r\n"))
	if err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	if err == nil && string(answer) != "+PONG\r\n" {
		err = fmt.Errorf("it answers %q", answer)
	}
	return errors.Join(err, conn.Close())
}
