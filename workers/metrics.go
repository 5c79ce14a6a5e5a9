package workers

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests      *prometheus.CounterVec
	appendSeconds prometheus.Histogram
	memberDropped prometheus.Counter
	eventsLost    prometheus.Counter
	cacheErrors   prometheus.Counter
	undispatched  prometheus.Counter
	logFull       prometheus.Counter
}

// newMetrics registers the worker's metrics; a nil registerer keeps them to themselves.
func newMetrics(reg prometheus.Registerer, w *Worker) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "parley_worker_requests_total",
			Help: "Requests answered, by op and by the answer's code (ok, or an error code; a batch is ok whatever its parts are).",
		}, []string{"op", "code"}),
		appendSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "parley_worker_append_seconds",
			Help:    "Time from handing a record to the log until the log confirmed it or gave it up.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 30, 120},
		}),
		memberDropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_worker_memberships_dropped_total",
			Help: "Memberships left for the person's next join because too many waited to be written.",
		}),
		eventsLost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_worker_events_lost_total",
			Help: "Typing and presence events that could not be published.",
		}),
		cacheErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_worker_cache_errors_total",
			Help: "Reads of recent entries that failed or took too long; the dispatcher or the store was read instead.",
		}),
		undispatched: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_worker_dispatch_errors_total",
			Help: "Questions that no dispatcher answered; joins and history wait for one.",
		}),
		logFull: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "parley_worker_sends_refused_log_full_total",
			Help: "Messages refused because the log was at its size limit.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.requests, m.appendSeconds, m.memberDropped, m.eventsLost, m.cacheErrors, m.undispatched, m.logFull,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "parley_worker_sends_in_flight", Help: "Sends that are worked on.",
		}, func() float64 { return float64(w.sending.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "parley_worker_requests_in_flight", Help: "Requests other than sends that are worked on.",
		}, func() float64 { working, _ := w.inLine(); return float64(working) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "parley_worker_requests_waiting", Help: "Requests other than sends that wait for their turn.",
		}, func() float64 { _, waiting := w.inLine(); return float64(waiting) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "parley_worker_memberships_waiting", Help: "Memberships that wait to be written.",
		}, func() float64 { return float64(w.members.waiting()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "parley_worker_log_bytes", Help: "Bytes in the log that wait to be trimmed, as far as this worker knows their size; 0 without a limit.",
		}, func() float64 {
			if w.logSize == nil {
				return 0
			}
			return float64(w.logSize.held.Load())
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "parley_worker_limit_log_bytes", Help: "Bytes in the log above which sends are refused; 0 is off.",
		}, func() float64 { return float64(w.cfg.LogBytes) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "parley_worker_limit_sends_per_second", Help: "Messages per second of one person; 0 is off.",
		}, func() float64 { return w.cfg.Limits.SendsPerS }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "parley_worker_limit_room_sends_per_second", Help: "Messages per second of one room; 0 is off.",
		}, func() float64 { return w.cfg.Limits.RoomSendsPerS }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
