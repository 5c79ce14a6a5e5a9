package edge

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley/contracts"
)

const (
	// drainTick is the pace of a drain.
	drainTick = 100 * time.Millisecond
	// moveGrace is what a client may need beside its window: 5 s for answers, and some for its new connection.
	moveGrace = 10 * time.Second
)

// DrainConfig says how an edge sends its clients away. The zero value of a field means its default.
type DrainConfig struct {
	// Notice is how long the edge goes on as before while it says that it is not ready, so that balancers stop sending
	// clients. Defaults to none; skipped where nobody is connected.
	Notice time.Duration
	// Rate is how many clients a second are told to move. Defaults to 500.
	Rate int
	// Window is what each is told: it moves at a random time within it. Defaults to 2 s.
	Window time.Duration
	// Limit bounds the whole; who is left then is closed with 4450. Defaults to 60 s.
	Limit time.Duration
}

func (c *DrainConfig) setDefaults() {
	if c.Rate == 0 {
		c.Rate = 500
	}
	if c.Window == 0 {
		c.Window = 2 * time.Second
	}
	if c.Limit == 0 {
		c.Limit = time.Minute
	}
}

// Validate tells what is wrong with c, if anything is.
func (c *DrainConfig) Validate() error {
	if c.Notice < 0 || c.Rate < 0 || c.Window < 0 || c.Limit < 0 {
		return errors.New("drain: a setting is negative")
	}
	return nil
}

// DrainReport says what became of the clients.
type DrainReport struct {
	Held     int // WebSockets at the beginning
	Told     int // were told to move
	Left     int // left by themselves
	Closed   int // were closed with 4450: before connect, in their window's wake or at the end
	Answered int // requests that were answered meanwhile
	Took     time.Duration
}

// How far a server has come in its drain.
const (
	drainNotice  = 1 // not ready any more
	drainRefuses = 2 // takes nobody any more
)

// partings is what a drain counts.
type partings struct {
	stage    atomic.Int32 // 0, drainNotice or drainRefuses
	closed   atomic.Int64 // clients that were closed with 4450
	answered atomic.Int64 // requests that were answered
}

// Drain sends all clients away, then shuts down: it says that it is not ready, stops accepting, closes who has not connected, tells
// the other clients to move in paced batches, waits for them and closes those that stay. The end of ctx hurries: who is still there is closed at once,
// after its requests were answered for up to 3 s.
func (s *Server) Drain(ctx context.Context, cfg DrainConfig) (DrainReport, error) {
	cfg.setDefaults()
	if !s.up.Load() || !s.partings.stage.CompareAndSwap(0, drainNotice) {
		return DrainReport{}, errStopping
	}
	began := time.Now()
	held := s.open.Load()
	if held > 0 {
		wait(ctx, cfg.Notice)
	}
	s.partings.stage.Store(drainRefuses)
	s.closeListener()
	s.wg.Go(func() {
		// The API's requests end; stop ends those that do not.
		hctx, cancel := context.WithTimeout(context.Background(), s.cfg.AskTime)
		defer cancel()
		_ = s.http.server.Shutdown(hctx)
	})
	held = max(held, s.open.Load())
	told := s.tell(ctx, cfg, began.Add(cfg.Limit))
	sctx, cancel := context.WithTimeout(context.Background(), partTime+time.Second)
	defer cancel()
	err := s.Shutdown(sctx)
	closed := s.partings.closed.Load()
	return DrainReport{
		Held: int(held), Told: told, Left: int(max(0, held-closed)), Closed: int(closed), Answered: int(s.partings.answered.Load()),
		Took: time.Since(began),
	}, err
}

// tell tells the clients to move, and returns when all are gone, at end, or when ctx ends.
func (s *Server) tell(ctx context.Context, cfg DrainConfig, end time.Time) (told int) {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	tellers := make([]teller, len(s.loops))
	for i, l := range s.loops {
		tellers[i] = teller{loop: l, window: cfg.Window, told: make(map[uint64]time.Time)}
	}
	// quota grows with the time; a late tick makes up for it, a very late one does not.
	quota, last := float64(cfg.Rate)*drainTick.Seconds(), time.Now()
	for {
		left := 0
		for i := range tellers {
			n, more := tellers[i].step(int(quota))
			quota -= float64(n)
			told += n
			left += more
		}
		if left == 0 || !wait(ctx, drainTick) {
			return told
		}
		now := time.Now()
		quota = min(quota+now.Sub(last).Seconds()*float64(cfg.Rate), float64(cfg.Rate))
		last = now
	}
}

// teller is one loop's part of a drain.
type teller struct {
	loop   *loop
	window time.Duration
	told   map[uint64]time.Time // who was told to move, and when; used on the loop only
}

// step tells up to n connections to move and closes those whose time is over. It returns how many were told and how
// many are left.
func (t *teller) step(n int) (told, left int) {
	t.loop.do(func() {
		now := time.Now()
		t.loop.each(func(c *conn) {
			at, was := t.told[c.id]
			switch {
			case c.state == stateHead:
				c.close()
			case c.over():
			case was:
				if now.Sub(at) > t.window+moveGrace && (c.busy == nil || c.busy.pending == 0) {
					c.part()
				}
			case c.state == stateOpen:
				c.part() // while workers do not answer it would try to connect for as long as they do not
			case c.state == stateReady && told < n:
				told++
				t.told[c.id] = now
				out := append(c.loop.frameStart(), `{"event":"reconnect","after_ms":`...)
				out = strconv.AppendInt(out, t.window.Milliseconds(), 10)
				c.send(append(out, '}'))
			}
		})
		left = t.loop.held
	})
	return told, left
}

// part ends a connection because its server does.
func (c *conn) part() {
	s := c.loop.srv
	if c.over() {
		return
	}
	if s.partings.stage.Load() == 0 {
		c.shut(contracts.CloseRestart, "the server restarts")
		return
	}
	s.partings.closed.Add(1)
	c.shut(contracts.CloseDraining, "this server drains")
}

// do runs fn on the loop and waits for it; it reports false where the loop has ended.
func (l *loop) do(fn func()) bool {
	done := make(chan struct{})
	if !l.call(func() { defer close(done); fn() }) {
		return false
	}
	<-done
	return true
}

// wait waits for d and reports false if ctx ended before.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
