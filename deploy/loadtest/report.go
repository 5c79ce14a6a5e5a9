package loadtest

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/parley-chat/parley/contracts"
)

// Report is what a run found. Durations are in milliseconds, sizes in bytes, rates per second, all of the measured
// window unless said otherwise.
type Report struct {
	Version int       `json:"version"` // of this form: 1
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"` // measured
	// Ended says why a run ended before its time; empty where it did not.
	Ended    string           `json:"ended,omitempty"`
	Scenario Scenario         `json:"scenario"`
	URLs     []string         `json:"urls"`
	Server   ServerFacts      `json:"server"`
	Limits   contracts.Limits `json:"limits"`
	Setup    Setup            `json:"setup"`

	Connections Connections       `json:"connections"`
	Traffic     Traffic           `json:"traffic"`
	Ledger      Ledger            `json:"ledger"`
	Timings     map[string]Timing `json:"timings"` // delivery, ack, connect, join, history, resume, generator late
	// Curve is the latency of deliveries by percentile, denser towards 100.
	Curve []Percentile `json:"curve"`
	// Errors counts by cause, over the whole run.
	Errors map[string]int64 `json:"errors"`
	// LimitsMet names the server's limits that the run met.
	LimitsMet []string    `json:"limits_met"`
	Generator Generator   `json:"generator"`
	Servers   *Servers    `json:"servers,omitempty"`
	Storm     *StormFacts `json:"storm,omitempty"`
	SLO       []Goal      `json:"slo"`
	Timeline  []Second    `json:"timeline"`
}

// ServerFacts is what the server said about itself.
type ServerFacts struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	Durability string `json:"durability"`
}

// Setup is what was asked for.
type Setup struct {
	Connections int     `json:"connections"`
	Rooms       int     `json:"rooms"`
	Members     float64 `json:"members"`
	Rate        string  `json:"rate"`
	Window      int     `json:"window"`
	Senders     int     `json:"senders"` // in all
	Size        int     `json:"size"`
	WarmupS     float64 `json:"warmup_s"`
	DurationS   float64 `json:"duration_s"`
	Processes   int     `json:"processes"`
	Loops       int     `json:"loops"` // per process
	Seed        int64   `json:"seed"`
	Prefix      string  `json:"prefix"`
}

// Connections tells of the whole run.
type Connections struct {
	Listening  int64   `json:"listening"`   // in their rooms at the end of the ramp
	AtEnd      int64   `json:"at_end"`      // the same when the run ended
	GivenUp    int64   `json:"given_up"`    // after an answer that forbids another attempt
	RampS      float64 `json:"ramp_s"`      // until all listened
	PerSecond  float64 `json:"per_second"`  // during the ramp
	Lost       int64   `json:"lost"`        // ended by the server, the network, a storm or churn
	Moved      int64   `json:"moved"`       // left because their server asked for it, for a new one that resumed first
	Resumes    int64   `json:"resumes"`     // rooms resumed from a position
	Resets     int64   `json:"resets"`      // resumes after which the position meant nothing
	Skipped    int64   `json:"skipped"`     // entries that the resets skipped, and that are not judged
	Recovered  int64   `json:"recovered"`   // entries received by resuming
	Gaps       int64   `json:"gaps"`        // announced by the server
	GapEntries int64   `json:"gap_entries"` // in them
}

// Traffic counts messages. The first block is of the measured window, the second of the whole run.
type Traffic struct {
	Sent      float64 `json:"sent_per_s"`
	Accepted  float64 `json:"accepted_per_s"`
	Delivered float64 `json:"delivered_per_s"`
	Expected  float64 `json:"expected_per_s"` // what the accepted ones make, given who listened
	Bytes     float64 `json:"bytes_per_s"`
	PerRead   float64 `json:"deliveries_per_read"`

	TotalSent      int64 `json:"total_sent"`
	TotalAccepted  int64 `json:"total_accepted"`
	TotalDelivered int64 `json:"total_delivered"`
	TotalRetried   int64 `json:"total_retried"`
	TotalRefused   int64 `json:"total_refused"`
	// Unsent are messages whose time came while their sender was disconnected or had its window full.
	Unsent    int64 `json:"unsent"`
	Strangers int64 `json:"strangers"` // entries that others wrote into the run's rooms
	History   int64 `json:"history_pages"`
	Actions   int64 `json:"actions"` // typing, joins, leaves
	Events    int64 `json:"events"`  // events that are no entries
}

