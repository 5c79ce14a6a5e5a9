package workers_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/workers"
)

func TestSendLogsWhatWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		key := keyAt(time.Now().Add(-23 * time.Hour))
		ok := decode[contracts.SendOK](t, f.do(cmd(contracts.OpSend,
			`{"id":1,"op":"send","text":"<b> \u202e\u00e9\n","key":"`+strings.ToUpper(key.String())+`","reply_to":5,"meta":{"a":[1.0,"\u00e9"]},"ack":"logged","unknown":{}}`)))
		now := time.Now().UnixMilli()
		if diff := cmp.Diff(contracts.SendOK{Key: key, Time: now}, ok); diff != "" {
			t.Error(diff)
		}
		want := []contracts.Record{{
			Kind: contracts.KindMessage, Room: "lobby", From: ada, Key: key, Stamp: now,
			Text: "<b> \u202eé\n", ReplyTo: 5, Meta: json.RawMessage(`{"a":[1.0,"\u00e9"]}`),
		}}
		if diff := cmp.Diff(want, f.appended); diff != "" {
			t.Error(diff)
		}
		own := decode[contracts.SendOK](t, f.do(cmd(contracts.OpSend, `{"text":"by hand"}`)))
		if own.Key.Time() < now || f.appended[1].Key != own.Key {
			t.Errorf("made key %v at %d", own.Key, now)
		}
	})
}

// TestSendStored writes who is to be told into the record; HTTP has nobody.
func TestSendStored(t *testing.T) {
	f := newWorld(t, nil)
	c := cmd(contracts.OpSend, `{"text":"a","ack":"stored"}`)
	c.Node = "n1"
	decode[contracts.SendOK](t, f.do(c))
	if got, want := f.appended[0].Told, (contracts.Conn{Node: "n1", ID: 7}); got != want {
		t.Errorf("told %+v, want %+v", got, want)
	}
	c.Conn = 0
	wantErr(t, f.do(c), contracts.CodeBadRequest, "ack")
}

// send answers when the log has confirmed, never before.
func TestSendWaitsForTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		f.onAppend = func(int) (bool, error) { return true, nil }
		got := f.begin(cmd(contracts.OpSend, `{"text":"a"}`))
		time.Sleep(3 * time.Second)
		select {
		case a := <-got:
			t.Fatalf("answered before the log did: %+v", a)
		default:
		}
		f.appends[0](0, nil)
		decode[contracts.SendOK](t, <-got)
	})
}

func TestSendErrors(t *testing.T) {
	for err, code := range map[error]contracts.Code{
		journal.ErrFull:    contracts.CodeOverloaded,
		journal.ErrUnknown: contracts.CodeUnavailable,
		errAway:            contracts.CodeUnavailable,
	} {
		f := newWorld(t, nil)
		f.onAppend = func(int) (bool, error) { return false, err }
		wantErr(t, f.do(cmd(contracts.OpSend, `{"text":"a"}`)), code, "")
	}
}

// batchOf makes a batch: a letter is a good text without a key, k a good one with a key, K a bad one with a key, ! a bad
// one without.
func batchOf(now time.Time, spec string) contracts.Command {
	c := cmd(contracts.OpSend, "")
	c.Body = nil
	for i, s := range spec {
		key := keyAt(now)
		key[15] = byte(i + 1)
		body := fmt.Sprintf(`{"text":"%c%d"}`, s, i)
		switch s {
		case 'k':
			body = fmt.Sprintf(`{"text":"k%d","key":"%s"}`, i, key)
		case 'K':
			body = fmt.Sprintf(`{"text":"","key":"%s"}`, key)
		case '!':
			body = `{"text":""}`
		}
		c.Batch = append(c.Batch, json.RawMessage(body))
	}
	return c
}

func TestBatches(t *testing.T) {
	hold := func(from int) func(int) (bool, error) { return func(n int) (bool, error) { return n >= from, nil } }
	fail := func(at int, err error) func(int) (bool, error) {
		return func(n int) (bool, error) {
			if n == at {
				return false, err
			}
			return false, nil
		}
	}
	for _, tt := range []struct {
		name     string
		batch    string
		onAppend func(int) (bool, error)
		want     string // o ok, b bad_request, u unavailable, f overloaded
		logged   string
	}{
		{"all good", "kakk", nil, "oooo", "k0 a1 k2 k3"},
		{"a final error holds up nobody", "kK!k", nil, "obbo", "k0 k3"},
		{"full with a key: the rest untried", "kkka", fail(1, journal.ErrFull), "offf", "k0"},
		{"full without a key: the rest goes on", "kaka", fail(1, journal.ErrFull), "ofoo", "k0 k2 a3"},
		{"unknown with a key", "kkkk", fail(1, journal.ErrUnknown), "ouuu", "k0 k1"},
		{"unknown without a key", "kakk", fail(1, journal.ErrUnknown), "ouoo", "k0 a1 k2 k3"},
		{"the deadline with a key", "kkka", hold(1), "ouuu", "k0 k1 k2 a3"},
		{"behind an unconfirmed one with a key a bad one is the same", "kK", hold(0), "uu", "k0"},
		{"the deadline without a key", "aak", func(n int) (bool, error) { return n == 0, nil }, "uoo", "a0 a1 k2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newWorld(t, nil)
				f.onAppend = tt.onAppend
				a := f.do(batchOf(time.Now(), tt.batch))
				if a.OK != nil || a.Err != nil || len(a.Batch) != len(tt.batch) {
					t.Fatalf("got %+v", a)
				}
				var got strings.Builder
				for _, one := range a.Batch {
					switch {
					case one.Err == nil && one.OK != nil:
						got.WriteByte('o')
					case one.Err.Code == contracts.CodeBadRequest:
						got.WriteByte('b')
					case one.Err.Code == contracts.CodeUnavailable:
						got.WriteByte('u')
					case one.Err.Code == contracts.CodeOverloaded:
						got.WriteByte('f')
					default:
						t.Errorf("answer %+v", one)
					}
				}
				if got.String() != tt.want {
					t.Errorf("answers %s, want %s", got.String(), tt.want)
				}
				synctest.Wait()
				var texts []string
				for _, r := range f.appended {
					texts = append(texts, r.Text)
				}
				if logged := strings.Join(texts, " "); logged != tt.logged {
					t.Errorf("logged %q, want %q", logged, tt.logged)
				}
				for _, done := range f.appends {
					done(1, nil)
				}
			})
		})
	}
}

func TestSendRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, func(c *workers.Config) { c.Limits.SendsPerS = 5 })
		send := func(u contracts.UserID) contracts.Answer {
			c := cmd(contracts.OpSend, `{"text":"a"}`)
			c.User = &contracts.Person{ID: u, Name: "x"}
			return f.do(c)
		}
		for range 10 {
			decode[contracts.SendOK](t, send("u1"))
		}
		a := send("u1")
		wantErr(t, a, contracts.CodeRateLimited, "")
		if a.Err.RetryAfterMS != 200 {
			t.Errorf("retry after %d ms", a.Err.RetryAfterMS)
		}
		decode[contracts.SendOK](t, send("u2"))
		time.Sleep(200 * time.Millisecond)
		decode[contracts.SendOK](t, send("u1"))
		wantErr(t, send("u1"), contracts.CodeRateLimited, "")
	})
}

func TestRoomSendRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, func(c *workers.Config) { c.Limits.RoomSendsPerS = 2 })
		send := func(u contracts.UserID, room contracts.RoomID) contracts.Answer {
			c := cmd(contracts.OpSend, `{"text":"a"}`)
			c.Room, c.User = room, &contracts.Person{ID: u, Name: "x"}
			return f.do(c)
		}
		for _, u := range []contracts.UserID{"u1", "u2", "u3", "u4"} {
			decode[contracts.SendOK](t, send(u, "a"))
		}
		a := send("u5", "a")
		wantErr(t, a, contracts.CodeRateLimited, "")
		if a.Err.RetryAfterMS != 500 {
			t.Errorf("retry after %d ms", a.Err.RetryAfterMS)
		}
		decode[contracts.SendOK](t, send("u5", "b"))
		time.Sleep(500 * time.Millisecond)
		decode[contracts.SendOK](t, send("u5", "a"))
		wantErr(t, send("u1", "a"), contracts.CodeRateLimited, "")
	})
}

func BenchmarkSend(b *testing.B) {
	f := newWorld(&testing.T{}, nil)
	f.onAppend = func(int) (bool, error) { f.appended = f.appended[:0]; return false, nil }
	c := cmd(contracts.OpSend, `{"id":3,"op":"send","room":"lobby","text":"hello, how are you?","key":"`+keyAt(time.Now()).String()+`"}`)
	c.Node, c.LeftMS = "edge1", 5000
	body, err := json.Marshal(&c)
	if err != nil {
		b.Fatal(err)
	}
	var handle rpc.Handler
	for _, e := range f.w.Services()[0].Endpoints {
		if e.Name == string(contracts.OpSend) {
			handle = e.Handler
		}
	}
	answered := make(chan []byte, 1)
	r := rpc.Request{Body: body, Answer: func(reply []byte) { answered <- reply }}
	b.ReportAllocs()
	for b.Loop() {
		handle(r)
		if reply := <-answered; !bytes.HasPrefix(reply, []byte(`{"ok"`)) {
			b.Fatalf("%s", reply)
		}
	}
}

// What the log took behind a lost one is answered like it: the client sends all of it again, in order.
func TestBatchIsAnsweredInOneTongueBehindALostOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		f.onAppend = func(int) (bool, error) { return true, nil }
		got := f.begin(batchOf(time.Now(), "kkka"))
		f.appends[0](0, nil)
		f.appends[2](2, nil)
		f.appends[3](3, nil)
		f.appends[1](0, journal.ErrUnknown)
		a := <-got
		if a.Batch[0].Err != nil {
			t.Errorf("the first: %v", a.Batch[0].Err)
		}
		for _, one := range a.Batch[1:] {
			wantErr(t, one, contracts.CodeUnavailable, "")
		}
	})
}

// What waits for the log keeps no hold of the message that it came in, which is many times as large: the log may say nothing for
// minutes.
func TestSendKeepsNoMessage(t *testing.T) {
	f := newWorld(t, func(c *workers.Config) { c.Deadline = time.Minute })
	f.onAppend = func(int) (bool, error) { return true, nil }
	var messages []weak.Pointer[byte]
	sends := []contracts.Command{cmd(contracts.OpSend, `{"text":"a","meta":{"b":1}}`), batchOf(time.Now(), "ak")}
	answered := make(chan contracts.Answer, len(sends))
	for _, c := range sends {
		c.Node, c.LeftMS = "edge1", 60_000
		body, err := json.Marshal(&c)
		if err != nil {
			t.Fatal(err)
		}
		message := append(make([]byte, 0, 1<<20), body...)
		messages = append(messages, weak.Make(&message[0]))
		f.hand(contracts.OpSend, message, func(a contracts.Answer) { answered <- a })
	}
	runtime.GC()
	for i := range messages {
		if messages[i].Value() != nil {
			t.Errorf("message %d is kept", i)
		}
	}
	for n, done := range f.appends {
		done(int64(n), nil)
	}
	for range sends {
		if a := <-answered; a.Err != nil {
			t.Error(a.Err)
		}
	}
}
