package workers_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/workers"
)

// keyAt makes a key whose time is t.
func keyAt(t time.Time) contracts.Key {
	ms := t.UnixMilli()
	return contracts.Key{byte(ms >> 40), byte(ms >> 32), byte(ms >> 24), byte(ms >> 16), byte(ms >> 8), byte(ms), 0x71, 2, 0x83, 4}
}

func TestBadInput(t *testing.T) {
	const bad, large = contracts.CodeBadRequest, contracts.CodeTooLarge
	long := strings.Repeat("x", 4001)
	for _, tt := range []struct {
		op    contracts.Op
		body  string
		code  contracts.Code
		field string
	}{
		// Of every op: what is no object.
		{contracts.OpSend, `[]`, bad, ""},
		{contracts.OpSend, `{"text":"a"} x`, bad, ""},
		{contracts.OpSend, `{"text":"a","text":"b"}`, bad, "text"},
		{contracts.OpJoin, `null`, bad, ""},
		{contracts.OpHistory, `"x"`, bad, ""},
		{contracts.OpPresence, `{"a":1e400,}`, bad, ""},
		{contracts.OpConnect, `1`, bad, ""},

		{contracts.OpSend, `{}`, bad, "text"},
		{contracts.OpSend, `{"text":1}`, bad, "text"},
		{contracts.OpSend, `{"text":null}`, bad, "text"},
		{contracts.OpSend, `{"text":""}`, bad, "text"},
		{contracts.OpSend, `{"text":" \n\t "}`, bad, "text"},
		{contracts.OpSend, `{"text":"\u200b\u200d"}`, bad, "text"},
		{contracts.OpSend, `{"text":"a\u0000"}`, bad, "text"},
		{contracts.OpSend, `{"text":"a\u001b[1m"}`, bad, "text"},
		{contracts.OpSend, `{"text":"a\u0085"}`, bad, "text"},
		{contracts.OpSend, `{"text":"a\ud800"}`, bad, "text"},
		{contracts.OpSend, `{"text":"\udc00a"}`, bad, "text"},
		{contracts.OpSend, `{"text":"` + long + `"}`, large, "text"},
		{contracts.OpSend, `{"text":"` + strings.Repeat("𝄞", 4001) + `"}`, large, "text"},
		{contracts.OpSend, `{"text":"a","key":""}`, contracts.CodeBadKey, "key"},
		{contracts.OpSend, `{"text":"a","key":7}`, bad, "key"},
		{contracts.OpSend, `{"text":"a","key":"c232ab00-9414-41ec-b3c8-9e6bdeced846"}`, contracts.CodeBadKey, "key"}, // version 4
		{contracts.OpSend, `{"text":"a","key":"{0190a000-0000-7000-8000-000000000000}"}`, contracts.CodeBadKey, "key"},
		{contracts.OpSend, `{"text":"a","key":"KEY-25H"}`, contracts.CodeStaleKey, "key"},
		{contracts.OpSend, `{"text":"a","key":"KEY+3M"}`, contracts.CodeBadKey, "key"},
		{contracts.OpSend, `{"text":"a","reply_to":0}`, bad, "reply_to"},
		{contracts.OpSend, `{"text":"a","reply_to":-1}`, bad, "reply_to"},
		{contracts.OpSend, `{"text":"a","reply_to":1.0}`, bad, "reply_to"},
		{contracts.OpSend, `{"text":"a","reply_to":9007199254740992}`, bad, "reply_to"},
		{contracts.OpSend, `{"text":"a","meta":[]}`, bad, "meta"},
		{contracts.OpSend, `{"text":"a","meta":"{}"}`, bad, "meta"},
		{contracts.OpSend, `{"text":"a","meta":{"a":"` + strings.Repeat("x", 2048) + `"}}`, large, "meta"},
		{contracts.OpSend, `{"text":"a","ack":"never"}`, bad, "ack"},
		{contracts.OpSend, `{"text":"a","ack":true}`, bad, "ack"},

		{contracts.OpJoin, `{"since":5}`, bad, "since"},
		{contracts.OpJoin, `{"since":{}}`, bad, "since"},
		{contracts.OpJoin, `{"since":{"seq":5}}`, bad, "since"},
		{contracts.OpJoin, `{"since":{"epoch":1,"seq":-1}}`, bad, "seq"},
		{contracts.OpJoin, `{"since":{"epoch":1,"seq":1.5}}`, bad, "seq"},
		{contracts.OpJoin, `{"since":{"epoch":1,"seq":"5"}}`, bad, "seq"},
		{contracts.OpJoin, `{"since":{"epoch":1,"seq":9007199254740992}}`, bad, "seq"},
		{contracts.OpJoin, `{"since":{"epoch":-1,"seq":1}}`, bad, "epoch"},
		{contracts.OpJoin, `{"limit":-1}`, bad, "limit"},
		{contracts.OpJoin, `{"limit":"5"}`, bad, "limit"},
		{contracts.OpJoin, `{"limit":1e3}`, bad, "limit"},

		{contracts.OpHistory, `{"before":5,"after":1}`, bad, "after"},
		{contracts.OpHistory, `{"before":-5}`, bad, "before"},
		{contracts.OpHistory, `{"after":"1"}`, bad, "after"},
		{contracts.OpHistory, `{"limit":-1}`, bad, "limit"},

		{contracts.OpStatus, `{}`, bad, "key"},
		{contracts.OpStatus, `{"key":"x"}`, contracts.CodeBadKey, "key"},
		{contracts.OpTyping, `{}`, bad, "on"},
		{contracts.OpTyping, `{"on":1}`, bad, "on"},
		{contracts.OpLeave, `{"quit":"yes"}`, bad, "quit"},
		{contracts.OpRooms, `{"all":1}`, bad, "all"},
		{contracts.OpRooms, `{"after":"a.b"}`, bad, "after"},
		{contracts.OpRooms, `{"after":5}`, bad, "after"},
		{contracts.OpRooms, `{"limit":-1}`, bad, "limit"},
		{contracts.OpRefresh, `{"token":5}`, bad, "token"},
		{contracts.OpRefresh, `{}`, contracts.CodeUnauthorized, ""},
		{contracts.OpConnect, `{}`, contracts.CodeUnauthorized, ""},
		{contracts.OpConnect, `{"token":5}`, bad, "token"},
		{contracts.OpConnect, `{"guest":5}`, bad, "guest"},
		{contracts.OpConnect, `{"guest":""}`, bad, "guest"},
		{contracts.OpConnect, `{"guest":"a\nb"}`, bad, "guest"},
		{contracts.OpConnect, `{"guest":"` + strings.Repeat("x", 65) + `"}`, bad, "guest"},
		{contracts.OpConnect, `{"token":"","guest":"Ada"}`, contracts.CodeUnauthorized, ""}, // token wins
		{contracts.OpGuest, `{}`, bad, "name"},
		{contracts.OpGuest, `{"name":"\u200b"}`, bad, "name"},
		{contracts.OpRepair, ``, bad, "range"},
	} {
		name := fmt.Sprintf("%s %.60s", tt.op, tt.body)
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newWorld(t, nil)
				body := strings.ReplaceAll(tt.body, "KEY-25H", keyAt(time.Now().Add(-25*time.Hour)).String())
				body = strings.ReplaceAll(body, "KEY+3M", keyAt(time.Now().Add(3*time.Minute)).String())
				c := cmd(tt.op, `{}`)
				c.Body = nil
				raw, err := json.Marshal(&c)
				if err != nil {
					t.Fatal(err)
				}
				// Bodies that are not even JSON reach a worker only as part of a command that is: check those by hand.
				if json.Valid([]byte(body)) {
					c.Body = json.RawMessage(body)
					wantErr(t, f.do(c), tt.code, tt.field)
				} else if body != "" {
					raw = append(raw[:len(raw)-1], `,"left_ms":5000,"node":"e","body":`+body+`}`...)
					wantErr(t, <-f.beginRaw(tt.op, raw), bad, "")
				} else {
					wantErr(t, f.do(c), tt.code, tt.field)
				}
				if len(f.appended) > 0 {
					t.Error("it was logged all the same")
				}
			})
		})
	}
}

