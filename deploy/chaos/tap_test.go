package chaos

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/check"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tapped is a client behind a recorder, frame by frame.
type tapped struct {
	*testing.T
	file  bytes.Buffer
	out   *history.Writer
	tally *tally
	rec   *recorder
	conn  net.Conn // the client's
	peer  net.Conn // the server's
}

func newTapped(t *testing.T) *tapped {
	w := &tapped{T: t, tally: &tally{}}
	w.out = history.NewWriter(&w.file)
	w.rec = newRecorder("c", w.out, w.tally, func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		w.peer = server
		return client, nil
	})
	w.connect()
	return w
}

// connect opens a connection and goes through the HTTP heads.
func (w *tapped) connect() {
	w.Helper()
	conn, err := w.rec.Dial(w.Context(), "tcp", "")
	if err != nil {
		w.Fatal(err)
	}
	w.conn = conn
	w.Cleanup(func() { conn.Close() })
	w.write([]byte("GET /v1/ws HTTP/1.1\r\nHost: x\r\n\r\n"))
	w.deliver([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"))
}

// write writes as the client does, in pieces.
func (w *tapped) write(b []byte) {
	w.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, w.peer, int64(len(b)))
		done <- err
	}()
	for len(b) > 0 {
		n := min(3, len(b))
		if _, err := w.conn.Write(b[:n]); err != nil {
			w.Fatal(err)
		}
		b = b[n:]
	}
	if err := <-done; err != nil {
		w.Fatal(err)
	}
}

// deliver writes as the server does and reads it as the client does.
func (w *tapped) deliver(b []byte) {
	w.Helper()
	go func() { _, _ = w.peer.Write(b) }()
	for got := 0; got < len(b); {
		n, err := w.conn.Read(make([]byte, 7))
		if err != nil {
			w.Fatal(err)
		}
		got += n
	}
}

// ask writes a request.
func (w *tapped) ask(format string, args ...any) {
	w.Helper()
	w.write(ws.MustCompileFrame(ws.MaskFrameInPlace(ws.NewTextFrame([]byte(fmt.Sprintf(format, args...))))))
}

// hear delivers a frame of the server.
func (w *tapped) hear(format string, args ...any) {
	w.Helper()
	w.deliver(ws.MustCompileFrame(ws.NewTextFrame([]byte(fmt.Sprintf(format, args...)))))
}

const entry = `{"event":"message","room":"r","seq":%d,"epoch":1,"time":1,"from":{"id":"u","name":"U"},"key":"01890a5d-ac96-774b-bcce-b302099a8057","text":"hi"}`

func (w *tapped) entry(seq int) { w.Helper(); w.hear(entry, seq) }

// join asks for the room and answers.
func (w *tapped) join(id int, since, state string, head int, entries ...int) {
	w.Helper()
	w.ask(`{"id":%d,"op":"join","room":"r"%s}`, id, since)
	w.joined(id, state, head, entries...)
}

func (w *tapped) joined(id int, state string, head int, entries ...int) {
	w.Helper()
	var list []string
	for _, seq := range entries {
		list = append(list, fmt.Sprintf(entry, seq))
	}
	w.hear(`{"id":%d,"ok":{"room":"r","state":"%s","epoch":1,"head":%d,"first":1,"entries":[%s],"online":1}}`, id, state, head, strings.Join(list, ","))
}

// saw compares what was written down, one word a line, and what was found odd.
func (w *tapped) saw(odd string, want ...string) {
	w.Helper()
	if err := w.out.Flush(); err != nil {
		w.Fatal(err)
	}
	var got []string
	checker := check.New(check.Config{AckShare: 0.01})
	err := history.Read("x", bytes.NewReader(w.file.Bytes()), func(e history.Event) {
		checker.Add(e)
		s := fmt.Sprintf("%d %s", e.Conn, e.Kind)
		if e.Since != nil && e.Kind == history.Joining {
			s += fmt.Sprintf(" since %d", e.Since.Seq)
		}
		switch e.Kind {
		case history.Received, history.Stored:
			s += fmt.Sprintf(" %d", e.Seq)
		case history.Joined:
			s += fmt.Sprintf(" %s %d:", e.State, e.Head)
			for _, in := range e.Entries {
				s += fmt.Sprintf(" %d", in.Seq)
			}
		case history.Gap:
			s += fmt.Sprintf(" %d-%d", e.From, e.To)
		case history.Answered:
			s += " " + string(e.Outcome)
		}
		if e.Code != "" {
			s += " " + e.Code
		}
		got = append(got, s)
	})
	if err != nil {
		w.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.Errorf("written down (-want +got):\n%s", diff)
	}
	// What a client may well see must not read as a broken promise.
	for kind, n := range checker.Finish().Counts {
		if odd == "" && kind != check.Ghost { // the entries' senders are not part of these histories
			w.Errorf("the checker finds %s × %d", kind, n)
		}
	}
	if found := strings.Join(w.tally.violations(), "; "); odd == "" && found != "" || !strings.Contains(found, odd) {
		w.Errorf("found odd: %q, want %q", found, odd)
	}
}