// Ledger is the account of every message of the run, warm-up and drain included.
type Ledger struct {
	// Lost are entries that a connection should have had; LostAccepted are messages that were accepted and that their
	// own sender never received.
	Lost         int64 `json:"lost"`
	LostAccepted int64 `json:"lost_accepted"`
	Doubled      int64 `json:"doubled"`
	Reordered    int64 `json:"reordered"`
	Foreign      int64 `json:"foreign"`
	Malformed    int64 `json:"malformed"`
	// Unanswered are messages with an unknown outcome at the end. They are no fault by themselves.
	Unanswered int64 `json:"unanswered"`
	// Unjudged are connections that were away at the end.
	Unjudged int64 `json:"unjudged"`
	Findings []Gap `json:"findings"` // by room; at most 200
}

// Clean reports whether nothing was wrong.
func (l Ledger) Clean() bool {
	return l.Lost+l.LostAccepted+l.Doubled+l.Reordered+l.Foreign+l.Malformed == 0
}

// Timing sums up one duration, in milliseconds.
type Timing struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99.9"`
	Max   float64 `json:"max"`
}

// Percentile is one point of a latency curve.
type Percentile struct {
	Percent float64 `json:"percent"`
	MS      float64 `json:"ms"`
}

// Generator is what the load tester itself consumed.
type Generator struct {
	CPUSeconds         float64 `json:"cpu_s"` // in the measured window
	Cores              float64 `json:"cores"` // CPUSeconds per second
	MemoryBytes        int64   `json:"memory"`
	BytesPerConnection float64 `json:"bytes_per_connection"` // growth of memory during the ramp; where nothing is sent until the end of the warm-up
	MachineBusy        float64 `json:"machine_busy"`         // share of all processors that was in use
	// Bottleneck says in which way the load tester limited the result; empty where it did not.
	Bottleneck string `json:"bottleneck,omitempty"`
}

// Servers is what the servers consumed, as far as it was visible.
type Servers struct {
	CPUSeconds         float64 `json:"cpu_s"`
	Cores              float64 `json:"cores"`
	MemoryBytes        int64   `json:"memory"`
	BytesPerConnection float64 `json:"bytes_per_connection"`
	PerCPUSecond       float64 `json:"deliveries_per_cpu_s"`
	ConnectsPerCPU     float64 `json:"connects_per_cpu_s"` // connect, login and join, during the ramp
}

// StormFacts tells how a storm went.
type StormFacts struct {
	Cut    int64   `json:"cut"`
	BackMS float64 `json:"back_ms"` // until as many listened as before; 0: never
}

// Second is one second of a run.
type Second struct {
	At        float64 `json:"at"` // seconds since the start
	Phase     string  `json:"phase"`
	Listening int64   `json:"listening"`
	Sent      float64 `json:"sent"`
	Delivered float64 `json:"delivered"`
	Expected  float64 `json:"expected"`
	P50       float64 `json:"p50"`
	P99       float64 `json:"p99"`
	Max       float64 `json:"max"`
	Errors    int64   `json:"errors"`
	Missing   int64   `json:"missing"` // entries in open holes
	GenCores  float64 `json:"gen_cores"`
	GenMemory int64   `json:"gen_memory"`
	SrvCores  float64 `json:"srv_cores"`
	SrvMemory int64   `json:"srv_memory"`
}

// Exit codes of a run.
const (
	ExitOK      = 0
	ExitLedger  = 1 // something was lost, doubled, reordered, foreign or malformed
	ExitUsage   = 2
	ExitPartial = 3 // the run could not begin, or not as it was asked for
	ExitSLO     = 4
)

