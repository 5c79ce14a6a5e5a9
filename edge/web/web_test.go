package web_test

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/parley-chat/parley/edge/web"
)

func get(t *testing.T, method, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	web.Handler().ServeHTTP(w, r)
	return w.Result()
}

func TestFiles(t *testing.T) {
	for path, mime := range map[string]string{
		"/":           "text/html; charset=utf-8",
		"/index.html": "text/html; charset=utf-8",
		"/app.js":     "text/javascript; charset=utf-8",
		"/client.js":  "text/javascript; charset=utf-8",
		"/style.css":  "text/css; charset=utf-8",
		"/icon.svg":   "image/svg+xml",
	} {
		t.Run(path, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				resp := get(t, method, path)
				if resp.StatusCode != http.StatusOK {
					t.Fatalf("%s answered %d", method, resp.StatusCode)
				}
				if got := resp.Header.Get("Content-Type"); got != mime {
					t.Errorf("%s: Content-Type is %q, want %q", method, got, mime)
				}
				if got := resp.Header.Get("Cache-Control"); got != "no-cache" {
					t.Errorf("%s: Cache-Control is %q", method, got)
				}
				if got := resp.Header.Get("ETag"); !regexp.MustCompile(`^"[0-9a-f]{32}"$`).MatchString(got) {
					t.Errorf("%s: ETag is %q, want a strong one", method, got)
				}
				if got := resp.Header.Get("Content-Length"); got == "" || got == "0" {
					t.Errorf("%s: Content-Length is %q", method, got)
				}
			}
		})
	}
}

func TestBodies(t *testing.T) {
	r := httptest.NewRequest(http.MethodHead, "/", nil)
	w := httptest.NewRecorder()
	web.Handler().ServeHTTP(w, r)
	if w.Body.Len() != 0 {
		t.Errorf("HEAD wrote %d bytes", w.Body.Len())
	}
	w = httptest.NewRecorder()
	web.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/app.js", nil))
	want, err := os.ReadFile("static/app.js")
	if err != nil {
		t.Fatal(err)
	}
	if w.Body.String() != string(want) {
		t.Error("app.js is served with other bytes than it has")
	}
}

func TestRevalidation(t *testing.T) {
	etag := get(t, http.MethodGet, "/app.js").Header.Get("ETag")
	if other := get(t, http.MethodGet, "/style.css").Header.Get("ETag"); other == etag {
		t.Fatal("two files have the same ETag")
	}
	for condition, want := range map[string]int{
		etag:                    http.StatusNotModified,
		"W/" + etag:             http.StatusNotModified,
		`"other", ` + etag:      http.StatusNotModified,
		"*":                     http.StatusNotModified,
		`"other"`:               http.StatusOK,
		strings.Trim(etag, `"`): http.StatusOK,
		"":                      http.StatusOK,
	} {
		resp := get(t, http.MethodGet, "/app.js", "If-None-Match", condition)
		if resp.StatusCode != want {
			t.Errorf("If-None-Match %s: answered %d, want %d", condition, resp.StatusCode, want)
		}
		if resp.Header.Get("ETag") != etag {
			t.Errorf("If-None-Match %s: answered without the ETag", condition)
		}
	}
}

func TestNothingElse(t *testing.T) {
	for _, path := range []string{"/static", "/static/app.js", "/app.js/", "/APP.JS", "/web.go", "/../web.go", "/favicon.ico", "/v1/rooms", "//"} {
		if resp := get(t, http.MethodGet, path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s answered %d, want 404", path, resp.StatusCode)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodPatch} {
		resp := get(t, method, "/")
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s answered %d, Allow %q", method, resp.StatusCode, resp.Header.Get("Allow"))
		}
	}
}

// The edge's Content-Security-Policy forbids inline scripts, inline styles, event attributes, form actions and foreign
// origins. A page that needs one of them would break in the browser alone, so its sources are checked here.
func TestNothingInline(t *testing.T) {
	forbidden := map[string]*regexp.Regexp{
		"an inline script":   regexp.MustCompile(`(?i)<script(?:\s+[a-z]+(?:="[^"]*")?)*\s*>\s*[^<\s]`),
		"a style element":    regexp.MustCompile(`(?i)<style`),
		"a style attribute":  regexp.MustCompile(`(?i)\sstyle\s*=\s*"|setAttribute\(\s*['"]style`),
		"an event attribute": regexp.MustCompile(`(?i)<[a-z][^>]*\son[a-z]+\s*=\s*["']`),
		"a javascript: link": regexp.MustCompile(`(?i)javascript:`),
		"a form action":      regexp.MustCompile(`(?i)<form[^>]*\s(?:action|method)\s*=`),
		"a foreign origin":   regexp.MustCompile(`(?i)(?:src|href)\s*=\s*"(?:https?:)?//|(?-i:\burl\()|@import`),
		"HTML from text":     regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function`),
	}
	seen := 0
	err := fs.WalkDir(os.DirFS("static"), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := fs.ReadFile(os.DirFS("static"), name)
		if err != nil {
			return err
		}
		seen++
		for what, pattern := range forbidden {
			if found := pattern.Find(body); found != nil {
				t.Errorf("%s has %s: %q", name, what, found)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 5 {
		t.Fatalf("only %d files were seen", seen)
	}
	for what, sample := range map[string]string{
		"an inline script":   `<script type="module">alert(1)</script>`,
		"a style element":    `<style>`,
		"a style attribute":  `<p style="x">`,
		"an event attribute": `<img src="x" onerror="y">`,
		"a javascript: link": `JavaScript:`,
		"a form action":      `<form id="a" action="/">`,
		"a foreign origin":   `src="//cdn"`,
		"HTML from text":     `x.innerHTML = y`,
	} {
		if !forbidden[what].MatchString(sample) {
			t.Errorf("the check for %s does not find %q", what, sample)
		}
	}
}

// Whatever the files import or link to must be served.
func TestReferences(t *testing.T) {
	references := map[string]*regexp.Regexp{
		"/index.html": regexp.MustCompile(`(?:src|href)="([^"#]+)"`),
		"/app.js":     regexp.MustCompile(`from '\./([^']+)'`),
		"/client.js":  regexp.MustCompile(`from '\./([^']+)'`),
		"/view.js":    regexp.MustCompile(`from '\./([^']+)'`),
	}
	found := 0
	for name, pattern := range references {
		body, err := os.ReadFile("static" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range pattern.FindAllSubmatch(body, -1) {
			found++
			if resp := get(t, http.MethodGet, "/"+string(match[1])); resp.StatusCode != http.StatusOK {
				t.Errorf("%s refers to %s, which answers %d", name, match[1], resp.StatusCode)
			}
		}
	}
	if found < 5 {
		t.Fatalf("only %d references were found", found)
	}
}
