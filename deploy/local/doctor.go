package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// What Doctor asks for at least.
const (
	needGo    = "1.26"
	needJava  = 17
	wantFiles = 65536           // open files: an edge needs one per connection
	wantDisk  = 2 << 30         // bytes: jars, builds and some data
	askWithin = 5 * time.Second // per program that is asked for its version
)

// Finding is what Doctor found out about one thing.
type Finding struct {
	Name   string // of the thing
	OK     bool   // false: something that it is needed for will not work
	Low    bool   // not OK because there is too little of it, not none
	Detail string // what is there, and what it is needed for
	Fix    string // the command that gets it; empty where nothing is to be done
}

// Doctor looks at what this machine has of what building, testing and running Parley need. It changes nothing.
func Doctor(ctx context.Context) []Finding {
	return doctor(ctx, defaultDoctorEnv())
}

// doctorEnv is what Doctor sees of the machine.
type doctorEnv struct {
	// version runs a program and returns what it prints; an error that is exec.ErrNotFound says it is not installed.
	version func(ctx context.Context, name string, args ...string) (string, error)
	// busy reports whether something listens on a port.
	busy  func(p port) bool
	files func() (now, most uint64, err error)
	disk  func(dir string) (uint64, error)
	env   func(name string) string
}

func defaultDoctorEnv() doctorEnv {
	return doctorEnv{
		version: func(ctx context.Context, name string, args ...string) (string, error) {
			path, err := exec.LookPath(name)
			if err != nil {
				return "", err
			}
			ctx, cancel := context.WithTimeout(ctx, askWithin)
			defer cancel()
			out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
			return string(out), err
		},
		busy:  func(p port) bool { return checkPort(p, "") != nil },
		files: openFilesLimit,
		disk:  freeDisk,
		env:   os.Getenv,
	}
}

func doctor(ctx context.Context, e doctorEnv) []Finding {
	findings := []Finding{
		e.tool(ctx, "go", "builds Parley, and nats-server where none is on PATH", "https://go.dev/dl", needGo, "version"),
		e.java(ctx),
		e.tool(ctx, "mvn", "fetches Kafka and the MongoDB stand-in for `parley up`", "apt-get install maven, or brew install maven", "", "-v"),
		e.tool(ctx, "redis-server", "is the Redis of `parley up`", "apt-get install redis-server, or brew install redis", "", "--version"),
		e.natsServer(ctx),
		e.mongo(ctx),
		e.node(ctx),
		e.openFiles(),
		e.diskSpace(),
	}
	return append(findings, e.ports()...)
}

var (
	numbers = regexp.MustCompile(`\d+(\.\d+)+|\d+`) // a version among the words that a program prints
	colours = regexp.MustCompile("\x1b\\[[0-9;]*m") // that Maven prints around them
)

// tool looks for a program whose version is at least least; empty for any.
func (e doctorEnv) tool(ctx context.Context, name, purpose, fix, least string, args ...string) Finding {
	out, err := e.version(ctx, name, args...)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return Finding{Name: name, Detail: "not on PATH; it " + purpose, Fix: fix}
	}
	if err != nil {
		return Finding{Name: name, Detail: fmt.Sprintf("does not run: %v; it %s", err, purpose), Fix: fix}
	}
	have := numbers.FindString(colours.ReplaceAllString(out, ""))
	if least != "" && !atLeast(have, least) {
		return Finding{Name: name, Detail: fmt.Sprintf("%s, %s or newer is needed; it %s", have, least, purpose), Fix: fix}
	}
	return Finding{Name: name, OK: true, Detail: fmt.Sprintf("%s; it %s", have, purpose)}
}

// java also needs its compiler, which a bare runtime lacks: the MongoDB stand-in is started from its source.
func (e doctorEnv) java(ctx context.Context) Finding {
	const fix = "apt-get install default-jdk-headless, or brew install openjdk"
	f := e.tool(ctx, "java", "runs Kafka and the MongoDB stand-in of `parley up`", fix, strconv.Itoa(needJava), "-version")
	if !f.OK {
		return f
	}
	modules, err := e.version(ctx, "java", "--list-modules")
	if err == nil && !strings.Contains(modules, "jdk.compiler@") {
		f.OK, f.Fix = false, fix
		f.Detail += "; this one is a runtime without a compiler: Kafka runs, the MongoDB stand-in does not"
	}
	return f
}

