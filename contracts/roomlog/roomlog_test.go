package roomlog_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
)

// identity makes a message of a room whose key carries the time ms.
func identity(room string, ms int64, n uint64) contracts.Identity {
	var k contracts.Key
	for i := range 6 {
		k[i] = byte(ms >> (40 - 8*i))
	}
	k[6], k[8] = 0x70, 0x80
	for i := range 7 {
		k[15-i] = byte(n >> (8 * i))
	}
	return contracts.Identity{Room: contracts.RoomID(room), Sender: "ada", Key: k}
}

func found(seq contracts.Seq, offset int64) roomlog.Found {
	return roomlog.Found{Seq: seq, Position: contracts.Position{Epoch: 1, Offset: offset}}
}

// script drives a Sequencer and says what came of it in one line per event.
type script struct {
	*roomlog.Sequencer
	got []string
}

func (s *script) take() {
	for _, o := range s.Take() {
		what := "new"
		if o.Duplicate {
			what = "dup"
		}
		s.got = append(s.got, fmt.Sprintf("%d=%s %d", o.Offset, what, o.Seq))
	}
}

func (s *script) push(offset int64, id contracts.Identity) {
	s.Push(offset, id)
	s.take()
}

// ask takes a Lookup and notes its questions.
func (s *script) ask() *roomlog.Lookup {
	l := s.Lookup(roomlog.MaxQuestions)
	if l == nil {
		s.got = append(s.got, "no questions")
		return nil
	}
	for _, q := range l.Heads {
		s.got = append(s.got, fmt.Sprintf("head %s<%d", q.Room, q.Before.Offset))
	}
	for _, q := range l.Entries {
		s.got = append(s.got, fmt.Sprintf("key %s/%d<%d", q.Identity.Room, q.Identity.Key.Time(), q.Before.Offset))
	}
	return l
}

func (s *script) answer(l *roomlog.Lookup, entries, heads []roomlog.Found) {
	s.Answer(l, entries, heads)
	s.take()
}