func TestBadCommands(t *testing.T) {
	room := func(room string) contracts.Command {
		c := cmd(contracts.OpSend, `{"text":"a"}`)
		c.Room = contracts.RoomID(room)
		return c
	}
	change := func(c contracts.Command, f func(*contracts.Command)) contracts.Command { f(&c); return c }
	for _, tt := range []struct {
		name  string
		cmd   contracts.Command
		code  contracts.Code
		field string
	}{
		{"dot", room("a.b"), contracts.CodeBadRoom, "room"},
		{"star", room("*"), contracts.CodeBadRoom, "room"},
		{"more", room(">"), contracts.CodeBadRoom, "room"},
		{"system", room("$SYS"), contracts.CodeBadRoom, "room"},
		{"braces", room("{x}"), contracts.CodeBadRoom, "room"},
		{"up", room("../"), contracts.CodeBadRoom, "room"},
		{"line end", room("a\r\n"), contracts.CodeBadRoom, "room"},
		{"too long", room(strings.Repeat("x", 65)), contracts.CodeBadRoom, "room"},
		{"cyrillic", room("lоbby"), contracts.CodeBadRoom, "room"},
		{"none", room(""), contracts.CodeBadRoom, "room"},
		{"nobody", change(room("a"), func(c *contracts.Command) { c.User = nil }), contracts.CodeUnauthorized, ""},
		{"bad person", change(room("a"), func(c *contracts.Command) { c.User = &contracts.Person{ID: "a b"} }), contracts.CodeUnauthorized, ""},
		{"nobody joins", change(cmd(contracts.OpJoin, `{}`), func(c *contracts.Command) { c.User = nil }), contracts.CodeUnauthorized, ""},
		{"bad node", change(room("a"), func(c *contracts.Command) { c.Node = "a b" }), contracts.CodeBadRequest, ""},
		{"unknown op", change(room("a"), func(c *contracts.Command) { c.Op = "edit" }), contracts.CodeUnknownOp, ""},
		{"no time left", change(room("a"), func(c *contracts.Command) { c.LeftMS = 500 }), contracts.CodeOverloaded, ""},
		{"time long over", change(room("a"), func(c *contracts.Command) { c.LeftMS = -5 }), contracts.CodeOverloaded, ""},
		{"gone from a bad room", change(cmd(contracts.OpGone, `{}`), func(c *contracts.Command) {
			c.Gone = []contracts.Presence{{Room: "a b", User: ada}}
		}), contracts.CodeBadRequest, "gone"},
		{"repair backwards", change(cmd(contracts.OpRepair, `{}`), func(c *contracts.Command) {
			c.Range = &contracts.Range{Epoch: 3, From: 5, To: 4}
		}), contracts.CodeBadRequest, "range"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newWorld(t, nil)
			if tt.cmd.Node == "" {
				tt.cmd.Node = "edge1"
			}
			if tt.cmd.LeftMS == 0 {
				tt.cmd.LeftMS = 5000
			}
			raw, err := json.Marshal(&tt.cmd)
			if err != nil {
				t.Fatal(err)
			}
			op := tt.cmd.Op
			if op == "edit" {
				op = contracts.OpPing // whatever it is, it was asked on another's subject
			}
			wantErr(t, <-f.beginRaw(op, raw), tt.code, tt.field)
			if len(f.appended) > 0 {
				t.Error("it was logged all the same")
			}
		})
	}
	f := newWorld(t, nil)
	for _, garbage := range []string{"", "{", "null", "[]", "\x00\xff", `{"op":5}`} {
		wantErr(t, <-f.beginRaw(contracts.OpJoin, []byte(garbage)), contracts.CodeBadRequest, "")
	}
}

func TestTooManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, func(c *workers.Config) { c.MaxInFlight, c.MaxWaiting = 3, 4 })
		f.silent = true
		f.onAppend = func(int) (bool, error) { return true, nil }
		var waiting []<-chan contracts.Answer
		for range 3 {
			waiting = append(waiting, f.begin(cmd(contracts.OpHistory, `{}`)), f.begin(cmd(contracts.OpSend, `{"text":"a"}`)))
		}
		var inLine []<-chan contracts.Answer
		refused := func(what string, c contracts.Command) {
			t.Helper()
			a := f.do(c)
			wantErr(t, a, contracts.CodeOverloaded, "")
			if a.Err.RetryAfterMS == 0 {
				t.Errorf("%s: no word on when to come again", what)
			}
		}
		refused("a send", cmd(contracts.OpSend, `{"text":"a"}`))
		// The more wait, the fewer kinds are let in.
		for _, step := range []struct{ takes, refuses contracts.Command }{
			{cmd(contracts.OpPresence, `{}`), cmd(contracts.OpTyping, `{"on":true}`)},
			{cmd(contracts.OpRooms, `{}`), cmd(contracts.OpHistory, `{}`)},
			{contracts.Command{Op: contracts.OpConnect, Body: json.RawMessage(`{"guest":"Eve"}`)}, contracts.Command{Op: contracts.OpGuest, Body: json.RawMessage(`{}`)}},
			{cmd(contracts.OpPing, `{}`), cmd(contracts.OpPing, `{}`)},
		} {
			inLine = append(inLine, f.begin(step.takes))
			refused(string(step.refuses.Op), step.refuses)
		}
		for _, c := range waiting {
			wantErr(t, <-c, contracts.CodeUnavailable, "")
		}
		synctest.Wait()
		for _, c := range inLine { // their time is over, too
			wantErr(t, <-c, contracts.CodeOverloaded, "")
		}
		decode[struct{}](t, f.do(cmd(contracts.OpPing, `{}`)))
		for _, done := range f.appends {
			done(1, nil)
		}
	})
}