// ExitCode says how the run ended, for scripts. What the ledger found comes first.
func (r Report) ExitCode() int {
	switch {
	case !r.Ledger.Clean():
		return ExitLedger
	case r.Ended != "" && r.Ended != endedByUser, r.Connections.Listening < int64(r.Setup.Connections):
		return ExitPartial
	case r.Ledger.Unjudged > 0, r.Traffic.TotalSent > 0 && r.Traffic.TotalAccepted == 0:
		return ExitPartial // who is away cannot be judged, and where nothing was accepted nothing could be lost
	}
	for _, g := range r.SLO {
		if !g.Met {
			return ExitSLO
		}
	}
	return ExitOK
}

const endedByUser = "interrupted"

func timingOf(h *hdrhistogram.Histogram) Timing {
	if h.TotalCount() == 0 {
		return Timing{}
	}
	ms := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return Timing{Count: h.TotalCount(), Mean: h.Mean() / 1000, P50: ms(50), P90: ms(90), P99: ms(99), P999: ms(99.9), Max: float64(h.Max()) / 1000}
}

func curveOf(h *hdrhistogram.Histogram) (curve []Percentile) {
	if h.TotalCount() == 0 {
		return nil
	}
	for _, b := range h.CumulativeDistributionWithTicks(8) {
		curve = append(curve, Percentile{Percent: b.Quantile, MS: float64(b.ValueAt) / 1000})
	}
	return curve
}

// figure finds a figure by its name in an SLO; ok is false for a name that does not exist.
func (r *Report) figure(name string) (value float64, ok bool) {
	switch name {
	case "loss":
		return float64(r.Ledger.Lost + r.Ledger.LostAccepted), true
	case "doubled":
		return float64(r.Ledger.Doubled), true
	case "reordered":
		return float64(r.Ledger.Reordered), true
	case "foreign":
		return float64(r.Ledger.Foreign), true
	case "unsent":
		return float64(r.Traffic.Unsent), true
	case "connected":
		return float64(r.Connections.Listening), true
	case "sent":
		return r.Traffic.Sent, true
	case "delivered":
		return r.Traffic.Delivered, true
	case "errors":
		for _, n := range r.Errors {
			value += float64(n)
		}
		return value, true
	}
	t, quantile, ok := r.timing(name)
	switch quantile {
	case "p50":
		return t.P50, ok
	case "p90":
		return t.P90, ok
	case "p99":
		return t.P99, ok
	case "p99.9":
		return t.P999, ok
	case "max":
		return t.Max, ok
	case "mean":
		return t.Mean, ok
	}
	return 0, false
}

// timing splits a figure such as ack.p99 or p99.9.
func (r *Report) timing(name string) (t Timing, quantile string, ok bool) {
	for _, kind := range timingNames {
		if rest, found := strings.CutPrefix(name, kind+"."); found {
			return r.Timings[kind], rest, true
		}
	}
	return r.Timings[timingNames[tDelivery]], name, true
}

func (r *Report) measured(name string) bool {
	t, _, _ := r.timing(name)
	return t.Count > 0
}

// WriteJSON writes the report to a file.
func (r Report) WriteJSON(file string) error {
	encoded, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err := os.WriteFile(file, append(encoded, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// ReadJSON reads what WriteJSON wrote.
func ReadJSON(file string) (Report, error) {
	encoded, err := os.ReadFile(file)
	if err != nil {
		return Report{}, fmt.Errorf("read a report: %w", err)
	}
	var r Report
	if err := json.Unmarshal(encoded, &r); err != nil {
		return Report{}, fmt.Errorf("read the report %s: %w", file, err)
	}
	if r.Version != reportVersion {
		return Report{}, fmt.Errorf("read the report %s: form %d is not %d, the one known here", file, r.Version, reportVersion)
	}
	return r, nil
}

const reportVersion = 1
