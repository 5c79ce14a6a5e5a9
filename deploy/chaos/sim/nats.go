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
	of       []*registration // who serves what comes together to subject
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
	all := svc.Endpoints
	if svc.Gathered != "" {
		all = append(slices.Clip(all), rpc.Endpoint{Subject: svc.Gathered})
	}
	for i, e := range all {
		r := &registration{proc: s.proc, subject: e.Subject, queue: svc.Queue, handler: e.Handler, requests: make(chan rpc.Request, 4096), ended: make(chan struct{})}
		if i == len(svc.Endpoints) {
			r.of = regs // and it gets no request itself
		}
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
	w := c.wait(timeout, done)
	if w == nil {
		done(nil, rpc.ErrDown)
		return
	}
	f := c.nats.fate()
	if !f.request && !c.nats.deliver(subject, func(r *registration) { r.give(w, f, subject, body) }) {
		go w.end(nil, rpc.ErrNoServer)
	}
}

// AskTogether makes the client an rpc.Gatherer. What goes in one message has one fate.
func (c *natsClient) AskTogether(to string, questions []rpc.Question) {
	if !c.nats.deliver(to, func(*registration) {}) {
		for i := range questions {
			q := &questions[i]
			q.Together = 1
			c.Ask(q.Subject, q.Body, q.Timeout, q.Done)
		}
		return
	}
	waiting := make([]*waiter, len(questions))
	for i := range questions {
		q := &questions[i]
		q.Together = len(questions)
		if waiting[i] = c.wait(q.Timeout, q.Done); waiting[i] == nil {
			q.Done(nil, rpc.ErrDown)
		}
	}
	f := c.nats.fate()
	if f.request {
		return
	}
	taken := c.nats.deliver(to, func(r *registration) {
		for i := range questions {
			if waiting[i] == nil {
				continue
			}
			at := slices.IndexFunc(r.of, func(one *registration) bool { return matches(one.subject, questions[i].Subject) })
			if at < 0 {
				go waiting[i].end(nil, rpc.ErrNoServer)
				continue
			}
			r.of[at].give(waiting[i], f, questions[i].Subject, questions[i].Body)
		}
	})
	if !taken {
		for _, w := range waiting {
			if w != nil {
				go w.end(nil, rpc.ErrNoServer)
			}
		}
	}
}

// wait adds a request that has no reply yet; nil where it cannot be sent.
func (c *natsClient) wait(timeout time.Duration, done func([]byte, error)) *waiter {
	away, _, _ := c.nats.get()
	w := &waiter{client: c, done: done}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || away || c.proc.Dead() {
		return nil
	}
	c.waiting[w] = struct{}{}
	w.timer = time.AfterFunc(timeout, func() { w.end(nil, rpc.ErrTimeout) })
	return w
}

// fate is what becomes of a message.
type fate struct {
	request, reply bool // lost
	late           time.Duration
}

func (n *NATS) fate() fate {
	_, lose, late := n.get()
	return fate{request: n.dice.Hit(lose / 2), reply: n.dice.Hit(lose / 2), late: late}
}

// give hands a request to r. The lock of the NATS is held.
func (r *registration) give(w *waiter, f fate, subject string, body []byte) {
	n := w.client.nats
	req := rpc.Request{Subject: subject, Body: slices.Clone(body)}
	var once sync.Once
	req.Answer = func(b []byte) {
		once.Do(func() {
			if f.reply || r.proc.Dead() || len(b) > maxPayload {
				return
			}
			b = slices.Clone(b)
			time.AfterFunc(100*time.Microsecond+n.dice.Time(f.late), func() {
				if away, _, _ := n.get(); !away {
					w.end(b, nil)
				}
			})
		})
	}
	select {
	case r.requests <- req:
	default:
	}
}

// deliver gives a message to one server of each queue, and to all that have none.
func (n *NATS) deliver(subject string, give func(*registration)) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	queues := make(map[string][]*registration)
	for _, r := range n.regs {
		if r.proc.Dead() || !matches(r.subject, subject) {
			continue
		}
		queue := r.queue
		if queue == "" {
			queue = "\x00" + strconv.Itoa(len(queues))
		}
		queues[queue] = append(queues[queue], r)
	}
	for _, regs := range queues {
		give(regs[n.dice.N(len(regs))])
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