// TestTooMuchAtOnce: large requests fill the line by their bytes, kind by kind as by their number.
func TestTooMuchAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, func(c *workers.Config) { c.MaxInFlight = 1 })
		f.silent = true
		for range 2 { // its place is free for the whole line, and then once more
			working := f.begin(cmd(contracts.OpHistory, `{}`))
			large := make([]byte, 1<<20) // no JSON: it is refused in its turn
			var inLine []<-chan contracts.Answer
			fill := func(op contracts.Op, fits int) {
				t.Helper()
				for range fits {
					inLine = append(inLine, f.beginRaw(op, large))
				}
				wantErr(t, <-f.beginRaw(op, large), contracts.CodeOverloaded, "")
			}
			fill(contracts.OpTyping, 16)
			fill(contracts.OpHistory, 16)
			fill(contracts.OpJoin, 32)
			wantErr(t, <-working, contracts.CodeUnavailable, "")
			for _, c := range inLine {
				wantErr(t, <-c, contracts.CodeBadRequest, "")
			}
			synctest.Wait()
		}
	})
}

// TestTurns: who waits is served in the order of coming, unless half of its time is over.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, func(c *workers.Config) { c.MaxInFlight = 1 })
		f.silent = true
		blocks := cmd(contracts.OpHistory, `{}`)
		blocks.LeftMS = 3000 // half a second of it is kept for the way back
		first := f.begin(blocks)
		time.Sleep(time.Second)
		const n = 3000 // more than the line keeps behind those that are gone
		var order []int
		for i := range n {
			c := cmd(contracts.OpPing, `{}`)
			if i == 1 {
				c.LeftMS = 3500
			}
			f.beginThen(c, func(a contracts.Answer) {
				order = append(order, i)
				if (a.Err != nil) != (i == 1) || i == 1 && a.Err.Code != contracts.CodeOverloaded {
					t.Errorf("request %d: %+v", i, a)
				}
			})
		}
		begun := time.Now()
		wantErr(t, <-first, contracts.CodeUnavailable, "")
		synctest.Wait()
		if took := time.Since(begun); took != 1500*time.Millisecond {
			t.Errorf("all was answered after %v", took)
		}
		if len(order) != n || !slices.IsSorted(order) {
			t.Errorf("answered %d of %d, in order: %v", len(order), n, slices.IsSorted(order))
		}
	})
}