func TestSequencer(t *testing.T) {
	none := roomlog.Found{}
	tests := []struct {
		name string
		k    int64 // K at the start, at offset 100
		do   func(s *script)
		want []string
	}{
		{
			name: "a room goes on from its newest row below the record",
			do: func(s *script) {
				s.push(100, identity("a", 10, 1))
				s.answer(s.ask(), nil, []roomlog.Found{found(7, 90)})
				s.push(101, identity("a", 11, 2))
			},
			want: []string{"head a<100", "100=new 8", "101=new 9"},
		},
		{
			name: "a held key is a duplicate whatever its time",
			k:    50,
			do: func(s *script) {
				s.push(100, identity("a", 60, 1))
				s.answer(s.ask(), nil, []roomlog.Found{none})
				s.push(101, identity("a", 60, 1))
				s.push(102, identity("a", 61, 2))
			},
			want: []string{"head a<100", "100=new 1", "101=dup 1", "102=new 2"},
		},
		{
			name: "a key time not above K asks, one above does not",
			k:    50,
			do: func(s *script) {
				s.push(100, identity("a", 50, 1))
				s.push(101, identity("a", 51, 2))
				s.answer(s.ask(), []roomlog.Found{none}, []roomlog.Found{found(3, 20)})
			},
			want: []string{"head a<100", "key a/50<100", "100=new 4", "101=new 5"},
		},
		{
			name: "a row found is a duplicate",
			k:    50,
			do: func(s *script) {
				s.push(100, identity("a", 40, 1))
				s.answer(s.ask(), []roomlog.Found{found(2, 19)}, []roomlog.Found{found(3, 20)})
			},
			want: []string{"head a<100", "key a/40<100", "100=dup 2"},
		},
		{
			name: "the copy behind a waiting record is a duplicate although the store knew of neither",
			k:    50,
			do: func(s *script) {
				s.push(100, identity("a", 40, 1))
				s.push(101, identity("a", 40, 1))
				s.answer(s.ask(), []roomlog.Found{none, none}, []roomlog.Found{none})
			},
			want: []string{"head a<100", "key a/40<100", "key a/40<101", "100=new 1", "101=dup 1"},
		},
		{
			name: "only the waiting room waits",
			do: func(s *script) {
				s.push(100, identity("a", 10, 1))
				l := s.ask()
				s.push(101, identity("b", 10, 2))
				s.answer(s.ask(), nil, []roomlog.Found{none})
				s.push(102, identity("b", 11, 3))
				s.push(103, identity("a", 11, 4))
				s.got = append(s.got, fmt.Sprint("low ", s.Low()))
				s.answer(l, nil, []roomlog.Found{none})
				s.got = append(s.got, fmt.Sprint("low ", s.Low()))
			},
			want: []string{"head a<100", "head b<101", "101=new 1", "102=new 2", "low 100", "100=new 1", "103=new 2", "low 104"},
		},
		{
			name: "a failed look-up is asked again, with the bounds of the records",
			k:    50,
			do: func(s *script) {
				s.push(100, identity("a", 40, 1))
				l := s.ask()
				s.push(101, identity("a", 41, 2))
				s.ask()
				s.Failed(l)
				s.answer(s.ask(), []roomlog.Found{none, found(1, 5)}, []roomlog.Found{found(1, 5)})
			},
			want: []string{
				"head a<100", "key a/40<100", "no questions",
				"head a<100", "key a/40<100", "key a/41<101", "100=new 2", "101=dup 1",
			},
		},
		{
			name: "a wanted room is asked as if a record came next",
			do: func(s *script) {
				s.Skip(100)
				s.Want("a")
				s.Want("a")
				_, held := s.Head("a")
				s.got = append(s.got, fmt.Sprint("held ", held, " low ", s.Low()))
				l := s.ask()
				s.push(101, identity("a", 10, 1))
				s.answer(l, nil, []roomlog.Found{found(4, 4)})
				head, held := s.Head("a")
				s.got = append(s.got, fmt.Sprint(head, held))
				s.Want("a")
				s.ask()
			},
			want: []string{"held false low 101", "head a<101", "101=new 5", "5 true", "no questions"},
		},
		{
			name: "a room that is held forgets nothing for a question",
			do: func(s *script) {
				s.push(100, identity("a", 10, 1))
				s.answer(s.ask(), nil, []roomlog.Found{none})
				s.Want("a")
				s.ask()
				head, _ := s.Head("a")
				s.got = append(s.got, fmt.Sprint("head ", head))
			},
			want: []string{"head a<100", "100=new 1", "no questions", "head 1"},
		},
		{
			name: "forgotten keys raise K and are asked for",
			do: func(s *script) {
				s.push(100, identity("a", 10, 1))
				s.answer(s.ask(), nil, []roomlog.Found{none})
				s.push(101, identity("a", 30, 2))
				s.ForgetKeys(101)
				s.push(102, identity("a", 10, 1))
				s.answer(s.ask(), []roomlog.Found{found(1, 100)}, nil)
				s.push(103, identity("a", 11, 3))
				s.push(104, identity("a", 30, 2))
			},
			want: []string{"head a<100", "100=new 1", "101=new 2", "key a/10<102", "102=dup 1", "103=new 3", "104=dup 2"},
		},
		{
			name: "what was read ahead is not used after a forgetting, unless it found a row",
			k:    50,
			do: func(s *script) {
				s.push(100, identity("b", 60, 1))
				s.answer(s.ask(), nil, []roomlog.Found{none})
				for i := range int64(4) {
					s.push(101+i, identity("a", 40+i, uint64(i)))
				}
				l := s.ask()
				s.ForgetKeys(101)
				s.answer(l, []roomlog.Found{none, found(1, 3), none, found(2, 4)}, []roomlog.Found{found(9, 9)})
				s.answer(s.ask(), []roomlog.Found{none}, nil)
			},
			want: []string{
				"head b<100", "100=new 1",
				"head a<101", "key a/40<101", "key a/41<102", "key a/42<103", "key a/43<104",
				"101=new 10", "102=dup 1", "key a/42<103", "103=new 11", "104=dup 2",
			},
		},
		{
			name: "a record that needed no question when it queued is asked for after a forgetting",
			k:    50,
			do: func(s *script) {
				s.push(100, identity("b", 60, 1))
				s.answer(s.ask(), nil, []roomlog.Found{none})
				s.push(101, identity("a", 55, 1))
				l := s.ask()
				s.ForgetKeys(101)
				s.answer(l, nil, []roomlog.Found{none})
				s.answer(s.ask(), []roomlog.Found{none}, nil)
			},
			want: []string{"head b<100", "100=new 1", "head a<101", "key a/55<101", "101=new 1"},
		},
		{
			name: "the same key of another room or sender is another message",
			do: func(s *script) {
				bob := identity("a", 10, 1)
				bob.Sender = "bob"
				s.push(100, identity("a", 10, 1))
				s.push(101, identity("b", 10, 1))
				s.answer(s.ask(), nil, []roomlog.Found{none, none})
				s.push(102, bob)
				s.push(103, identity("a", 10, 1))
				s.push(104, identity("b", 10, 1))
				s.push(105, bob)
				s.ForgetKeys(102)
				s.push(106, bob)
				s.push(107, identity("b", 10, 1))
				s.ask()
			},
			want: []string{
				"head a<100", "head b<101", "100=new 1", "101=new 1", "102=new 2",
				"103=dup 1", "104=dup 1", "105=dup 2", "106=dup 2", "key b/10<107",
			},
		},
		{
			name: "a row of an earlier epoch counts",
			do: func(s *script) {
				s.push(100, identity("a", 10, 1))
				s.answer(s.ask(), nil, []roomlog.Found{{Seq: 5, Position: contracts.Position{Epoch: 0, Offset: 900}}})
				s.ForgetRooms(101)
				s.push(101, identity("a", 11, 2))
				s.answer(s.ask(), nil, []roomlog.Found{found(6, 100)})
			},
			want: []string{"head a<100", "100=new 6", "head a<101", "101=new 7"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{Sequencer: roomlog.New(1, 100, tt.k, roomlog.Limits{Rooms: 1})}
			tt.do(s)
			if d := cmp.Diff(tt.want, s.got); d != "" {
				t.Errorf("events (-want +got):\n%s", d)
			}
		})
	}
}

