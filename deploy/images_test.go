package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestComposeNamesSettingsThatExist: a variable that nobody reads fails silently in a container.
func TestComposeNamesSettingsThatExist(t *testing.T) {
	sources, err := filepath.Glob("parley/*.go")
	if err != nil || len(sources) == 0 {
		t.Fatalf("sources of the command line: %v, %v", sources, err)
	}
	var code strings.Builder
	for _, path := range sources {
		code.WriteString(read(t, path))
	}
	known := map[string]bool{}
	for _, tag := range regexp.MustCompile(`env:"([^"]+)"`).FindAllStringSubmatch(code.String(), -1) {
		for _, name := range strings.Split(tag[1], ",") {
			known[name] = true
		}
	}
	used := regexp.MustCompile(`(?m)^ +((?:PARLEY|NATS|REDIS|MONGODB)_[A-Z_]+|KAFKA_BROKERS):`).FindAllStringSubmatch(readCompose(t), -1)
	if len(used) < 6 {
		t.Fatalf("only %d settings were found in compose.yaml", len(used))
	}
	for _, u := range used {
		if !known[u[1]] {
			t.Errorf("compose.yaml sets %s, which no role reads", u[1])
		}
	}
}

func readCompose(t *testing.T) string { return read(t, "compose.yaml") }

// TestOneKafkaVersion: the broker of compose.yaml is the one that `parley up` starts and the suites have passed on.
func TestOneKafkaVersion(t *testing.T) {
	image := regexp.MustCompile(`apache/kafka:(\S+)`).FindStringSubmatch(readCompose(t))
	jar := regexp.MustCompile(`<artifactId>kafka_2\.13</artifactId>\s*<version>([^<]+)</version>`).FindStringSubmatch(read(t, "local/kafka/pom.xml"))
	if image == nil || jar == nil || image[1] != jar[1] {
		t.Errorf("compose.yaml runs Kafka %v, deploy/local %v", image, jar)
	}
}

// TestImageIsBuiltWithTheModulesGo: an older compiler in the image would refuse go.mod, or fetch another one.
func TestImageIsBuiltWithTheModulesGo(t *testing.T) {
	image := regexp.MustCompile(`golang:(\d+\.\d+)`).FindStringSubmatch(read(t, "Dockerfile"))
	mod := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "../go.mod"))
	if image == nil || mod == nil || image[1] != mod[1] {
		t.Errorf("the image is built with Go %v, go.mod says %v", image, mod)
	}
}
