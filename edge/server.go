package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/wire"
)

const (
	// renewEvery is how often the node's people are confirmed to be listening.
	renewEvery = 5 * time.Second
	// goneEvery is how long people who left wait for others, to be told together.
	goneEvery = 250 * time.Millisecond
	// goneBatch is the most people in one command.
	goneBatch = 500
	// finishTime is how long a stop waits for requests that are not answered, partTime how long for all to be closed.
	finishTime = 3 * time.Second
	partTime   = finishTime + 500*time.Millisecond
)

// Server is one edge node. New, then Start, then Shutdown, each once.
type Server struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	metrics  *metrics
	ask      rpc.Client
	asker    *asker
	outbound outbound

	admission admission

	hub      *hub
	gone     gone
	http     *httpServer
	subjects map[contracts.Op][]string

	loops    []*loop
	nextLoop atomic.Uint32
	share    []*Server // who gets the WebSockets accepted here, in turn; nil: this one
	nextPeer atomic.Uint32
	listener net.Listener

	open     atomic.Int64 // WebSockets held
	opened   atomic.Int64 // WebSockets there ever were
	up       atomic.Bool  // from the end of Start until Shutdown
	partings partings
	handover handover
	former   sync.Map // ids in a predecessor that persisters still tell, to those of here; of messages that wait to be stored
	cancel   context.CancelFunc
	wg       sync.WaitGroup // every goroutine but the loops'
}

// New makes an edge that does nothing yet.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	if onlyPortable {
		cfg.Portable = true
	}
	s := &Server{cfg: cfg, deps: deps, log: deps.Log, ask: deps.Ask, metrics: newMetrics(deps.Metrics)}
	registerLimits(deps.Metrics, &s.cfg)
	s.outbound.limit = cfg.OutboundTotal
	s.metrics.outboundOf(deps.Metrics, &s.outbound)
	s.asker = &asker{client: deps.Ask, gathered: cfg.Names.WorkGathered(), limit: cfg.InFlight, metrics: s.metrics, log: deps.Log, breaker: breaker{pause: max(0, cfg.BreakTime)}}
	s.admission.init(&s.cfg, s.metrics)
	s.hub = newHub(s)
	s.gone.srv = s
	s.http = newHTTPServer(s)
	s.subjects = make(map[contracts.Op][]string, len(workerOps))
	for _, op := range workerOps {
		for p := range cfg.Partitions {
			s.subjects[op] = append(s.subjects[op], cfg.Names.Work(op, int32(p)))
		}
	}
	return s, nil
}

// Share deals the WebSockets that are accepted by first to all of the servers in turn: several nodes behind one port.
// It is called before any of them starts; only first listens.
func Share(first *Server, others ...*Server) {
	first.share = append([]*Server{first}, others...)
	for _, o := range others {
		o.cfg.Listen = "off"
	}
}

// Start listens and returns. The error names the address and what to do.
func (s *Server) Start(ctx context.Context) error {
	switch from := s.cfg.Predecessor; {
	case from != nil:
		s.listener = from.listener
	case s.cfg.Listen != "off":
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Listen)
		if err != nil {
			return fmt.Errorf("listen on %s (is it in use? choose another with --listen): %w", s.cfg.Listen, err)
		}
		s.listener = ln
	}
	for i := range s.cfg.Loops {
		l, err := newLoop(s, i)
		if err != nil {
			for _, l := range s.loops {
				l.poll.close()
			}
			if s.listener != nil {
				_ = s.listener.Close()
			}
			return err
		}
		s.loops = append(s.loops, l)
	}
	s.hub.sub = s.deps.Hear(s.hub)
	run, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Go(func() { s.hub.run(run) })
	s.wg.Go(func() { s.hub.lanes.run(run) })
	s.wg.Go(func() { s.gone.run(run) })
	s.wg.Go(func() { s.sweep(run) })
	s.http.start(&s.wg)
	for _, l := range s.loops {
		go l.run()
	}
	s.up.Store(true)
	switch {
	case s.listener == nil, s.cfg.Predecessor != nil: // TakeOver accepts
		return nil
	case s.cfg.Portable:
		s.wg.Go(s.acceptPortable)
		return nil
	}
	if err := s.listenRaw(s.listener); err != nil {
		_ = s.Shutdown(ctx)
		return err
	}
	return nil
}