func TestTapInOrder(t *testing.T) {
	w := newTapped(t)
	w.ask(`{"id":1,"op":"connect","guest":"U"}`)
	w.hear(`{"id":1,"ok":{"user":{"id":"u","name":"U"},"ping":25}}`)
	w.join(2, "", "complete", 2, 1, 2)
	w.entry(3)
	w.entry(4)
	w.ask(`{"id":3,"op":"join","room":"r","since":{"epoch":1,"seq":4}}`)
	w.entry(5) // on its way when the join was asked
	w.joined(3, "more", 9, 5, 6)
	w.join(4, `,"since":{"epoch":1,"seq":6}`, "complete", 8, 7, 8)
	w.entry(9)
	w.saw("", "1 connected", "1 joining", "1 joined complete 2: 1 2", "1 entry 3", "1 entry 4", "1 joining since 4", "1 entry 5",
		"1 joined more 9: 6", "1 joining since 6", "1 joined complete 8: 7 8", "1 entry 9")
	if pos, ok := w.rec.position("r"); !ok || pos.Seq != 9 {
		t.Errorf("stands at %v", pos)
	}
}

func TestTapHole(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.entry(4) // 3 is missing without a word
	w.entry(5)
	w.join(2, `,"since":{"epoch":1,"seq":2}`, "complete", 5, 3, 4, 5)
	w.entry(6)
	w.saw("entry 4 of r came live behind 2", "1 joining", "1 joined complete 2:", "1 joining since 2", "1 joined complete 5: 3 4 5", "1 entry 6")
	if n := w.tally.wrong.Load(); n != 1 {
		t.Errorf("one hole was counted %d times", n)
	}
}

func TestTapTwice(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.entry(3)
	w.entry(3) // the client drops it
	w.entry(4)
	w.saw("entry 3 of r came live where 4 was next", "1 joining", "1 joined complete 2:", "1 entry 3", "1 entry 4")
	if n := w.tally.wrong.Load(); n != 1 {
		t.Errorf("one repeat was counted %d times", n)
	}
}

// TestTapFailedJoin is a hole behind a join that was refused: that changes nothing of what the server owes.
func TestTapFailedJoin(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.ask(`{"id":2,"op":"join","room":"r","since":{"epoch":1,"seq":2}}`)
	w.hear(`{"id":2,"error":{"code":"unavailable","message":"","retry":true}}`)
	w.entry(3)
	w.saw("", "1 joining", "1 joined complete 2:", "1 joining since 2", "1 entry 3")
	w.entry(5)
	w.saw("entry 5 of r came live behind 3, and no gap", "1 joining", "1 joined complete 2:", "1 joining since 2", "1 entry 3")
}

// TestTapMore gets a live entry before all of the room's past.
func TestTapMore(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.join(2, `,"since":{"epoch":1,"seq":2}`, "more", 9, 3, 4)
	w.ask(`{"id":3,"op":"join","room":"r","since":{"epoch":1,"seq":4}}`)
	w.entry(5)
	w.saw("entry 5 of r came behind a reply that says more", "1 joining", "1 joined complete 2:", "1 joining since 2", "1 joined more 9: 3 4",
		"1 joining since 4", "1 entry 5")
}

func TestTapGap(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.hear(`{"event":"gap","room":"r","from":3,"to":6}`)
	w.entry(7) // before the client's join has reached the server
	w.join(2, `,"since":{"epoch":1,"seq":2}`, "complete", 7, 3, 4, 5, 6, 7)
	w.saw("", "1 joining", "1 joined complete 2:", "1 gap 3-6", "1 joining since 2", "1 joined complete 7: 3 4 5 6 7")
}

