package bustest

import (
	"io"
	"sync"
	"testing"
	"time"
)

// Patience is how long tests wait for what must come. It is long because nobody who passes waits for it, and because who waits
// is to find what is broken and not that the machine is busy.
const Patience = time.Minute

// Soon checks that what comes at once does not take longer than limit, where waiting for some time-out would. try does it once
// and says how long it took. A busy machine makes a try slow, and a wait all of them: one of a few in time is enough.
func Soon(t *testing.T, what string, limit time.Duration, try func() (took time.Duration)) {
	t.Helper()
	var all []time.Duration
	for range 5 {
		took := try()
		if took <= limit {
			return
		}
		all = append(all, took)
	}
	t.Errorf("%s took %v, want at most %v", what, all, limit)
}

// Output is where what runs in a test may log: the test's output, and nowhere once the test is over, when writing there would
// panic. What a client has under way when it is closed may still say something. It is safe for concurrent use.
func Output(t testing.TB) io.Writer {
	o := &output{test: t.Output()}
	t.Cleanup(func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.test = nil
	})
	return o
}

type output struct {
	mu   sync.Mutex
	test io.Writer // guarded by mu; nil: the test is over
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.test == nil {
		return len(b), nil
	}
	return o.test.Write(b)
}
