package workers_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/workers"
)

// full is a world whose dispatcher, cache and store have all of head entries between them.
func full(t *testing.T, head contracts.Seq) *world {
	f := newWorld(t, nil)
	f.head, f.truth, f.stored, f.floor = head, head, head, max(1, head-min(head, 400)+1)
	for seq := head - min(head, 200) + 1; seq <= head; seq++ {
		f.cached[seq] = true
	}
	return f
}

func TestJoinStates(t *testing.T) {
	for _, tt := range []struct {
		name    string
		head    contracts.Seq
		body    string
		state   contracts.JoinState
		entries string
		at      contracts.Seq // the client's position
	}{
		{"empty room", 0, `{}`, contracts.JoinComplete, "", 0},
		{"empty room from the beginning", 0, `{"since":{"epoch":0,"seq":0}}`, contracts.JoinComplete, "", 0},
		{"fresh", 5, `{}`, contracts.JoinComplete, "1 2 3 4 5", 5},
		{"fresh, 50 by default", 1234, `{}`, contracts.JoinComplete, "1185 … 1234 (50)", 1234},
		{"fresh, three", 1234, `{"limit":3}`, contracts.JoinComplete, "1232 1233 1234", 1234},
		{"fresh, none", 1234, `{"limit":0}`, contracts.JoinComplete, "", 1234},
		{"fresh, clamped", 1234, `{"limit":1000000000}`, contracts.JoinComplete, "1035 … 1234 (200)", 1234},
		{"nothing missed", 5, `{"since":{"epoch":3,"seq":5}}`, contracts.JoinComplete, "", 5},
		{"some missed", 5, `{"since":{"epoch":3,"seq":3}}`, contracts.JoinComplete, "4 5", 5},
		{"limit is not for since", 5, `{"since":{"epoch":3,"seq":1},"limit":1}`, contracts.JoinComplete, "2 3 4 5", 5},
		{"as far behind as allowed", 1234, `{"since":{"epoch":3,"seq":234}}`, contracts.JoinComplete, "235 … 1234 (1000)", 1234},
		{"one too far behind", 1234, `{"since":{"epoch":3,"seq":233}}`, contracts.JoinReset, "1185 … 1234 (50)", 1234},
		{"foreign epoch", 5, `{"since":{"epoch":2,"seq":3}}`, contracts.JoinReset, "1 2 3 4 5", 5},
		{"foreign epoch that fits no epoch", 5, `{"since":{"epoch":4294967299,"seq":3}}`, contracts.JoinReset, "1 2 3 4 5", 5},
		{"beginning in any epoch", 5, `{"since":{"epoch":77,"seq":0}}`, contracts.JoinComplete, "1 2 3 4 5", 5},
		{"beginning too far behind", 1001, `{"since":{"epoch":0,"seq":0}}`, contracts.JoinReset, "952 … 1001 (50)", 1001},
		{"beyond a certain head", 5, `{"since":{"epoch":3,"seq":6}}`, contracts.JoinReset, "1 2 3 4 5", 5},
		{"far beyond", 5, `{"since":{"epoch":3,"seq":9007199254740991}}`, contracts.JoinReset, "1 2 3 4 5", 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := full(t, tt.head)
				a := f.do(cmd(contracts.OpJoin, tt.body))
				j := decode[contracts.JoinOK](t, a)
				if j.State != tt.state || j.Room != "lobby" || j.Epoch != 3 || j.Head != tt.head || j.First != 1 || j.Online != 1 || j.Entries == nil {
					t.Errorf("got %+v", j)
				}
				if got := f.seqs(j.Entries); got != tt.entries {
					t.Errorf("entries %q, want %q", got, tt.entries)
				}
				if a.Joined == nil || a.Joined.State != tt.state || a.Joined.Epoch != 3 || a.Joined.Head != tt.at {
					t.Errorf("joined %+v", a.Joined)
				}
			})
		})
	}
}

func TestJoinMoreUntilComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, func(c *workers.Config) { c.Limits.ReplyBytes = 20_000 })
		f.head, f.truth, f.stored, f.floor = 700, 700, 700, 500
		var at contracts.Seq
		for rounds := 0; ; rounds++ {
			a := f.do(cmd(contracts.OpJoin, fmt.Sprintf(`{"since":{"epoch":3,"seq":%d}}`, at)))
			j := decode[contracts.JoinOK](t, a)
			if j.Head != 700 {
				t.Fatalf("head %d", j.Head)
			}
			if len(a.OK) > 20_000+4096 {
				t.Fatalf("a reply of %d bytes", len(a.OK))
			}
			f.seqs(j.Entries)
			at += contracts.Seq(len(j.Entries))
			if a.Joined.Head != at {
				t.Fatalf("position %d after %d entries", a.Joined.Head, at)
			}
			if j.State == contracts.JoinComplete {
				if at != 700 || rounds < 3 {
					t.Fatalf("complete at %d after %d rounds", at, rounds)
				}
				return
			}
			if j.State != contracts.JoinMore || len(j.Entries) == 0 {
				t.Fatalf("state %s with %d entries", j.State, len(j.Entries))
			}
		}
	})
}

// What the edge has passed on counts even where the dispatcher does not know of it yet.
func TestJoinReadsUpToWhatWasPassed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		passed contracts.RoomHead
		cached bool
		code   contracts.Code
		head   contracts.Seq
	}{
		{"known to the cache", contracts.RoomHead{Epoch: 3, Seq: 7}, true, "", 7},
		{"known to nobody", contracts.RoomHead{Epoch: 3, Seq: 7}, false, contracts.CodeUnavailable, 0},
		{"of another epoch", contracts.RoomHead{Epoch: 2, Seq: 7}, false, "", 5},
		{"less than the head", contracts.RoomHead{Epoch: 3, Seq: 2}, false, "", 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newWorld(t, nil)
				f.head, f.truth, f.stored, f.floor = 5, 5, 5, 6
				for seq := contracts.Seq(1); tt.cached && seq <= 7; seq++ {
					f.cached[seq] = true
				}
				c := cmd(contracts.OpJoin, `{"since":{"epoch":3,"seq":1}}`)
				c.Passed = &tt.passed
				a := f.do(c)
				if tt.code != "" {
					wantErr(t, a, tt.code, "")
					return
				}
				if j := decode[contracts.JoinOK](t, a); j.Head != tt.head || len(j.Entries) != int(tt.head)-1 {
					t.Errorf("head %d with %d entries", j.Head, len(j.Entries))
				}
			})
		})
	}
}

func TestJoinWaitsForACertainDispatcher(t *testing.T) {
	t.Run("in time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := full(t, 5)
			f.certain = false
			got := f.begin(cmd(contracts.OpJoin, `{"since":{"epoch":3,"seq":7}}`))
			time.Sleep(time.Second)
			f.set(func() { f.head, f.truth, f.certain = 8, 8, true })
			if j := decode[contracts.JoinOK](t, <-got); j.State != contracts.JoinComplete || f.seqs(j.Entries) != "8" {
				t.Errorf("got %+v", j)
			}
		})
	})
	t.Run("too late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := full(t, 5)
			f.certain = false
			begun := time.Now()
			wantErr(t, f.do(cmd(contracts.OpJoin, `{"since":{"epoch":3,"seq":7}}`)), contracts.CodeUnavailable, "")
			if took := time.Since(begun); took != 4*time.Second {
				t.Errorf("answered after %v", took)
			}
		})
	})
}

// A page is asked for by who has seen more than the dispatcher knows of.
func TestHistoryWaitsForACertainDispatcher(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{`{"before":9,"limit":2}`, "7 8"},
		{`{"after":6}`, "7 8"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := full(t, 5)
				f.certain = false
				got := f.begin(cmd(contracts.OpHistory, tt.args))
				time.Sleep(time.Second)
				f.set(func() { f.head, f.truth, f.certain = 8, 8, true })
				if page := decode[contracts.HistoryOK](t, <-got); f.seqs(page.Entries) != tt.want {
					t.Errorf("got %s", f.seqs(page.Entries))
				}
			})
		})
	}
}

