package fanout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parley-chat/parley/contracts"
)

const (
	canaryEvery   = time.Second
	canaryTimeout = 3 * time.Second
)

// Errors of a Subscriber.
var (
	// ErrAway: the broker cannot be reached at the moment.
	ErrAway = errors.New("the lanes' broker is not connected")
	// ErrClosed: the Subscriber was closed.
	ErrClosed = errors.New("the subscriber is closed")
)

// RedisSubscriber is a Subscriber on Redis Pub/Sub. On a single server one connection carries all lanes, on a cluster
// one per lane group, because a connection reaches one slot. A connection exists only while it has lanes.
//
// It runs, per connection,
//
//	 Subscribe, Unsubscribe          ┌── canary: publishes once a second, closes a deaf connection
//	        │ commands               │
//	┌───────▼────────────────────────▼┐
//	│ link.run: dial, resubscribe,    │──► Receiver (Receive, Down, Up)
//	│ receive; on loss Down and again │
//	└─────────────────────────────────┘
type RedisSubscriber struct {
	cancel context.CancelFunc
	links  []*link // by group, or one for all
	wg     sync.WaitGroup
}

var _ Subscriber = (*RedisSubscriber)(nil)

// NewSubscriber makes a Subscriber that tells receiver; node names this process in the canary's channel. The client is
// the caller's to close, after the Subscriber.
func NewSubscriber(client redis.UniversalClient, names contracts.Names, node contracts.NodeID, receiver Receiver, log *slog.Logger) *RedisSubscriber {
	ctx, cancel := context.WithCancel(context.Background())
	s := &RedisSubscriber{cancel: cancel}
	groups := [][]int{nil}
	if isCluster(client) {
		groups = make([][]int, contracts.LaneGroups)
	}
	for group := range contracts.LaneGroups {
		i := group % len(groups)
		groups[i] = append(groups[i], group)
	}
	for _, g := range groups {
		l := newLink(ctx, client, names, node, receiver, log, g)
		s.links = append(s.links, l)
		s.wg.Go(l.run)
	}
	return s
}

func (s *RedisSubscriber) byLink(lanes []contracts.Lane) map[*link][]contracts.Lane {
	m := make(map[*link][]contracts.Lane, 1)
	for _, lane := range lanes {
		l := s.links[lane.Group()%len(s.links)]
		if !slices.Contains(m[l], lane) {
			m[l] = append(m[l], lane)
		}
	}
	return m
}

// Subscribe implements Subscriber.
func (s *RedisSubscriber) Subscribe(ctx context.Context, lanes ...contracts.Lane) error {
	var begun []*joining
	var err error
	for l, lanes := range s.byLink(lanes) {
		var j *joining
		if j, err = l.begin(lanes); err != nil {
			break
		}
		begun = append(begun, j)
	}
	for _, j := range begun {
		if err == nil {
			err = j.wait(ctx)
		}
	}
	for _, j := range begun {
		if err == nil {
			err = j.keep()
		}
	}
	if err == nil {
		return nil
	}
	for _, j := range begun {
		j.undo()
	}
	return fmt.Errorf("subscribe %d lanes: %w", len(lanes), err)
}

// Unsubscribe implements Subscriber. An error means that the connection is lost, and the lanes with it.
func (s *RedisSubscriber) Unsubscribe(_ context.Context, lanes ...contracts.Lane) error {
	for l, lanes := range s.byLink(lanes) {
		l.leave(lanes)
	}
	return nil
}

// Healthy implements Subscriber.
func (s *RedisSubscriber) Healthy() bool {
	for _, l := range s.links {
		if !l.healthy() {
			return false
		}
	}
	return true
}

// Close implements Subscriber.
func (s *RedisSubscriber) Close() error {
	s.cancel()
	for _, l := range s.links {
		l.hangUp()
	}
	s.wg.Wait()
	return nil
}
