package local

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// bare is a machine without anything.
func bare() doctorEnv {
	return doctorEnv{
		version: func(context.Context, string, ...string) (string, error) { return "", exec.ErrNotFound },
		busy:    func(port) bool { return true },
		files:   func() (uint64, uint64, error) { return 256, 1024, nil },
		disk:    func(string) (uint64, error) { return 1 << 20, nil },
		env:     func(string) string { return "" },
	}
}

// complete is a machine with everything.
func complete() doctorEnv {
	prints := map[string]string{
		"go version": "go version go1.26.8 linux/amd64", "java -version": `openjdk version "17.0.15" 2025-04-15`,
		"java --list-modules": "java.base@17\njdk.compiler@17.0.15\n", "mvn -v": "\x1b[1mApache Maven 3.8.7\x1b[m",
		"redis-server --version": "Redis server v=7.0.15 sha=00000000", "node --version": "v22.1.0",
	}
	return doctorEnv{
		version: func(_ context.Context, name string, args ...string) (string, error) {
			if out, ok := prints[name+" "+strings.Join(args, " ")]; ok {
				return out, nil
			}
			return "", exec.ErrNotFound
		},
		busy:  func(port) bool { return false },
		files: func() (uint64, uint64, error) { return 1024, 1 << 20, nil },
		disk:  func(string) (uint64, error) { return 80 << 30, nil },
		env:   func(string) string { return "" },
	}
}

func find(t *testing.T, findings []Finding, name string) Finding {
	t.Helper()
	for _, f := range findings {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no finding about %s", name)
	return Finding{}
}

func TestDoctorOnABareMachine(t *testing.T) {
	findings := doctor(t.Context(), bare())
	for _, f := range findings {
		if !f.OK && f.Fix == "" {
			t.Errorf("%s is not well and no way out is named", f.Name)
		}
		if f.Detail == "" {
			t.Errorf("%s has no detail", f.Name)
		}
	}
	for _, name := range []string{"go", "java", "mvn", "redis-server", "open files", "disk space", "port 9092"} {
		if find(t, findings, name).OK {
			t.Errorf("%s counts as well on a machine without it", name)
		}
	}
	for _, name := range []string{"nats-server", "mongod", "node"} {
		if f := find(t, findings, name); !f.OK {
			t.Errorf("%s counts as missing, but Up gets or replaces it: %s", name, f.Detail)
		}
	}
}

func TestDoctorOnACompleteMachine(t *testing.T) {
	for _, f := range doctor(t.Context(), complete()) {
		if !f.OK || f.Fix != "" {
			t.Errorf("%s: %+v, want it well and nothing to do", f.Name, f)
		}
	}
}

func TestDoctorReadsAVersionBetweenColours(t *testing.T) {
	if f := find(t, doctor(t.Context(), complete()), "mvn"); !strings.HasPrefix(f.Detail, "3.8.7;") {
		t.Errorf("Maven's version reads %q", f.Detail)
	}
}

func TestDoctorSeesWhatIsTooOld(t *testing.T) {
	e := complete()
	all := e.version
	e.version = func(ctx context.Context, name string, args ...string) (string, error) {
		switch name + " " + args[0] {
		case "go version":
			return "go version go1.9.7 linux/amd64", nil
		case "java --list-modules":
			return "java.base@17", nil
		case "mvn -v":
			return "", errors.New("exit status 1")
		}
		return all(ctx, name, args...)
	}
	findings := doctor(t.Context(), e)
	for name, want := range map[string]string{"go": "1.9.7", "java": "compiler", "mvn": "exit status 1"} {
		if f := find(t, findings, name); f.OK || !strings.Contains(f.Detail, want) {
			t.Errorf("%s: %+v, want it not well and %q told", name, f, want)
		}
	}
}

func TestAtLeast(t *testing.T) {
	for _, c := range []struct {
		have, least string
		want        bool
	}{
		{"1.26", "1.26", true}, {"1.26.8", "1.26", true}, {"1.9", "1.26", false}, {"2", "1.26", true},
		{"17", "17", true}, {"11.0.2", "17", false}, {"1", "1.26", false}, {"", "17", false}, {"1", "1.0", true},
	} {
		if got := atLeast(c.have, c.least); got != c.want {
			t.Errorf("atLeast(%q, %q) = %v", c.have, c.least, got)
		}
	}
}