func (e doctorEnv) natsServer(ctx context.Context) Finding {
	f := e.tool(ctx, "nats-server", "is the NATS of `parley up`", "", "", "--version")
	if !f.OK {
		f.OK, f.Detail = true, "not on PATH; `parley up` builds "+natsVersion+" once, with Go"
	}
	return f
}

// node is well in any case: nothing that is run or built needs it.
func (e doctorEnv) node(ctx context.Context) Finding {
	f := e.tool(ctx, "node", "tests the chat page, and nothing else", "", "18", "--version")
	f.OK, f.Fix = true, ""
	return f
}

// mongo is well in any case, since there is a stand-in; the finding says which it will be.
func (e doctorEnv) mongo(ctx context.Context) Finding {
	if e.env("MONGODB_URI") != "" {
		return Finding{Name: "mongod", OK: true, Detail: "MONGODB_URI is set; `parley up` uses that server"}
	}
	f := e.tool(ctx, "mongod", "is the MongoDB of `parley up`", "", "", "--version")
	if !f.OK {
		f.OK, f.Detail = true, "not on PATH; `parley up` uses a stand-in and says so, unless MONGODB_URI names a server (https://www.mongodb.com/docs/manual/installation)"
	}
	return f
}

func (e doctorEnv) openFiles() Finding {
	f := Finding{Name: "open files"}
	now, most, err := e.files()
	if err != nil {
		f.OK, f.Detail = true, "unknown on this system"
		return f
	}
	// The Go runtime raises the limit to what is allowed when it starts, so the higher of both counts.
	f.OK = most >= wantFiles
	f.Low = !f.OK
	f.Detail = fmt.Sprintf("%d now, %d allowed; an edge needs one per connection", now, most)
	if !f.OK {
		f.Fix = fmt.Sprintf("ulimit -n %d (as root, or in /etc/security/limits.conf)", wantFiles)
	}
	return f
}

func (e doctorEnv) diskSpace() Finding {
	f := Finding{Name: "disk space", OK: true}
	dir, err := filepath.Abs(".")
	var free uint64
	if err == nil {
		free, err = e.disk(dir)
	}
	if err != nil {
		f.Detail = "unknown on this system"
		return f
	}
	f.OK = free >= wantDisk
	f.Low = !f.OK
	f.Detail = fmt.Sprintf("%.1f GB free here; `parley up` keeps downloads and data in .local, %.0f GB is comfortable", float64(free)/(1<<30), float64(wantDisk)/(1<<30))
	if !f.OK {
		f.Fix = "go clean -cache, or start with --dir on another disk"
	}
	return f
}

// ports looks at the conventional ones, that `parley up` takes by default.
func (e doctorEnv) ports() []Finding {
	var findings []Finding
	for _, p := range []port{{"edge", 8080}, {"nats", 4222}, {"redis", 6379}, {"kafka", 9092}, {"kafka's controller", 9093}, {"mongo", 27017}} {
		f := Finding{Name: fmt.Sprintf("port %d", p.number), OK: !e.busy(p), Detail: "free; for " + p.name}
		if !f.OK {
			f.Detail, f.Fix = "in use; `parley up` wants it for "+p.name, "stop what listens there, or parley up --ports free"
		}
		findings = append(findings, f)
	}
	return findings
}

// atLeast compares dotted numbers part by part.
func atLeast(have, least string) bool {
	h, l := strings.Split(have, "."), strings.Split(least, ".")
	for i := range l {
		want, _ := strconv.Atoi(l[i])
		if i >= len(h) {
			return want == 0
		}
		got, err := strconv.Atoi(h[i])
		if err != nil || got < want {
			return false
		}
		if got > want {
			return true
		}
	}
	return true
}
