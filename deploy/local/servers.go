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
	path, err := exec.LookPath("nats-server")
	if err != nil {
		if path, err = r.buildNATS(ctx); err != nil {
			return "", err
		}
	}
	c, err := r.start(spec{kind: kindServer, name: p.name, path: path, args: []string{"--addr", "127.0.0.1", "--port", fmt.Sprint(p.number)}})
	if err != nil {
		return "", err
	}
	url := "nats://" + p.addr()
	err = r.ready(ctx, c, 15*time.Second, func(context.Context) error {
		nc, err := nats.Connect(url, nats.Timeout(time.Second), nats.NoReconnect())
		if err == nil {
			nc.Close()
		}
		return err
	})
	if err != nil {
		return "", err
	}
	r.up(c, p.addr(), "")
	return url, nil
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

// startRedis starts a Redis that keeps nothing on disk: Parley holds there only what can be told or read again.
func (r *runner) startRedis(ctx context.Context, p port) (string, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", errors.New("redis-server is not on PATH: apt-get install redis-server, or brew install redis")
	}
	c, err := r.start(spec{kind: kindServer, name: p.name, path: path, args: []string{
		"--bind", "127.0.0.1", "--port", fmt.Sprint(p.number), "--dir", r.opts.Dir, "--save", "", "--appendonly", "no",
	}})
	if err != nil {
		return "", err
	}
	if err := r.ready(ctx, c, 15*time.Second, func(ctx context.Context) error { return pingRedis(ctx, p) }); err != nil {
		return "", err
	}
	r.up(c, p.addr(), "")
	return "redis://" + p.addr() + "/0", nil
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