// Every way in which what is read could be less than what there is.
func TestJoinIsNeverSilentlyIncomplete(t *testing.T) {
	for _, tt := range []struct {
		name  string
		setup func(*world)
		code  contracts.Code
	}{
		{"cache with a hole", func(f *world) { delete(f.cached, 58) }, ""},
		{"cache short of the head", func(f *world) { delete(f.cached, 60) }, ""},
		{"cache away", func(f *world) { f.cacheDown = true }, ""},
		{"no cache, floor in the middle", func(f *world) { clear(f.cached); f.floor = 40 }, ""},
		{"no cache, all in the ring", func(f *world) { clear(f.cached); f.floor = 1; f.storeDown = true }, ""},
		{"no cache, nothing in the ring", func(f *world) { clear(f.cached); f.floor = 61 }, ""},
		{"no cache, dispatcher's replies cut", func(f *world) { clear(f.cached); f.floor = 20; f.cut = 7 }, ""},
		{"store behind the floor", func(f *world) { clear(f.cached); f.floor = 40; f.stored = 30 }, contracts.CodeUnavailable},
		{"store with a hole", func(f *world) { clear(f.cached); f.floor = 40; f.holes[15] = true }, contracts.CodeUnavailable},
		{"store away and needed", func(f *world) { clear(f.cached); f.floor = 40; f.storeDown = true }, contracts.CodeUnavailable},
		{"store away and not needed", func(f *world) { f.storeDown = true }, ""},
		{"dispatcher with a hole", func(f *world) {
			clear(f.cached)
			f.dispatch = func(q contracts.Question) (*contracts.Reply, error) {
				if q.Read == nil {
					return nil, nil
				}
				e := f.numbered(q.Room, q.Read.From, q.Read.To)
				return &contracts.Reply{Epoch: 3, Floor: 1, Entries: append(e[:5:5], e[6:]...)}, nil
			}
		}, contracts.CodeUnavailable},
		{"dispatcher that repeats itself", func(f *world) {
			clear(f.cached)
			f.dispatch = func(q contracts.Question) (*contracts.Reply, error) {
				if q.Read == nil {
					return nil, nil
				}
				e := f.numbered(q.Room, q.Read.From, q.Read.To)
				e[5] = e[4]
				return &contracts.Reply{Epoch: 3, Floor: 1, Entries: e}, nil
			}
		}, contracts.CodeUnavailable},
		{"dispatcher answers beyond the range", func(f *world) {
			clear(f.cached)
			f.dispatch = func(q contracts.Question) (*contracts.Reply, error) {
				if q.Read == nil {
					return nil, nil
				}
				return &contracts.Reply{Epoch: 3, Floor: 1, Entries: f.numbered(q.Room, q.Read.From, q.Read.To+1)}, nil
			}
		}, contracts.CodeUnavailable},
		{"dispatcher of another epoch reads", func(f *world) {
			clear(f.cached)
			f.dispatch = func(q contracts.Question) (*contracts.Reply, error) {
				if q.Read == nil {
					return nil, nil
				}
				return &contracts.Reply{Epoch: 4, Floor: 1, Entries: f.numbered(q.Room, q.Read.From, q.Read.To)}, nil
			}
		}, contracts.CodeUnavailable},
		{"dispatcher without heads", func(f *world) {
			f.dispatch = func(contracts.Question) (*contracts.Reply, error) { return &contracts.Reply{Epoch: 3}, nil }
		}, contracts.CodeUnavailable},
		{"dispatcher does not own", func(f *world) {
			f.dispatch = func(contracts.Question) (*contracts.Reply, error) {
				return &contracts.Reply{Err: contracts.NewError(contracts.CodeUnavailable, "not mine")}, nil
			}
		}, contracts.CodeUnavailable},
		{"no dispatcher", func(f *world) {
			f.dispatch = func(contracts.Question) (*contracts.Reply, error) { return nil, rpc.ErrNoServer }
		}, contracts.CodeUnavailable},
		{"dispatcher silent", func(f *world) { f.silent = true }, contracts.CodeUnavailable},
	} {
		for _, body := range []string{`{"limit":60}`, `{"since":{"epoch":3,"seq":0}}`} {
			t.Run(tt.name+" "+body, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := full(t, 60)
					tt.setup(f)
					begun := time.Now()
					a := f.do(cmd(contracts.OpJoin, body))
					if tt.code != "" {
						wantErr(t, a, tt.code, "")
						if took := time.Since(begun); took != 4*time.Second {
							t.Errorf("gave up after %v", took)
						}
						if len(f.online["lobby"]) != 0 {
							t.Error("a failed join is listed as present")
						}
						return
					}
					if got := f.seqs(decode[contracts.JoinOK](t, a).Entries); got != "1 … 60 (60)" {
						t.Errorf("entries %q", got)
					}
				})
			})
		}
	}
}

