package edge_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
)

// asked is one question to the worker, or to a dispatcher.
type asked struct {
	contracts.Command
	heads  []contracts.RoomID // of a question to a dispatcher
	partly bool               // of one
	answer func(any)          // with an Answer, a Reply or an error, once
}

func (q *asked) ok(body string) { q.answer(contracts.Answer{OK: json.RawMessage(body)}) }

func (q *asked) err(code contracts.Code) {
	q.answer(contracts.Answer{Err: contracts.NewError(code, "refused by the test")})
}

func (q *asked) joined(state contracts.JoinState, epoch contracts.Epoch, head contracts.Seq) {
	q.answer(joinAnswer(state, epoch, head))
}

func joinAnswer(state contracts.JoinState, epoch contracts.Epoch, head contracts.Seq) contracts.Answer {
	return contracts.Answer{
		OK:     fmt.Appendf(nil, `{"state":"%s","epoch":%d,"head":%d}`, state, epoch, head),
		Joined: &contracts.Joined{State: state, Epoch: epoch, Head: head},
	}
}

// worker is the rpc.Client that a test scripts. What no script takes waits in its op's channel for the test.
type worker struct {
	mu      sync.Mutex // guards the rest
	scripts map[contracts.Op]func(*asked)
	waiting map[contracts.Op]chan *asked
	release []func()
	closed  bool

	down     atomic.Bool  // it says that it cannot be asked
	together atomic.Int64 // questions that came with others
}

// opHeads stands for the questions to dispatchers.
const opHeads contracts.Op = "heads"

func newWorker() *worker {
	w := &worker{scripts: make(map[contracts.Op]func(*asked)), waiting: make(map[contracts.Op]chan *asked)}
	w.script(contracts.OpConnect, func(q *asked) { q.answer(connectAnswer("u1", time.Hour)) })
	w.script(contracts.OpGone, func(q *asked) { q.ok(`{}`) })
	w.script(opHeads, func(q *asked) { q.answer(rpc.ErrNoServer) })
	return w
}

func connectAnswer(user contracts.UserID, lifetime time.Duration) contracts.Answer {
	expires := time.Now().Add(lifetime).UnixMilli()
	person := contracts.Person{ID: user, Name: "Ada"}
	return contracts.Answer{Connected: &contracts.Connected{User: person, Expires: expires, OK: &contracts.ConnectOK{User: person, Expires: expires}}}
}

// script answers an op from now on; nil leaves it to next.
func (w *worker) script(op contracts.Op, f func(*asked)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.scripts[op] = f
}

func (w *worker) questions(op contracts.Op) chan *asked {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting[op] == nil {
		w.waiting[op] = make(chan *asked, 4096)
	}
	return w.waiting[op]
}

// next is the next question of an op without a script.
func (w *worker) next(t testing.TB, op contracts.Op) *asked {
	t.Helper()
	select {
	case q := <-w.questions(op):
		return q
	case <-time.After(patience):
		t.Fatalf("nobody asked for %s", op)
		return nil
	}
}

func (w *worker) Ask(_ string, body []byte, timeout time.Duration, done func([]byte, error)) {
	var once sync.Once
	q := &asked{}
	timer := time.AfterFunc(timeout, func() { once.Do(func() { done(nil, rpc.ErrTimeout) }) })
	q.answer = func(a any) {
		once.Do(func() {
			timer.Stop()
			switch a := a.(type) {
			case error:
				done(nil, a)
			case string:
				done([]byte(a), nil)
			default:
				reply, err := json.Marshal(a)
				done(reply, err)
			}
		})
	}
	op := opHeads
	if err := json.Unmarshal(body, &q.Command); err != nil {
		panic(fmt.Sprintf("a question that is no JSON: %v: %s", err, body))
	}
	if op = q.Op; op == "" {
		var question contracts.Question
		if err := json.Unmarshal(body, &question); err != nil {
			panic(err)
		}
		op, q.heads, q.partly = opHeads, question.Heads, question.Partly
	}
	w.mu.Lock()
	script := w.scripts[op]
	w.release = append(w.release, func() { q.answer(rpc.ErrDown) })
	closed := w.closed
	w.mu.Unlock()
	switch {
	case closed:
		q.answer(rpc.ErrDown)
	case script != nil:
		script(q)
	default:
		w.questions(op) <- q
	}
}

// AskTogether makes the worker an rpc.Gatherer.
func (w *worker) AskTogether(to string, questions []rpc.Question) {
	if want := (contracts.Names{}).WorkGathered(); to != want {
		panic("questions went to " + to + " together, want " + want)
	}
	w.together.Add(int64(len(questions)))
	for i := range questions {
		questions[i].Together = len(questions)
	}
	for _, q := range questions {
		w.Ask(q.Subject, q.Body, q.Timeout, q.Done)
	}
}

// releaseAll fails whatever waits and all that follows.
func (w *worker) releaseAll() {
	w.mu.Lock()
	all := w.release
	w.release, w.closed = nil, true
	w.mu.Unlock()
	for _, f := range all {
		f()
	}
}

func (w *worker) MaxPayload() int { return 1 << 20 }
func (w *worker) Up() bool        { return !w.down.Load() }
func (w *worker) Close() error    { return nil }
