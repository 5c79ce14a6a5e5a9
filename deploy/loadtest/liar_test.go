package loadtest_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// liar is a chat server that does wrong on purpose and remembers how often: what the load tester says is compared with
// it. It keeps every entry of every room.
type liar struct {
	// misdeed says what happens to a delivery: the entry seq of a room on its way to the member-th connection there.
	misdeed func(room string, member int, seq int) misdeed
	// refuse answers a send with an error; nil: every one is accepted.
	refuse func(n int) string
	// token is the only one that is let in; empty: everybody is.
	token string
	// full is how many connections it takes; all further ones are answered with 503. 0: as many as come.
	full int
	// mute lets it not answer joins.
	mute bool
	// tls is how it speaks TLS; nil: it does not. For listen alone.
	tls *tls.Config
	// delay is the time between accepting a message and delivering it.
	delay time.Duration

	// Guarded by mu.
	mu             sync.Mutex
	conns          map[*liarConn]bool
	rooms          map[string]*liarRoom
	sends, refused int
	stall          time.Time // nothing is read before
	did            map[misdeed]int
	wg             sync.WaitGroup
	// What those did wrong who were told to move: sent something new, left before they had joined anew.
	spoke, early int
}

type misdeed int

const (
	honest misdeed = iota
	drops
	doubles
	swaps
	leaks
	announces // drops, and says so
)

type liarRoom struct {
	entries [][]byte
	members []*liarConn
	joins   int
	keys    map[string]bool
}

type liarConn struct {
	sock net.Conn
	out  chan []byte
	quit chan struct{}
	once sync.Once
	name string
	// barrier is the key of a message that was refused for now: whatever is behind it is refused too.
	barrier string
	held    []byte    // a frame that will be sent after the next
	told    time.Time // when it was asked to move
}

func newLiar() *liar {
	return &liar{conns: map[*liarConn]bool{}, rooms: map[string]*liarRoom{}, did: map[misdeed]int{}}
}

// dial is a connection in memory.
func (s *liar) dial() (net.Conn, error) {
	ours, theirs := net.Pipe()
	s.serve(theirs)
	return ours, nil
}

// listen serves on a loopback port until the test ends and returns the address.
func (s *liar) listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		n := 0
		for {
			sock, err := l.Accept()
			if err != nil {
				return
			}
			if n++; s.full > 0 && n > s.full {
				_, _ = http.ReadRequest(bufio.NewReader(sock))
				_, _ = io.WriteString(sock, "HTTP/1.1 503 Service Unavailable\r\n\r\n")
				sock.Close()
				continue
			}
			if s.tls != nil {
				sock = tls.Server(sock, s.tls)
			}
			s.serve(sock)
		}
	})
	t.Cleanup(func() {
		l.Close()
		accepting.Wait()
		s.close()
	})
	return l.Addr().String()
}