func TestTapWrongGap(t *testing.T) {
	for _, tt := range []struct{ from, to, next int }{{4, 6, 7}, {2, 6, 7}, {3, 2, 3}} {
		w := newTapped(t)
		w.join(1, "", "complete", 2)
		w.hear(`{"event":"gap","room":"r","from":%d,"to":%d}`, tt.from, tt.to)
		w.entry(tt.next) // what follows is not held against the server again
		w.ask(`{"id":2,"op":"leave","room":"r"}`)
		w.hear(`{"id":2,"ok":{}}`)
		if n := w.tally.wrong.Load(); n != 1 {
			t.Errorf("a gap %d-%d where 3 was next: %q", tt.from, tt.to, w.tally.violations())
		}
		w.hear(`{"event":"gap","room":"r","from":%d,"to":%d}`, tt.next+1, tt.next+1)
		if n := w.tally.wrong.Load(); n != 2 {
			t.Errorf("a gap behind the reply to leave: %q", w.tally.violations())
		}
	}
}

func TestTapLeave(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.ask(`{"id":2,"op":"leave","room":"r"}`)
	w.entry(3) // on its way
	w.hear(`{"id":2,"ok":{}}`)
	w.saw("", "1 joining", "1 joined complete 2:", "1 leaving", "1 left left")
	w.entry(4)
	w.saw("entry 4 of r came behind the reply to leave", "1 joining", "1 joined complete 2:", "1 leaving", "1 left left")
}

// TestTapLeaveAndJoinTwice is a client that has come back and frees the room before it reads the reply: what the server sent
// meanwhile is no entry of a room that was left.
func TestTapLeaveAndJoinTwice(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.ask(`{"id":2,"op":"leave","room":"r"}`)
	w.hear(`{"id":2,"ok":{}}`)
	w.ask(`{"id":3,"op":"join","room":"r","since":{"epoch":1,"seq":2}}`)
	w.ask(`{"id":4,"op":"leave","room":"r"}`)
	w.ask(`{"id":5,"op":"join","room":"r","since":{"epoch":1,"seq":2}}`)
	w.joined(3, "complete", 3, 3) // the library drops it
	w.entry(4)                    // a hole, for the library
	w.hear(`{"id":4,"ok":{}}`)
	w.joined(5, "complete", 4, 3, 4)
	w.saw("", "1 joining", "1 joined complete 2:", "1 leaving", "1 left left", "1 joining since 2", "1 leaving", "1 joining since 2",
		"1 joined complete 4: 3 4")
}

// TestTapLeaveOvertakesJoin is a join whose reply comes behind the reply to a later leave: it ends nothing of that.
func TestTapLeaveOvertakesJoin(t *testing.T) {
	w := newTapped(t)
	w.ask(`{"id":1,"op":"join","room":"r"}`)
	w.ask(`{"id":2,"op":"leave","room":"r"}`)
	w.hear(`{"id":2,"ok":{}}`)
	w.joined(1, "complete", 2, 1, 2)
	w.entry(3)
	w.saw("entry 3 of r came behind the reply to leave", "1 joining", "1 leaving", "1 left left")
}

// TestTapLeaveAndJoin is what the client does to free a room: the leave must not end what the join begins.
func TestTapLeaveAndJoin(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.ask(`{"id":2,"op":"leave","room":"r"}`)
	w.ask(`{"id":3,"op":"join","room":"r","since":{"epoch":1,"seq":2}}`)
	w.entry(3) // on its way: the library takes it
	w.hear(`{"event":"gap","room":"r","from":4,"to":4}`)
	w.entry(5) // and drops what leaves a hole
	w.hear(`{"id":2,"ok":{}}`)
	w.joined(3, "complete", 5, 3, 4, 5)
	w.entry(6)
	w.saw("", "1 joining", "1 joined complete 2:", "1 leaving", "1 joining since 2", "1 entry 3", "1 gap 4-4", "1 joined complete 5: 4 5", "1 entry 6")
}

// TestTapBetweenLeaveAndJoin gets an entry behind the reply to a leave that a join has followed at once.
func TestTapBetweenLeaveAndJoin(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.ask(`{"id":2,"op":"leave","room":"r"}`)
	w.ask(`{"id":3,"op":"join","room":"r","since":{"epoch":1,"seq":2}}`)
	w.hear(`{"id":2,"ok":{}}`)
	w.entry(3)
	w.saw("entry 3 of r came behind the reply to leave", "1 joining", "1 joined complete 2:", "1 leaving", "1 joining since 2", "1 entry 3")
}

