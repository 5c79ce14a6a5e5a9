package audit

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	samples *prometheus.CounterVec
	records prometheus.Counter
	kinds   map[Kind]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "parley", Subsystem: "audit", Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	late := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "parley", Subsystem: "audit", Name: "late_total", Help: "Samples with a record that has waited too long, by what for.",
	}, []string{"stage"})
	m := &metrics{
		samples: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "parley", Subsystem: "audit", Name: "samples_total", Help: "Stretches of the log that were compared, by outcome.",
		}, []string{"outcome"}),
		records: counter("records_total", "Records that were compared."),
		kinds: map[Kind]prometheus.Counter{
			Lost:       counter("lost_total", "Messages found missing where they must be."),
			Doubled:    counter("doubled_total", "Messages found with two numbers."),
			Disordered: counter("disordered_total", "Messages found out of the log's order."),
			Differing:  counter("differing_total", "Messages that store or cache have otherwise than the log."),
			LateNumber: late.WithLabelValues("number"),
			LateStore:  late.WithLabelValues("store"),
		},
	}
	reg.MustRegister(late, m.samples)
	for _, outcome := range []string{"done", "failed"} {
		m.samples.WithLabelValues(outcome)
	}
	return m
}

func (m *metrics) found(f Finding) { m.kinds[f.Kind].Inc() }
