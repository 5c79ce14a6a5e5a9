// Command ferret serves MongoDB's wire protocol from SQLite files through FerretDB's embeddable package: a stand-in for
// tests that need a database whose process can be killed. It scans tables, so keep the data small, and it does not know
// transactions, change streams, or TTL, partial and text indexes.
//
//	cd deploy/local/ferret && go run . --listen 127.0.0.1:27017 --dir /tmp/ferret
//
// It is a module of its own so that FerretDB's many dependencies stay out of Parley's.
package main

import (
	"context"
	"flag"
	"log"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:27017", "address to serve")
	dir := flag.String("dir", "ferret-data", "directory of the SQLite files, created if missing")
	flag.Parse()
	if err := run(*listen, *dir); err != nil {
		log.Fatal(err)
	}
}

func run(listen, dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := url.URL{Scheme: "file", Path: dir + "/"}
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: listen},
		Handler:   "sqlite",
		SQLiteURL: files.String(),
	})
	if err != nil {
		return err
	}
	return server.Run(ctx)
}
