package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// age is how old the loops of a successor pretend to be, so that what happened in its predecessor lies in their past.
const age = time.Hour

// Predecessor is a running edge that hands over. Close it unless a Server has taken over from it.
type Predecessor struct {
	link     *link
	welcome  welcomeMessage
	listener net.Listener
	ops      net.Listener
}

// CallPredecessor asks the edge that offers itself at path to hand over to an edge of that configuration, of which Listen,
// Names, Partitions and Version count. The error is ErrNoPredecessor where nobody offers, or why the running edge refuses; it
// serves on in any case until TakeOver.
func CallPredecessor(ctx context.Context, path string, cfg Config) (*Predecessor, error) {
	cfg.setDefaults()
	if cfg.Portable || onlyPortable {
		return nil, errors.New("take over: connections can be handed over on epoll only, on Linux and without --portable")
	}
	nc, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("take over at %s: %w", path, ErrNoPredecessor)
	case err != nil:
		return nil, fmt.Errorf("take over: %w", err)
	}
	p := &Predecessor{}
	if p.link, err = newLink(nc.(*net.UnixConn)); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("take over at %s: %w", path, err)
	}
	if err := p.greet(&cfg); err != nil {
		p.Close()
		return nil, fmt.Errorf("take over at %s: %w", path, err)
	}
	return p, nil
}

func (p *Predecessor) greet(cfg *Config) error {
	err := p.link.send(msgHello, helloMessage{
		Version: takeOverVersion, Build: cfg.Version, PID: os.Getpid(), Listen: cfg.Listen, Prefix: cfg.Names.Prefix,
		Partitions: cfg.Partitions, Descriptors: descriptorLimit(),
	})
	if err != nil {
		return err
	}
	fds, err := p.link.expect(msgWelcome, stepTime, &p.welcome)
	if err != nil {
		return err
	}
	want := 1
	if p.welcome.Ops {
		want = 2
	}
	if len(fds) != want || p.welcome.Version != takeOverVersion || !contracts.ValidID(string(p.welcome.Node)) {
		closeAllRaw(fds)
		return fmt.Errorf("the running edge (%s) welcomes in version %d with %d sockets, which this one does not understand", p.welcome.Build, p.welcome.Version, len(fds))
	}
	if p.listener, err = listenerOf(fds[0]); err != nil {
		closeAllRaw(fds[1:])
		return fmt.Errorf("listen on the socket that was handed over: %w", err)
	}
	if p.welcome.Ops {
		if p.ops, err = listenerOf(fds[1]); err != nil {
			return fmt.Errorf("listen on the operators' socket that was handed over: %w", err)
		}
	}
	return nil
}

// Node is the name under which the successor must run.
func (p *Predecessor) Node() contracts.NodeID { return p.welcome.Node }

// Version is the running edge's; PID is its process.
func (p *Predecessor) Version() string { return p.welcome.Build }

// PID is the running edge's process.
func (p *Predecessor) PID() int { return p.welcome.PID }

// Connections is how many WebSockets it held when it was called.
func (p *Predecessor) Connections() int { return p.welcome.Connections }

// Ops is the operators' listening socket, or nil. It is the caller's.
func (p *Predecessor) Ops() net.Listener { return p.ops }

// Close leaves the running edge alone.
func (p *Predecessor) Close() {
	p.link.close()
	if p.listener != nil {
		_ = p.listener.Close()
	}
}

// TakeOverReport says how a take-over went.
type TakeOverReport struct {
	Connections int           // of all kinds that were taken over
	Rooms       int           // that were heard
	Took        time.Duration // from the request to the end
	// Pause is for how long connections were not served: the median, the 99.9th percentile and the longest.
	Pause50, Pause999, PauseMax time.Duration
	// Alone says that the predecessor died in the middle: the connections that it had not handed over are lost.
	Alone bool
}