// TestTapReadsAhead asks anew from where the library stands, which has not looked at all that was read.
func TestTapReadsAhead(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.entry(3)
	w.entry(4)
	w.ask(`{"id":2,"op":"leave","room":"r"}`)
	w.ask(`{"id":3,"op":"join","room":"r","since":{"epoch":1,"seq":3}}`) // 4 comes to it later
	w.entry(5)
	w.ask(`{"id":4,"op":"join","room":"r","since":{"epoch":1,"seq":5}}`)
	w.joined(4, "complete", 6, 6)
	w.saw("", "1 joining", "1 joined complete 2:", "1 entry 3", "1 entry 4", "1 leaving", "1 joining since 3", "1 entry 5", "1 joining since 5", "1 joined complete 6: 6")
}

// TestTapReplyTooLate asks anew before the library has looked at the reply, which is void then.
func TestTapReplyTooLate(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.join(2, `,"since":{"epoch":1,"seq":2}`, "complete", 4, 3, 4)
	w.ask(`{"id":3,"op":"leave","room":"r"}`)
	w.ask(`{"id":4,"op":"join","room":"r","since":{"epoch":1,"seq":2}}`)
	w.entry(5) // the library has 2
	w.joined(4, "complete", 5, 3, 4, 5)
	w.saw("", "1 joining", "1 joined complete 2:", "1 joining since 2", "1 joined complete 4: 3 4", "1 leaving", "1 joining since 2", "1 joined complete 5: 3 4 5")
}

// TestTapComesBackElsewhere leaves, and joins from a position before the one it had.
func TestTapComesBackElsewhere(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 9)
	w.ask(`{"id":2,"op":"leave","room":"r"}`)
	w.hear(`{"id":2,"ok":{}}`)
	w.join(3, `,"since":{"epoch":1,"seq":7}`, "complete", 9, 8, 9)
	w.saw("", "1 joining", "1 joined complete 9:", "1 leaving", "1 left left", "1 joining since 7", "1 joined complete 9: 8 9")
}

func TestTapReset(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 9)
	w.ask(`{"id":2,"op":"join","room":"r","since":{"epoch":1,"seq":9}}`)
	w.hear(`{"event":"reset","room":"r","epoch":2,"head":3}`)
	w.joined(2, "complete", 10, 10) // void: the client asks anew
	w.entry(11)
	w.join(3, "", "complete", 3, 2, 3)
	w.saw("", "1 joining", "1 joined complete 9:", "1 joining since 9", "1 reset", "1 joining", "1 joined complete 3: 2 3")
	w.hear(`{"event":"reset","room":"r","epoch":3,"head":3}`)
	w.entry(4)
	w.saw("entry 4 of r came behind a reset", "1 joining", "1 joined complete 9:", "1 joining since 9", "1 reset", "1 joining", "1 joined complete 3: 2 3", "1 reset")
}

// TestTapTooEarly gets a live entry on a new connection, before the reply to the join.
func TestTapTooEarly(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.connect()
	w.ask(`{"id":1,"op":"join","room":"r","since":{"epoch":1,"seq":2}}`)
	w.entry(3)
	w.saw("entry 3 of r came before the reply to join", "1 joining", "1 joined complete 2:", "2 joining since 2", "2 entry 3")
}

// TestTapEnds closes behind the end of the run: that the client stops is not what became of its connection.
func TestTapEnds(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.rec.end([]contracts.RoomID{"r"})
	w.conn.Close()
	w.saw("", "1 joining", "1 joined complete 2:", "1 ended")
}