// TestOverload: of twice as much as can be done, as much is done as can be, however long it lasts; the rest is told to
// come again.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, func(c *workers.Config) { c.MaxInFlight = 10 })
		f.replyTime = 50 * time.Millisecond
		const seconds, capacity = 20, 200
		var mu sync.Mutex
		var good [seconds + 5]int // by the second of the answer
		bad := 0
		begun := time.Now()
		for i := range seconds * 2 * capacity {
			c := cmd(contracts.OpJoin, `{"limit":0}`)
			c.Room = contracts.RoomID(fmt.Sprint("room", i))
			f.beginThen(c, func(a contracts.Answer) {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case a.Err == nil:
					good[time.Since(begun)/time.Second]++
				case a.Err.Code != contracts.CodeOverloaded || a.Err.RetryAfterMS == 0:
					bad++
				}
			})
			time.Sleep(time.Second / (2 * capacity))
		}
		time.Sleep(5 * time.Second) // the last deadline, and a reply behind it
		mu.Lock()
		defer mu.Unlock()
		if bad > 0 {
			t.Errorf("%d answers that are neither good nor say when to come again", bad)
		}
		for second, n := range good[:seconds] {
			if n < capacity*9/10 {
				t.Errorf("second %d: %d good answers, want %d", second, n, capacity)
			}
		}
	})
}

// TestUpkeepStandsApart: clients may ask as much as they like, edges renew their leases and mend their holes all the same.
func TestUpkeepStandsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, func(c *workers.Config) { c.MaxInFlight, c.MaxWaiting = 1, 4 })
		f.cached[5] = true
		f.silent = true
		for range 5 { // one is worked on, the others wait until its deadline
			f.begin(cmd(contracts.OpJoin, `{}`))
		}
		wantErr(t, f.do(cmd(contracts.OpJoin, `{}`)), contracts.CodeOverloaded, "")
		begun := time.Now()
		decode[struct{}](t, f.do(contracts.Command{Op: contracts.OpGone}))
		repair := contracts.Command{Op: contracts.OpRepair, Room: "lobby", Range: &contracts.Range{Epoch: 3, From: 5, To: 5}}
		if a := f.do(repair); a.Err != nil || len(a.Entries) != 1 {
			t.Errorf("repair: %+v", a)
		}
		if took := time.Since(begun); took > 0 {
			t.Errorf("answered after %v", took)
		}
		if f.renewed != 1 {
			t.Errorf("lease renewed %d times", f.renewed)
		}
	})
}

// The time left is the asker's, less a margin for the way back.
func TestDeadlineFollowsTheAsker(t *testing.T) {
	for left, want := range map[int64]time.Duration{5000: 4 * time.Second, 60_000: 4 * time.Second, 2000: 1500 * time.Millisecond, 501: time.Millisecond} {
		for _, op := range []contracts.Op{contracts.OpHistory, contracts.OpSend} {
			t.Run(fmt.Sprint(op, left), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newWorld(t, nil)
					f.silent = true
					f.onAppend = func(int) (bool, error) { return true, nil }
					c := cmd(op, `{"text":"a"}`)
					c.LeftMS = left
					begun := time.Now()
					wantErr(t, f.do(c), contracts.CodeUnavailable, "")
					if took := time.Since(begun); took != want {
						t.Errorf("answered after %v, want %v", took, want)
					}
					for _, done := range f.appends {
						done(1, nil) // the append was not called off, and its late end harms nobody
					}
				})
			})
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := workers.Config{Node: "w", Secret: secret}
	for name, change := range map[string]func(*workers.Config){
		"no node":          func(c *workers.Config) { c.Node = "" },
		"three partitions": func(c *workers.Config) { c.Partitions = 3 },
		"short secret":     func(c *workers.Config) { c.Secret = secret[:31] },
		"no keys at all":   func(c *workers.Config) { c.Secret = nil },
		"replies too long": func(c *workers.Config) { c.Limits.ReplyBytes = contracts.MaxServerFrame },
	} {
		cfg := good
		change(&cfg)
		if cfg.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	if _, err := workers.New(good, workers.Deps{}); err == nil {
		t.Error("a worker of nothing")
	}
}

