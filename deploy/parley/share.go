package main

import (
	"fmt"
	"os"
	"strings"
)

// sourced is a file as `.` of a shell takes it: a bare name would be looked for on PATH.
func sourced(file string) string {
	if !strings.ContainsRune(file, '/') {
		file = "./" + file
	}
	return quoted(file)
}

// program is how the user started this program; `go run` builds one that is gone when it ends, so its path is of no use.
func program() string {
	if strings.Contains(os.Args[0], "/go-build") {
		return "parley"
	}
	return quoted(os.Args[0])
}

// quoted is a word as a shell takes it.
func quoted(word string) string {
	if strings.ContainsAny(word, " \t'\"$&;()<>|*?`\\") {
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}

// share writes the addresses of the servers to the file of --write, as lines for a shell. It appears whole: who waits for
// it may read it at once. It goes with the process.
func (d *dev) share() error {
	var b strings.Builder
	for _, pair := range [][2]string{
		{"NATS_URL", d.natsURL}, {"REDIS_URL", d.set.Redis.URL}, {"KAFKA_BROKERS", strings.Join(d.set.Kafka.Brokers, ",")},
		{"PARLEY_PREFIX", d.Prefix}, {"PARLEY_PARTITIONS", fmt.Sprint(d.set.Partitions)},
	} {
		fmt.Fprintf(&b, "export %s='%s'\n", pair[0], strings.ReplaceAll(pair[1], "'", `'\''`))
	}
	whole := d.Write + ".new"
	if err := os.WriteFile(whole, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write the servers' addresses: %w", err)
	}
	if err := os.Rename(whole, d.Write); err != nil {
		return fmt.Errorf("write the servers' addresses: %w", err)
	}
	d.later(func() error { return os.Remove(d.Write) })
	return nil
}
