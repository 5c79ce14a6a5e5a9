// Package web serves the chat page: a handful of static files, embedded as they are, without a build step.
package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed static
var static embed.FS

// types are the media types of the files by extension; they do not depend on what the machine knows.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
}

// file is one embedded file, ready to be served.
type file struct {
	body  []byte
	mime  string
	etag  string // strong: the SHA-256 of the body
	bytes string // its length
}

// Handler serves the page at "/" and its files beside it. It answers GET and HEAD, sends strong ETags that every use
// revalidates, and 404 for whatever is not a file of the page. Security headers are the edge's matter, as every answer
// of the public port has them.
func Handler() http.Handler {
	files, err := load()
	if err != nil {
		panic(err) // a file of an unknown type was embedded: a mistake in this package
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := files[r.URL.Path]
		switch {
		case !ok:
			http.NotFound(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		default:
			f.serve(w, r)
		}
	})
}

func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("ETag", f.etag)
	header.Set("Cache-Control", "no-cache")
	if matches(r.Header.Get("If-None-Match"), f.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	header.Set("Content-Type", f.mime)
	header.Set("Content-Length", f.bytes)
	if r.Method == http.MethodGet {
		_, _ = w.Write(f.body) // fails only when the reader is gone
	}
}

// matches compares weakly, as RFC 9110 section 13.1.2 wants it for If-None-Match.
func matches(condition, etag string) bool {
	for tag := range strings.SplitSeq(condition, ",") {
		tag = strings.TrimSpace(tag)
		if tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
			return true
		}
	}
	return false
}

// load returns the files by URL path.
func load() (map[string]*file, error) {
	files := make(map[string]*file)
	err := fs.WalkDir(static, "static", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		mime, ok := types[path.Ext(name)]
		if !ok {
			return fmt.Errorf("embed %s: its type is unknown", name)
		}
		body, err := static.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		sum := sha256.Sum256(body)
		files[strings.TrimPrefix(name, "static")] = &file{
			body:  body,
			mime:  mime,
			etag:  `"` + hex.EncodeToString(sum[:16]) + `"`,
			bytes: strconv.Itoa(len(body)),
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load the page: %w", err)
	}
	files["/"] = files["/index.html"]
	return files, nil
}
