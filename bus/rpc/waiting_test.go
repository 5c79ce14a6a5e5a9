package rpc

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestTimeoutsBehindSlowCallbacks: callbacks that take their time make no other request end later.
func TestTimeoutsBehindSlowCallbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaiting()
		defer w.close()
		began := time.Now()
		for range 100 {
			w.add(w.lastID.Add(1), time.Second, func([]byte, error) { time.Sleep(5 * time.Millisecond) }, nil)
		}
		ended := make(chan time.Duration, 2)
		late := func(timeout time.Duration) {
			w.add(w.lastID.Add(1), timeout, func([]byte, error) { ended <- time.Since(began) - timeout }, nil)
		}
		late(1200 * time.Millisecond) // while those callbacks run
		late(1600 * time.Millisecond) // after
		for range 2 {
			if got := <-ended; got < 0 || got > sweepEvery {
				t.Errorf("a timeout came %v late", got)
			}
		}
	})
}

// TestTimeouts: requests run out in time whatever the order they came in, those that are answered do not, and nothing
// looks at them meanwhile.
func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaiting()
		defer w.close()
		began := time.Now()
		ended := make(chan time.Duration, 4)
		ask := func(timeout time.Duration) uint64 {
			id := w.lastID.Add(1)
			ok := w.add(id, timeout, func(_ []byte, err error) {
				if late := time.Since(began) - timeout; err != nil && !errors.Is(err, ErrDown) && (!errors.Is(err, ErrTimeout) || late < 0 || late > 2*sweepEvery) {
					t.Errorf("a timeout of %v ended %v late: %v", timeout, late, err)
				}
				ended <- timeout
			}, nil)
			if !ok {
				t.Fatal("closed")
			}
			return id
		}
		ask(5 * time.Second)
		answered := ask(time.Second)
		ask(2 * time.Second)
		ask(0)
		w.end(answered, nil, nil)
		for _, want := range []time.Duration{time.Second, 0, 2 * time.Second, 5 * time.Second} {
			if got := <-ended; got != want {
				t.Errorf("%v ended instead of %v", got, want)
			}
		}
		if next := time.Duration(w.next.Load()); next != never {
			t.Errorf("nothing waits, and the timer is set to %v", next)
		}
		ask(10 * time.Second)
		if next := time.Duration(w.next.Load()) - time.Since(w.base); next != 10*time.Second {
			t.Errorf("the timer fires in %v", next)
		}
		w.endAll(ErrDown)
		<-ended
	})
}
