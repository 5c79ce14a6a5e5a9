package edge

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
)

// maxAsking bounds the questions that wait for their turn.
const maxAsking = 50_000

// minPatience keeps a small bound on what is unanswered from shedding what comes in one burst.
const minPatience = 64

// crowd is how many questions may wait until the edge takes less: as many as may be unanswered.
func (a *asker) crowd() int { return max(a.limit, minPatience) }

var (
	errUnavailable = contracts.NewError(contracts.CodeUnavailable, "the server cannot answer at the moment").After(500 * time.Millisecond)
	errNoWorker    = contracts.NewError(contracts.CodeUnavailable, "no worker is running").After(time.Second)
	errUnreadable  = contracts.NewError(contracts.CodeInternal, "a worker's answer could not be read")
	errBroken      = contracts.NewError(contracts.CodeUnavailable, "the workers do not answer at the moment").After(time.Second)
	errOverloaded  = contracts.NewError(contracts.CodeOverloaded, "too much is waiting").After(time.Second)
)

// question is one command for a worker.
type question struct {
	subject  string
	deadline time.Time
	// body appends the command once it is sent, with the time left then.
	body func(dst []byte, left time.Duration) []byte
	// done gets the answer on any goroutine and must not block. Exactly one of the two is set.
	done func(*contracts.Answer, *contracts.Error)
	// op is what a client asked for; empty for what the edge itself needs.
	op    contracts.Op
	probe bool // its answer closes the breaker, or not
}

// patience is how many crowds of questions may wait before one of this kind is refused: what can be done without goes first.
func (q *question) patience() int {
	switch q.op {
	case contracts.OpTyping, contracts.OpPresence:
		return 1
	case contracts.OpHistory, contracts.OpRooms, contracts.OpStatus:
		return 2
	case contracts.OpConnect, contracts.OpGuest:
		return 4
	}
	return maxAsking
}

// asker bounds the questions that are unanswered; more wait their turn, and their time runs. While workers do not answer
// at all it answers for them.
type asker struct {
	client   rpc.Client
	gathered string // where workers take many questions at once
	limit    int
	metrics  *metrics
	log      *slog.Logger

	// crowded: so many wait that clients are to be read from more slowly.
	crowded atomic.Bool
	// ending: the edge stops, so that nobody need be told of workers that may stop as well.
	ending atomic.Bool

	mu      sync.Mutex // guards the rest
	asking  int
	waiting []question
	pumping bool // somebody gives those that wait their turn
	breaker breaker
}

func (a *asker) ask(q question) { a.askAll([]question{q}) }

// askAll asks several questions in their order; those that may be sent now leave together. It uses qs as scratch.
func (a *asker) askAll(qs []question) {
	send := qs[:0]
	a.mu.Lock()
	now := time.Now()
	for i := range qs {
		q := qs[i]
		ok, probe := a.breaker.allow(now)
		waiting := len(a.waiting)
		switch {
		case !ok:
			a.mu.Unlock()
			a.refuse(&q, limitBreaker, errBroken)
			a.mu.Lock()
		case !probe && waiting >= min(maxAsking, q.patience()*a.crowd()):
			a.mu.Unlock()
			a.refuse(&q, limitAsking, errOverloaded)
			a.mu.Lock()
		case !probe && (a.asking >= a.limit || waiting > 0):
			a.waiting = append(a.waiting, q)
			if waiting+1 >= a.crowd() {
				a.crowded.Store(true)
			}
		default:
			q.probe = probe
			a.asking++
			send = append(send, q)
		}
	}
	a.mu.Unlock()
	a.sendAll(send)
}

func (a *asker) refuse(q *question, met limit, bad *contracts.Error) {
	a.metrics.limited[met].Inc()
	q.done(nil, bad)
}

func (a *asker) send(q question) {
	left := time.Until(q.deadline)
	if left <= 0 {
		a.answered(q, nil, errTooLate, 1)
		return
	}
	a.metrics.asking.Inc()
	scratch := commands.Get().(*[]byte)
	body := q.body((*scratch)[:0], left)
	a.client.Ask(q.subject, body, left, func(reply []byte, err error) {
		a.metrics.asking.Dec()
		a.answered(q, reply, err, 1)
	})
	if cap(body) <= maxCommand {
		*scratch = body
	}
	commands.Put(scratch)
}

// sendAll sends questions in one message where the client can.
func (a *asker) sendAll(qs []question) {
	together, ok := a.client.(rpc.Gatherer)
	if !ok || len(qs) < 2 {
		for i := range qs {
			a.send(qs[i])
		}
		return
	}
	scratch := commands.Get().(*[]byte)
	bodies := (*scratch)[:0]
	all := make([]rpc.Question, 0, len(qs))
	now := time.Now()
	for i := range qs {
		q := qs[i]
		left := q.deadline.Sub(now)
		if left <= 0 {
			a.answered(q, nil, errTooLate, 1)
			continue
		}
		start := len(bodies)
		bodies = q.body(bodies, left)
		a.metrics.asking.Inc()
		all = append(all, rpc.Question{Subject: q.subject, Timeout: left, Body: bodies[start:]})
		asked := &all[len(all)-1]
		asked.Done = func(reply []byte, err error) {
			a.metrics.asking.Dec()
			a.answered(q, reply, err, asked.Together)
		}
	}
	together.AskTogether(a.gathered, all)
	if cap(bodies) <= maxCommand {
		*scratch = bodies
	}
	commands.Put(scratch)
}