// A dispatcher that comes back within the deadline costs nothing but the wait.
func TestJoinOutlastsAnAbsentDispatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := full(t, 5)
		f.dispatch = func(contracts.Question) (*contracts.Reply, error) { return nil, rpc.ErrNoServer }
		got := f.begin(cmd(contracts.OpJoin, `{}`))
		time.Sleep(2 * time.Second)
		f.set(func() { f.dispatch = nil })
		begun := time.Now()
		if j := decode[contracts.JoinOK](t, <-got); j.Head != 5 {
			t.Errorf("got %+v", j)
		}
		if took := time.Since(begun); took > 300*time.Millisecond {
			t.Errorf("answered %v after the dispatcher came back", took)
		}
	})
}

// An answer to a question asked before a join does not count for it: the head may have moved in between.
func TestJoinTakesNoOlderAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := full(t, 5)
		release := make(chan struct{})
		var first sync.Once
		f.dispatch = func(q contracts.Question) (*contracts.Reply, error) {
			var err error
			first.Do(func() { err = errors.New("held") })
			return nil, err
		}
		// The first question is answered late, with the head as it was then.
		ask := f.dispatch
		f.dispatch = func(q contracts.Question) (*contracts.Reply, error) {
			if _, err := ask(q); err != nil {
				f.mu.Unlock()
				<-release
				f.mu.Lock()
				return &contracts.Reply{Epoch: 3, Certain: true, Heads: []contracts.Head{{Seq: 5, Floor: 1}}}, nil
			}
			return nil, nil
		}
		early := make(chan contracts.Answer, 1)
		go func() { early <- <-f.begin(cmd(contracts.OpJoin, `{}`)) }()
		synctest.Wait()
		f.set(func() { f.head, f.truth, f.cached[6] = 6, 6, true })
		var late []<-chan contracts.Answer
		for range 20 {
			late = append(late, f.begin(cmd(contracts.OpJoin, `{}`)))
		}
		synctest.Wait()
		close(release)
		if j := decode[contracts.JoinOK](t, <-early); j.Head != 5 {
			t.Errorf("the first got head %d", j.Head)
		}
		for _, c := range late {
			if j := decode[contracts.JoinOK](t, <-c); j.Head != 6 {
				t.Errorf("a later join got head %d", j.Head)
			}
		}
		f.set(func() {
			if len(f.questions) != 2 {
				t.Errorf("%d questions for 21 joins", len(f.questions))
			}
		})
	})
}

