// Package local runs an installation of Parley on one machine as real processes: NATS, Redis, Kafka, MongoDB (or a
// stand-in that is named as such) and the roles. It is what `parley up`, `parley down` and `parley doctor` call.
//
//	Up
//	 ├─ servers  side by side: nats-server · redis-server · Kafka (java) · MongoDB     logs/NAME.log
//	 │           each is fetched or built once, started, and asked until it answers
//	 ├─ roles    `parley edge | worker | dispatch | persist`, each asked at /readyz    logs/NAME.log and prefixed lines
//	 └─ waits    until its context ends or a server dies; then SIGTERM to the roles, to the servers, SIGKILL after 10 s
//
// Everything it keeps is below one directory, .local by default: bin, logs, data of the servers, the secret that signs
// guests' tokens, and the list of processes that Down goes by.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	stopTimeout  = 10 * time.Second // from SIGTERM to SIGKILL
	pollInterval = 50 * time.Millisecond
)

// Ways to choose ports for UpOptions.Ports.
const (
	PortsDefault = "default" // the conventional ones: 4222, 6379, 9092, 27017
	PortsFree    = "free"    // whatever is free
)

// Ways to get a MongoDB for UpOptions.Mongo.
const (
	MongoAuto   = "auto"   // MONGODB_URI, else mongod on PATH, else the Java stand-in
	MongoJava   = "java"   // mongo-java-server, a stand-in that forgets everything when it ends
	MongoFerret = "ferret" // FerretDB on SQLite, a stand-in that keeps its data but scans whole tables
)

// ErrUnsupported is returned by Up and Down where processes cannot be run in groups and stopped by signals.
var ErrUnsupported = errors.New("starting real servers is not supported on Windows: use WSL 2, or `parley dev`, which needs none")

// UpOptions says what to start and where.
type UpOptions struct {
	// Dir holds everything that is kept. Defaults to ".local".
	Dir string
	// Data holds what is this run's own: logs, the servers' data, the secret, the list of processes. Only one Up or Host
	// at a time may use it. Defaults to Dir; runs with another can go on beside each other and share Dir's programs.
	Data string
	// Binary is the parley executable that the roles are started from. Defaults to this one.
	Binary string
	// Edges, Workers, Dispatchers, Persisters are how many of each role to start. Each defaults to 1.
	Edges, Workers, Dispatchers, Persisters int
	// Port is the first edge's; further edges take the next ones. Defaults to 8080, or to free ones with PortsFree.
	Port int
	// Ports is PortsDefault, PortsFree, or a number: then NATS, Redis, Kafka, Kafka's controller and MongoDB take that
	// port and the four after it. Defaults to PortsDefault.
	Ports string
	// ServersOnly starts no roles and prints the servers' addresses as shell lines.
	ServersOnly bool
	// Write is a file that gets those shell lines once every server answers; empty for none.
	Write string
	// Mongo is MongoAuto, MongoJava, MongoFerret or a mongodb:// URI. Defaults to MongoAuto.
	Mongo string
	// MongoHeap is how much memory, in MiB, the Java stand-in may take: it keeps everything there. Defaults to 512.
	MongoHeap int
	// Env is added to the roles' environment, NAME=VALUE each.
	Env []string
	// Out gets progress, addresses and the roles' logs. Defaults to nothing.
	Out io.Writer
	// Color marks each process's lines in its own colour.
	Color bool
}

func (o UpOptions) withDefaults() (UpOptions, error) {
	if o.Dir == "" {
		o.Dir = ".local"
	}
	if o.Ports == "" {
		o.Ports = PortsDefault
	}
	if o.Mongo == "" {
		o.Mongo = MongoAuto
	}
	if o.MongoHeap == 0 {
		o.MongoHeap = 512
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.Port == 0 && o.Ports != PortsFree {
		o.Port = 8080
	}
	for _, n := range []*int{&o.Edges, &o.Workers, &o.Dispatchers, &o.Persisters} {
		if *n < 0 {
			return o, fmt.Errorf("%d of a role: give 1 or more", *n)
		}
		if *n == 0 {
			*n = 1
		}
	}
	if o.Ports != PortsDefault && o.Ports != PortsFree {
		if n, err := strconv.Atoi(o.Ports); err != nil || n < 1 || n > 65530 {
			return o, fmt.Errorf("ports %q: use %q, %q or the first of five numbers in a row", o.Ports, PortsDefault, PortsFree)
		}
	}
	if !isMongoURI(o.Mongo) && o.Mongo != MongoAuto && o.Mongo != MongoJava && o.Mongo != MongoFerret {
		return o, fmt.Errorf("mongo %q: use %s, %s, %s or a mongodb:// URI", o.Mongo, MongoAuto, MongoJava, MongoFerret)
	}
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return o, fmt.Errorf("find directory %s: %w", o.Dir, err)
	}
	if o.Data == "" {
		o.Data = o.Dir
	}
	if o.Data, err = filepath.Abs(o.Data); err != nil {
		return o, fmt.Errorf("find directory %s: %w", o.Data, err)
	}
	if o.Binary == "" && !o.ServersOnly {
		if o.Binary, err = os.Executable(); err != nil {
			return o, fmt.Errorf("find this executable: %w", err)
		}
	}
	return o, nil
}

// Up starts the servers and the roles, waits until each answers, prints their addresses, and then shows the roles' logs
// until ctx ends or a server dies. Before it returns it stops everything it started. It returns nil when ctx ended,
// and an error that says what to do when something did not come up.
func Up(ctx context.Context, o UpOptions) (err error) {
	if !supported {
		return ErrUnsupported
	}
	o, err = o.withDefaults()
	if err != nil {
		return err
	}
	r, err := newRunner(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()

	urls, err := r.startServers(ctx)
	if err == nil && o.Write != "" {
		err = urls.write(o.Write)
	}
	if err == nil && o.ServersOnly {
		_, err = io.WriteString(o.Out, "\n"+urls.shell()+"\n")
	}
	if err == nil && !o.ServersOnly {
		err = r.startRoles(ctx, urls)
	}
	if ctx.Err() != nil {
		return nil // interrupted: whatever failed, failed because of that
	}
	if err != nil {
		return err
	}
	r.out.line("up", "everything answers; Ctrl-C stops it, as does `parley down`")
	return r.wait(ctx)
}

// Down stops what an Up in dir started, from another process: it asks the Up itself to stop and, where that is gone,
// stops the processes it left. A process is touched only while its start time is the one in the list, so that a number
// that was given to another program is left alone.
func Down(ctx context.Context, dir string, out io.Writer) error {
	if !supported {
		return ErrUnsupported
	}
	if dir == "" {
		dir = ".local"
	}
	if out == nil {
		out = io.Discard
	}
	entries, err := readPids(filepath.Join(dir, pidFile))
	if err != nil {
		return err
	}
	con := &console{w: out}
	if len(entries) == 0 {
		con.line("down", "nothing is running in %s", dir)
		return nil
	}
	for _, kind := range []kind{kindUp, kindSetup, kindRole, kindServer} {
		if err := stopListed(ctx, entries, kind, con); err != nil {
			return err
		}
	}
	return removePids(filepath.Join(dir, pidFile), entries)
}