// Addr is the address that is listened on.
func (s *Server) Addr() string {
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Connections is how many WebSockets are held.
func (s *Server) Connections() int { return int(s.open.Load()) }

// Ready reports why clients should not be sent here, nil when they should.
func (s *Server) Ready() error {
	switch {
	case !s.up.Load():
		return errors.New("not running")
	case s.partings.stage.Load() != 0:
		return errors.New("draining: clients are being sent elsewhere")
	case s.handover.given.Load():
		return errors.New("handed over to another process")
	case !s.ask.Up():
		return errors.New("NATS is not connected")
	case !s.hub.sub.Healthy():
		return errors.New("lanes are not heard: Redis is away; live goes on by asking every 2 s")
	case s.open.Load() >= int64(s.cfg.MaxConnections)*9/10:
		return fmt.Errorf("%d of %d connections in use", s.open.Load(), s.cfg.MaxConnections)
	}
	return nil
}

// State tells operators how it goes between this edge and the workers.
func (s *Server) State() string { return s.asker.state() }

// Shutdown stops accepting, lets requests finish for a while, closes every connection with 1012, or 4450 where it drains, and returns when all
// are closed or ctx has ended.
func (s *Server) Shutdown(ctx context.Context) error {
	s.asker.ending.Store(true)
	if !s.up.Swap(false) {
		return nil
	}
	s.handover.withdraw()
	s.closeListener()
	for _, l := range s.loops {
		l.call(l.finish)
	}
	for after, hurry := range map[time.Duration]func(*loop){finishTime: (*loop).shutAll, partTime: (*loop).closeAll} {
		timer := time.AfterFunc(after, func() {
			for _, l := range s.loops {
				l.call(func() { hurry(l) })
			}
		})
		defer timer.Stop()
	}
	var err error
	for _, l := range s.loops {
		select {
		case <-l.closed:
			continue
		case <-ctx.Done():
			err = ctx.Err()
		}
		l.call(l.closeAll)
		<-l.closed
	}
	s.http.stop()
	s.gone.tell()
	s.cancel()
	if e := s.hub.sub.Close(); err == nil {
		err = e
	}
	s.wg.Wait()
	return err
}

func (s *Server) closeListener() {
	if s.listener == nil {
		return
	}
	_ = s.listener.Close()
	if !s.cfg.Portable {
		for _, l := range s.loops {
			l.call(func() { stopListening(l) })
		}
	}
}

// finish begins the end of a loop: connections end when their requests are answered.
func (l *loop) finish() {
	l.ending = true
	l.each(func(c *conn) {
		switch {
		case c.state == stateHead || c.state == stateRefused:
			c.close()
		case c.busy == nil || c.busy.pending == 0:
			c.part()
		}
	})
}

func (l *loop) shutAll() {
	l.each((*conn).part)
}

func (l *loop) closeAll() { l.each((*conn).close) }

// each calls f with every connection; f may end them.
func (l *loop) each(f func(*conn)) {
	for i := range l.seats {
		if c := l.seats[i].conn; c != nil {
			f(c)
		}
	}
}

// nextShare is the server that gets the next WebSocket: the next one that runs.
func (s *Server) nextShare() *Server {
	for range s.share {
		if next := s.share[int(s.nextPeer.Add(1))%len(s.share)]; next.up.Load() {
			return next
		}
	}
	return s
}

func (s *Server) pickLoop() *loop {
	return s.loops[int(s.nextLoop.Add(1))%len(s.loops)]
}

// handoff is what goes with a socket from one server, or from the HTTP server, to the next.
type handoff struct {
	switching []byte // the answer to the handshake
	behind    []byte // what came behind the request
	from      *address
}

// deal gives an accepted descriptor to one of the server's loops. from is the loop that calls, or nil.
func (s *Server) deal(from *loop, fd int, h *handoff) {
	l := s.pickLoop()
	attach := func() {
		c := l.newConn()
		if err := l.adoptRaw(c, fd); err != nil {
			s.log.Warn("take a connection", "err", err)
			c.forget()
			s.admission.give(h)
			closeRaw(fd)
			return
		}
		c.begun(h)
	}
	if l == from {
		attach()
	} else if !l.call(attach) {
		s.admission.give(h)
		closeRaw(fd)
	}
}

// begun starts a connection that its loop has just taken.
func (c *conn) begun(h *handoff) {
	if h != nil {
		c.from = h.from
		c.opened(h.switching, h.behind)
	} else {
		c.arrive()
	}
	switch {
	case !c.loop.ending:
	case c.state == stateHead || c.state == stateRefused:
		c.close()
	default:
		c.part()
	}
}

// passTo moves a connection whose handshake is done to another server of this process.
func (c *conn) passTo(next *Server, req *wire.Request, behind []byte, from *address) {
	h := &handoff{switching: wire.AppendSwitching(nil, req), behind: append([]byte(nil), behind...), from: from}
	c.forget()
	if c.port == nil {
		next.deal(nil, c.sysRelease(), h)
		return
	}
	c.port.end(true)
	next.newPort(c.port.nc, h)
}

// acceptPortable accepts connections that get a port.
func (s *Server) acceptPortable() {
	for {
		nc, err := s.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.metrics.unaccepted.Inc()
			s.log.Warn("accepting pauses", "err", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if b, ok := nc.(interface{ SetWriteBuffer(int) error }); ok && s.cfg.SendBuffer > 0 {
			_ = b.SetWriteBuffer(s.cfg.SendBuffer)
		}
		s.metrics.accepted.Inc()
		s.newPort(nc, nil)
	}
}

// Take serves a connection that was accepted elsewhere, such as a pipe, while the server runs; the server closes it in
// the end. It needs Config.Portable.
func (s *Server) Take(nc net.Conn) { s.newPort(nc, nil) }

// newPort makes a port of a socket and gives it to one of the server's loops.
func (s *Server) newPort(nc net.Conn, h *handoff) {
	p := newPort(nc)
	s.wg.Go(p.read)
	s.wg.Go(p.write)
	l := s.pickLoop()
	taken := l.call(func() {
		c := l.newConn()
		c.port, p.conn = p, c
		close(p.dealt)
		c.begun(h)
	})
	if !taken {
		s.admission.give(h)
		p.end(false)
	}
}

// gone collects who has left rooms and tells the workers, many at once. It also confirms the others every few seconds.
type gone struct {
	srv *Server
	mu  sync.Mutex // guards the rest
	who []contracts.Presence
	// held keeps it all: another process of the same node holds a part of the connections, and who has left here may be there.
	held bool
}

func (g *gone) add(p contracts.Presence) {
	g.mu.Lock()
	g.who = append(g.who, p)
	g.mu.Unlock()
}

func (g *gone) run(ctx context.Context) {
	ticker := time.NewTicker(goneEvery)
	defer ticker.Stop()
	var renewed time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			g.tell()
			if now.Sub(renewed) >= renewEvery {
				renewed = now
				g.ask(nil)
			}
		}
	}
}

