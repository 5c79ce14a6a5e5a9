package edge

import (
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
)

// maxAsking bounds the questions that wait for their turn.
const maxAsking = 50_000

var (
	errUnavailable = contracts.NewError(contracts.CodeUnavailable, "the server cannot answer at the moment").After(500 * time.Millisecond)
	errNoWorker    = contracts.NewError(contracts.CodeUnavailable, "no worker is running").After(time.Second)
	errUnreadable  = contracts.NewError(contracts.CodeInternal, "a worker's answer could not be read")
	errOverloaded  = contracts.NewError(contracts.CodeOverloaded, "too much is waiting").After(time.Second)
)

// question is one command for a worker.
type question struct {
	subject  string
	deadline time.Time
	// body makes the command's bytes once it is sent, with the time left then.
	body func(left time.Duration) []byte
	// done gets the answer on any goroutine and must not block. Exactly one of the two is set.
	done func(*contracts.Answer, *contracts.Error)
}

// asker bounds the questions that are unanswered; more wait their turn, and their time runs.
type asker struct {
	client  rpc.Client
	limit   int
	metrics *metrics

	mu      sync.Mutex // guards the rest
	asking  int
	waiting []question
	pumping bool // somebody gives those that wait their turn
}

func (a *asker) ask(q question) {
	a.mu.Lock()
	if a.asking >= a.limit || len(a.waiting) > 0 {
		if len(a.waiting) >= maxAsking {
			a.mu.Unlock()
			q.done(nil, errOverloaded)
			return
		}
		a.waiting = append(a.waiting, q)
		a.mu.Unlock()
		return
	}
	a.asking++
	a.mu.Unlock()
	a.send(q)
}

func (a *asker) send(q question) {
	left := time.Until(q.deadline)
	if left <= 0 {
		a.answered(q, nil, rpc.ErrTimeout)
		return
	}
	a.metrics.asking.Inc()
	a.client.Ask(q.subject, q.body(left), left, func(reply []byte, err error) {
		a.metrics.asking.Dec()
		a.answered(q, reply, err)
	})
}

// answered gives q its answer and its turn to the next one. Answers may come while their questions are being sent, so
// this is a loop in whoever came first: a queue that has run out of time would otherwise be as many calls deep as it is long.
func (a *asker) answered(q question, reply []byte, err error) {
	q.done(readAnswer(reply, err))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asking--
	if a.pumping {
		return
	}
	a.pumping = true
	for len(a.waiting) > 0 && a.asking < a.limit {
		next := a.waiting[0]
		a.waiting[0] = question{}
		a.waiting = a.waiting[1:]
		if len(a.waiting) == 0 {
			a.waiting = nil
		}
		a.asking++
		a.mu.Unlock()
		a.send(next)
		a.mu.Lock()
	}
	a.pumping = false
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
