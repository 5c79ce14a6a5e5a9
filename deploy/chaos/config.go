package chaos

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"time"
)

// Config says what a run does. Zero fields mean their defaults.
type Config struct {
	// Dir is where programs are kept; the run gets a directory below Dir/chaos. Defaults to ".local".
	Dir string
	// Binary is the parley executable that the roles are started from. Defaults to this one.
	Binary string
	// Mongo is what local.UpOptions.Mongo is. Defaults to "auto".
	Mongo string
	// Scenario is empty for faults by schedule, or ScenarioEdgeKilled.
	Scenario string
	// Duration is how long faults are injected. Defaults to 3 minutes, in the scenario
	// to 20 s, the time of talking before and after it.
	Duration time.Duration
	// Seed makes the schedule of faults and the clients' choices repeatable. Defaults to the time.
	Seed uint64
	// Faults are the kinds to inject; empty: all that can be injected here.
	Faults []string
	// Long gives faults their full length and leaves time between them. Defaults to a Duration of 10 minutes or more.
	Long bool
	// Every is the time between the starts of two faults. Defaults to 5 s, with Long to 10 s.
	Every time.Duration
	// Users, Rooms and Rate (messages per second of all users) are the load. They default to 200, 50 and 500, with Long to 600; in
	// the scenario to 5,000, rooms of 20, and 50.
	Users, Rooms int
	Rate         float64
	// Churn is how often a user leaves a room or drops the connection, and reads history, on average. Defaults to 40 s.
	Churn time.Duration
	// Loaded says that the machine has other work: how fast deliveries are at rest, and the share of sends that are acked then,
	// is reported and not judged.
	Loaded bool
	// Keep keeps the run's directory also where nothing was found.
	Keep bool
	// Abandon, when it is closed, stops everything at once: there is no report then, and no process is left. nil: never.
	Abandon <-chan struct{}
	// Out gets the progress. Defaults to nothing. Live redraws one line instead of adding one a second.
	Out  io.Writer
	Live bool
}

// Validate reports what a run cannot be made of.
func (c *Config) Validate() error {
	var errs []error
	if c.Scenario != "" && c.Scenario != ScenarioEdgeKilled {
		errs = append(errs, fmt.Errorf("no scenario %q: there is %s", c.Scenario, ScenarioEdgeKilled))
	}
	for _, name := range c.Faults {
		if _, ok := kinds[name]; !ok {
			errs = append(errs, fmt.Errorf("no fault %q: `parley chaos --list` names them", name))
		}
	}
	if c.Duration < 0 || c.Every < 0 || c.Users < 0 || c.Rooms < 0 || c.Rate < 0 || c.Churn < 0 {
		errs = append(errs, errors.New("durations and numbers cannot be negative"))
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	c.Dir = cmp.Or(c.Dir, ".local")
	if c.Scenario == ScenarioEdgeKilled {
		c.Duration, c.Users, c.Rate = cmp.Or(c.Duration, 20*time.Second), cmp.Or(c.Users, 5000), cmp.Or(c.Rate, 50)
		c.Churn = cmp.Or(c.Churn, time.Hour) // who leaves or reconnects anyway says nothing of the kill
	}
	c.Duration = cmp.Or(c.Duration, 3*time.Minute)
	c.Seed = cmp.Or(c.Seed, uint64(time.Now().UnixMilli()))
	c.Long = c.Long || c.Duration >= 10*time.Minute
	every, rate := 5*time.Second, 500.0
	if c.Long {
		every, rate = 10*time.Second, 600.0
	}
	c.Every = cmp.Or(c.Every, every)
	c.Users = cmp.Or(c.Users, 200)
	c.Rooms = cmp.Or(c.Rooms, 50)
	c.Rate = cmp.Or(c.Rate, rate)
	c.Churn = cmp.Or(c.Churn, 40*time.Second)
	if c.Out == nil {
		c.Out = io.Discard
	}
	return c
}

// runDir names a directory of the run's own.
func (c Config) runDir(now time.Time) string {
	return filepath.Join(c.Dir, "chaos", now.UTC().Format("20060102-150405"))
}

// diskBytes is the size of the small disk for Kafka's data.
func diskBytes(cfg Config) int64 {
	if cfg.Long {
		return 4 << 30
	}
	return 1 << 30
}

// mongoHeap is room for all that a run stores, in MiB: some 3 KB a message in the Java stand-in, of those that are acked.
func mongoHeap(cfg Config) int {
	return 512 + int(cfg.Rate*cfg.Duration.Seconds()*3072)>>20
}

// Kinds lists the faults: name and what it is.
func Kinds() [][2]string {
	var all [][2]string
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		all = append(all, [2]string{name, kinds[name].help})
	}
	return all
}
