package local

import (
	"net"
	"strconv"
	"strings"
	"testing"
)

// listen takes a port for the length of the test.
func listen(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln.Addr().(*net.TCPAddr).Port
}

func TestPortInUseIsOneLineThatNamesIt(t *testing.T) {
	taken := listen(t)
	err := checkPort(port{"redis", taken}, "--ports free")
	if err == nil {
		t.Fatal("a port that is listened on counts as free")
	}
	for _, want := range []string{strconv.Itoa(taken), "redis", "--ports free"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q is more than a line", err)
	}
}

func TestFreePortsDiffer(t *testing.T) {
	p, err := choosePorts(PortsFree, true)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, q := range p.all() {
		if q.number == 0 || seen[q.number] {
			t.Errorf("%s got port %d", q.name, q.number)
		}
		seen[q.number] = true
	}
}

func TestPortsFromABase(t *testing.T) {
	taken := listen(t)
	// The fifth port, MongoDB's, is taken: that matters only where a MongoDB is started.
	_, err := choosePorts(strconv.Itoa(taken-4), true)
	if err == nil || !strings.Contains(err.Error(), "(mongo)") {
		t.Errorf("got %v, want an error about mongo's port", err)
	}
	if _, err := choosePorts(strconv.Itoa(taken-4), false); err != nil && strings.Contains(err.Error(), "(mongo)") {
		t.Errorf("got %v, but no port for mongo was needed", err)
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		name string
		give UpOptions
		want string // in the error; "" for none
	}{
		{"zero value", UpOptions{}, ""},
		{"free ports", UpOptions{Ports: PortsFree}, ""},
		{"base port", UpOptions{Ports: "20000"}, ""},
		{"unknown ports", UpOptions{Ports: "some"}, `ports "some"`},
		{"base beyond the end", UpOptions{Ports: "65535"}, `ports "65535"`},
		{"negative count", UpOptions{Workers: -1}, "-1 of a role"},
		{"unknown mongo", UpOptions{Mongo: "postgres"}, `mongo "postgres"`},
		{"mongo URI", UpOptions{Mongo: "mongodb://db:27017/x"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.give.withDefaults()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("got error %v, want one with %q", err, c.want)
			}
			if err == nil && (got.Edges != 1 || got.Workers != 1 || got.Dispatchers != 1 || got.Persisters != 1) {
				t.Errorf("counts default to %+v, want 1 each", got)
			}
		})
	}
}

// TestFreePortsStayFree: no port comes from those that the system gives to outgoing connections, nor twice.
func TestFreePortsStayFree(t *testing.T) {
	ports := make([]port, 200)
	all := make([]*port, len(ports))
	for i := range ports {
		all[i] = &ports[i]
	}
	if err := freePorts(all...); err != nil {
		t.Fatal(err)
	}
	seen := make(map[int]bool)
	for _, p := range ports {
		if p.number < lowestFree || p.number > highestFree || seen[p.number] {
			t.Errorf("port %d, among %d others", p.number, len(seen))
		}
		seen[p.number] = true
	}
}
