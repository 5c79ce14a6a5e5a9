package workers

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
)

// replyOverhead is what an answer needs beside its entries, at most, in bytes.
const replyOverhead = 4 << 10

// verb answers one op. Errors that are no *contracts.Error become internal.
type verb func(w *Worker, ctx context.Context, r *request) (contracts.Answer, error)

// verbs is every op but send, which answers from the log's callback.
var verbs = map[contracts.Op]verb{
	contracts.OpConnect:  (*Worker).connect,
	contracts.OpJoin:     (*Worker).join,
	contracts.OpLeave:    (*Worker).leave,
	contracts.OpHistory:  (*Worker).history,
	contracts.OpStatus:   (*Worker).status,
	contracts.OpTyping:   (*Worker).typing,
	contracts.OpPresence: (*Worker).presence,
	contracts.OpRooms:    (*Worker).rooms,
	contracts.OpRefresh:  (*Worker).refresh,
	contracts.OpPing:     (*Worker).ping,
	contracts.OpGuest:    (*Worker).guest,
	contracts.OpRepair:   (*Worker).repair,
	contracts.OpGone:     (*Worker).gone,
}

// needsUser and needsRoom say what a verb cannot do without.
var (
	needsUser = map[contracts.Op]bool{
		contracts.OpJoin: true, contracts.OpLeave: true, contracts.OpSend: true, contracts.OpHistory: true,
		contracts.OpStatus: true, contracts.OpTyping: true, contracts.OpPresence: true, contracts.OpRooms: true,
		contracts.OpRefresh: true, contracts.OpPing: true,
	}
	needsRoom = map[contracts.Op]bool{
		contracts.OpJoin: true, contracts.OpLeave: true, contracts.OpSend: true, contracts.OpHistory: true,
		contracts.OpStatus: true, contracts.OpTyping: true, contracts.OpPresence: true, contracts.OpRepair: true,
	}
)

// request is one command and who asks it.
type request struct {
	contracts.Command
	user    contracts.Person // of ops that need one
	expires int64            // of Command.Token, Unix milliseconds; 0 where there was none
	// after is run once the answer is on its way.
	after func(ctx context.Context)
}

// partition is where the request's room is.
func (w *Worker) partition(room contracts.RoomID) int32 {
	return contracts.LaneOf(room).Partition(w.cfg.Partitions)
}

// Services is what the worker serves: every op, of every partition.
func (w *Worker) Services() []rpc.Service {
	s := rpc.Service{
		Name:     w.cfg.Names.Service("worker"),
		Version:  w.cfg.Version,
		Queue:    w.cfg.Names.WorkQueue(),
		Gathered: w.cfg.Names.WorkGathered(),
	}
	add := func(op contracts.Op) {
		s.Endpoints = append(s.Endpoints, rpc.Endpoint{Name: string(op), Subject: w.cfg.Names.WorkAll(op), Handler: w.handle(op)})
	}
	add(contracts.OpSend)
	for op := range verbs {
		add(op)
	}
	return []rpc.Service{s}
}

// Serve registers the worker's services, and watches the log's size where it is limited. stop ends both.
func (w *Worker) Serve(server rpc.Server) (stop func() error, err error) {
	var stops []func() error
	if w.logSize != nil {
		ctx, cancel := context.WithCancel(w.background)
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			w.logSize.watch(ctx)
		}()
		stops = append(stops, func() error {
			cancel()
			<-watched
			return nil
		})
	}
	stop = func() error {
		var errs []error
		for _, s := range stops {
			errs = append(errs, s())
		}
		return errors.Join(errs...)
	}
	for _, s := range w.Services() {
		one, err := server.Serve(s)
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		stops = append(stops, one)
	}
	return stop, nil
}

// handle runs on a subscription's goroutine and must keep up with the broker: it only gives requests other than sends
// their place in the line.
func (w *Worker) handle(op contracts.Op) rpc.Handler {
	if op == contracts.OpSend {
		return w.handleSend
	}
	return func(in rpc.Request) {
		w.running.begin()
		if w.closing.Load() || !w.lineOf(op).add(arrival{in: in, op: op, at: time.Now()}) {
			w.running.end()
			w.finish(in, op, contracts.Answer{Err: errTooMany})
		}
	}
}

var (
	errTooMany = contracts.NewError(contracts.CodeOverloaded, "too many requests at once").After(time.Second)
	errTooLate = contracts.NewError(contracts.CodeOverloaded, "too little time is left to do this").After(time.Second)
)