// tell sends what was collected. Who came back meanwhile is left out.
func (g *gone) tell() {
	g.mu.Lock()
	if g.held {
		g.mu.Unlock()
		return
	}
	who := g.who
	g.who = nil
	g.mu.Unlock()
	stay := who[:0]
	for _, p := range who {
		if !g.srv.hub.present(p) {
			stay = append(stay, p)
		}
	}
	for len(stay) > 0 {
		n := min(len(stay), goneBatch)
		g.ask(stay[:n])
		stay = stay[n:]
	}
}

func (g *gone) ask(who []contracts.Presence) {
	s := g.srv
	s.asker.ask(question{
		subject:  s.subject(contracts.OpGone, ""),
		deadline: time.Now().Add(s.cfg.AskTime),
		body: func(dst []byte, left time.Duration) []byte {
			cmd := s.command(dst, contracts.OpGone, 0, left, nil, "")
			var b strings.Builder
			for i, p := range who {
				if i > 0 {
					b.WriteByte(',')
				}
				b.WriteString(`{"room":"` + string(p.Room) + `","user":`)
				b.Write(contracts.AppendPerson(nil, p.User))
				b.WriteByte('}')
			}
			if len(who) > 0 {
				cmd = append(cmd, `,"gone":[`+b.String()+"]"...)
			}
			return append(cmd, '}')
		},
		done: func(*contracts.Answer, *contracts.Error) {}, // a roster that missed it forgets the node's people by itself
	})
}