// answerNone answers every question with "no such row".
func answerNone(s *roomlog.Sequencer) (questions int) {
	for l := s.Lookup(roomlog.MaxQuestions); l != nil; l = s.Lookup(roomlog.MaxQuestions) {
		s.Answer(l, make([]roomlog.Found, len(l.Entries)), make([]roomlog.Found, len(l.Heads)))
		questions += len(l.Entries) + len(l.Heads)
	}
	return questions
}

func TestForgetKeysByAge(t *testing.T) {
	s := roomlog.New(1, 0, 0, roomlog.Limits{})
	start := time.Unix(1_790_000_000, 0)
	for i := range int64(600) { // one a second
		s.Push(i, identity("a", 1000+i, 0))
		answerNone(s)
		s.Forget(i-20, start.Add(time.Duration(i)*time.Second))
	}
	held := 0
	for i := range int64(600) {
		if _, ok := s.Find(identity("a", 1000+i, 0)); ok {
			held++
		}
	}
	if want := int(roomlog.KeepKeys / time.Second); held < want || held > want+2 {
		t.Errorf("%d keys held after ten minutes of one a second, want about %d", held, want)
	}
	s.Forget(100, start.Add(time.Hour))
	s.Forget(100, start.Add(2*time.Hour))
	if _, ok := s.Find(identity("a", 1000+599, 0)); !ok {
		t.Error("a key above the checkpoint was forgotten")
	}
}

func TestForgetKeysByNumber(t *testing.T) {
	s := roomlog.New(1, 0, 0, roomlog.Limits{Keys: 100})
	now := time.Unix(1_790_000_000, 0)
	for i := range int64(150) {
		s.Push(i, identity("a", 1000+i, 0))
		answerNone(s)
	}
	for _, tt := range []struct {
		checkpoint int64
		first      int64 // the lowest offset whose key is held then
	}{{checkpoint: 30, first: 30}, {checkpoint: 150, first: 75}, {checkpoint: 150, first: 75}} {
		s.Forget(tt.checkpoint, now)
		for i := range int64(150) {
			if _, held := s.Find(identity("a", 1000+i, 0)); held != (i >= tt.first) {
				t.Fatalf("checkpoint %d: key of offset %d held: %v", tt.checkpoint, i, held)
			}
		}
	}
}