// TakeOver takes everything over from Config.Predecessor, after Start. On an error nothing more comes and the predecessor, if it
// lives, serves on: the caller stops this Server.
func (s *Server) TakeOver(ctx context.Context) (TakeOverReport, error) {
	p := s.cfg.Predecessor
	defer p.link.close()
	stop := context.AfterFunc(ctx, p.link.close)
	defer stop()
	t := &taker{srv: s, link: p.link}
	began := time.Now()
	s.gone.hold(true)
	defer s.gone.hold(false)
	defer s.hub.opened()
	if err := t.prepare(ctx); err != nil {
		return TakeOverReport{}, fmt.Errorf("take over: %w", err)
	}
	alone, err := t.takeAll()
	if err != nil {
		return TakeOverReport{}, fmt.Errorf("take over: %w", err)
	}
	for _, l := range s.loops {
		l.do(func() {})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.Sort(t.pauses)
	r := TakeOverReport{Connections: len(t.pauses), Rooms: t.rooms, Took: time.Since(began), Alone: alone}
	if n := len(t.pauses); n > 0 {
		r.Pause50, r.Pause999, r.PauseMax = t.pauses[n/2], t.pauses[n-1-n/1000], t.pauses[n-1]
	}
	return r, nil
}

// taker is one take-over.
type taker struct {
	srv   *Server
	link  *link
	rooms int
	turn  int

	mu     sync.Mutex // guards pauses
	pauses []time.Duration
}

// prepare hears what the predecessor hears, then begins to accept in its place.
func (t *taker) prepare(ctx context.Context) error {
	s := t.srv
	if err := t.awaitWorkers(ctx); err != nil {
		return err
	}
	if err := t.link.send(msgBegin, nil); err != nil {
		return err
	}
	var rooms roomsMessage
	if _, err := t.link.expect(msgRooms, stepTime, &rooms); err != nil {
		return err
	}
	t.rooms = len(rooms.Rooms)
	for _, rec := range rooms.Rooms {
		if !contracts.ValidID(string(rec.Room)) {
			return fmt.Errorf("the running edge names room %q", rec.Room)
		}
	}
	for _, l := range s.loops {
		l.do(func() { l.born = max(0, rooms.Generation) })
	}
	lanes := s.hub.open(rooms.Rooms)
	heard := make(chan struct{}, len(lanes))
	for lane := range lanes {
		s.hub.hearUntil(lane, func() { heard <- struct{}{} })
	}
	late := time.NewTimer(readyTime - time.Second)
	defer late.Stop()
	for range lanes {
		select {
		case <-heard:
		case <-late.C:
			return errors.New("the rooms could not be heard in time: is Redis away?")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.hub.askHeads(func(*room) bool { return true })
	if err := t.link.send(msgReady, nil); err != nil {
		return err
	}
	if _, err := t.link.expect(msgAccept, stepTime, nil); err != nil {
		return err
	}
	return s.listenRaw(s.listener)
}

// ErrNoNATS is why a take-over did not begin.
var ErrNoNATS = errors.New("NATS was not connected in time")

// awaitWorkers waits until the workers can be asked: whoever came before could not be served.
func (t *taker) awaitWorkers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, upTime)
	defer cancel()
	for !t.srv.ask.Up() {
		if !wait(ctx, upPoll) {
			return ErrNoNATS
		}
	}
	return nil
}

// takeAll takes batches until the end. alone says that the predecessor died before.
func (t *taker) takeAll() (alone bool, err error) {
	for {
		kind, body, fds, err := t.link.receive(t.srv.cfg.AskTime + stepTime)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			return true, nil
		case err != nil:
			return false, err
		}
		switch kind {
		case msgBatch:
			if alone, err := t.takeSome(body, fds); alone || err != nil {
				return alone, err
			}
		case msgEnd:
			closeAllRaw(fds)
			var end endMessage
			if err := json.Unmarshal(body, &end); err != nil {
				return false, fmt.Errorf("read the end: %w", err)
			}
			for _, p := range end.Gone {
				t.srv.gone.add(p)
			}
			return false, nil
		case msgRefuse:
			closeAllRaw(fds)
			var refused refuseMessage
			_ = json.Unmarshal(body, &refused) // without a reason it is a refusal too
			return false, refusedError(refused.Reason)
		default:
			closeAllRaw(fds)
			return false, fmt.Errorf("the running edge said %q in the middle", kind)
		}
	}
}

// takeSome takes one batch: it is this edge's once the predecessor has said go.
func (t *taker) takeSome(body []byte, fds []int) (alone bool, err error) {
	taken := false
	defer func() {
		if !taken {
			closeAllRaw(fds)
		}
	}()
	var b batchMessage
	if err := json.Unmarshal(body, &b); err != nil {
		return false, fmt.Errorf("read a batch: %w", err)
	}
	if len(b.Conns) != len(fds) {
		return false, fmt.Errorf("a batch of %d connections came with %d descriptors", len(b.Conns), len(fds))
	}
	for i := range b.Conns {
		if !b.Conns[i].valid() {
			return false, fmt.Errorf("the state of connection %d cannot be understood", b.Conns[i].ID)
		}
	}
	if err := t.link.send(msgHave, nil); err != nil {
		return false, err
	}
	var ok goMessage
	more, err := t.link.expect(msgGo, stepTime, &ok)
	closeAllRaw(more)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return true, nil
	case err != nil:
		return false, err
	}
	taken = true
	t.deal(b.Conns, fds, ok.Stay)
	return false, nil
}

// deal gives a batch to the loops, in turn.
func (t *taker) deal(records []connRecord, fds []int, stay []int) {
	s := t.srv
	parts := make([][]int, len(s.loops))
	for i := range records {
		if slices.Contains(stay, i) {
			closeRaw(fds[i])
			continue
		}
		t.turn++
		parts[t.turn%len(parts)] = append(parts[t.turn%len(parts)], i)
	}
	for n, part := range parts {
		if len(part) == 0 {
			continue
		}
		l := s.loops[n]
		taken := l.call(func() {
			pauses := make([]time.Duration, 0, len(part))
			for _, i := range part {
				l.restore(&records[i], fds[i])
				pauses = append(pauses, time.Since(time.Unix(0, records[i].Frozen)))
			}
			t.mu.Lock()
			t.pauses = append(t.pauses, pauses...)
			t.mu.Unlock()
		})
		if !taken {
			for _, i := range part {
				closeRaw(fds[i])
			}
		}
	}
}
