package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/parley-chat/parley/deploy/bench/path"
)

// pathCase is a case of what lies behind the edges.
type pathCase struct {
	name    string
	measure func(context.Context, path.Servers, path.Config) ([]path.Figure, error)
}

// pathCases are those of them that -cases names.
func (s settings) pathCases() []pathCase {
	all := []pathCase{{"log-hop", path.Hop}, {"catch-up", path.CatchUp}, {"catch-up-live", path.CatchUpLive}, {"history", path.History}}
	return slices.DeleteFunc(all, func(c pathCase) bool { return !slices.Contains(strings.Split(s.cases, ","), c.name) })
}

// Columns of the table that walk prints.
const (
	bareColumn = iota
	parleyColumn
)

// walk measures the cases in turn, on embedded servers and on the real ones that the environment names, and prints a table.
// Other cases that -cases names are left out: they compare something else.
func (s settings) walk(ctx context.Context, out io.Writer, cases []pathCase) error {
	if n := len(strings.Split(s.cases, ",")); n > len(cases) {
		return fmt.Errorf("-cases %q: log-hop, catch-up, catch-up-live and history are a table of their own", s.cases)
	}
	s.path.Warmup, s.path.Duration = s.warmup, s.duration
	kinds, err := s.serverKinds()
	if err != nil {
		return err
	}
	t := newTable(nil, []system{{name: "bare", floor: true}, {name: "Parley"}})
	began := time.Now()
	for round := range s.rounds {
		for _, c := range cases {
			for _, kind := range kinds {
				figures, err := c.measure(ctx, kind.servers, s.path)
				if ctx.Err() != nil {
					return errors.New("interrupted")
				}
				if err != nil {
					return fmt.Errorf("case %s on %s servers: %w", c.name, kind.name, err)
				}
				for _, f := range figures {
					row := t.row(benchCase{name: c.name + " " + kind.name, figure: f.What})
					if f.Bare >= 0 {
						t.add(row, bareColumn, f.Bare, 0)
					}
					t.add(row, parleyColumn, f.Parley, 0)
				}
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done after %s\n", round+1, s.rounds, time.Since(began).Round(time.Second))
	}
	return t.write(out)
}

// serverKind is what a case behind the edges runs on.
type serverKind struct {
	name    string
	servers path.Servers
}

// serverKinds are those of -servers that are to be had.
func (s settings) serverKinds() (kinds []serverKind, err error) {
	for name := range strings.SplitSeq(s.servers, ",") {
		switch name {
		case "embedded":
			kinds = append(kinds, serverKind{name, path.Embedded})
		case "real":
			if servers, found := path.Real(os.Getenv); found {
				kinds = append(kinds, serverKind{name, servers})
			}
		default:
			return nil, fmt.Errorf("-servers %q: there are embedded and real", s.servers)
		}
	}
	if len(kinds) == 0 {
		return nil, errors.New("-servers real: set NATS_URL, REDIS_URL, KAFKA_BROKERS and MONGODB_URI")
	}
	return kinds, nil
}

// row returns the row of a case, which is a new one unless it is there.
func (t *table) row(c benchCase) int {
	at := slices.IndexFunc(t.cases, func(other benchCase) bool { return other.name == c.name && other.figure == c.figure })
	if at < 0 {
		at = len(t.cases)
		t.cases = append(t.cases, c)
	}
	return at
}
