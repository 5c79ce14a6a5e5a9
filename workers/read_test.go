package workers_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/workers"
)

func TestHistory(t *testing.T) {
	for _, tt := range []struct {
		head    contracts.Seq
		body    string
		entries string
		more    bool
	}{
		{0, `{}`, "", false},
		{0, `{"before":5}`, "", false},
		{0, `{"after":5}`, "", false},
		{5, `{}`, "1 2 3 4 5", false},
		{60, `{}`, "11 … 60 (50)", true},
		{600, `{"limit":1000000000}`, "401 … 600 (200)", true},
		{60, `{"limit":0}`, "", true},
		{0, `{"limit":0}`, "", false},
		{60, `{"before":4}`, "1 2 3", false},
		{60, `{"before":4,"limit":2}`, "2 3", true},
		{60, `{"before":4,"limit":3}`, "1 2 3", false},
		{60, `{"before":1}`, "", false},
		{60, `{"before":0}`, "", false},
		{60, `{"before":61,"limit":1}`, "60", true},
		{60, `{"before":9007199254740991,"limit":1}`, "60", true},
		{60, `{"before":2,"limit":0}`, "", true},
		{60, `{"after":0,"limit":2}`, "1 2", true},
		{60, `{"after":57}`, "58 59 60", false},
		{60, `{"after":57,"limit":3}`, "58 59 60", false},
		{60, `{"after":57,"limit":2}`, "58 59", true},
		{60, `{"after":60}`, "", false},
		{60, `{"after":9007199254740991}`, "", false},
		{60, `{"after":59,"limit":0}`, "", true},
	} {
		t.Run(fmt.Sprint(tt.head, tt.body), func(t *testing.T) {
			f := full(t, tt.head)
			h := decode[contracts.HistoryOK](t, f.do(cmd(contracts.OpHistory, tt.body)))
			if got := f.seqs(h.Entries); got != tt.entries || h.More != tt.more || h.Head != tt.head || h.Epoch != 3 || h.Entries == nil {
				t.Errorf("entries %q, more %v, head %d, epoch %d", got, h.More, h.Head, h.Epoch)
			}
		})
	}
}

// A page that is too large loses entries on the far side of where it was asked for.
func TestHistoryIsCutAtWholeEntries(t *testing.T) {
	size := func(cfg *workers.Config) { cfg.Limits.ReplyBytes = 1000 }
	for body, want := range map[string]string{
		`{}`:                        "56 57 58 59 60",
		`{"before":31,"limit":200}`: "26 27 28 29 30",
		`{"after":10,"limit":200}`:  "11 12 13 14 15",
	} {
		f := newWorld(t, size)
		f.head, f.truth, f.stored, f.floor = 60, 60, 60, 20
		h := decode[contracts.HistoryOK](t, f.do(cmd(contracts.OpHistory, body)))
		if got := f.seqs(h.Entries); got != want || !h.More {
			t.Errorf("%s: entries %q, more %v", body, got, h.More)
		}
	}
	f := newWorld(t, func(cfg *workers.Config) { cfg.Limits.ReplyBytes = 10 })
	f.head, f.truth, f.floor = 2, 2, 1
	if h := decode[contracts.HistoryOK](t, f.do(cmd(contracts.OpHistory, `{}`))); f.seqs(h.Entries) != "2" {
		t.Errorf("one entry always fits, got %d", len(h.Entries))
	}
}

