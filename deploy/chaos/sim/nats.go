package sim

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
)

// maxPayload is that of a NATS server.
const maxPayload = 1 << 20

// NATS carries requests. Its Mood's losses are requests or replies, half and half.
type NATS struct {
	Mood
	dice *Dice

	mu   sync.Mutex // guards regs
	regs []*registration
}

// NewNATS returns one without servers.
func NewNATS(dice *Dice) *NATS { return &NATS{dice: dice} }

// registration is one endpoint of one server. Its requests are handled one after the other.
type registration struct {
	proc     *Proc
	subject  string
	queue    string
	handler  rpc.Handler
	requests chan rpc.Request
	ended    chan struct{}
}

// Server returns what p serves with.
func (n *NATS) Server(p *Proc) rpc.Server { return &natsServer{n, p} }

type natsServer struct {
	nats *NATS
	proc *Proc
}

func (s *natsServer) Serve(svc rpc.Service) (stop func() error, err error) {
	if away, _, _ := s.nats.get(); away || s.proc.Dead() {
		return nil, ErrAway
	}
	var regs []*registration
	for _, e := range svc.Endpoints {
		r := &registration{proc: s.proc, subject: e.Subject, queue: svc.Queue, handler: e.Handler, requests: make(chan rpc.Request, 4096), ended: make(chan struct{})}
		go func() {
			defer close(r.ended)
			for req := range r.requests {
				r.handler(req)
			}
		}()
		regs = append(regs, r)
	}
	s.nats.mu.Lock()
	s.nats.regs = append(s.nats.regs, regs...)
	s.nats.mu.Unlock()
	var once sync.Once
	return func() error {
		once.Do(func() {
			s.nats.mu.Lock()
			s.nats.regs = slices.DeleteFunc(s.nats.regs, func(r *registration) bool { return slices.Contains(regs, r) })
			for _, r := range regs {
				close(r.requests)
			}
			s.nats.mu.Unlock()
		})
		for _, r := range regs {
			<-r.ended
		}
		return nil
	}, nil
}

// Client returns what p asks with.
func (n *NATS) Client(p *Proc) rpc.Client {
	return &natsClient{nats: n, proc: p, waiting: make(map[*waiter]struct{})}
}

type natsClient struct {
	nats *NATS
	proc *Proc

	mu      sync.Mutex // guards what follows
	waiting map[*waiter]struct{}
	closed  bool
}

// waiter is one request without its reply.
type waiter struct {
	client *natsClient
	timer  *time.Timer
	done   func([]byte, error)
}

// end calls done, once.
func (w *waiter) end(reply []byte, err error) {
	w.client.mu.Lock()
	_, waits := w.client.waiting[w]
	delete(w.client.waiting, w)
	if w.timer != nil {
		w.timer.Stop()
	}
	w.client.mu.Unlock()
	if waits {
		w.done(reply, err)
	}
}

func (c *natsClient) Ask(subject string, body []byte, timeout time.Duration, done func([]byte, error)) {
	if len(body) > maxPayload {
		done(nil, rpc.ErrTooLarge)
		return
	}
	away, lose, late := c.nats.get()
	w := &waiter{client: c, done: done}
	c.mu.Lock()
	if c.closed || away || c.proc.Dead() {
		c.mu.Unlock()
		done(nil, rpc.ErrDown)
		return
	}
	c.waiting[w] = struct{}{}
	w.timer = time.AfterFunc(timeout, func() { w.end(nil, rpc.ErrTimeout) })
	c.mu.Unlock()
	request, reply := c.nats.dice.Hit(lose/2), c.nats.dice.Hit(lose/2)
	if request {
		return
	}
	req := rpc.Request{Subject: subject, Body: append([]byte(nil), body...)}
	if !c.nats.deliver(req, func(r *registration, b []byte) {
		if reply || r.proc.Dead() || len(b) > maxPayload {
			return
		}
		b = append([]byte(nil), b...)
		time.AfterFunc(100*time.Microsecond+c.nats.dice.Time(late), func() {
			if away, _, _ := c.nats.get(); !away {
				w.end(b, nil)
			}
		})
	}) {
		go w.end(nil, rpc.ErrNoServer)
	}
}

// deliver hands a request to one server of each queue, and to all that have none.
func (n *NATS) deliver(req rpc.Request, answer func(*registration, []byte)) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	queues := make(map[string][]*registration)
	for _, r := range n.regs {
		if r.proc.Dead() || !matches(r.subject, req.Subject) {
			continue
		}
		queue := r.queue
		if queue == "" {
			queue = "\x00" + strconv.Itoa(len(queues))
		}
		queues[queue] = append(queues[queue], r)
	}
	for _, regs := range queues {
		r := regs[n.dice.N(len(regs))]
		one := req
		var once sync.Once
		one.Answer = func(b []byte) { once.Do(func() { answer(r, b) }) }
		select {
		case r.requests <- one:
		default:
		}
	}
	return len(queues) > 0
}

func matches(pattern, subject string) bool {
	prefix, wild := strings.CutSuffix(pattern, "*")
	if !wild {
		return pattern == subject
	}
	rest, ok := strings.CutPrefix(subject, prefix)
	return ok && !strings.Contains(rest, ".")
}

func (c *natsClient) MaxPayload() int { return maxPayload }

func (c *natsClient) Up() bool {
	away, _, _ := c.nats.get()
	c.mu.Lock()
	defer c.mu.Unlock()
	return !away && !c.closed
}

func (c *natsClient) Close() error {
	c.mu.Lock()
	c.closed = true
	var all []*waiter
	for w := range c.waiting {
		all = append(all, w)
	}
	c.mu.Unlock()
	for _, w := range all {
		w.end(nil, rpc.ErrDown)
	}
	return nil
}
