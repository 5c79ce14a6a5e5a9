package dispatch

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Reasons of an alarm, and results of a question, as they show in labels.
const (
	alarmIdentity   = "identity"
	alarmOutOfRange = "out_of_range"
	alarmVersion    = "newer_version"
	alarmEpoch      = "epoch"

	resultOK          = "ok"
	resultUnavailable = "unavailable"
	resultOverloaded  = "overloaded"
	resultBad         = "bad_request"
)

type metrics struct {
	entries, duplicates, dead, published, skipped, heads prometheus.Counter
	publishErrors, lookupErrors, commitErrors            prometheus.Counter
	rereads, untold                                      prometheus.Counter
	alarms, questions                                    *prometheus.CounterVec
	hop                                                  prometheus.Histogram
	partitions, waitingRooms, waitingBytes, ringBytes    prometheus.Gauge
	unstored                                             prometheus.Gauge
	all                                                  []prometheus.Collector
}

func newMetrics() *metrics {
	m := &metrics{}
	add := func(c prometheus.Collector) { m.all = append(m.all, c) }
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "parley", Subsystem: "dispatch", Name: name, Help: help})
		add(c)
		return c
	}
	vec := func(name, help, label string, values ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "parley", Subsystem: "dispatch", Name: name, Help: help}, []string{label})
		for _, v := range values {
			c.WithLabelValues(v)
		}
		add(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "parley", Subsystem: "dispatch", Name: name, Help: help})
		add(g)
		return g
	}
	m.entries = counter("entries_total", "Records of the log that got a number, take-overs included.")
	m.duplicates = counter("duplicates_total", "Records that repeat an earlier one.")
	m.dead = counter("undecodable_total", "Records that nobody can read.")
	m.published = counter("published_total", "Entries that Redis took.")
	m.skipped = counter("skipped_total", "Entries not published because too many waited; heads and pulls repair it.")
	m.heads = counter("heads_total", "Heads that Redis took.")
	m.publishErrors = counter("publish_errors_total", "Publications and cache writes that failed or were held back; heads and pulls repair it.")
	m.lookupErrors = counter("lookup_errors_total", "Questions to the store that failed and were asked again.")
	m.commitErrors = counter("commit_errors_total", "Commits that failed and were made again; while they do the log is not trimmed, and a take-over tells again what was told.")
	m.rereads = counter("rereads_total", "Reads of the log for entries that memory no longer held.")
	m.untold = counter("untold_records_total", "Records that somebody deleted from the log before they were told, found at take-overs; the store has them.")
	m.alarms = vec("alarms_total", "Partitions that stopped, by reason.", "reason", alarmIdentity, alarmOutOfRange, alarmVersion, alarmEpoch)
	m.questions = vec("questions_total", "Questions answered, by result.", "result", resultOK, resultUnavailable, resultOverloaded, resultBad)
	m.hop = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "parley", Subsystem: "dispatch", Name: "hop_seconds",
		Help:    "Time from reading a record to Redis having taken its entry.",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30},
	})
	add(m.hop)
	m.partitions = gauge("partitions", "Partitions owned.")
	m.waitingRooms = gauge("waiting_rooms", "Rooms with records that wait for the store.")
	m.waitingBytes = gauge("waiting_bytes", "Records that wait for the store, with an allowance for each.")
	m.ringBytes = gauge("ring_bytes", "Entries' encodings held in memory.")
	m.unstored = gauge("unstored_records", "Records that the store does not have yet, of the partitions owned; they take memory until it has them.")
	return m
}

// register puts the metrics into r and returns what takes them out again.
func (m *metrics) register(r prometheus.Registerer) (undo func(), err error) {
	if r == nil {
		return func() {}, nil
	}
	var done []prometheus.Collector
	undo = func() {
		for _, c := range done {
			r.Unregister(c)
		}
	}
	for _, c := range m.all {
		if err := r.Register(c); err != nil {
			undo()
			return nil, fmt.Errorf("register metrics: %w", err)
		}
		done = append(done, c)
	}
	return undo, nil
}
