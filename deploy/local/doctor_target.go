package local

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// What a connection costs and what a burst of connections needs. The costs are those of deploy/CAPACITY.md, an edge's
// and the load tester's rounded up to what they have just after a storm of connects.
const (
	edgePerConn   = 1 << 10 // bytes of an edge per connection that is logged in and in a room
	loadPerConn   = 1 << 10 // bytes of the load tester per connection
	kernelPerConn = 5170    // bytes of the kernel per end of an idle connection: 5.05 KiB
	spareFiles    = 256     // descriptors that a process needs for itself
	spareSystem   = 10_000  // descriptors of everything else on the machine
	returning     = 4096    // connections that may wait to be accepted when all clients return at once
	perSource     = 20_000  // connections that the load tester opens from one loopback address
	pageSize      = 4 << 10 // unit of tcp_mem
)

// TargetOptions says for what Target looks at the machine.
type TargetOptions struct {
	// Connections is how many the edges of this machine are to hold.
	Connections int
	// BothEnds says that the clients run here, too: the load tester.
	BothEnds bool
	// Root is where proc and sys are. Defaults to "/".
	Root string
	// Processors share the connections. Defaults to those of this machine.
	Processors int
}

// Limit is one limit of the machine beside what the target needs.
type Limit struct {
	Name string // as the kernel calls it
	OK   bool
	Now  string
	Need string
	Why  string // what meets this limit
	Fix  string // the command that raises it; empty where all is well
}

// Target lists every limit of a Linux machine that so many connections meet. A limit that this kernel does not have is
// left out. It fails elsewhere than on Linux, and for less than one connection.
func Target(o TargetOptions) ([]Limit, error) {
	if o.Root == "" {
		if runtime.GOOS != "linux" {
			return nil, errors.New("the limits of Linux alone are known: look there, on the machine that will hold the connections")
		}
		o.Root = "/"
	}
	if o.Processors == 0 {
		o.Processors = runtime.NumCPU()
	}
	if o.Connections < 1 {
		return nil, fmt.Errorf("--target %d: give the number of connections", o.Connections)
	}
	t := target{TargetOptions: o, sockets: int64(o.Connections)}
	if o.BothEnds {
		t.sockets *= 2
	}
	for _, look := range []func() error{t.files, t.memory, t.buffers, t.bursts, t.network} {
		if err := look(); err != nil {
			return nil, err
		}
	}
	return t.limits, nil
}

// target gathers the limits.
type target struct {
	TargetOptions
	sockets int64 // of both ends, if they are here
	limits  []Limit
}

// files are descriptors: of a process, of the machine, and those that epoll watches.
func (t *target) files() error {
	allowed, err := t.openFiles()
	if err != nil {
		return err
	}
	// An edge takes connections for nine tenths of its descriptors.
	share := (int64(t.Connections) + int64(t.Processors) - 1) / int64(t.Processors)
	share = max((share*10+8)/9, share+spareFiles)
	processes := math.MaxInt
	if room := min(allowed*9/10, allowed-spareFiles); room > 0 {
		processes = int((int64(t.Connections) + room - 1) / room)
	}
	l := Limit{Name: "ulimit -n", OK: processes <= t.Processors, Now: grouped(allowed), Need: grouped(share)}
	switch {
	case processes == 1:
		l.Why = "one edge process holds them all"
	case l.OK:
		l.Why = fmt.Sprintf("%d edge processes hold them, on %d processors", processes, t.Processors)
	case processes == math.MaxInt:
		l.Why = "a process has no descriptors left for connections"
	default:
		l.Why = fmt.Sprintf("%s edge processes would be needed, with %d processors", grouped(int64(processes)), t.Processors)
	}
	if !l.OK {
		l.Fix = fmt.Sprintf("ulimit -Hn %d; ulimit -n %d   (as root in the shell, or LimitNOFILE= of the service)", share, share)
	}
	most, err := t.number("proc/sys/fs/nr_open")
	if err != nil {
		return err
	}
	if share > most && !l.OK {
		l.Why += ", and fs.nr_open is first"
	}
	t.limits = append(t.limits, l)
	t.least("fs.nr_open", most, share, "the most that ulimit -n can be set to")
	return errors.Join(
		t.key("fs.file-max", t.sockets+spareSystem, "descriptors of all processes together"),
		t.key("fs.epoll.max_user_watches", t.sockets+spareSystem, "descriptors that one user's epolls may watch"),
	)
}

// openFiles is how many descriptors a process may be allowed.
func (t *target) openFiles() (int64, error) {
	text, err := t.read("proc/self/limits")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if fields := strings.Fields(rest); len(fields) >= 2 {
				if fields[1] == "unlimited" {
					return math.MaxInt32, nil
				}
				return strconv.ParseInt(fields[1], 10, 64)
			}
		}
	}
	return 0, errors.New("read proc/self/limits: no open files in it")
}

func (t *target) memory() error {
	text, err := t.read("proc/meminfo")
	if err != nil {
		return err
	}
	var available int64
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			if fields := strings.Fields(rest); len(fields) > 0 {
				kib, _ := strconv.ParseInt(fields[0], 10, 64)
				available = kib << 10
			}
		}
	}
	per, why := int64(edgePerConn+kernelPerConn), fmt.Sprintf("per connection %s of the edge and %s of the kernel", kib(edgePerConn), kib(kernelPerConn))
	if t.BothEnds {
		per += loadPerConn + kernelPerConn
		why += fmt.Sprintf(", at the other end %s and %s", kib(loadPerConn), kib(kernelPerConn))
	}
	need := int64(t.Connections) * per / 4 * 5
	l := Limit{Name: "memory available", OK: available >= need, Now: gib(available), Need: gib(need), Why: why + ", and a quarter more"}
	if !l.OK {
		l.Fix = fmt.Sprintf("another machine beside this one: %s connections fit here", grouped(available/(per/4*5)))
	}
	t.limits = append(t.limits, l)
	pages, err := t.read("sys/kernel/mm/transparent_hugepage/enabled")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	l = Limit{Name: "transparent hugepages", Now: selected(pages), Need: "madvise", Why: "with always, memory that is given back in small pieces stays taken"}
	if l.OK = l.Now != "always"; !l.OK {
		l.Fix = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
	}
	t.limits = append(t.limits, l)
	return nil
}

