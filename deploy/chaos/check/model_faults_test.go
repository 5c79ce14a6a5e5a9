package check_test

import (
	"fmt"
	"time"

	"github.com/parley-chat/parley/deploy/chaos/history"
)

// disturb begins a fault, or heals the one under way.
func (m *model) disturb() {
	if m.fault != "" {
		m.heal()
		return
	}
	m.now += int64(12*time.Second) - min(m.now-m.healed, int64(12*time.Second))
	m.probe("")
	m.faults++
	m.fault = fmt.Sprintf("fault-%d", m.faults)
	e := history.Event{Kind: history.Fault, Fault: m.fault, Process: "worker-1", What: "pause"}
	switch m.rnd.IntN(4) {
	case 0:
		e.What, e.Signals = "slow store", []string{"parley_persist_lag"}
	case 1:
		e.What, e.Signals = "slow link", []string{"worker-1 parley_ping_seconds>0.1"}
	case 2:
		e.What, e.Silent = "slow reader", true
	}
	m.add(e)
	m.now += int64(time.Second)
	if !e.Silent {
		m.probe("")
	}
}

func (m *model) heal() {
	if m.fault == "" {
		return
	}
	m.now += int64(time.Second)
	m.add(history.Event{Kind: history.Heal, Fault: m.fault})
	m.fault, m.healed = "", m.now
}

func (m *model) probe(phase string) {
	for _, p := range []string{"edge-1", "worker-1"} {
		e := history.Event{Kind: history.Probe, Process: p, Phase: phase, Up: true, Ready: true, Goroutines: 50 + m.rnd.IntN(5), Descriptors: 30 + m.rnd.IntN(3), Memory: 50 << 20,
			Metrics: map[string]float64{"parley_persist_lag": 0, "parley_ping_seconds": 0.001}}
		if p == "edge-1" {
			e.Metrics["parley_ping_seconds"] = 0.2 // which says nothing of the worker's
		}
		if f := m.last(); m.fault != "" && p == "worker-1" && !f.Silent {
			switch f.What {
			case "slow store":
				e.Metrics["parley_persist_lag"] = float64(m.now)
			case "slow link":
				e.Metrics["parley_ping_seconds"] = 0.11
			default:
				e.Ready = false
			}
		}
		m.add(e)
	}
}

// last is the fault that began last.
func (m *model) last() (f history.Event) {
	for _, e := range m.events {
		if e.Kind == history.Fault {
			f = e
		}
	}
	return f
}

// rest heals, retries, delivers everything, and dumps.
func (m *model) rest() {
	m.heal()
	m.add(history.Event{Kind: history.Heal, Fault: "turmoil"})
	for len(m.open)+len(m.failed) > 0 {
		m.now += int64(time.Millisecond)
		m.work()
		m.retry()
	}
	// A quiet stretch with enough deliveries to be judged.
	m.now += int64(15 * time.Second)
	c, r := m.clients[0], m.rooms[0]
	for _, c := range m.clients {
		m.join(c, r)
	}
	for range 60 {
		m.send(c, r)
		for len(m.open) > 0 {
			m.now += int64(time.Millisecond)
			m.work()
		}
		for _, c := range m.clients {
			m.deliver(c, r, len(r.rows), true)
		}
	}
	for _, c := range m.clients {
		for _, r := range m.rooms {
			m.deliver(c, r, len(r.rows), true)
			if c.views[r].listening {
				m.add(history.Event{Kind: history.Ended, Client: c.name, Conn: c.conn, Room: r.id})
			}
		}
	}
	m.probe(history.Final)
	for _, r := range m.rooms {
		for _, row := range r.rows {
			m.add(row)
		}
	}
	for _, l := range m.logs {
		end := int64(len(l.records))
		m.add(history.Event{Kind: history.Range, Partition: l.id, Epoch: l.epoch, Start: 0, End: end})
		m.add(history.Event{Kind: history.Checkpoint, Partition: l.id, Epoch: l.epoch, Offset: end})
		for i, rec := range l.records {
			m.add(rec)
			if rec.Dead {
				m.add(history.Event{Kind: history.Letter, Partition: l.id, Epoch: l.epoch, Offset: int64(i), Record: rec.Record})
			}
		}
	}
}
