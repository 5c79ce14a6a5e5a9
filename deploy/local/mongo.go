package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"
)

// mongoChoice is where the database comes from.
type mongoChoice struct {
	uri    string // of one that runs already, or ""
	mongod string // path of the real server, or ""
	kind   string // MongoJava or MongoFerret when both are ""
}

func (m mongoChoice) needsPort() bool { return m.uri == "" }

func isMongoURI(s string) bool {
	return strings.HasPrefix(s, "mongodb://") || strings.HasPrefix(s, "mongodb+srv://")
}

// chooseMongo decides by UpOptions.Mongo, MONGODB_URI and PATH.
func (r *runner) chooseMongo() (mongoChoice, error) {
	switch how := r.opts.Mongo; {
	case isMongoURI(how):
		return mongoChoice{uri: how}, nil
	case how != MongoAuto:
		return mongoChoice{kind: how}, nil
	}
	if uri := os.Getenv("MONGODB_URI"); uri != "" {
		if !isMongoURI(uri) {
			return mongoChoice{}, errors.New("MONGODB_URI is set, but not to a mongodb:// URI")
		}
		return mongoChoice{uri: uri}, nil
	}
	if path, err := exec.LookPath("mongod"); err == nil {
		return mongoChoice{mongod: path}, nil
	}
	return mongoChoice{kind: MongoJava}, nil
}

// startMongo starts the database, or only asks whether the one that was named answers.
func (r *runner) startMongo(ctx context.Context, m mongoChoice, p port) (string, error) {
	if m.uri != "" {
		return m.uri, r.askMongo(ctx, m.uri)
	}
	s, note, err := r.mongoServer(ctx, m, p)
	if err != nil {
		return "", err
	}
	return mongoURI(p), r.serve(ctx, s, p, note)
}

func mongoURI(p port) string { return "mongodb://" + p.addr() + "/parley" }

func (r *runner) mongoServer(ctx context.Context, m mongoChoice, p port) (s *Process, note string, err error) {
	how, note, err := r.mongoSpec(ctx, m, p)
	how.kind, how.name = kindServer, p.name
	return &Process{r: r, spec: how, within: time.Minute, ask: func(ctx context.Context) error { return pingMongo(ctx, mongoURI(p)) }}, note, err
}

// mongoSpec fetches or builds what is missing and returns how to start it, and what to say about it.
func (r *runner) mongoSpec(ctx context.Context, m mongoChoice, p port) (s spec, note string, err error) {
	switch {
	case m.mongod != "":
		data := filepath.Join(r.opts.Data, "mongo")
		if err := os.MkdirAll(data, 0o755); err != nil {
			return spec{}, "", fmt.Errorf("make mongo's directory: %w", err)
		}
		return spec{path: m.mongod, args: []string{"--dbpath", data, "--bind_ip", "127.0.0.1", "--port", fmt.Sprint(p.number)}}, "", nil
	case m.kind == MongoFerret:
		path, err := r.buildFerret(ctx)
		return spec{path: path, args: []string{"--listen", p.addr(), "--dir", filepath.Join(r.opts.Data, "ferret", "data")}},
			"not MongoDB: a stand-in, FerretDB on SQLite; keep the data small", err
	default:
		err := r.fetchJars(ctx, "mongo-java", p.name, "3 MB")
		dir := filepath.Join(r.opts.Dir, "mongo-java")
		return spec{path: "java", args: []string{
				fmt.Sprintf("-Xmx%dm", r.opts.MongoHeap), "-cp", filepath.Join(dir, "lib", "*"), filepath.Join(dir, "MongoStandin.java"), fmt.Sprint(p.number),
			}},
			"not MongoDB: a stand-in, mongo-java-server, that forgets everything when it ends", err
	}
}

// buildFerret builds the stand-in's program once per version of its sources.
func (r *runner) buildFerret(ctx context.Context) (string, error) {
	dir := filepath.Join(r.opts.Dir, "ferret")
	source, err := unpack("ferret-src", filepath.Join(dir, "src"))
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "ferret")
	if made(dir, source) {
		return path, nil
	}
	if _, err := exec.LookPath("go"); err != nil {
		return "", errors.New("go is not on PATH, the FerretDB stand-in is built with it: https://go.dev/dl")
	}
	r.out.line("mongo", "building FerretDB (a minute or two, once)")
	err = r.setup(ctx, spec{
		name: "ferret-build", path: "go", dir: filepath.Join(dir, "src"),
		args: []string{"build", "-buildvcs=false", "-o", path, "."},
		env:  []string{"GOFLAGS=", "GOWORK=off"},
	})
	if err != nil {
		return "", fmt.Errorf("build FerretDB: %w", err)
	}
	return path, markMade(dir, source)
}

// askMongo reports on a database that is not ours to start. Its URI may hold a password, so only hosts are shown.
func (r *runner) askMongo(ctx context.Context, uri string) error {
	parsed, err := connstring.ParseAndValidate(uri)
	if err != nil {
		return errors.New("the MongoDB URI is not valid")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := pingMongo(ctx, uri); err != nil {
		return fmt.Errorf("MongoDB on %s does not answer: %w", strings.Join(parsed.Hosts, ","), err)
	}
	r.out.line("mongo", "answers on %s (not started here)", strings.Join(parsed.Hosts, ","))
	return nil
}

func pingMongo(ctx context.Context, uri string) error {
	client, err := mongo.Connect(options.Client().ApplyURI(uri).SetServerSelectionTimeout(time.Second))
	if err != nil {
		return err
	}
	err = client.Ping(ctx, nil)
	return errors.Join(err, client.Disconnect(context.WithoutCancel(ctx)))
}
