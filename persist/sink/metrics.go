package sink

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	entries, duplicates, dead, conflicts, dropped, trimmed, untold, raised, slow, blanked prometheus.Counter
	retries                                                                               *prometheus.CounterVec
	swept                                                                                 prometheus.Gauge
	bulk, seconds                                                                         prometheus.Histogram
	all                                                                                   []prometheus.Collector
}

func newMetrics(s *Sink) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "parley", Subsystem: "persist", Name: name, Help: help})
	}
	labelled := func(labels prometheus.Labels, name, help string, join func(a, b float64) float64, of func(Status) float64) prometheus.GaugeFunc {
		opts := prometheus.GaugeOpts{Namespace: "parley", Subsystem: "persist", Name: name, Help: help, ConstLabels: labels}
		return prometheus.NewGaugeFunc(opts, func() (value float64) {
			for _, st := range s.Status() {
				value = join(value, of(st))
			}
			return value
		})
	}
	sum := func(a, b float64) float64 { return a + b }
	most := func(a, b float64) float64 { return max(a, b) }
	gauge := func(name, help string, of func(Status) float64) prometheus.GaugeFunc {
		return labelled(nil, name, help, sum, of)
	}
	m := &metrics{
		entries:    counter("entries_total", "Entries stored."),
		duplicates: counter("duplicates_total", "Records that repeated a stored message."),
		dead:       counter("dead_letters_total", "Records buried because nobody can read them."),
		conflicts:  counter("conflicts_total", "Times that another persister moved a checkpoint first."),
		dropped:    counter("dropped_batches_total", "Batches dropped because a backlog was full; they are read again."),
		trimmed:    counter("trimmed_records_total", "Records deleted from the log because nobody needs them."),
		untold:     counter("untold_total", "Connections that could not be told that their message is stored; their edges ask."),
		raised:     counter("epochs_raised_total", "Epochs begun because the log lost records or was replaced."),
		slow:       counter("slow_calls_total", "Calls of store or log that took longer than 3 s; each counts as soon as it does, while it goes on."),
		blanked:    counter("blanked_total", "Messages whose content was deleted because they were old."),
		swept: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "parley", Subsystem: "persist", Name: "swept_timestamp_seconds", Help: "When the last walk for old messages ended that reached all of them; 0 before the first one.",
		}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "parley", Subsystem: "persist", Name: "retries_total", Help: "Calls of store or log that failed and were made again.",
		}, []string{"call"}),
		bulk: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "parley", Subsystem: "persist", Name: "bulk_entries", Help: "Entries per write to the store.",
			Buckets: []float64{0, 1, 5, 20, 50, 100, 200, 350, 500},
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "parley", Subsystem: "persist", Name: "append_seconds", Help: "Time until the store took a bulk, with repeats.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}),
	}
	m.all = []prometheus.Collector{
		m.entries, m.duplicates, m.dead, m.conflicts, m.dropped, m.trimmed, m.untold, m.raised, m.slow, m.blanked, m.swept, m.retries, m.bulk, m.seconds,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "parley", Subsystem: "persist", Name: "retain_seconds", Help: "How old messages become before their content is deleted; 0 is off.",
		}, func() float64 { return s.cfg.Retain.Seconds() }),
		gauge("lag_records", "Records of owned partitions that are not stored.", func(st Status) float64 { return float64(st.Lag()) }),
		labelled(nil, "lag_seconds", "Age of the oldest record of owned partitions that is read and not stored.", most, func(st Status) float64 { return st.LagTime().Seconds() }),
		gauge("partitions", "Owned partitions.", func(Status) float64 { return 1 }),
		gauge("alarms", "Owned partitions that stand still and need a person.", func(st Status) float64 {
			if st.Alarm != "" {
				return 1
			}
			return 0
		}),
	}
	for _, why := range []string{whyLost, whyTrimmed, whyVersion, whyTripwire} {
		m.all = append(m.all, labelled(prometheus.Labels{"reason": why}, "stopped_partitions", "Owned partitions that stand still, by reason.", sum,
			func(st Status) float64 {
				if st.Why == why {
					return 1
				}
				return 0
			}))
	}
	return m
}

// register registers all and returns the opposite.
func (m *metrics) register(r prometheus.Registerer) (unregister func(), err error) {
	if r == nil {
		return func() {}, nil
	}
	unregister = func() {
		for _, c := range m.all {
			r.Unregister(c)
		}
	}
	var errs []error
	for _, c := range m.all {
		errs = append(errs, r.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		unregister()
		return nil, fmt.Errorf("register the persister's metrics: %w", err)
	}
	return unregister, nil
}

func (m *metrics) wrote(w *bulk, took time.Duration) {
	m.entries.Add(float64(len(w.entries)))
	m.duplicates.Add(float64(w.duplicates))
	m.dead.Add(float64(len(w.dead)))
	m.bulk.Observe(float64(len(w.entries)))
	m.seconds.Observe(took.Seconds())
}