// parse decodes a command and returns by when it must be answered, or answers it if it is none, or if it has waited for
// half of its time: in a line that is longer than what can be done, each request would otherwise have its turn with no
// time left, and all the work would be for nothing.
func (w *Worker) parse(in rpc.Request, op contracts.Op, arrived time.Time) (r *request, deadline time.Time, ok bool) {
	r = &request{}
	if err := contracts.DecodeCommand(in.Body, &r.Command); err != nil || !contracts.ValidID(string(r.Node)) {
		w.finish(in, "unknown", contracts.Answer{Err: contracts.NewError(contracts.CodeBadRequest, "malformed command")})
		return nil, deadline, false
	}
	if r.Op != op {
		w.finish(in, "unknown", contracts.Answer{Err: contracts.NewError(contracts.CodeUnknownOp, "there is no such op here")})
		return nil, deadline, false
	}
	if needsRoom[r.Op] && !contracts.ValidID(string(r.Room)) {
		_, err := contracts.ParseRoomID(string(r.Room))
		w.finish(in, r.Op, contracts.Answer{Err: contracts.AsError(err)})
		return nil, deadline, false
	}
	left := min(w.cfg.Deadline, time.Duration(min(r.LeftMS, 3_600_000))*time.Millisecond-w.cfg.Margin)
	if waited := time.Since(arrived); left <= 0 || waited >= left/2 {
		w.finish(in, r.Op, contracts.Answer{Err: errTooLate})
		return nil, deadline, false
	}
	return r, arrived.Add(left), true
}

// serve works on a request other than a send.
func (w *Worker) serve(a arrival) {
	defer w.running.end()
	r, deadline, ok := w.parse(a.in, a.op, a.at)
	if !ok {
		return
	}
	ctx, cancel := context.WithDeadline(w.background, deadline)
	defer cancel()
	w.finish(a.in, r.Op, w.work(ctx, r))
	if r.after != nil {
		ctx, cancel := context.WithTimeout(w.background, w.cfg.Deadline)
		defer cancel()
		r.after(ctx)
	}
}

// handleSend runs on a subscription's goroutine. A send whose sender is known is worked on right here, as it waits for
// nothing.
func (w *Worker) handleSend(in rpc.Request) {
	r, deadline, ok := w.parse(in, contracts.OpSend, time.Now())
	if !ok {
		return
	}
	if w.sending.Add(1) > int64(w.cfg.MaxInFlight) || w.closing.Load() {
		w.sending.Add(-1)
		w.finish(in, r.Op, contracts.Answer{Err: errTooMany})
		return
	}
	w.running.begin()
	in.Body = nil // it would keep the memory of those that came with it for as long as the log confirms nothing
	done := func(a contracts.Answer) {
		w.finish(in, contracts.OpSend, a)
		w.sending.Add(-1)
		w.running.end()
	}
	if r.User != nil {
		if err := r.identify(); err != nil {
			done(contracts.Answer{Err: err})
			return
		}
		w.send(r, deadline, done)
		return
	}
	go func() {
		ctx, cancel := context.WithDeadline(w.background, deadline)
		defer cancel()
		if err := w.authenticate(ctx, r); err != nil {
			done(contracts.Answer{Err: contracts.AsError(err)})
			return
		}
		w.send(r, deadline, done)
	}()
}

// work answers a request that is no send.
func (w *Worker) work(ctx context.Context, r *request) contracts.Answer {
	if needsUser[r.Op] {
		if err := w.authenticate(ctx, r); err != nil {
			return contracts.Answer{Err: contracts.AsError(err)}
		}
	}
	a, err := verbs[r.Op](w, ctx, r)
	if err == nil {
		return a
	}
	r.after = nil
	var known *contracts.Error
	if !errors.As(err, &known) {
		w.log.Error("request failed", "op", r.Op, "err", err)
	}
	return contracts.Answer{Err: contracts.AsError(err)}
}

// identify takes who asks from the command.
func (r *request) identify() *contracts.Error {
	if !contracts.ValidID(string(r.User.ID)) {
		return errUnauthorized
	}
	r.user = *r.User
	return nil
}

// authenticate finds out who asks: the command says it, or its token does.
func (w *Worker) authenticate(ctx context.Context, r *request) error {
	if r.User != nil {
		if err := r.identify(); err != nil {
			return err
		}
		return nil
	}
	id, err := w.auth.remembered(ctx, r.Token)
	if err != nil {
		return err
	}
	r.user, r.expires = id.person, id.expires
	return nil
}

// body reads the client's object; an absent one is empty.
func (r *request) body() (contracts.Object, error) {
	if len(r.Body) == 0 {
		return contracts.Object{}, nil
	}
	return contracts.ParseObject(r.Body)
}

// finish answers and counts.
func (w *Worker) finish(in rpc.Request, op contracts.Op, a contracts.Answer) {
	code := "ok"
	if a.Err != nil {
		code = string(a.Err.Code)
	}
	body, err := encodeAnswer(&a, w.deps.Ask.MaxPayload())
	if err != nil {
		code = string(contracts.CodeInternal)
		w.log.Error("answer could not be encoded", "op", op, "err", err)
		body, _ = contracts.Marshal(&contracts.Answer{Err: contracts.AsError(err)}) // an Error always encodes
	}
	w.metrics.requests.WithLabelValues(string(op), code).Inc()
	in.Answer(body)
}

// ok makes v the answer's OK.
func ok(v any) (contracts.Answer, error) {
	raw, err := contracts.Marshal(v)
	if err != nil {
		return contracts.Answer{}, err
	}
	return contracts.Answer{OK: raw}, nil
}

// empty is the answer of verbs that only do something.
func empty() contracts.Answer { return contracts.Answer{OK: json.RawMessage("{}")} }
