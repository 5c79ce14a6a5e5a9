package edge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// HandoverConfig says how a successor reaches this edge.
type HandoverConfig struct {
	// Path of the Unix socket to offer. It is made with mode 0600; one that nobody listens on is replaced.
	Path string
	// Ops is the operators' listening socket, which a successor gets too. Defaults to none.
	Ops net.Listener
	// Release is called once a successor has everything: it stops serving Ops. Defaults to nothing.
	Release func()
}

// handover is a server's offer to hand over.
type handover struct {
	cfg   HandoverConfig
	given atomic.Bool // from when the successor accepts, unless it fails
	last  atomic.Bool // from when the last are given: who comes now would not be

	mu   sync.Mutex // guards the rest
	ln   *net.UnixListener
	peer *link         // the successor that is being served
	done chan struct{} // made by Offer, closed once all is handed over
	over bool
}

// Offer listens for a successor from now on. It is called after Start, at most once. It fails where another edge offers itself
// at the same path, and where connections are not on epoll.
func (s *Server) Offer(cfg HandoverConfig) error {
	if s.cfg.Portable {
		return errors.New("offer the hand-over: connections without epoll cannot be handed over")
	}
	h := &s.handover
	if s.cfg.Predecessor == nil { // a predecessor may still be there for a moment
		if nc, err := net.DialTimeout("unix", cfg.Path, time.Second); err == nil {
			_ = nc.Close()
			return fmt.Errorf("offer the hand-over: another edge offers it at %s", cfg.Path)
		}
	}
	// A socket cannot be bound over another; a name can be moved over another.
	fresh := cfg.Path + "." + strconv.Itoa(os.Getpid())
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("offer the hand-over: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fresh})
	if err != nil {
		return fmt.Errorf("offer the hand-over: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	err = os.Chmod(fresh, 0o600)
	if err == nil {
		err = os.Rename(fresh, cfg.Path)
	}
	if err != nil {
		_ = ln.Close()
		_ = os.Remove(fresh)
		return fmt.Errorf("offer the hand-over: %w", err)
	}
	h.mu.Lock()
	h.cfg, h.ln, h.done = cfg, ln, make(chan struct{})
	h.mu.Unlock()
	s.wg.Go(func() { s.awaitSuccessors(ln) })
	return nil
}

// HandedOver is closed once a successor has all connections: what is left is to Shutdown. It is nil before Offer.
func (s *Server) HandedOver() <-chan struct{} {
	s.handover.mu.Lock()
	defer s.handover.mu.Unlock()
	return s.handover.done
}

// withdraw ends the offer and, with an error, a hand-over under way.
func (h *handover) withdraw() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ln == nil {
		return
	}
	_ = h.ln.Close()
	h.ln = nil
	if !h.over {
		_ = os.Remove(h.cfg.Path)
	}
	if h.peer != nil {
		h.peer.close()
	}
}

func (s *Server) awaitSuccessors(ln *net.UnixListener) {
	for {
		nc, err := ln.AcceptUnix()
		if err != nil {
			return
		}
		s.wg.Go(func() {
			defer func() { _ = nc.Close() }()
			l, err := newLink(nc)
			if err == nil {
				err = s.serveSuccessor(l)
			}
			if err != nil {
				s.log.Warn("nothing is handed over; this edge serves on", "err", err)
			}
		})
	}
}

// serveSuccessor hands everything over, or says why not.
func (s *Server) serveSuccessor(l *link) (err error) {
	h := &s.handover
	defer func() {
		if err != nil {
			_ = l.send(msgRefuse, refuseMessage{Reason: err.Error()}) // it may be gone
		}
	}()
	var hello helloMessage
	if _, err := l.expect(msgHello, stepTime, &hello); err != nil {
		return fmt.Errorf("wait for a successor's hello: %w", err)
	}
	if err := s.suits(&hello); err != nil {
		return err
	}
	h.mu.Lock()
	busy := h.peer != nil || h.over || h.ln == nil
	if !busy {
		h.peer = l
	}
	h.mu.Unlock()
	if busy {
		return errors.New("it hands over to another process, or stops")
	}
	defer func() {
		h.mu.Lock()
		h.peer = nil
		h.mu.Unlock()
	}()
	if err := s.welcome(l); err != nil {
		return err
	}
	s.log.Info("a successor starts", "pid", hello.PID, "version", hello.Build)
	if _, err := l.expect(msgBegin, beginTime, nil); err != nil {
		return fmt.Errorf("wait for the successor's start: %w", err)
	}
	g := &giver{srv: s, link: l, began: time.Now()}
	if err := g.run(); err != nil {
		return err
	}
	s.log.Info("handed over", "connections", g.given, "took", time.Since(g.began).String(), "pid", hello.PID)
	if h.cfg.Release != nil {
		h.cfg.Release()
	}
	h.mu.Lock()
	h.over = true
	h.mu.Unlock()
	// Requests of the API that are under way end here.
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.AskTime)
	defer cancel()
	_ = s.http.server.Shutdown(ctx)
	close(h.done)
	return nil
}

// suits tells why a successor does not, if it does not.
func (s *Server) suits(hello *helloMessage) error {
	switch {
	case hello.Version != takeOverVersion:
		return fmt.Errorf("it speaks version %d of the take-over, the new edge (%s) version %d: restart instead, clients are asked to move", takeOverVersion, hello.Build, hello.Version)
	case hello.Listen != s.cfg.Listen:
		return fmt.Errorf("it listens on %s, the new edge is to listen on %s", s.cfg.Listen, hello.Listen)
	case hello.Prefix != s.cfg.Names.Prefix || hello.Partitions != s.cfg.Partitions:
		return fmt.Errorf("it belongs to installation %q with %d partitions, the new edge to %q with %d", s.cfg.Names.Prefix, s.cfg.Partitions, hello.Prefix, hello.Partitions)
	case hello.Descriptors < s.Connections()+256:
		return fmt.Errorf("it has %d connections, and the new edge may open %d descriptors: raise its limit (ulimit -n)", s.Connections(), hello.Descriptors)
	case !s.up.Load() || s.partings.stage.Load() != 0:
		return errors.New("it stops")
	}
	return nil
}

// welcome sends the listening sockets.
func (s *Server) welcome(l *link) error {
	w := welcomeMessage{Version: takeOverVersion, Build: s.cfg.Version, PID: os.Getpid(), Node: s.cfg.Node, Connections: s.Connections()}
	var fds []int
	defer func() { closeAllRaw(fds) }()
	for _, ln := range []net.Listener{s.listener, s.handover.cfg.Ops} {
		if ln == nil {
			continue
		}
		sock, ok := ln.(syscall.Conn)
		if !ok {
			return fmt.Errorf("listener %s is no socket", ln.Addr())
		}
		fd, err := duplicate(sock)
		if err != nil {
			return fmt.Errorf("duplicate listener %s: %w", ln.Addr(), err)
		}
		fds = append(fds, fd)
	}
	w.Ops = len(fds) > 1
	return l.send(msgWelcome, w, fds...)
}

// giver is one hand-over.
type giver struct {
	srv   *Server
	link  *link
	began time.Time
	given int
	told  []contracts.Presence // of those who are given
}

func (g *giver) run() (err error) {
	s := g.srv
	s.gone.hold(true)
	defer func() {
		if err != nil {
			g.takeBack()
		}
	}()
	born := int32(0)
	for _, l := range s.loops {
		l.do(func() {
			for i := range l.seats {
				born = max(born, l.seats[i].generation)
			}
		})
	}
	if err := g.link.send(msgRooms, roomsMessage{Rooms: s.hub.heads(), Generation: born + generations}); err != nil {
		return err
	}
	if _, err := g.link.expect(msgReady, readyTime, nil); err != nil {
		return fmt.Errorf("wait for the successor to hear the rooms: %w", err)
	}
	s.handover.given.Store(true)
	s.loops[0].do(s.loops[0].pauseAccepting)
	if err := g.link.send(msgAccept, nil); err != nil {
		return err
	}
	if err := g.giveAll(); err != nil {
		return err
	}
	return g.link.send(msgEnd, endMessage{Gone: s.gone.take()})
}

// giveAll gives every connection away, those with requests under way once these are answered. Who has some for too long is
// asked to connect again.
func (g *giver) giveAll() error {
	since := make([]map[uint64]time.Time, len(g.srv.loops))
	for i := range since {
		since[i] = make(map[uint64]time.Time)
	}
	end := time.Now().Add(g.srv.cfg.AskTime + time.Second)
	for {
		waiting := 0
		for i, l := range g.srv.loops {
			for {
				n, wait, err := g.giveSome(l, since[i])
				if err != nil {
					return err
				}
				if n == 0 {
					waiting += wait
					break
				}
			}
		}
		if waiting == 0 && g.srv.handover.last.Swap(true) {
			return nil
		}
		if time.Now().After(end) {
			g.srv.log.Warn("connections with unanswered requests are closed", "connections", waiting)
			return nil // Shutdown does it
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// giveSome gives one batch of a loop away. It returns how many were frozen, and if none was, how many have to wait.
func (g *giver) giveSome(l *loop, since map[uint64]time.Time) (n, waiting int, err error) {
	var b *batch
	if !l.do(func() { b, waiting = l.freezeSome(since) }) {
		return 0, 0, errStopping
	}
	if len(b.conns) == 0 {
		return 0, waiting, nil
	}
	err = g.link.send(msgBatch, batchMessage{Conns: b.records}, b.fds...)
	if err == nil {
		_, err = g.link.expect(msgHave, stepTime, nil)
	}
	if err != nil {
		l.do(b.thaw)
		return 0, 0, fmt.Errorf("hand a batch over: %w", err)
	}
	l.do(func() {
		var given int
		given, err = b.commit(func(stay []int) error { return g.link.send(msgGo, goMessage{Stay: stay}) })
		g.given += given
	})
	if err != nil {
		return 0, 0, fmt.Errorf("commit a batch: %w", err)
	}
	for i := range b.records {
		r := &b.records[i]
		for _, m := range r.Rooms {
			g.told = append(g.told, contracts.Presence{Room: m.Room, User: *r.User})
		}
	}
	return len(b.conns), 0, nil
}

// takeBack makes this edge go on with what it has. Who was given to the successor is lost with it, as far as this node can know.
func (g *giver) takeBack() {
	s := g.srv
	for _, l := range s.loops {
		l.do(func() {
			l.each(func(c *conn) {
				if c.moving == waits {
					c.thaw()
				}
			})
		})
	}
	s.handover.last.Store(false)
	if s.up.Load() && s.handover.given.Swap(false) {
		s.loops[0].do(s.loops[0].acceptAgain)
	}
	for _, p := range g.told {
		s.gone.add(p)
	}
	s.gone.hold(false)
}

// hold keeps who left until it is released, when tell leaves out whoever is there.
func (g *gone) hold(on bool) {
	g.mu.Lock()
	g.held = on
	g.mu.Unlock()
}

// take returns who left and was not told of.
func (g *gone) take() []contracts.Presence {
	g.mu.Lock()
	defer g.mu.Unlock()
	who := g.who
	g.who = nil
	return who
}
