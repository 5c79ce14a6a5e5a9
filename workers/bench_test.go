package workers_test

import (
	"encoding/json"
	"testing"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
)

// BenchmarkConnect is a guest's first connect, from the command's bytes to the answer's.
func BenchmarkConnect(b *testing.B) {
	f := newWorld(b, nil)
	body, err := json.Marshal(&contracts.Command{
		Op: contracts.OpConnect, Node: "edge1", Conn: 7, LeftMS: 5000, Body: json.RawMessage(`{"id":1,"op":"connect","guest":"load-17"}`),
	})
	if err != nil {
		b.Fatal(err)
	}
	f.bench(b, contracts.OpConnect, body)
}

// bench hands the same command over again and again, each behind the answer to the one before.
func (f *world) bench(b *testing.B, op contracts.Op, body []byte) {
	answered := make(chan struct{})
	for _, e := range f.w.Services()[0].Endpoints {
		if e.Name != string(op) {
			continue
		}
		b.ReportAllocs()
		for b.Loop() {
			e.Handler(rpc.Request{Subject: e.Subject, Body: body, Answer: func([]byte) { answered <- struct{}{} }})
			<-answered
		}
	}
}
