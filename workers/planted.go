package workers

import (
	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/planted"
)

// publishEarly is the mistake planted.WorkerPublishes.
func (w *Worker) publishEarly(r *contracts.Record) {
	e := contracts.Entry{Record: *r, Seq: contracts.Seq(planted.Next(string(r.Room))), Epoch: 1}
	lane := contracts.LaneOf(r.Room)
	body := contracts.AppendEnvelope(nil, &contracts.Envelope{Kind: contracts.EnvelopeEntry, Room: r.Room, Epoch: e.Epoch, Seq: e.Seq, Body: contracts.AppendEntry(nil, &e)})
	_ = w.deps.Publisher.Publish(w.background, []fanout.Message{{Lane: lane, Body: body}})
}
