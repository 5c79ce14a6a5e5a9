package local

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// machine writes a root with these files in place of a roomy machine's; an empty one is missing.
func machine(t *testing.T, differing map[string]string) string {
	t.Helper()
	files := map[string]string{
		"proc/self/limits":                           "Limit                     Soft Limit           Hard Limit           Units\nMax processes             96365                96365                processes\nMax open files            1024                 2000000              files\n",
		"proc/meminfo":                               "MemTotal:       65000000 kB\nMemFree:        60000000 kB\nMemAvailable:   62000000 kB\n",
		"proc/sys/fs/nr_open":                        "2000000\n",
		"proc/sys/fs/file-max":                       "9223372036854775807\n",
		"proc/sys/fs/epoll/max_user_watches":         "14000000\n",
		"proc/sys/net/ipv4/tcp_mem":                  "740000\t990000\t1480000\n",
		"proc/sys/net/ipv4/tcp_rmem":                 "4096\t131072\t6291456\n",
		"proc/sys/net/ipv4/tcp_wmem":                 "4096\t16384\t4194304\n",
		"proc/sys/net/core/somaxconn":                "4096\n",
		"proc/sys/net/ipv4/tcp_max_syn_backlog":      "4096\n",
		"proc/sys/net/ipv4/ip_local_port_range":      "32768\t60999\n",
		"proc/sys/net/netfilter/nf_conntrack_max":    "3000000\n",
		"sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
	}
	maps.Copy(files, differing)
	root := t.TempDir()
	for name, text := range files {
		if text == "" {
			continue
		}
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestTarget(t *testing.T) {
	limits := func(open string) string {
		return "Max open files            1024                 " + open + "                files\n"
	}
	tests := map[string]struct {
		files map[string]string
		o     TargetOptions
		short []string // limits that are not well
		fix   string   // of the first of them
	}{
		"a roomy machine":           {},
		"a roomy machine, all here": {o: TargetOptions{BothEnds: true}},
		"two processes are enough":  {files: map[string]string{"proc/self/limits": limits("555556")}},
		"too few descriptors": {
			files: map[string]string{"proc/self/limits": limits("20000")},
			short: []string{"ulimit -n"}, fix: "ulimit -Hn 555556; ulimit -n 555556",
		},
		"none at all":          {files: map[string]string{"proc/self/limits": limits("100")}, short: []string{"ulimit -n"}},
		"unlimited":            {files: map[string]string{"proc/self/limits": limits("unlimited")}},
		"few for all":          {files: map[string]string{"proc/sys/fs/file-max": "500000"}, short: []string{"fs.file-max"}, fix: "sysctl -w fs.file-max=1010000"},
		"more for both ends":   {files: map[string]string{"proc/sys/fs/file-max": "1500000"}, o: TargetOptions{BothEnds: true}, short: []string{"fs.file-max"}, fix: "sysctl -w fs.file-max=2010000"},
		"a low ceiling":        {files: map[string]string{"proc/sys/fs/nr_open": "65536", "proc/self/limits": limits("65536")}, short: []string{"fs.nr_open", "ulimit -n"}},
		"few watches":          {files: map[string]string{"proc/sys/fs/epoll/max_user_watches": "900000"}, short: []string{"fs.epoll.max_user_watches"}, fix: "sysctl -w fs.epoll.max_user_watches=1010000"},
		"little memory":        {files: map[string]string{"proc/meminfo": "MemAvailable: 4000000 kB\n"}, short: []string{"memory available"}, fix: "another machine beside this one: 5"},
		"memory for one end":   {files: map[string]string{"proc/meminfo": "MemAvailable: 10000000 kB\n"}},
		"not for both":         {files: map[string]string{"proc/meminfo": "MemAvailable: 10000000 kB\n"}, o: TargetOptions{BothEnds: true}, short: []string{"memory available"}},
		"huge pages":           {files: map[string]string{"sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never"}, short: []string{"transparent hugepages"}, fix: "echo madvise"},
		"small buffers":        {files: map[string]string{"proc/sys/net/ipv4/tcp_mem": "1000 2000 4000"}, short: []string{"net.ipv4.tcp_mem"}, fix: `sysctl -w net.ipv4.tcp_mem="100000 133333 200000"`},
		"large least buffers":  {files: map[string]string{"proc/sys/net/ipv4/tcp_wmem": "65536 65536 4194304"}, short: []string{"net.ipv4.tcp_wmem"}, fix: `sysctl -w net.ipv4.tcp_wmem="4096 65536 4194304"`},
		"short queues":         {files: map[string]string{"proc/sys/net/core/somaxconn": "128", "proc/sys/net/ipv4/tcp_max_syn_backlog": "512"}, short: []string{"net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog"}, fix: "sysctl -w net.core.somaxconn=4096"},
		"few ports, elsewhere": {files: map[string]string{"proc/sys/net/ipv4/ip_local_port_range": "60000 60999"}},
		"few ports, all here":  {files: map[string]string{"proc/sys/net/ipv4/ip_local_port_range": "60000 60999"}, o: TargetOptions{BothEnds: true}, short: []string{"net.ipv4.ip_local_port_range"}, fix: "sysctl -w net.ipv4.ip_local_port_range"},
		"a short memory":       {files: map[string]string{"proc/sys/net/netfilter/nf_conntrack_max": "262144"}, short: []string{"net.netfilter.nf_conntrack_max"}, fix: "sysctl -w net.netfilter.nf_conntrack_max=1100000"},
		"no packet filter":     {files: map[string]string{"proc/sys/net/netfilter/nf_conntrack_max": "", "sys/kernel/mm/transparent_hugepage/enabled": "", "proc/sys/fs/epoll/max_user_watches": ""}},
		"a small target":       {files: map[string]string{"proc/sys/net/core/somaxconn": "128", "proc/self/limits": limits("1024")}, o: TargetOptions{Connections: 100}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o := tt.o
			o.Root, o.Processors = machine(t, tt.files), 2
			if o.Connections == 0 {
				o.Connections = 1_000_000
			}
			found, err := Target(o)
			if err != nil {
				t.Fatal(err)
			}
			var short []string
			for _, l := range found {
				if l.Now == "" || l.Need == "" || l.Why == "" || l.OK != (l.Fix == "") {
					t.Errorf("%+v: half of it is missing", l)
				}
				if !l.OK {
					short = append(short, l.Name)
				}
			}
			slices.Sort(short)
			if diff := cmp.Diff(tt.short, short); diff != "" {
				t.Errorf("not well (-want +got):\n%s", diff)
			}
			if i := slices.IndexFunc(found, func(l Limit) bool { return !l.OK }); tt.fix != "" && (i < 0 || !strings.HasPrefix(found[i].Fix, tt.fix)) {
				t.Errorf("got %+v, want the fix %q", found, tt.fix)
			}
		})
	}
}

func TestTargetOfWhatCannotBeRead(t *testing.T) {
	for name, text := range map[string]string{"proc/sys/fs/nr_open": "many", "proc/self/limits": "nothing of the kind", "proc/sys/net/ipv4/tcp_mem": ""} {
		if _, err := Target(TargetOptions{Connections: 1, Root: machine(t, map[string]string{name: text})}); err == nil {
			t.Errorf("%s as %q was taken", name, text)
		}
	}
	if _, err := Target(TargetOptions{Root: machine(t, nil)}); err == nil {
		t.Error("no connections were taken for a target")
	}
}