func TestMetrics(t *testing.T) {
	f := newWorld(t, nil)
	reg := prometheus.NewPedanticRegistry()
	w, err := workers.New(workers.Config{Node: "w", Partitions: 8, Secret: secret}, workers.Deps{
		Ask: (*fakeAsk)(f), Log: (*fakeLog)(f), Recent: (*fakeRecent)(f), Publisher: (*fakePublisher)(f), Roster: (*fakeRoster)(f), Store: (*fakeStore)(f),
		Registerer: reg,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.w = w
	decode[contracts.SendOK](t, f.do(cmd(contracts.OpSend, `{"text":"a"}`)))
	wantErr(t, f.do(cmd(contracts.OpSend, `{"text":""}`)), contracts.CodeBadRequest, "text")
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
	err = testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP parley_worker_requests_total Requests answered, by op and by the answer's code (ok, or an error code; a batch is ok whatever its parts are).
# TYPE parley_worker_requests_total counter
parley_worker_requests_total{code="bad_request",op="send"} 1
parley_worker_requests_total{code="ok",op="send"} 1
`), "parley_worker_requests_total")
	if err != nil {
		t.Error(err)
	}
}

// Dispatchers that are away, all of them, show at who needs them.
func TestNoDispatcherShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := full(t, 5)
		reg := prometheus.NewPedanticRegistry()
		f.replace(func(d *workers.Deps) { d.Registerer = reg })
		shown := func() float64 {
			t.Helper()
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, family := range families {
				if family.GetName() == "parley_worker_dispatch_errors_total" {
					return family.GetMetric()[0].GetCounter().GetValue()
				}
			}
			t.Fatal("no such metric")
			return 0
		}
		decode[contracts.JoinOK](t, f.do(cmd(contracts.OpJoin, `{}`)))
		if n := shown(); n != 0 {
			t.Errorf("%v questions unanswered while all is well", n)
		}
		f.set(func() { f.silent = true })
		wantErr(t, f.do(cmd(contracts.OpJoin, `{}`)), contracts.CodeUnavailable, "")
		if n := shown(); n == 0 {
			t.Error("nothing shows")
		}
	})
}

// A cache that is away costs nobody an answer, and shows.
func TestCacheAwayShows(t *testing.T) {
	f := full(t, 5)
	reg := prometheus.NewPedanticRegistry()
	w, err := workers.New(workers.Config{Node: "w", Partitions: 8, Secret: secret}, workers.Deps{
		Ask: (*fakeAsk)(f), Log: (*fakeLog)(f), Recent: (*fakeRecent)(f), Publisher: (*fakePublisher)(f), Roster: (*fakeRoster)(f), Store: (*fakeStore)(f),
		Registerer: reg,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.w = w
	for i, away := range []bool{false, true} {
		f.mu.Lock()
		f.cacheDown = away
		f.mu.Unlock()
		if got := f.seqs(decode[contracts.HistoryOK](t, f.do(cmd(contracts.OpHistory, `{}`))).Entries); got != "1 2 3 4 5" {
			t.Errorf("away %v: entries %q", away, got)
		}
		err := testutil.GatherAndCompare(reg, strings.NewReader(fmt.Sprintf(`
# HELP parley_worker_cache_errors_total Reads of recent entries that failed or took too long; the dispatcher or the store was read instead.
# TYPE parley_worker_cache_errors_total counter
parley_worker_cache_errors_total %d
`, i)), "parley_worker_cache_errors_total")
		if err != nil {
			t.Error(err)
		}
	}
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
