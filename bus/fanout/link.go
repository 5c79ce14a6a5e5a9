package fanout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/redis/go-redis/v9"

	"github.com/parley-chat/parley/contracts"
)

const (
	backoffMin = 50 * time.Millisecond
	backoffMax = time.Second
)

// link is one Pub/Sub connection of a Subscriber and the lanes on it.
type link struct {
	// Static after construction.
	ctx      context.Context // ends with the Subscriber
	client   redis.UniversalClient
	sharded  bool
	names    contracts.Names
	receiver Receiver
	log      *slog.Logger
	groups   []int
	canary   string
	kick     chan struct{} // 1: there may be something to connect for

	// Owned by run.
	told []int // groups that were told Down

	// Commands go to the server in the order of the changes to the state below: ordering is held over both. It is
	// always taken before mu.
	ordering sync.Mutex

	mu     sync.Mutex // guards what follows
	closed bool
	down   bool // kept lanes are not heard
	lanes  map[contracts.Lane]*laneState
	sent   map[contracts.Lane]int // subscribe commands on this connection that are not confirmed
	pubsub *redis.PubSub          // nil while not connected
	heard  time.Time              // when the canary came last, or the connection began
}

// laneState is a lane that somebody wants.
type laneState struct {
	kept    bool       // a Subscribe returned nil: the lane comes back by itself
	live    bool       // confirmed on this connection
	joining []*joining // Subscribe calls that have not returned
}

func newLink(
	ctx context.Context, client redis.UniversalClient, names contracts.Names, node contracts.NodeID,
	receiver Receiver, log *slog.Logger, groups []int,
) *link {
	return &link{
		ctx: ctx, client: client, sharded: isCluster(client), names: names, receiver: receiver, log: log, groups: groups,
		canary: names.CanaryChannel(groups[0], node),
		kick:   make(chan struct{}, 1),
		lanes:  make(map[contracts.Lane]*laneState),
		sent:   make(map[contracts.Lane]int),
	}
}

// run connects while there are lanes, and tells the receiver.
func (l *link) run() {
	for {
		select {
		case <-l.kick:
		case <-l.ctx.Done():
			l.lost(nil, ErrClosed)
			return
		}
		for attempt := 0; l.wanted(); attempt++ {
			restored, err := l.session()
			if l.ctx.Err() != nil {
				break
			}
			if err == nil {
				attempt = -1
				continue // hung up because no lane was left; there may be new ones
			}
			l.log.Warn("redis pub/sub is not connected", "groups", l.groups, "err", err)
			if restored {
				attempt = 0
			}
			if c, ok := l.client.(*redis.ClusterClient); ok {
				c.ReloadState(l.ctx)
			}
			if l.wanted() {
				l.tellDown()
				l.pause(attempt)
			}
		}
		if l.ctx.Err() == nil {
			l.tellUp()
		}
	}
}

func (l *link) wanted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed && len(l.lanes) > 0
}

// pause waits before another attempt: 50 ms, doubled up to 1 s, up to half of it taken off by chance.
func (l *link) pause(attempt int) {
	d := backoffMax
	if attempt < 5 {
		d = min(backoffMin<<attempt, backoffMax)
	}
	t := time.NewTimer(d - rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.kick:
	case <-l.ctx.Done():
	}
}

// session holds one connection. It returns the error that ended it, or nil after hanging up; restored says that every
// lane was heard.
func (l *link) session() (restored bool, err error) {
	var ps *redis.PubSub
	if l.sharded {
		ps = l.client.SSubscribe(l.ctx)
	} else {
		ps = l.client.Subscribe(l.ctx)
	}
	defer func() { _ = ps.Close() }()
	if err := l.command(l.ctx, ps, l.canary); err != nil {
		return false, l.lost(nil, fmt.Errorf("connect: %w", err))
	}
	ctx := context.WithValue(l.ctx, noRedial{}, true)
	restoring, ok := l.adopt(ps)
	if !ok {
		return false, l.lost(nil, ErrClosed)
	}
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { l.watch(watching, ps) })
	defer wg.Wait()
	defer stop()
	for {
		if !restored && len(restoring) == 0 {
			restored = true
			l.tellUp()
		}
		m, err := ps.Receive(ctx)
		if err != nil {
			return restored, l.lost(ps, fmt.Errorf("receive: %w", err))
		}
		switch m := m.(type) {
		case *redis.Message:
			if m.Channel == l.canary {
				l.canaryHeard()
			} else if lane, ok := laneOfChannel(m.Channel); ok {
				// Not copied: the string is nobody else's, and a Receiver does not write into it.
				l.receiver.Receive(lane, unsafe.Slice(unsafe.StringData(m.Payload), len(m.Payload)))
			}
		case *redis.Subscription:
			lane, ok := laneOfChannel(m.Channel)
			switch {
			case m.Channel == l.canary && strings.HasSuffix(m.Kind, "unsubscribe"):
				return restored, l.lost(ps, errors.New("the slot has moved"))
			case ok && (m.Kind == "subscribe" || m.Kind == "ssubscribe") && l.confirm(lane):
				delete(restoring, lane)
			}
		}
	}
}