// TestJoinsOfKnownRoomsShareQuestions: rooms that were answered for are asked about together, others alone, so that one
// that must be looked up holds up nobody; and after a question that failed each is alone again.
func TestJoinsOfKnownRoomsShareQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := full(t, 5)
		var rooms []contracts.RoomID // of one partition
		for i := 0; len(rooms) < 20; i++ {
			if room := contracts.RoomID(fmt.Sprint("room", i)); contracts.LaneOf(room).Partition(8) == 3 {
				rooms = append(rooms, room)
			}
		}
		cold, rooms := rooms[0], rooms[1:]
		away := false
		f.dispatch = func(q contracts.Question) (*contracts.Reply, error) {
			took := 10 * time.Millisecond
			if slices.Contains(q.Heads, cold) {
				took = time.Second
			}
			f.mu.Unlock()
			time.Sleep(took)
			f.mu.Lock()
			if away && len(q.Heads) > 1 {
				return nil, rpc.ErrTimeout
			}
			r := &contracts.Reply{Epoch: 3, Certain: true}
			for _, room := range q.Heads {
				r.Heads = append(r.Heads, contracts.Head{Seq: contracts.Seq(len(room)), Floor: 1})
			}
			return r, nil
		}
		joins := func(what string, questions int, within time.Duration) {
			t.Helper()
			f.set(func() { f.questions = nil })
			begun := time.Now()
			answers := make([]<-chan contracts.Answer, len(rooms))
			for i, room := range rooms {
				c := cmd(contracts.OpJoin, `{"limit":0}`)
				c.Room = room
				answers[i] = f.begin(c)
			}
			for i, room := range rooms {
				if j := decode[contracts.JoinOK](t, <-answers[i]); j.Room != room || j.Head != contracts.Seq(len(room)) {
					t.Errorf("%s: the join of %s is answered %+v", what, room, j)
				}
			}
			if took := time.Since(begun); took > within {
				t.Errorf("%s: took %v, want at most %v", what, took, within)
			}
			f.set(func() {
				if len(f.questions) != questions {
					t.Errorf("%s: %d questions, want %d", what, len(f.questions), questions)
				}
			})
		}
		joins("new rooms", 19, 10*time.Millisecond)
		c := cmd(contracts.OpJoin, `{"limit":0}`)
		c.Room = cold
		beside := f.begin(c)
		synctest.Wait()
		joins("known rooms beside one that is looked up", 2, 20*time.Millisecond) // one begins at once, for whoever came first
		decode[contracts.JoinOK](t, <-beside)
		away = true
		joins("a question that fails", 20, time.Second)
	})
}

// Five thousand joins of a few cold rooms must not become five thousand questions and page reads.
func TestJoinStormIsCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, func(c *workers.Config) { c.MaxInFlight = 10_000 })
		f.head, f.truth, f.stored, f.floor = 900, 900, 900, 901
		f.pageTime, f.turn = 10*time.Millisecond, false
		f.dispatch = func(contracts.Question) (*contracts.Reply, error) {
			f.mu.Unlock()
			time.Sleep(10 * time.Millisecond)
			f.mu.Lock()
			return nil, nil
		}
		var all []<-chan contracts.Answer
		for i := range 5000 {
			c := cmd(contracts.OpJoin, `{"since":{"epoch":3,"seq":880}}`)
			c.Room = contracts.RoomID(fmt.Sprintf("room%d", i%5))
			c.User = &contracts.Person{ID: contracts.UserID(fmt.Sprintf("u%d", i)), Name: "x"}
			got := make(chan contracts.Answer, 1)
			go func() { got <- <-f.begin(c) }()
			all = append(all, got)
		}
		for _, c := range all {
			if j := decode[contracts.JoinOK](t, <-c); len(j.Entries) != 20 {
				t.Fatalf("%d entries", len(j.Entries))
			}
		}
		f.set(func() {
			if len(f.questions) > 50 || f.pages > 50 {
				t.Errorf("%d questions and %d pages", len(f.questions), f.pages)
			}
		})
	})
}

// Whoever shares a read with somebody whose time runs out has it done again.
func TestReadOutlastsAnImpatientCompanion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		f.head, f.truth, f.stored, f.floor, f.pageTime = 60, 60, 60, 61, 2*time.Second
		impatient := cmd(contracts.OpHistory, `{}`)
		impatient.LeftMS = 1500
		first := f.begin(impatient)
		synctest.Wait()
		second := f.begin(cmd(contracts.OpHistory, `{}`))
		wantErr(t, <-first, contracts.CodeUnavailable, "")
		if h := decode[contracts.HistoryOK](t, <-second); len(h.Entries) != 50 {
			t.Errorf("%d entries", len(h.Entries))
		}
		if f.pages != 2 {
			t.Errorf("%d pages read", f.pages)
		}
	})
}

func TestJoinMakesAMemberOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := full(t, 5)
		for range 3 {
			decode[contracts.JoinOK](t, f.do(cmd(contracts.OpJoin, `{}`)))
		}
		f.set(func() {
			if n := f.joined["lobby/u1"]; n != 1 {
				t.Errorf("written %d times", n)
			}
		})
	})
}

// TestMembershipsShareWrites: what comes while a write is under way is written together.
func TestMembershipsShareWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := full(t, 5)
		f.joinTime = 50 * time.Millisecond
		var answers []<-chan contracts.Answer
		const people = 400
		for i := range people {
			c := cmd(contracts.OpJoin, `{}`)
			c.User = &contracts.Person{ID: contracts.UserID(fmt.Sprint("u", i)), Name: "x"}
			answers = append(answers, f.begin(c))
		}
		for _, a := range answers {
			decode[contracts.JoinOK](t, <-a)
		}
		time.Sleep(time.Second)
		f.set(func() {
			if len(f.joined) != people || f.joins > 5 {
				t.Errorf("%d memberships in %d writes", len(f.joined), f.joins)
			}
		})
	})
}

// A store that is away delays the membership, never the join.
func TestMembershipIsWrittenWhenTheStoreComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := full(t, 5)
		f.storeDown = true
		begun := time.Now()
		decode[contracts.JoinOK](t, f.do(cmd(contracts.OpJoin, `{}`)))
		if took := time.Since(begun); took > 200*time.Millisecond {
			t.Errorf("the join took %v", took)
		}
		time.Sleep(time.Minute)
		f.set(func() { f.storeDown, f.joined["lobby/u1"] = false, 0 })
		time.Sleep(10 * time.Second)
		f.set(func() {
			if n := f.joined["lobby/u1"]; n != 1 {
				t.Errorf("written %d times after the store came back", n)
			}
		})
	})
}

func TestQuitCallsOffAMembershipNotYetWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := full(t, 5)
		f.storeDown = true
		decode[contracts.JoinOK](t, f.do(cmd(contracts.OpJoin, `{}`)))
		wantErr(t, f.do(cmd(contracts.OpLeave, `{"quit":true}`)), contracts.CodeUnavailable, "")
		f.set(func() { f.storeDown = false; clear(f.joined) })
		decode[struct{}](t, f.do(cmd(contracts.OpLeave, `{"quit":true}`)))
		time.Sleep(time.Minute)
		f.set(func() {
			if len(f.joined) != 0 {
				t.Errorf("a member again: %v", f.joined)
			}
		})
		decode[contracts.JoinOK](t, f.do(cmd(contracts.OpJoin, `{}`)))
		f.set(func() {
			if f.joined["lobby/u1"] != 1 {
				t.Error("joining again does not make a member")
			}
		})
	})
}

func TestMembershipsThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, func(c *workers.Config) { c.MaxMemberWrites = 20 })
		f.storeDown = true
		for i := range 30 {
			c := cmd(contracts.OpJoin, `{}`)
			c.User = &contracts.Person{ID: contracts.UserID(fmt.Sprintf("u%d", i)), Name: "x"}
			decode[contracts.JoinOK](t, f.do(c))
		}
		f.set(func() { f.storeDown = false; clear(f.joined) })
		time.Sleep(time.Minute)
		f.set(func() {
			if len(f.joined) != 20 {
				t.Errorf("%d written, want the 20 that the queue holds", len(f.joined))
			}
		})
	})
}

func TestCloseWaitsForWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := full(t, 5)
		f.silent = true
		got := f.begin(cmd(contracts.OpHistory, `{}`))
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.w.Close(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close with a request in flight: %v", err)
		}
		wantErr(t, <-got, contracts.CodeUnavailable, "")
		if err := f.w.Ready(); err == nil {
			t.Error("ready after close")
		}
		wantErr(t, f.do(cmd(contracts.OpPing, `{}`)), contracts.CodeOverloaded, "")
	})
}
