package workers_test

import (
	"testing"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/workers"
)

// What waits keeps no hold of the message that it came in, which is many times as large.
func TestLineKeepsNoMessage(t *testing.T) {
	served, release := make(chan string), make(chan struct{})
	add := workers.NewLine(func(r rpc.Request) {
		<-release
		served <- string(r.Body)
	})
	message := []byte("first second")
	if !add(rpc.Request{Body: message[:5]}) || !add(rpc.Request{Body: message[6:]}) {
		t.Fatal("a request was refused")
	}
	clear(message[6:])
	close(release)
	for _, want := range []string{"first", "second"} {
		if got := <-served; got != want {
			t.Errorf("%q was served, want %q", got, want)
		}
	}
}