// buffers are what waits in sockets.
func (t *target) buffers() error {
	mem, err := t.numbers("proc/sys/net/ipv4/tcp_mem")
	if err != nil {
		return err
	}
	if need := t.sockets / 10; len(mem) == 3 {
		l := Limit{
			Name: "net.ipv4.tcp_mem", OK: mem[1] >= need, Now: gib(mem[1] * pageSize), Need: gib(need * pageSize),
			Why: "socket buffers before the kernel takes them back, with a page under way on each tenth connection",
		}
		if !l.OK {
			l.Fix = fmt.Sprintf(`sysctl -w net.ipv4.tcp_mem="%d %d %d"`, need, need*4/3, need*2)
		}
		t.limits = append(t.limits, l)
	}
	for _, name := range []string{"tcp_rmem", "tcp_wmem"} {
		size, err := t.numbers("proc/sys/net/ipv4/" + name)
		if err != nil {
			return err
		}
		if len(size) != 3 {
			continue
		}
		l := Limit{
			Name: "net.ipv4." + name, OK: size[0] <= pageSize, Now: grouped(size[0]) + " least", Need: "at most " + grouped(pageSize),
			Why: "bytes that every connection may hold however short memory is",
		}
		if !l.OK {
			l.Fix = fmt.Sprintf(`sysctl -w net.ipv4.%s="%d %d %d"`, name, pageSize, size[1], size[2])
		}
		t.limits = append(t.limits, l)
	}
	return nil
}

// bursts are clients that all come back at once.
func (t *target) bursts() error {
	need := int64(min(returning, t.Connections))
	return errors.Join(
		t.key("net.core.somaxconn", need, "connections that wait to be accepted when all clients return at once"),
		t.key("net.ipv4.tcp_max_syn_backlog", need, "the same, before their handshake is done"),
	)
}

// network is what lies between client and edge on this machine.
func (t *target) network() error {
	ports, err := t.numbers("proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return err
	}
	if len(ports) == 2 {
		n := ports[1] - ports[0] + 1
		addresses := (int64(t.Connections) + max(n, 1) - 1) / max(n, 1)
		l := Limit{Name: "net.ipv4.ip_local_port_range", OK: true, Now: grouped(n) + " ports", Need: "any"}
		l.Why = fmt.Sprintf("none for clients elsewhere; a proxy here would need %s addresses to call one edge address", grouped(addresses))
		if t.BothEnds {
			l.Need, l.OK = grouped(perSource), n >= perSource
			l.Why = fmt.Sprintf("the load tester opens %[2]s connections from each address of the loopback, and calls from %[1]s", grouped((int64(t.Connections)+perSource-1)/perSource), grouped(perSource))
		}
		if !l.OK {
			l.Fix = `sysctl -w net.ipv4.ip_local_port_range="32768 60999"`
		}
		t.limits = append(t.limits, l)
	}
	err = t.key("net.netfilter.nf_conntrack_max", int64(t.Connections)/10*11, "connections that the packet filter remembers; beyond, packets are dropped")
	return err
}

// key is a sysctl that must be need at least. One that this kernel does not have limits nothing.
func (t *target) key(name string, need int64, why string) error {
	now, err := t.number("proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	t.least(name, now, need, why)
	return nil
}

func (t *target) least(name string, now, need int64, why string) {
	l := Limit{Name: name, OK: now >= need, Now: grouped(now), Need: grouped(need), Why: why}
	if !l.OK {
		l.Fix = fmt.Sprintf("sysctl -w %s=%d", name, need)
	}
	t.limits = append(t.limits, l)
}

func (t *target) read(path string) (string, error) {
	text, err := os.ReadFile(filepath.Join(t.Root, path))
	if err != nil {
		return "", fmt.Errorf("look at the machine's limits: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func (t *target) number(path string) (int64, error) {
	all, err := t.numbers(path)
	if err != nil {
		return 0, err
	}
	if len(all) != 1 {
		return 0, fmt.Errorf("look at the machine's limits: %s holds %d numbers", path, len(all))
	}
	return all[0], nil
}

// numbers reads a file of numbers. Those beyond what fits are as many as fit.
func (t *target) numbers(path string) ([]int64, error) {
	text, err := t.read(path)
	if err != nil {
		return nil, err
	}
	var all []int64
	for field := range strings.FieldsSeq(text) {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return nil, fmt.Errorf("look at the machine's limits: %s: %w", path, err)
		}
		all = append(all, n)
	}
	return all, nil
}

// selected is the word in brackets.
func selected(s string) string {
	_, rest, _ := strings.Cut(s, "[")
	word, _, _ := strings.Cut(rest, "]")
	return word
}

// gib writes a size of memory.
func gib(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

func kib(n int64) string {
	return strconv.FormatFloat(math.Round(float64(n)/1024*100)/100, 'f', -1, 64) + " KiB"
}

// grouped writes a number with separators: 1,234,567.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
