package workers_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/workers"
)

// TestLogAtItsLimit: sends are refused, all else goes on, and sends resume with room. What the persister leaves anyway does
// not count, and a log that does not answer changes nothing.
func TestLogAtItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, func(c *workers.Config) { c.LogBytes, c.LogKeep, c.Limits.TextRunes = 1<<20, 1000, 20_000 })
		f.head, f.stored = 3, 3
		stop, err := f.w.Serve(&server{services: map[string]rpc.Service{}})
		if err != nil {
			t.Fatal(err)
		}
		look := func(err error, extents ...journal.Extent) {
			f.set(func() { f.extents, f.extErr = extents, err })
			time.Sleep(3 * time.Second)
		}
		send := cmd(contracts.OpSend, `{"text":"`+strings.Repeat("x", 10_000)+`"}`)
		for range 20 {
			decode[contracts.SendOK](t, f.do(send))
		}
		look(nil, journal.Extent{End: 1050}, journal.Extent{Start: 500, End: 1540})
		decode[contracts.SendOK](t, f.do(send)) // 50 and 40 of 10 kB
		look(nil, journal.Extent{End: 1070}, journal.Extent{Start: 500, End: 1550})
		for _, c := range []contracts.Command{send, send} {
			a := f.do(c)
			wantErr(t, a, contracts.CodeOverloaded, "")
			if a.Err.RetryAfterMS < 1000 {
				t.Errorf("retry after %d ms", a.Err.RetryAfterMS)
			}
		}
		appended := len(f.appended)
		batch := f.do(batchOf(time.Now(), "ak!k"))
		for i, a := range batch.Batch {
			if a.Err == nil || i != 2 && a.Err.Code != contracts.CodeOverloaded {
				t.Errorf("%d of a batch: %+v", i, a)
			}
		}
		if len(f.appended) != appended {
			t.Error("a refused send is in the log")
		}
		wantErr(t, f.do(cmd(contracts.OpSend, `{"text":""}`)), contracts.CodeBadRequest, "text")
		decode[contracts.JoinOK](t, f.do(cmd(contracts.OpJoin, `{}`)))
		if state, ok := f.w.LogState(); !ok || !strings.HasSuffix(state, "refused") {
			t.Errorf("operators are told %q", state)
		}

		look(errAway)
		wantErr(t, f.do(send), contracts.CodeOverloaded, "")
		time.Sleep(time.Minute) // not measured for so long, it may have been trimmed
		decode[contracts.SendOK](t, f.do(send))
		look(nil, journal.Extent{End: 1070}, journal.Extent{Start: 500, End: 1550})
		wantErr(t, f.do(send), contracts.CodeOverloaded, "")
		look(nil, journal.Extent{Start: 70, End: 1070}, journal.Extent{Start: 550, End: 1550})
		decode[contracts.SendOK](t, f.do(send))
		if state, _ := f.w.LogState(); state != "0.0 of 1.0 MiB" {
			t.Errorf("operators are told %q", state)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestNoLogLimit: the log is not even looked at.
func TestNoLogLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		f.extents = []journal.Extent{{End: 1 << 60}}
		if _, err := f.w.Serve(&server{services: map[string]rpc.Service{}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		decode[contracts.SendOK](t, f.do(cmd(contracts.OpSend, `{"text":"a"}`)))
		if _, ok := f.w.LogState(); ok {
			t.Error("a limit that is off is told")
		}
	})
}
