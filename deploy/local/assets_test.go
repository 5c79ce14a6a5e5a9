package local

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFerretCopiesAreEqual(t *testing.T) {
	for _, name := range []string{"main.go", "go.mod", "go.sum"} {
		want, err := os.ReadFile(filepath.Join("ferret", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := assets.ReadFile("ferret-src/" + name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("ferret-src/%s.txt differs from ferret/%s: go generate ./deploy/local", name, name)
		}
	}
}

func TestUnpackedSourcesHaveTheirNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "src")
	source, err := unpack("ferret-src", dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Error(err)
	}
	if made(dir, source) {
		t.Error("it counts as made before anything was")
	}
	if err := markMade(dir, source); err != nil {
		t.Fatal(err)
	}
	if !made(dir, source) || made(dir, source+"changed") {
		t.Error("the mark does not follow the sources")
	}
}

func TestNATSIsTheOneThatIsEmbedded(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "github.com/nats-io/nats-server/v2 " + natsVersion; !strings.Contains(string(mod), want) {
		t.Errorf("go.mod does not require %s: natsVersion is out of date", want)
	}
}

func TestKafkaConfigNamesItsPorts(t *testing.T) {
	got := kafkaConfig(kafkaPlan{data: filepath.Join("a", "b", "data"), at: port{"kafka", 1001}, controller: port{"controller", 1002}})
	for _, want := range []string{
		"listeners=PLAINTEXT://127.0.0.1:1001,CONTROLLER://127.0.0.1:1002\n", "controller.quorum.voters=1@127.0.0.1:1002\n",
		"log.dirs=" + escapeProperty(filepath.Join("a", "b", "data")) + "\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the configuration lacks %q:\n%s", want, got)
		}
	}
}

func TestClusterIDIsOneThatKafkaTakes(t *testing.T) {
	for range 1000 {
		if id := clusterID(); len(id) != 22 || id[0] == '-' {
			t.Fatalf("cluster id %q", id)
		}
	}
}
