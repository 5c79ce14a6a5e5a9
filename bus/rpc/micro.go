package rpc

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// microService answers the discovery requests (PING, INFO and STATS) of the NATS micro protocol, version 1, for all
// endpoints that were served under one name and version. The protocol's types are the library's. The library's own service is not
// used because it neither removes one endpoint nor says when a drained one has ended, and a dispatcher needs both at
// each hand-over of a partition.
type microService struct {
	identity micro.ServiceIdentity
	started  time.Time
	subs     []*nats.Subscription

	mu        sync.Mutex // guards endpoints
	endpoints []*endpoint
}

// announce makes the endpoints show under the service's name until leave is called.
func (n *NATS) announce(s Service, endpoints []*endpoint) (leave func() error, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := s.Name + " " + s.Version
	m := n.services[key]
	if m == nil {
		if m, err = n.newMicroService(s); err != nil {
			return nil, err
		}
		n.services[key] = m
	}
	m.mu.Lock()
	m.endpoints = append(m.endpoints, endpoints...)
	m.mu.Unlock()
	return func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		m.mu.Lock()
		m.endpoints = slices.DeleteFunc(m.endpoints, func(e *endpoint) bool { return slices.Contains(endpoints, e) })
		left := len(m.endpoints)
		m.mu.Unlock()
		if left > 0 || n.services[key] != m {
			return nil
		}
		delete(n.services, key)
		return m.unsubscribe()
	}, nil
}

func (n *NATS) newMicroService(s Service) (*microService, error) {
	m := &microService{
		identity: micro.ServiceIdentity{Name: s.Name, ID: rand.Text(), Version: s.Version, Metadata: map[string]string{}},
		started:  time.Now().UTC(),
	}
	for _, target := range []string{"", "." + s.Name, "." + s.Name + "." + m.identity.ID} {
		sub, err := n.conn.Subscribe(micro.APIPrefix+".*"+target, m.answer)
		if err == nil {
			m.subs = append(m.subs, sub)
			err = sub.SetPendingLimits(256, 1<<20)
		}
		if err != nil {
			return nil, errors.Join(err, m.unsubscribe())
		}
	}
	return m, nil
}

func (m *microService) unsubscribe() error {
	var errs []error
	for _, sub := range m.subs {
		if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			errs = append(errs, fmt.Errorf("unsubscribe %s: %w", sub.Subject, err))
		}
	}
	return errors.Join(errs...)
}

// answer replies to $SRV.<verb>[.<name>[.<id>]].
func (m *microService) answer(msg *nats.Msg) {
	var v any
	switch verb, _, _ := strings.Cut(strings.TrimPrefix(msg.Subject, micro.APIPrefix+"."), "."); verb {
	case micro.PingVerb.String():
		v = micro.Ping{ServiceIdentity: m.identity, Type: micro.PingResponseType}
	case micro.InfoVerb.String():
		v = m.info()
	case micro.StatsVerb.String():
		v = m.stats()
	default:
		return
	}
	body, err := json.Marshal(v)
	if err != nil {
		return // unreachable: the types above hold strings and numbers
	}
	_ = msg.Respond(body) // whoever asked asks again
}

func (m *microService) info() micro.Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	info := micro.Info{ServiceIdentity: m.identity, Type: micro.InfoResponseType, Endpoints: []micro.EndpointInfo{}}
	for _, e := range m.endpoints {
		info.Endpoints = append(info.Endpoints, micro.EndpointInfo{Name: e.Name, Subject: e.Subject, QueueGroup: e.queue})
	}
	return info
}

// stats counts answers; the processing time is that from taking a request to its answer.
func (m *microService) stats() micro.Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	stats := micro.Stats{
		ServiceIdentity: m.identity, Type: micro.StatsResponseType, Started: m.started, Endpoints: []*micro.EndpointStats{},
	}
	for _, e := range m.endpoints {
		s := &micro.EndpointStats{
			Name: e.Name, Subject: e.Subject, QueueGroup: e.queue,
			NumRequests:    int(e.served.Load()),
			NumErrors:      int(e.refused.Load()),
			ProcessingTime: time.Duration(e.spent.Load()),
		}
		if s.NumRequests > 0 {
			s.AverageProcessingTime = s.ProcessingTime / time.Duration(s.NumRequests)
		}
		if text := e.lastErr.Load(); text != nil {
			s.LastError = *text
		}
		stats.Endpoints = append(stats.Endpoints, s)
	}
	return stats
}