// close ends every connection and waits for its goroutines.
func (s *liar) close() {
	s.mu.Lock()
	for c := range s.conns {
		c.end()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *liar) serve(sock net.Conn) {
	c := &liarConn{sock: sock, out: make(chan []byte, 4096), quit: make(chan struct{})}
	s.mu.Lock()
	s.conns[c] = true
	s.mu.Unlock()
	s.wg.Go(func() {
		defer s.forget(c)
		if _, err := ws.Upgrade(sock); err != nil {
			return
		}
		s.wg.Go(c.write)
		for {
			data, op, err := wsutil.ReadClientData(sock)
			if err != nil {
				return
			}
			if op == ws.OpText {
				s.request(c, data)
			}
		}
	})
}

func (c *liarConn) end() {
	c.once.Do(func() { close(c.quit) })
	c.sock.Close()
}

func (c *liarConn) write() {
	for {
		select {
		case b := <-c.out:
			if err := wsutil.WriteServerText(c.sock, b); err != nil {
				return
			}
		case <-c.quit:
			return
		}
	}
}

func (c *liarConn) send(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	c.push(b)
}

func (c *liarConn) push(b []byte) {
	select {
	case c.out <- b:
	case <-c.quit:
	}
}

func (s *liar) forget(c *liarConn) {
	c.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if !c.told.IsZero() && !s.joinedAs(c.name) {
		s.early++
	}
	for _, r := range s.rooms {
		r.remove(c)
	}
}

// joinedAs reports whether a connection of that name is in a room and was not asked to move.
func (s *liar) joinedAs(name string) bool {
	for _, r := range s.rooms {
		for _, m := range r.members {
			if m.name == name && m.told.IsZero() {
				return true
			}
		}
	}
	return false
}

// drain asks every connection to move.
func (s *liar) drain(within time.Duration) {
	for c := range s.conns {
		c.told = time.Now()
		c.send(object{"event": "reconnect", "after_ms": within.Milliseconds()})
	}
}

func (r *liarRoom) remove(c *liarConn) {
	for i, m := range r.members {
		if m == c {
			r.members = append(r.members[:i:i], r.members[i+1:]...)
			return
		}
	}
}

type object = map[string]any

type liarRequest struct {
	ID    uint64
	Op    string
	Room  string
	Guest string
	Token string
	Key   string
	Text  string
	Since *struct{ Seq int }
}

func (s *liar) request(c *liarConn, data []byte) {
	var q liarRequest
	if err := json.Unmarshal(data, &q); err != nil {
		c.send(object{"event": "error", "code": "bad_request", "message": err.Error()})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait := time.Until(s.stall); wait > 0 {
		s.mu.Unlock()
		time.Sleep(wait) // the misdeed itself, not a wait of the test
		s.mu.Lock()
	}
	r := s.rooms[q.Room]
	if r == nil {
		r = &liarRoom{keys: map[string]bool{}}
		s.rooms[q.Room] = r
	}
	switch q.Op {
	case "connect":
		if s.token != "" && q.Token != s.token {
			c.send(object{"id": q.ID, "error": object{"code": "unauthorized", "message": "no"}})
			return
		}
		c.name = q.Guest
		c.send(object{"id": q.ID, "ok": object{"user": object{"id": "u", "name": q.Guest}, "time": time.Now().UnixMilli(), "ping": 25,
			"limits": object{"sends_per_s": 1000}, "durability": "none", "server": object{"name": "liar", "version": "1", "node": "n"}}})
	case "join":
		r.remove(c)
		r.members = append(r.members, c)
		r.joins++
		if s.mute {
			return
		}
		entries := []json.RawMessage{}
		if q.Since != nil {
			for _, e := range r.entries[q.Since.Seq:] {
				entries = append(entries, e)
			}
		}
		c.send(object{"id": q.ID, "ok": object{"room": q.Room, "state": "complete", "epoch": 1, "head": len(r.entries), "first": 1, "entries": entries, "online": 1}})
	case "leave":
		r.remove(c)
		c.send(object{"id": q.ID, "ok": object{}})
	case "history":
		c.send(object{"id": q.ID, "ok": object{"entries": []any{}, "epoch": 1, "head": len(r.entries), "more": false}})
	case "send":
		s.message(c, r, q)
	case "ping":
		c.send(object{"id": q.ID, "ok": object{"time": 1}})
	}
}

func (s *liar) message(c *liarConn, r *liarRoom, q liarRequest) {
	s.sends++
	if !c.told.IsZero() && time.Since(c.told) > time.Millisecond {
		s.spoke++
	}
	if s.refuse != nil {
		code := s.refuse(s.sends)
		if c.barrier != "" && c.barrier != q.Key {
			code = "rate_limited"
		} else if c.barrier = ""; code != "" {
			c.barrier = q.Key
		}
		if code != "" {
			s.refused++
			retry := code == "rate_limited" || code == "unavailable"
			c.send(object{"id": q.ID, "error": object{"code": code, "message": "no", "retry": retry, "retry_after_ms": 1}})
			return
		}
	}
	c.send(object{"id": q.ID, "ok": object{"key": q.Key, "time": 1}})
	if r.keys[q.Key] {
		return
	}
	r.keys[q.Key] = true
	if s.delay > 0 {
		s.wg.Go(func() {
			time.Sleep(s.delay) // the misdeed itself
			s.mu.Lock()
			defer s.mu.Unlock()
			s.publish(r, q)
		})
		return
	}
	s.publish(r, q)
}

// publish numbers a message and delivers it, more or less.
func (s *liar) publish(r *liarRoom, q liarRequest) {
	seq := len(r.entries) + 1
	b, err := json.Marshal(object{"event": "message", "room": q.Room, "seq": seq, "epoch": 1, "time": 1, "from": object{"id": "u", "name": "n"}, "key": q.Key, "text": q.Text})
	if err != nil {
		panic(err)
	}
	r.entries = append(r.entries, b)
	for i, m := range r.members {
		deed := honest
		if s.misdeed != nil {
			deed = s.misdeed(q.Room, i, seq)
		}
		s.did[deed]++
		switch deed {
		case drops:
			continue
		case announces:
			m.send(object{"event": "gap", "room": q.Room, "from": seq, "to": seq})
			continue
		case swaps:
			m.held = b
			continue
		case doubles:
			m.push(b)
		case leaks:
			s.leak(r, b)
		}
		m.push(b)
		if m.held != nil {
			m.push(m.held)
			m.held = nil
		}
	}
}

// leak delivers an entry to one connection that is not in its room.
func (s *liar) leak(r *liarRoom, b []byte) {
	for _, other := range s.rooms {
		if other != r && len(other.members) > 0 {
			other.members[0].push(b)
			return
		}
	}
}
