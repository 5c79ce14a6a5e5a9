package local

import (
	"embed"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// assets are the sources of what is fetched or built, so that an installed binary has them too. FerretDB's program is
// a module of its own, which cannot be embedded: ferret-src holds copies with .txt behind their names, and a test
// keeps them equal to ferret/.
//
//go:generate sh -c "for f in main.go go.mod go.sum; do cp ferret/$f ferret-src/$f.txt; done"
//go:embed kafka/pom.xml kafka/log4j2.properties mongo-java/pom.xml mongo-java/MongoStandin.java ferret-src
var assets embed.FS

// unpack writes the files of one directory of assets to dir, without .txt, and returns them as one text: what is made
// of them is made anew when that changes.
func unpack(from, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("unpack %s: %w", from, err)
	}
	entries, err := assets.ReadDir(from)
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", from, err)
	}
	var all strings.Builder
	for _, e := range entries {
		data, err := assets.ReadFile(path.Join(from, e.Name()))
		if err != nil {
			return "", fmt.Errorf("unpack %s: %w", from, err)
		}
		if err := os.WriteFile(filepath.Join(dir, strings.TrimSuffix(e.Name(), ".txt")), data, 0o644); err != nil {
			return "", fmt.Errorf("unpack %s: %w", from, err)
		}
		all.Write(data)
	}
	return all.String(), nil
}

// made reports whether what stands in dir was made of source; markMade notes that it was.
func made(dir, source string) bool {
	data, err := os.ReadFile(filepath.Join(dir, ".made-of"))
	return err == nil && string(data) == source
}

func markMade(dir, source string) error {
	return writeFile(filepath.Join(dir, ".made-of"), []byte(source), 0o644)
}
