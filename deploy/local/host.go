package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"
)

// Host runs servers and roles for an owner that decides itself what starts and ends when, such as the chaos tests:
// where Up keeps everything running, a Host lets each process be stopped and started again.
type Host struct {
	r      *runner
	secret string // signs guests' tokens
}

// NewHost claims o.Data. Of the options it heeds Dir, Data, Binary, Mongo, MongoHeap, Out and Color. Close must be called, from whatever
// goroutine; until then the processes live.
func NewHost(o UpOptions) (*Host, error) {
	if !supported {
		return nil, ErrUnsupported
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r, err := newRunner(o)
	if err != nil {
		return nil, err
	}
	secret, err := KeepSecret(filepath.Join(o.Data, "secret"))
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return &Host{r: r, secret: secret}, nil
}

// Close stops every process that still runs: the roles, then the servers.
func (h *Host) Close() error { return h.r.close() }

// Ports returns n free ports.
func (h *Host) Ports(n int) ([]int, error) {
	ports := make([]port, n)
	held := make([]*port, n)
	for i := range ports {
		held[i] = &ports[i]
	}
	if err := freePorts(held...); err != nil {
		return nil, err
	}
	numbers := make([]int, n)
	for i, p := range ports {
		numbers[i] = p.number
	}
	return numbers, nil
}

// NATS is a nats-server on a port. It is built here where there is none.
func (h *Host) NATS(ctx context.Context, number int) (*Process, error) {
	return h.keep(h.r.natsServer(ctx, port{"nats", number}))
}

// Redis is a redis-server on a port, with further options for its command line.
func (h *Host) Redis(name string, number int, more ...string) (*Process, error) {
	return h.keep(h.r.redisServer(port{name, number}, more...))
}

// KafkaListener is a further listener of a Kafka, for one client behind a proxy.
type KafkaListener struct {
	Port      int
	Advertise string // the proxy's host:port, which clients are told to connect to
}

// Kafka is a Kafka whose data is kept in the directory data. Each client that is to be cut off by itself needs a listener, by
// a name of capital letters and digits.
func (h *Host) Kafka(ctx context.Context, number, controller int, data string, listeners map[string]KafkaListener) (*Process, error) {
	plan := kafkaPlan{
		at: port{"kafka", number}, controller: port{"kafka's controller", controller}, data: data,
		through: make(map[string]throughPorts, len(listeners)),
	}
	for name, l := range listeners {
		plan.through[name] = throughPorts{listen: port{name, l.Port}, advertise: l.Advertise}
	}
	return h.keep(h.r.kafkaServer(ctx, plan))
}

// Mongo is the database that UpOptions.Mongo names. note says what it is where it is not MongoDB. Where a URI was named it
// returns no process: it is not ours to start, and given is the URI, which answers.
func (h *Host) Mongo(ctx context.Context, number int) (p *Process, given, note string, err error) {
	m, err := h.r.chooseMongo()
	if err != nil {
		return nil, "", "", err
	}
	if m.uri != "" {
		return nil, m.uri, "", h.r.askMongo(ctx, m.uri)
	}
	p, note, err = h.r.mongoServer(ctx, m, port{"mongo", number})
	p, err = h.keep(p, err)
	return p, "", note, err
}

// roleWithin is how long a Host's role may take until it is ready: the servers that it waits for may be away.
const roleWithin = 5 * time.Minute

// Role is a part of Parley: command is edge, worker, dispatch or persist. ops is its operators' port; env is what it
// is told besides, NAME=VALUE.
func (h *Host) Role(name, command string, ops int, env []string) *Process {
	at := port{name + "'s ops", ops}
	p, _ := h.keep(&Process{
		r: h.r, within: roleWithin,
		spec: spec{
			kind: kindRole, name: name, path: h.r.opts.Binary, args: []string{command},
			drop: []string{"PORT", "PARLEY_PORT"}, // one port for every edge
			env: append([]string{
				"PARLEY_SECRET=" + h.secret, "PARLEY_NODE=" + name, "PARLEY_OPS=" + at.addr(), "PARLEY_LOG_FORMAT=text", "PARLEY_LIMITS=false",
			}, env...),
		},
		ask: func(ctx context.Context) error { return AskReady(ctx, at.addr()) },
	}, nil)
	return p
}

// keep makes a process one that its owner looks after.
func (h *Host) keep(p *Process, err error) (*Process, error) {
	if err != nil {
		return nil, fmt.Errorf("prepare a process: %w", err)
	}
	p.spec.kept = true
	return p, nil
}

// Addr is where a port of a Host is reached.
func Addr(number int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(number)) }
