// Package alone serves an edge without the rest of Parley: workers and lanes are stood in for by the least that answers,
// in the same process and with nothing checked, numbered twice, logged or stored. What is left of the process's
// memory and CPU is the edge's, but for the stand-in's share, so that the edge can be compared with a floor.
package alone

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// maxAsked bounds the questions that wait for the stand-in; an edge asks 2,000 at a time.
const maxAsked = 1 << 12

// Serve runs an edge until ctx ends. ready is called with its address once it takes connections.
func Serve(ctx context.Context, listen string, ready func(addr string)) error {
	w := &world{asked: make(chan asked, maxAsked), heads: make(map[contracts.RoomID]contracts.Seq)}
	server, err := edge.New(edge.Config{Node: "alone", Listen: listen}, edge.Deps{
		Ask: w, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: prometheus.NewRegistry(),
		Hear: func(r fanout.Receiver) fanout.Subscriber { w.receiver = r; return w },
	})
	if err != nil {
		return fmt.Errorf("make an edge: %w", err)
	}
	var answering sync.WaitGroup
	answering.Go(w.run)
	defer answering.Wait()
	defer close(w.asked)
	if err := server.Start(ctx); err != nil {
		return fmt.Errorf("start an edge: %w", err)
	}
	ready(server.Addr())
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return server.Shutdown(stop)
}

// world is what an edge sees of everybody else: an rpc.Client that answers itself and a fanout.Subscriber that hears what was sent.
type world struct {
	receiver fanout.Receiver
	asked    chan asked

	// Owned by run.
	heads  map[contracts.RoomID]contracts.Seq
	guests int
}

type asked struct {
	body []byte
	done func([]byte, error)
}

// Ask queues a question; with too many waiting nobody serves it.
func (w *world) Ask(_ string, body []byte, _ time.Duration, done func([]byte, error)) {
	select {
	case w.asked <- asked{bytes.Clone(body), done}:
	default:
		done(nil, rpc.ErrNoServer)
	}
}

// MaxPayload is NATS's.
func (*world) MaxPayload() int { return 1 << 20 }

// Up is always true.
func (*world) Up() bool { return true }

// Subscribe takes any lane.
func (*world) Subscribe(context.Context, ...contracts.Lane) error { return nil }

// Unsubscribe takes any lane.
func (*world) Unsubscribe(context.Context, ...contracts.Lane) error { return nil }

// Healthy is always true.
func (*world) Healthy() bool { return true }

// Close does nothing: Serve ends the world.
func (*world) Close() error { return nil }

func (w *world) run() {
	for q := range w.asked {
		q.done(w.answer(q.body))
	}
}

var errOp = contracts.NewError(contracts.CodeUnknownOp, "this edge is alone")

func (w *world) answer(body []byte) ([]byte, error) {
	var cmd contracts.Command
	if err := contracts.DecodeCommand(body, &cmd); err != nil {
		return nil, fmt.Errorf("read a command: %w", err)
	}
	switch cmd.Op {
	case contracts.OpConnect:
		w.guests++
		user := contracts.Person{ID: contracts.UserID("g-" + strconv.Itoa(w.guests)), Name: "Guest", Guest: true}
		expires := time.Now().Add(time.Hour)
		return contracts.Marshal(&contracts.Answer{Connected: &contracts.Connected{User: user, Expires: expires.UnixMilli(), OK: &contracts.ConnectOK{
			Session: "alone",
			User:    user, Expires: expires.UnixMilli(), ExpiresInMS: time.Hour.Milliseconds(), Time: time.Now().UnixMilli(), Durability: "none",
		}}})
	case contracts.OpJoin:
		head := strconv.FormatUint(uint64(w.heads[cmd.Room]), 10)
		return fmt.Appendf(nil, `{"ok":{"room":"%s","state":"reset","epoch":1,"head":%s,"first":1,"entries":[],"online":1},"joined":{"state":"reset","epoch":1,"head":%s}}`,
			cmd.Room, head, head), nil
	case contracts.OpSend:
		return w.send(&cmd)
	case contracts.OpGone:
		return []byte(`{"ok":{}}`), nil
	}
	return contracts.Marshal(&contracts.Answer{Err: errOp})
}

// send answers a batch of messages and lets the edge hear them.
func (w *world) send(cmd *contracts.Command) ([]byte, error) {
	bodies := cmd.Batch
	if len(bodies) == 0 {
		bodies = append(bodies, cmd.Body)
	}
	now := time.Now().UnixMilli()
	var lane []byte
	answers := make([]contracts.Answer, len(bodies))
	for i, body := range bodies {
		o, err := contracts.ParseObject(body)
		if err != nil {
			return nil, fmt.Errorf("read a message: %w", err)
		}
		text, _, _ := o.String("text")
		name, _, _ := o.String("key")
		key, err := contracts.ParseKey(name)
		if err != nil {
			return nil, fmt.Errorf("read a message: %w", err)
		}
		answers[i].OK = append(append(append(append([]byte(`{"key":"`), name...), `","time":`...), strconv.FormatInt(now, 10)...), '}')
		w.heads[cmd.Room]++
		e := contracts.Entry{
			Record: contracts.Record{Kind: contracts.KindMessage, Room: cmd.Room, Key: key, From: *cmd.User, Text: text, Stamp: now},
			Seq:    w.heads[cmd.Room], Epoch: 1,
		}
		lane = contracts.AppendEnvelope(lane, &contracts.Envelope{
			Kind: contracts.EnvelopeEntry, Room: e.Room, Epoch: e.Epoch, Seq: e.Seq, Body: contracts.AppendEntry(nil, &e),
		})
	}
	var reply []byte
	if len(cmd.Batch) == 0 {
		reply = append(append([]byte(`{"ok":`), answers[0].OK...), '}')
	} else {
		reply, _ = contracts.AppendAnswers(nil, answers)
	}
	w.receiver.Receive(contracts.LaneOf(cmd.Room), bytes.Clone(lane))
	return reply, nil
}