func TestForgetRooms(t *testing.T) {
	s := roomlog.New(1, 0, 0, roomlog.Limits{Rooms: 10})
	now := time.Unix(1_790_000_000, 0)
	name := func(i int64) string { return fmt.Sprint("r", i) }
	for i := range int64(20) {
		s.Push(i, identity(name(i), 1000, 0))
	}
	answerNone(s)
	s.Push(20, identity(name(2), 1001, 0)) // the longest unused are now r0 r1 r3 r4 …
	s.Push(21, identity("waits", 1002, 0))
	s.Forget(5, now)
	var held []string
	for i := range int64(20) {
		if _, ok := s.Head(contracts.RoomID(name(i))); ok {
			held = append(held, name(i))
		}
	}
	want := []string{"r2"} // used since; and r5 and above are not stored
	for i := int64(5); i < 20; i++ {
		want = append(want, name(i))
	}
	if d := cmp.Diff(want, held); d != "" {
		t.Errorf("rooms held (-want +got):\n%s", d)
	}
	s.Forget(22, now)
	answerNone(s)
	if seq, ok := s.Head("waits"); !ok || seq != 1 {
		t.Errorf("the waiting room has head %d, %v; it must not be forgotten", seq, ok)
	}
	if seq, ok := s.Head("r2"); !ok || seq != 2 {
		t.Errorf("the last used room has head %d, %v; it must be the last forgotten", seq, ok)
	}
}

func TestKeyTimeCoversWhatWaits(t *testing.T) {
	s := roomlog.New(1, 0, 70, roomlog.Limits{})
	if k := s.KeyTime(); k != 70 {
		t.Errorf("KeyTime = %d at the start, want K as given", k)
	}
	s.Push(0, identity("a", 90, 1))
	s.Push(1, identity("a", 80, 2))
	if k := s.KeyTime(); k != 90 {
		t.Errorf("KeyTime = %d, want 90", k)
	}
}

func TestLookupIsBounded(t *testing.T) {
	const rooms, perRoom = 1500, 3
	s := roomlog.New(1, 0, 5000, roomlog.Limits{})
	for i := range int64(rooms * perRoom) {
		s.Push(i, identity(fmt.Sprint("r", i%rooms), 1000, uint64(i)))
	}
	l := s.Lookup(roomlog.MaxQuestions)
	if n := len(l.Entries) + len(l.Heads); n > 2600 {
		t.Errorf("%d questions in one Lookup", n)
	}
	s.Failed(l)
	if n, want := answerNone(s), rooms*(perRoom+1); n != want {
		t.Errorf("%d questions in all, want %d", n, want)
	}
	if got := len(s.Take()); got != rooms*perRoom {
		t.Errorf("%d outcomes, want %d", got, rooms*perRoom)
	}
	if low := s.Low(); low != s.Next() {
		t.Errorf("Low = %d, want Next = %d", low, s.Next())
	}
}

func BenchmarkPush(b *testing.B) {
	const rooms, window = 1000, 1 << 16
	ids := make([]contracts.Identity, 4*window)
	for i := range ids {
		ids[i] = identity(fmt.Sprint("room-", i%rooms), 1_790_000_000_000+int64(i), uint64(i))
		ids[i].Sender = contracts.UserID(fmt.Sprint("user-", i%5000))
	}
	b.Run("new", func(b *testing.B) {
		s := roomlog.New(1, 0, 0, roomlog.Limits{})
		for i := range rooms {
			s.Want(ids[i].Room)
		}
		answerNone(s)
		b.ReportAllocs()
		i := 0
		for b.Loop() { // the identities come around after they were forgotten
			s.Push(int64(i), ids[i%len(ids)])
			i++
			if i%512 == 0 {
				s.Take()
			}
			if i%window == 0 {
				s.ForgetKeys(int64(i - window/2))
				s.SetKeyTime(0)
			}
		}
	})
	b.Run("duplicate", func(b *testing.B) {
		s := roomlog.New(1, 0, 0, roomlog.Limits{})
		for i := range window {
			s.Push(int64(i), ids[i])
		}
		answerNone(s)
		s.Take()
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			s.Push(int64(window+i), ids[i%window])
			i++
			if i%512 == 0 {
				s.Take()
			}
		}
	})
}