func TestTapSends(t *testing.T) {
	w := newTapped(t)
	for id := 1; id <= 4; id++ {
		w.ask(`{"id":%d,"op":"send","room":"r","key":"01890a5d-ac96-774b-bcce-b302099a805%d","text":"hi"}`, id, id)
	}
	w.hear(`{"id":2,"error":{"code":"unavailable","message":"","retry":true}}`)
	w.hear(`{"id":1,"ok":{"key":"01890a5d-ac96-774b-bcce-b302099a8051","time":1}}`)
	w.hear(`{"id":3,"error":{"code":"rate_limited","message":"","retry":true}}`)
	w.deliver(ws.MustCompileFrame(ws.NewCloseFrame(binary.BigEndian.AppendUint16(nil, 4440))))
	w.conn.Close()
	w.conn.Close()
	w.saw("", "1 sent", "1 sent", "1 sent", "1 sent", "1 answered unknown unavailable", "1 answered ok", "1 answered rejected rate_limited",
		"1 closed 4440", "1 answered unknown")
	w.connect()
	w.ask(`{"id":1,"op":"join","room":"r"}`)
	w.peer.Close()
	if _, err := w.conn.Read(make([]byte, 1)); err == nil {
		t.Error("read from a closed connection")
	}
	if n := w.tally.closed.Load(); n != 2 {
		t.Errorf("%d connections ended, want 2", n)
	}
}

func TestTapStored(t *testing.T) {
	const key, other = "01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac96-774b-bcce-b302099a8058"
	w := newTapped(t)
	for id, key := range []string{key, other} {
		w.ask(`{"id":%d,"op":"send","room":"r","key":"%s","text":"hi","ack":"stored"}`, id+1, key)
	}
	w.hear(`{"id":1,"ok":{"key":"%s","time":1,"state":"stored","seq":4}}`, key)
	w.hear(`{"id":2,"ok":{"key":"%s","time":1,"state":"logged"}}`, other)
	if n := w.rec.unstored(); n != 1 {
		t.Errorf("%d wait to be stored, want one", n)
	}
	w.hear(`{"event":"stored","room":"r","key":"%s","seq":5}`, other)
	if n := w.rec.unstored(); n != 0 {
		t.Errorf("%d wait to be stored, want none", n)
	}
	want := []string{"1 sent", "1 sent", "1 answered ok", "1 stored 4", "1 answered ok", "1 stored 5"}
	w.saw("", want...)
	w.hear(`{"event":"stored","room":"r","key":"%s","seq":5}`, other) // nothing waits for it
	w.saw("was told to be stored, and nothing waited for that", append(want, "1 stored 5")...)
}

// TestTapUnstored has a connection end before it was told: nothing is owed to another one.
func TestTapUnstored(t *testing.T) {
	w := newTapped(t)
	w.ask(`{"id":1,"op":"send","room":"r","key":"01890a5d-ac96-774b-bcce-b302099a8057","text":"hi","ack":"stored"}`)
	w.hear(`{"id":1,"ok":{"key":"01890a5d-ac96-774b-bcce-b302099a8057","time":1,"state":"logged"}}`)
	w.conn.Close()
	if n := w.rec.unstored(); n != 0 {
		t.Errorf("%d wait to be stored on a connection that has ended", n)
	}
}

// TestTapSecondConnection resumes on another.
func TestTapSecondConnection(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.connect()
	w.join(1, `,"since":{"epoch":1,"seq":2}`, "complete", 3, 3)
	w.entry(4)
	w.saw("", "1 joining", "1 joined complete 2:", "2 joining since 2", "2 joined complete 3: 3", "2 entry 4")
}

// TestTapNotJoined gets an entry of a room that this connection has not asked for: the client drops it.
func TestTapNotJoined(t *testing.T) {
	w := newTapped(t)
	w.join(1, "", "complete", 2)
	w.connect()
	w.entry(3)
	w.saw("entry 3 of r came before the reply to join", "1 joining", "1 joined complete 2:")
}

// TestCaughtUp has everything and is not back: nothing that comes now would get there.
func TestCaughtUp(t *testing.T) {
	w := newTapped(t)
	c := &crowd{users: []*user{{rec: w.rec, name: "c", rooms: []contracts.RoomID{"r"}}}}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	lacks := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, c.caughtUp(over, map[contracts.RoomID]contracts.Seq{"r": 3})); diff != "" {
			t.Errorf("lacks (-want +got):\n%s", diff)
		}
	}
	w.join(1, "", "complete", 2)
	lacks("c stands at 2 in r, whose head is 3")
	w.entry(3)
	lacks()
	w.conn.Close()
	lacks("c does not listen to r")
	w.connect()
	lacks("c does not listen to r")
	w.ask(`{"id":1,"op":"join","room":"r","since":{"epoch":1,"seq":3}}`)
	lacks("c does not listen to r")
	w.joined(1, "complete", 3)
	lacks()
	w.ask(`{"id":2,"op":"leave","room":"r"}`)
	lacks("c does not listen to r")
}