func TestRepair(t *testing.T) {
	repair := func(from, to contracts.Seq) contracts.Command {
		c := cmd(contracts.OpRepair, ``)
		c.Body, c.User = nil, nil
		c.Range = &contracts.Range{Epoch: 3, From: from, To: to}
		return c
	}
	t.Run("all", func(t *testing.T) {
		f := full(t, 600)
		clear(f.cached)
		a := f.do(repair(150, 320))
		if a.Err != nil {
			t.Fatal(a.Err)
		}
		if diff := cmp.Diff(f.numbered("lobby", 150, 320), a.Entries); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("as many as fit", func(t *testing.T) {
		f := newWorld(t, func(cfg *workers.Config) { cfg.Limits.ReplyBytes = 1000 })
		f.head, f.truth, f.stored, f.floor = 60, 60, 60, 61
		a := f.do(repair(5, 50))
		if a.Err != nil || len(a.Entries) == 0 || len(a.Entries) > 5 {
			t.Fatalf("got %d entries, %v", len(a.Entries), a.Err)
		}
		if diff := cmp.Diff(f.numbered("lobby", 5, 4+contracts.Seq(len(a.Entries))), a.Entries); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("not stored yet", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := full(t, 60)
			clear(f.cached)
			f.floor, f.stored = 61, 4
			wantErr(t, f.do(repair(5, 50)), contracts.CodeUnavailable, "")
		})
	})
}

func TestStatus(t *testing.T) {
	key := contracts.Key{6: 0x70, 8: 0x80, 15: 9}
	id := contracts.Identity{Room: "lobby", Sender: "u1", Key: key}
	for _, tt := range []struct {
		name  string
		setup func(*world)
		want  contracts.StatusOK
		code  contracts.Code
	}{
		{"unknown", func(*world) {}, contracts.StatusOK{State: "not_found"}, ""},
		{"numbered", func(f *world) { f.finds(id, 7) }, contracts.StatusOK{State: "logged", Seq: 7}, ""},
		{"stored and held", func(f *world) { f.finds(id, 7); f.found[id] = 7 }, contracts.StatusOK{State: "stored", Seq: 7}, ""},
		{"stored and forgotten", func(f *world) { f.found[id] = 7 }, contracts.StatusOK{State: "stored", Seq: 7}, ""},
		{"somebody else's", func(f *world) {
			other := id
			other.Sender = "u2"
			f.found[other] = 7
		}, contracts.StatusOK{State: "not_found"}, ""},
		{"numbered, store away", func(f *world) { f.finds(id, 7); f.storeDown = true }, contracts.StatusOK{State: "logged", Seq: 7}, ""},
		{"store away", func(f *world) { f.storeDown = true }, contracts.StatusOK{}, contracts.CodeUnavailable},
		{"dispatcher away", func(f *world) {
			f.dispatch = func(contracts.Question) (*contracts.Reply, error) { return nil, rpc.ErrDown }
		}, contracts.StatusOK{}, contracts.CodeUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newWorld(t, nil)
				tt.setup(f)
				a := f.do(cmd(contracts.OpStatus, `{"key":"`+key.String()+`"}`))
				if tt.code != "" {
					wantErr(t, a, tt.code, "")
					return
				}
				if got := decode[contracts.StatusOK](t, a); got != tt.want {
					t.Errorf("got %+v", got)
				}
			})
		})
	}
}

// finds makes the dispatcher know a message.
func (f *world) finds(id contracts.Identity, seq contracts.Seq) {
	f.dispatch = func(q contracts.Question) (*contracts.Reply, error) {
		if q.Find == nil || *q.Find != id {
			return nil, nil
		}
		return &contracts.Reply{Epoch: 3, Found: seq}, nil
	}
}

