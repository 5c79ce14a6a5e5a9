// Package deploy_test keeps the rule that holds the folders apart.
package deploy_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/parley-chat/parley/"

// layer says what the code below a folder may import. The longest folder that matches a file counts.
type layer struct {
	ours   []string // folders of this repository, besides its own
	theirs []string // modules of others; nil for any that clients allows
	why    string
}

var layers = map[string]layer{
	"contracts": {
		theirs: []string{"github.com/google/uuid"},
		why:    "it is what every part and every foreign client agrees on; whoever reads it should need nothing else",
	},
	"bus": {
		ours: []string{"contracts"},
		why:  "it carries whatever contracts define and must not know who asks or answers, so that every role can use it",
	},
	"edge": {
		ours: []string{"contracts", "bus"},
		why:  "edges hold connections and decide nothing; they meet workers and stores over the bus alone, so that each can be killed and doubled by itself",
	},
	"edge/client": {
		ours: []string{"contracts"},
		why:  "it is a client like any other; what it knew of the server, a stranger's client would lack",
	},
	"workers": {
		ours: []string{"contracts", "bus"},
		why:  "workers decide; they declare what they need of a store as interfaces of their own, and deploy joins them",
	},
	"persist": {
		ours: []string{"contracts", "bus"},
		why:  "it remembers what the log says and must not depend on who wrote it",
	},
	"deploy": {
		ours: []string{"contracts", "bus", "edge", "workers", "persist"},
		why:  "it is the one place that sees everything",
	},
	"deploy/chaos/check": {
		ours: []string{"contracts", "deploy/chaos/history"},
		why:  "it judges by what clients, store and log say; what it took from the code that it judges would be wrong together with it",
	},
	"deploy/loadtest": {
		ours: []string{"contracts", "edge/client"},
		why:  "a load tester that knows the inside measures something no user gets; it stays an honest stranger",
	},
}

// clients are the libraries that talk to a server of others, and the one folder beside deploy that may.
var clients = map[string]string{
	"github.com/nats-io/nats.go":       "bus",
	"github.com/nats-io/nats-server":   "bus",
	"github.com/redis/go-redis":        "bus",
	"github.com/alicebob/miniredis":    "bus",
	"github.com/twmb/franz-go":         "bus",
	"go.mongodb.org/mongo-driver":      "persist",
	"go.etcd.io/bbolt":                 "persist",
	"github.com/gobwas/ws":             "edge",
	"github.com/golang-jwt/jwt":        "workers",
	"github.com/MicahParks/keyfunc/v3": "workers",
}

// TestLayers reads the imports of every file that is not a test.
func TestLayers(t *testing.T) {
	files := 0
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return enter(file, d.Name())
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel("..", file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if !strings.Contains(rel, "/") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		files++
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if wrong := judge(rel, imported); wrong != "" {
				t.Errorf("%s imports %s: %s", rel, imported, wrong)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Errorf("saw %d files: the walk missed most of the code", files)
	}
}

// enter skips what is not this module's code.
func enter(dir, name string) error {
	if dir == ".." {
		return nil
	}
	if strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

// judge says what is wrong with an import, and why it is; "" when it is well.
func judge(file, imported string) string {
	folder, l, ok := layerOf(file)
	if !ok {
		return "its folder stands in no layer; add it to the map in deploy/layers_test.go, with a reason, or move the file"
	}
	if ours, ok := strings.CutPrefix(imported, module); ok {
		if below(ours, folder) {
			return ""
		}
		for _, allowed := range l.ours {
			if below(ours, allowed) {
				return ""
			}
		}
		return folder + " may import " + list(l.ours) + " of ours, since " + l.why
	}
	if standard(imported) {
		return ""
	}
	if below(imported, "go.uber.org/fx") && path.Base(file) != "module.go" && !below(file, "deploy") {
		return "fx stands in module.go files and in deploy only: constructors stay plain, so that a test or another program can call them without a container"
	}
	for client, owner := range clients {
		if below(imported, client) && !below(file, owner) && !below(file, "deploy") {
			return "only " + owner + " and deploy use this library: one place per server or format is what can be exchanged and tested"
		}
	}
	if l.theirs == nil {
		return ""
	}
	for _, allowed := range l.theirs {
		if below(imported, allowed) {
			return ""
		}
	}
	return folder + " may import the standard library and " + list(l.theirs) + " alone, since " + l.why
}

// layerOf finds the longest folder of the map that holds the file.
func layerOf(file string) (string, layer, bool) {
	for dir := path.Dir(file); dir != "."; dir = path.Dir(dir) {
		if l, ok := layers[dir]; ok {
			return dir, l, true
		}
	}
	return "", layer{}, false
}

// below reports whether a path is the other or lies under it.
func below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// standard reports whether a path is the standard library's: its first element has no dot.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

// TestJudge keeps the judge itself from passing everything.
func TestJudge(t *testing.T) {
	for _, c := range []struct {
		file, imported string
		ok             bool
	}{
		{"contracts/codec.go", "encoding/json", true},
		{"contracts/ids.go", "github.com/google/uuid", true},
		{"contracts/ids.go", "golang.org/x/sync/errgroup", false},
		{"contracts/ids.go", module + "bus/rpc", false},
		{"contracts/roomlog/roomlog.go", module + "contracts", true},
		{"bus/rpc/nats.go", "github.com/nats-io/nats.go/micro", true},
		{"bus/rpc/nats.go", module + "edge", false},
		{"bus/rpc/rpc.go", "go.uber.org/fx", false},
		{"bus/rpc/module.go", "go.uber.org/fx", true},
		{"edge/server.go", module + "bus/fanout", true},
		{"edge/server.go", module + "workers", false},
		{"edge/server.go", module + "edge/wire", true},
		{"edge/server.go", "github.com/twmb/franz-go/pkg/kgo", false},
		{"edge/client/client.go", module + "bus/rpc", false},
		{"edge/client/client.go", module + "edge/wire", false},
		{"workers/send.go", module + "persist/store", false},
		{"persist/sink/sink.go", module + "workers/dispatch", false},
		{"persist/sink/sink.go", module + "persist/store", true},
		{"deploy/parley/main.go", module + "workers", true},
		{"deploy/parley/main.go", "go.uber.org/fx", true},
		{"deploy/loadtest/run.go", module + "edge", false},
		{"deploy/chaos/check/check.go", module + "contracts/roomlog", true},
		{"deploy/chaos/check/check.go", module + "persist/store", false},
		{"deploy/loadtest/run.go", module + "edge/client", true},
		{"tools/x.go", "fmt", false},
	} {
		if wrong := judge(c.file, c.imported); (wrong == "") != c.ok {
			t.Errorf("%s importing %s: judged %q, want ok %v", c.file, c.imported, wrong, c.ok)
		}
	}
}