// commands lends memory for commands, of which a client keeps nothing. More than maxCommand is not kept.
var commands = sync.Pool{New: func() any { return new([]byte) }}

const maxCommand = 16 << 10

// errTooLate: the question's time ran out before its turn came.
var errTooLate = errors.New("not asked in time")

// answered gives q, asked in one message with together questions, its answer and its turn to the next one. Answers may come while their questions are being sent, so
// this is a loop in whoever came first: a queue that has run out of time would otherwise be as many calls deep as it is long.
func (a *asker) answered(q question, reply []byte, err error, together int) {
	q.done(readAnswer(reply, err))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asking--
	if err != errTooLate || q.probe {
		a.note(q.probe, err, together)
	}
	if a.pumping {
		return
	}
	a.pumping = true
	for len(a.waiting) > 0 && (a.asking < a.limit || a.breaker.open) {
		next := a.waiting[0]
		a.waiting[0] = question{}
		a.waiting = a.waiting[1:]
		if len(a.waiting) == 0 {
			a.waiting = nil
		}
		if a.crowded.Load() && len(a.waiting) <= a.crowd()/2 {
			a.crowded.Store(false)
		}
		if a.breaker.open {
			a.mu.Unlock()
			a.refuse(&next, limitBreaker, errBroken)
			a.mu.Lock()
			continue
		}
		a.asking++
		a.mu.Unlock()
		a.send(next)
		a.mu.Lock()
	}
	a.pumping = false
}

// note tells the breaker how a question ended. A worker's own error is an answer, and so is that nobody was asked
// because the question is too large. The lock is held.
func (a *asker) note(probe bool, err error, together int) {
	failed := err != nil && !errors.Is(err, rpc.ErrTooLarge)
	now := time.Now()
	turned := a.breaker.note(now, probe, failed, 1/float64(together))
	if errors.Is(err, rpc.ErrDown) || errors.Is(err, rpc.ErrNoServer) {
		a.breaker.soon(now)
	}
	if !turned {
		return
	}
	switch {
	case a.ending.Load():
	case a.breaker.open:
		a.metrics.breakerOpen.Set(1)
		a.log.Warn("workers do not answer: no more is asked of them for a while", "err", err)
	default:
		a.metrics.breakerOpen.Set(0)
		a.log.Info("workers answer again")
	}
}

// state is what operators are told.
func (a *asker) state() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	state := "closed"
	if a.breaker.open {
		state = "open"
	}
	return fmt.Sprintf("breaker %s, %d questions unanswered, %d waiting", state, a.asking, len(a.waiting))
}

func readAnswer(reply []byte, err error) (*contracts.Answer, *contracts.Error) {
	switch {
	case err == nil:
	case errors.Is(err, rpc.ErrNoServer):
		return nil, errNoWorker
	case errors.Is(err, rpc.ErrTooLarge):
		return nil, contracts.NewError(contracts.CodeTooLarge, "the request is too large")
	default:
		return nil, errUnavailable
	}
	var a contracts.Answer
	if contracts.DecodeAnswer(reply, &a) != nil {
		return nil, errUnreadable
	}
	if a.Err != nil {
		return nil, a.Err
	}
	return &a, nil
}

// command appends the JSON of a contracts.Command up to and without its closing brace.
func (s *Server) command(dst []byte, op contracts.Op, conn uint64, left time.Duration, user *contracts.Person, room contracts.RoomID) []byte {
	dst = append(dst, `{"op":"`...)
	dst = append(dst, op...)
	dst = append(dst, `","node":"`...)
	dst = append(dst, s.cfg.Node...)
	dst = append(dst, '"')
	if conn != 0 {
		dst = append(dst, `,"conn":`...)
		dst = strconv.AppendUint(dst, conn, 10)
	}
	dst = append(dst, `,"left_ms":`...)
	dst = strconv.AppendInt(dst, left.Milliseconds(), 10)
	if user != nil {
		dst = append(dst, `,"user":`...)
		dst = contracts.AppendPerson(dst, *user)
	}
	if room != "" {
		dst = append(dst, `,"room":"`...)
		dst = append(dst, room...)
		dst = append(dst, '"')
	}
	return dst
}

// subject is where op is asked for a room; without a room any partition will do.
func (s *Server) subject(op contracts.Op, room contracts.RoomID) string {
	return s.subjects[op][contracts.LaneOf(room).Partition(s.cfg.Partitions)]
}
