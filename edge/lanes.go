package edge

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/parley-chat/parley/contracts"
)

const (
	// laneLinger is how long a lane stays heard after its last room is gone: people come back.
	laneLinger = 10 * time.Second
	// subscribeTime bounds one subscription.
	subscribeTime = 5 * time.Second
)

// lanes keeps the subscriptions in step with the rooms. One goroutine subscribes and unsubscribes, many lanes at once.
type lanes struct {
	hub  *hub
	bell chan struct{}

	mu     sync.Mutex // guards the rest
	refs   [contracts.Lanes]int32
	on     [contracts.Lanes]bool
	wait   map[contracts.Lane][]func(error)
	unused map[contracts.Lane]time.Time
	ended  bool
}

func (ls *lanes) init(h *hub) {
	ls.hub = h
	ls.bell = make(chan struct{}, 1)
	ls.wait = make(map[contracts.Lane][]func(error))
	ls.unused = make(map[contracts.Lane]time.Time)
}

func (ls *lanes) want(l contracts.Lane) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.refs[l]++
	delete(ls.unused, l)
}

func (ls *lanes) release(l contracts.Lane) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.refs[l]--
	if ls.refs[l] == 0 && ls.on[l] {
		ls.unused[l] = time.Now()
	}
}

var errStopping = errors.New("the edge is stopping")

// heard calls then when the lane is heard, at once where it is already.
func (ls *lanes) heard(l contracts.Lane, then func(error)) {
	ls.mu.Lock()
	if ls.on[l] || ls.ended {
		var err error
		if !ls.on[l] {
			err = errStopping
		}
		ls.mu.Unlock()
		then(err)
		return
	}
	ls.wait[l] = append(ls.wait[l], then)
	ls.mu.Unlock()
	select {
	case ls.bell <- struct{}{}:
	default:
	}
}

// run subscribes and unsubscribes until ctx ends.
func (ls *lanes) run(ctx context.Context) {
	ticker := time.NewTicker(laneLinger / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			ls.end()
			return
		case <-ls.bell:
			ls.subscribe(ctx)
		case now := <-ticker.C:
			ls.unsubscribe(ctx, now)
		}
	}
}

func (ls *lanes) subscribe(ctx context.Context) {
	ls.mu.Lock()
	waiting := ls.wait
	ls.wait = make(map[contracts.Lane][]func(error))
	ls.mu.Unlock()
	if len(waiting) == 0 {
		return
	}
	add := make([]contracts.Lane, 0, len(waiting))
	for l := range waiting {
		add = append(add, l)
	}
	sctx, cancel := context.WithTimeout(ctx, subscribeTime)
	err := ls.hub.sub.Subscribe(sctx, add...)
	cancel()
	if err != nil {
		ls.hub.srv.log.Debug("subscribe to lanes", "lanes", len(add), "err", err)
	}
	ls.mu.Lock()
	for _, l := range add {
		ls.on[l] = err == nil
		if ls.on[l] && ls.refs[l] == 0 {
			ls.unused[l] = time.Now()
		}
	}
	ls.mu.Unlock()
	for _, thens := range waiting {
		for _, then := range thens {
			then(err)
		}
	}
}

func (ls *lanes) unsubscribe(ctx context.Context, now time.Time) {
	var drop []contracts.Lane
	ls.mu.Lock()
	for l, since := range ls.unused {
		if ls.refs[l] == 0 && now.Sub(since) >= laneLinger {
			drop = append(drop, l)
			delete(ls.unused, l)
			ls.on[l] = false
		}
	}
	ls.mu.Unlock()
	if len(drop) == 0 {
		return
	}
	sctx, cancel := context.WithTimeout(ctx, subscribeTime)
	defer cancel()
	if err := ls.hub.sub.Unsubscribe(sctx, drop...); err != nil {
		ls.hub.srv.log.Debug("unsubscribe lanes", "lanes", len(drop), "err", err)
	}
}

func (ls *lanes) end() {
	ls.mu.Lock()
	ls.ended = true
	waiting := ls.wait
	ls.wait = nil
	ls.mu.Unlock()
	for _, thens := range waiting {
		for _, then := range thens {
			then(errStopping)
		}
	}
}