func TestRooms(t *testing.T) {
	info := func(ids ...contracts.RoomID) (all []contracts.RoomInfo) {
		for _, id := range ids {
			all = append(all, contracts.RoomInfo{ID: id, Name: "#" + string(id), Kind: "public"})
		}
		return all
	}
	for _, tt := range []struct {
		body string
		want string
		more bool
	}{
		{`{}`, "a+ lobby+ z+", false},
		{`{"limit":2}`, "a+ lobby+", true},
		{`{"limit":0}`, "", true},
		{`{"after":"a"}`, "lobby+ z+", false},
		{`{"after":"z"}`, "", false},
		{`{"all":true}`, "a+ b lobby+ y z+", false},
		{`{"all":true,"limit":2}`, "a+ b", true},
		{`{"all":true,"after":"b","limit":2}`, "lobby+ y", true},
		{`{"all":true,"after":"y"}`, "z+", false},
	} {
		f := newWorld(t, nil)
		f.head = 9
		f.members["u1"] = info("a", "lobby", "z")
		f.public = info("a", "b", "y")
		f.public = append(f.public, info("z")...)
		got := decode[contracts.RoomsOK](t, f.do(cmd(contracts.OpRooms, tt.body)))
		var list string
		for i, r := range got.Rooms {
			if i > 0 {
				list += " "
			}
			list += string(r.Room)
			if r.Role == "member" {
				list += "+"
			}
			if r.Name != "#"+string(r.Room) || r.Kind != "public" || r.Head != 9 || r.Epoch != 3 {
				t.Errorf("room %+v", r)
			}
		}
		if list != tt.want || got.More != tt.more || got.Rooms == nil {
			t.Errorf("%s: %q more %v, want %q more %v", tt.body, list, got.More, tt.want, tt.more)
		}
	}
	t.Run("the lobby is always there", func(t *testing.T) {
		f := newWorld(t, nil)
		got := decode[contracts.RoomsOK](t, f.do(cmd(contracts.OpRooms, `{"all":true}`)))
		want := []contracts.RoomOK{{Room: "lobby", Name: "lobby", Kind: "public", Epoch: 3}}
		if diff := cmp.Diff(want, got.Rooms); diff != "" {
			t.Error(diff)
		}
		if len(decode[contracts.RoomsOK](t, f.do(cmd(contracts.OpRooms, `{}`))).Rooms) != 0 {
			t.Error("listed for somebody who never joined it")
		}
	})
	t.Run("one question per partition", func(t *testing.T) {
		f := newWorld(t, nil)
		for i := range 100 {
			f.public = append(f.public, contracts.RoomInfo{ID: contracts.RoomID(fmt.Sprintf("r%03d", i))})
		}
		decode[contracts.RoomsOK](t, f.do(cmd(contracts.OpRooms, `{"all":true,"limit":200}`)))
		if len(f.questions) != 8 {
			t.Errorf("%d questions", len(f.questions))
		}
	})
	t.Run("without the store or a dispatcher", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newWorld(t, nil)
			f.storeDown = true
			wantErr(t, f.do(cmd(contracts.OpRooms, `{}`)), contracts.CodeUnavailable, "")
			f.set(func() { f.storeDown, f.silent = false, true })
			wantErr(t, f.do(cmd(contracts.OpRooms, `{"all":true}`)), contracts.CodeUnavailable, "")
		})
	})
}

// TestOldMessagesAreHidden wherever they are read: the cache and the dispatcher still have their text.
func TestOldMessagesAreHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hidden = 30
		then := time.UnixMilli(1_790_000_000_000 + hidden + 1) // an entry is as many milliseconds later as its seq
		time.Sleep(time.Until(then.Add(24 * time.Hour)))
		for name, place := range map[string]func(f *world){
			"cache":      func(f *world) { f.floor = 61 },
			"dispatcher": func(f *world) { f.cacheDown = true },
			"store":      func(f *world) { f.cacheDown, f.floor = true, 61 },
			"two places": func(f *world) { f.cacheDown, f.floor = true, 25 },
		} {
			f := newWorld(t, func(c *workers.Config) { c.Retain = 24 * time.Hour })
			f.head, f.truth, f.stored = 60, 60, 60
			for seq := range contracts.Seq(60) {
				f.cached[seq+1] = true
			}
			place(f)
			var join contracts.JoinOK
			for _, c := range []contracts.Command{
				cmd(contracts.OpHistory, `{"limit":60}`), cmd(contracts.OpJoin, `{"limit":60}`), cmd(contracts.OpJoin, `{"since":{"epoch":3,"seq":0}}`),
			} {
				join = decode[contracts.JoinOK](t, f.do(c))
				if len(join.Entries) != 60 {
					t.Fatalf("%s: %d entries of 60", name, len(join.Entries))
				}
				for i, raw := range join.Entries {
					e := f.entry("lobby", contracts.Seq(i+1))
					if e.Seq <= hidden {
						e.Blank()
					}
					if want := string(contracts.AppendEntry(nil, &e)); string(raw) != want {
						t.Fatalf("%s: entry %d is\n%s, want\n%s", name, e.Seq, raw, want)
					}
				}
			}
		}
	})
}