// command subscribes channels on ps. It dials where ps has no connection and the context allows it.
func (l *link) command(ctx context.Context, ps *redis.PubSub, channels ...string) error {
	switch {
	case len(channels) == 0:
		return nil
	case l.sharded:
		return ps.SSubscribe(ctx, channels...)
	}
	return ps.Subscribe(ctx, channels...)
}

// adopt makes ps the link's connection and subscribes all lanes on it, unless the link is closed.
func (l *link) adopt(ps *redis.PubSub) (restoring map[contracts.Lane]struct{}, ok bool) {
	l.ordering.Lock()
	defer l.ordering.Unlock()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, false
	}
	l.pubsub, l.heard = ps, time.Now()
	clear(l.sent)
	restoring = make(map[contracts.Lane]struct{}, len(l.lanes))
	channels := make([]string, 0, len(l.lanes))
	for lane := range l.lanes {
		l.sent[lane] = 1
		restoring[lane] = struct{}{}
		channels = append(channels, l.names.LaneChannel(lane))
	}
	l.mu.Unlock()
	if l.command(context.WithValue(l.ctx, noRedial{}, true), ps, channels...) != nil {
		_ = ps.Close() // Receive says so
	}
	return restoring, true
}

// confirm takes note of one confirmation and reports whether it was the lane's last: an earlier one may belong to a
// subscription that was given up meanwhile.
func (l *link) confirm(lane contracts.Lane) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sent[lane]--; l.sent[lane] > 0 {
		return false
	}
	delete(l.sent, lane)
	if st := l.lanes[lane]; st != nil {
		st.live = true
		for _, j := range st.joining {
			j.confirmed()
		}
	}
	return true
}

// lost takes note of the end of the connection ps, or with nil of an attempt. Lanes that were subscribed wait for the next one, the
// others are given up. It returns err, or nil where the link had hung up on ps.
func (l *link) lost(ps *redis.PubSub, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pubsub != ps {
		return nil
	}
	l.pubsub = nil
	for lane, st := range l.lanes {
		st.live = false
		if !st.kept {
			for _, j := range st.joining {
				j.fail(err)
			}
			delete(l.lanes, lane)
		}
	}
	l.down = len(l.lanes) > 0
	return err
}

// watch publishes the canary and closes ps when it does not come back.
func (l *link) watch(ctx context.Context, ps *redis.PubSub) {
	ticker := time.NewTicker(canaryEvery / 2)
	defer ticker.Stop()
	for tick := 0; ; tick++ {
		if tick%2 == 0 {
			timeout, cancel := context.WithTimeout(ctx, canaryEvery/2)
			if l.sharded {
				l.client.SPublish(timeout, l.canary, "")
			} else {
				l.client.Publish(timeout, l.canary, "")
			}
			cancel()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		l.mu.Lock()
		deaf := time.Since(l.heard) > canaryTimeout
		l.mu.Unlock()
		if deaf {
			_ = ps.Close()
			return
		}
	}
}

func (l *link) canaryHeard() {
	l.mu.Lock()
	l.heard = time.Now()
	l.mu.Unlock()
}

func (l *link) healthy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return false
	}
	return l.pubsub == nil || time.Since(l.heard) < canaryTimeout
}

// tellDown tells the receiver of the groups that have lanes, once each.
func (l *link) tellDown() {
	l.mu.Lock()
	var groups []int
	for lane := range l.lanes {
		if g := lane.Group(); !slices.Contains(l.told, g) && !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	l.mu.Unlock()
	slices.Sort(groups)
	for _, g := range groups {
		l.told = append(l.told, g)
		l.receiver.Down(g)
	}
}

func (l *link) tellUp() {
	l.mu.Lock()
	l.down = false
	l.mu.Unlock()
	for _, g := range l.told {
		l.receiver.Up(g)
	}
	if len(l.told) > 0 {
		l.log.Info("redis pub/sub is connected again", "groups", l.told)
	}
	l.told = nil
}

// hangUp ends the link.
func (l *link) hangUp() {
	l.mu.Lock()
	l.closed = true
	ps := l.pubsub
	l.mu.Unlock()
	if ps != nil {
		_ = ps.Close()
	}
}

// laneOfChannel reads the lane from a channel name of ours, which ends in ":<lane>".
func laneOfChannel(channel string) (contracts.Lane, bool) {
	n, err := strconv.ParseUint(channel[strings.LastIndexByte(channel, ':')+1:], 10, 16)
	return contracts.Lane(n), err == nil && n < contracts.Lanes
}
