package edge

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/contracts"
)

// metrics of one edge. Whatever is counted per frame is resolved beforehand.
type metrics struct {
	connections prometheus.Gauge
	accepted    prometheus.Counter
	unaccepted  prometheus.Counter
	closed      *prometheus.CounterVec // by close code; 0: none was sent or received
	refused     *prometheus.CounterVec // HTTP status before the upgrade
	requests    map[contracts.Op]prometheus.Counter
	errors      *prometheus.CounterVec // by code
	bytesIn     prometheus.Counter
	deliveries  prometheus.Counter
	writes      prometheus.Counter
	puts        prometheus.Counter
	entries     prometheus.Counter
	late        prometheus.Counter
	repairs     prometheus.Counter
	gaps        prometheus.Counter
	resets      prometheus.Counter
	slowGaps    prometheus.Counter
	stuck       prometheus.Gauge
	behind      prometheus.Gauge

	droppedEvents, droppedEntries prometheus.Counter
	malformed                     prometheus.Counter
	rooms                         prometheus.Gauge
	unheard                       prometheus.Gauge
	asking                        prometheus.Gauge
	breakerOpen                   prometheus.Gauge
	limited                       [limits]prometheus.Counter
}

// outboundOf exports what waits in an edge's connections.
func (m *metrics) outboundOf(reg prometheus.Registerer, o *outbound) {
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "parley", Subsystem: "edge", Name: name, Help: help}, value))
	}
	gauge("outbound_bytes", "Memory that waits for sockets; what several connections wait for counts once per loop.",
		func() float64 { return float64(o.bytes.Load()) })
	gauge("outbound_limit_bytes", "The most that may wait for all connections together.", func() float64 { return float64(o.limit) })
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "parley", Subsystem: "edge", Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "parley", Subsystem: "edge", Name: name, Help: help})
		reg.MustRegister(g)
		return g
	}
	vec := func(name, label, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "parley", Subsystem: "edge", Name: name, Help: help}, []string{label})
		reg.MustRegister(v)
		return v
	}
	m := &metrics{
		connections: gauge("connections", "WebSocket connections held."),
		accepted:    counter("accepted_total", "TCP connections accepted."),
		unaccepted:  counter("accept_errors_total", "Attempts to accept that failed, mostly for want of descriptors or memory; each is followed by a pause of 0.1 s."),
		closed:      vec("closed_total", "code", "WebSocket connections ended, by close code; 0 where no close frame came or went."),
		refused:     vec("refused_total", "status", "Handshakes refused, by HTTP status."),
		errors:      vec("errors_total", "code", "Error replies and error events, by code."),
		bytesIn:     counter("received_bytes_total", "Bytes received from clients."),
		deliveries:  counter("deliveries_total", "Entries and events handed to members."),
		writes:      counter("delivery_writes_total", "System calls that carried deliveries."),
		puts:        counter("writes_total", "System calls that wrote to clients, whatever they carried."),
		entries:     counter("entries_total", "Entries passed on, once per room on this node."),
		late:        counter("entries_repeated_total", "Entries heard that had been passed on before."),
		repairs:     counter("repairs_total", "Questions for entries that were not heard."),
		gaps:        counter("gaps_total", "Gaps told to members because a repair did not succeed."),
		slowGaps:    counter("slow_gaps_total", "Gaps told to members whose connection was too slow."),
		stuck:       gauge("stuck_connections", "Connections whose socket does not take all there is."),
		behind:      gauge("behind_connections", "Connections that get no live entries of some room until their socket has drained."),
		resets:      counter("resets_total", "Rooms reset because the log's epoch changed."),
		malformed:   counter("lane_malformed_total", "Lane messages that could not be read."),
		rooms:       gauge("rooms", "Rooms with a member on this node."),
		unheard:     gauge("lane_groups_unheard", "Lane groups that are not heard at the moment."),
		asking:      gauge("requests_in_flight", "Questions to workers that are not answered yet."),
		breakerOpen: gauge("breaker_open", "1 while workers do not answer and nothing is asked of them."),
		requests:    make(map[contracts.Op]prometheus.Counter),
	}
	dropped := vec("dropped_total", "kind", "Frames that a connection was too slow for: ephemeral events, and entries that were told as a gap.")
	m.droppedEvents, m.droppedEntries = dropped.WithLabelValues("event"), dropped.WithLabelValues("entry")
	requests := vec("requests_total", "op", "Requests of clients, by op.")
	for _, op := range clientOps {
		m.requests[op] = requests.WithLabelValues(string(op))
	}
	limited := vec("limited_total", "limit", "What was refused, dropped or closed because a limit was met, by limit.")
	for l, name := range limitNames {
		m.limited[l] = limited.WithLabelValues(name)
	}
	return m
}
