package client_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/client"
)

// send begins a send and waits until it is queued.
func (s *script) send(ctx context.Context, c *client.Client, text string) func() (contracts.SendOK, error) {
	wait := background(func() (contracts.SendOK, error) { return c.Send(ctx, "lobby", text) })
	synctest.Wait()
	return wait
}

func (p *peer) accepted(r request) {
	p.Helper()
	p.ok(r, `{"key":"`+r.Key+`","time":12}`)
}

// expectSend takes a send of the text, with the key where one is given.
func (p *peer) expectSend(text, key string) request {
	p.Helper()
	r := p.expect("send")
	if r.Text != text || r.Room != "lobby" || key != "" && r.Key != key {
		p.Fatalf("send %+v, want %q with key %s", r, text, key)
	}
	if _, err := contracts.ParseKey(r.Key); err != nil {
		p.Fatalf("key %q: %v", r.Key, err)
	}
	return r
}

func TestSend(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		wait := s.send(s.Context(), c, "grüß \"dich\"\n")
		r := p.expectSend("grüß \"dich\"\n", "")
		p.accepted(r)
		ok, err := wait()
		if err != nil || ok.Key.String() != r.Key || ok.Time != 12 {
			s.Fatalf("%+v, %v", ok, err)
		}
		p.stop(c)
	})
}

// TestSendStored asks for more than Send, in the same order.
func TestSendStored(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		first := background(func() (contracts.SendOK, error) { return c.SendStored(s.Context(), "lobby", "a") })
		synctest.Wait()
		second := s.send(s.Context(), c, "b")
		r := p.expectSend("a", "")
		if r.Ack != "stored" {
			s.Errorf("asked for the ack %q", r.Ack)
		}
		if next := p.expectSend("b", ""); next.Ack != "" {
			s.Errorf("a plain send asked for the ack %q", next.Ack)
		} else {
			p.accepted(next)
		}
		if _, err := second(); err != nil {
			s.Fatal(err)
		}
		p.ok(r, `{"key":"`+r.Key+`","time":12,"state":"stored","seq":7}`)
		if ok, err := first(); err != nil || ok.State != "stored" || ok.Seq != 7 {
			s.Errorf("%+v, %v", ok, err)
		}
		p.stop(c)
	})
}

// TestKeyOnServerTime has a server whose clock is ten seconds ahead.
func TestKeyOnServerTime(t *testing.T) {
	run(t, func(s *script) {
		dial := background(func() (*client.Client, error) { return client.Dial(s.Context(), s.cfg) })
		p := s.accept()
		p.ok(p.expect("connect"), `{"ping":25,"time":`+strconv.FormatInt(time.Now().Add(10*time.Second).UnixMilli(), 10)+`}`)
		c, err := dial()
		if err != nil {
			s.Fatal(err)
		}
		wait := s.send(s.Context(), c, "a")
		r := p.expectSend("a", "")
		key, err := contracts.ParseKey(r.Key)
		if err != nil {
			s.Fatal(err)
		}
		want := time.Now().Add(10 * time.Second).UnixMilli()
		if off := key.Time() - want; off < -1 || off > 1 {
			s.Errorf("the key's time is %d ms off the server's", off)
		}
		p.accepted(r)
		if _, err := wait(); err != nil {
			s.Fatal(err)
		}
		p.stop(c)
	})
}

// TestLostAck breaks the connection between a send and its ok, in several ways: the same key comes again.
func TestLostAck(t *testing.T) {
	for name, lose := range map[string]func(c *client.Client, p *peer){
		"closed by the server": func(_ *client.Client, p *peer) { p.close(contracts.CloseTooSlow) },
		"cut by the server":    func(_ *client.Client, p *peer) { p.conn.Close() },
		"dropped":              func(c *client.Client, p *peer) { c.Drop() },
		"never answered":       func(*client.Client, *peer) {},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(s *script) {
				c, p := s.start()
				first, second := s.send(s.Context(), c, "a"), s.send(s.Context(), c, "b")
				a, b := p.expectSend("a", ""), p.expectSend("b", "")
				if a.Key == b.Key {
					s.Fatal("two messages with one key")
				}
				lose(c, p)
				p = s.connect()
				p.accepted(p.expectSend("a", a.Key))
				p.accepted(p.expectSend("b", b.Key))
				for _, wait := range []func() (contracts.SendOK, error){first, second} {
					if _, err := wait(); err != nil {
						s.Error(err)
					}
				}
				p.stop(c)
			})
		})
	}
}

// TestRetryKeepsOrder fails the second of four pipelined sends: it and those behind it come again, in order, also one
// that was begun meanwhile, and only once all are answered and the wait is over.
func TestRetryKeepsOrder(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		var waits []func() (contracts.SendOK, error)
		var sent []request
		for _, text := range []string{"1", "2", "3", "4"} {
			waits = append(waits, s.send(s.Context(), c, text))
			sent = append(sent, p.expectSend(text, ""))
		}
		p.accepted(sent[0])
		begin := time.Now()
		p.fail(sent[1], contracts.CodeRateLimited, 500)
		p.fail(sent[2], contracts.CodeRateLimited, 500)
		waits = append(waits, s.send(s.Context(), c, "5")) // must not overtake
		p.fail(sent[3], contracts.CodeRateLimited, 500)
		for i, text := range []string{"2", "3", "4"} {
			r := p.expectSend(text, sent[i+1].Key)
			if took := time.Since(begin); took != 500*time.Millisecond {
				s.Errorf("%s came again after %v", text, took)
			}
			p.accepted(r)
		}
		p.accepted(p.expectSend("5", ""))
		var times []int64
		for _, wait := range waits {
			ok, err := wait()
			if err != nil {
				s.Fatal(err)
			}
			times = append(times, ok.Time)
		}
		if diff := cmp.Diff([]int64{12, 12, 12, 12, 12}, times); diff != "" {
			s.Error(diff)
		}
		p.stop(c)
	})
}

// TestPauseBehindNamedPauses refuses a send many times with a pause and then once without: the client waits as at the first time
// that the pause is its own.
func TestPauseBehindNamedPauses(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		wait := s.send(s.Context(), c, "a")
		r := p.expectSend("a", "")
		for range 20 {
			p.fail(r, contracts.CodeUnavailable, 500)
			r = p.expectSend("a", r.Key)
		}
		begin := time.Now()
		p.fail(r, contracts.CodeUnavailable, 0)
		r = p.expectSend("a", r.Key)
		if took := time.Since(begin); took > 500*time.Millisecond {
			s.Errorf("the send came again after %v", took)
		}
		p.accepted(r)
		if _, err := wait(); err != nil {
			s.Fatal(err)
		}
		p.stop(c)
	})
}

func TestSendRefused(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		for _, code := range []contracts.Code{contracts.CodeTooLarge, contracts.CodeForbidden, contracts.CodeStaleKey, "from_the_future"} {
			wait := s.send(s.Context(), c, "a")
			p.fail(p.expectSend("a", ""), code, 0)
			if _, err := wait(); !errors.Is(err, &contracts.Error{Code: code}) {
				s.Errorf("%v, want %s", err, code)
			}
		}
		if _, err := c.Send(s.Context(), "../x", "a"); !errors.Is(err, &contracts.Error{Code: contracts.CodeBadRoom}) {
			s.Errorf("%v, want bad_room", err)
		}
		p.stop(c)
	})
}

// TestSendGivenUp ends the context of a send that the server waits for: a leave frees the room, a join resumes it.
func TestSendGivenUp(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.joined(5)
		ctx, cancel := context.WithCancel(s.Context())
		first, second := s.send(ctx, c, "a"), s.send(s.Context(), c, "b")
		a, b := p.expectSend("a", ""), p.expectSend("b", "")
		p.fail(a, contracts.CodeUnavailable, 300)
		p.fail(b, contracts.CodeUnavailable, 300)
		synctest.Wait()
		cancel()
		if _, err := first(); !errors.Is(err, context.Canceled) {
			s.Fatal(err)
		}
		p.ok(p.expect("leave"), "{}")
		p.join(p.since(p.expect("join"), 1, 5), "complete", 1, 6, 6, 6)
		p.accepted(p.expectSend("b", b.Key))
		if _, err := second(); err != nil {
			s.Fatal(err)
		}
		s.check("across the leave", "lobby/1.6")
		p.stop(c)
	})
}

// TestSendGivenUpInFlight ends the context before the answer: what it is decides.
func TestSendGivenUpInFlight(t *testing.T) {
	for _, jams := range []bool{false, true} {
		run(t, func(s *script) {
			c, p := s.start()
			ctx, cancel := context.WithCancel(s.Context())
			wait := s.send(ctx, c, "a")
			a := p.expectSend("a", "")
			cancel()
			if ok, err := wait(); !errors.Is(err, context.Canceled) || ok.Key.String() != a.Key {
				s.Fatalf("%+v, %v", ok, err)
			}
			if jams {
				p.fail(a, contracts.CodeUnavailable, 100)
			} else {
				p.accepted(a)
			}
			synctest.Wait()
			wait = s.send(s.Context(), c, "b")
			if jams {
				p.ok(p.expect("leave"), "{}")
			}
			p.accepted(p.expectSend("b", ""))
			if _, err := wait(); err != nil {
				s.Fatal(err)
			}
			p.stop(c)
		})
	}
}

func TestRequest(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		wait := background(func() (string, error) {
			ok, err := c.Request(s.Context(), contracts.OpHistory, map[string]any{"room": "lobby", "limit": 7})
			return string(ok), err
		})
		r := p.expect("history")
		if r.Room != "lobby" || *r.Limit != 7 {
			s.Errorf("%+v", r)
		}
		p.ok(r, `{"more":false}`)
		if ok, err := wait(); err != nil || ok != `{"more":false}` {
			s.Errorf("%s, %v", ok, err)
		}
		wait = background(func() (string, error) {
			_, err := c.Request(s.Context(), contracts.OpRooms, nil)
			return "", err
		})
		p.fail(p.expect("rooms"), contracts.CodeOverloaded, 10)
		if _, err := wait(); !errors.Is(err, &contracts.Error{Code: contracts.CodeOverloaded}) {
			s.Errorf("%v, want overloaded", err)
		}
		wait = background(func() (string, error) {
			_, err := c.Request(s.Context(), contracts.OpRooms, nil)
			return "", err
		})
		p.expect("rooms")
		p.conn.Close()
		if _, err := wait(); !errors.Is(err, client.ErrDisconnected) {
			s.Errorf("%v, want ErrDisconnected", err)
		}
		wait = background(func() (string, error) { // waits for the next connection
			ok, err := c.Request(s.Context(), contracts.OpPing, nil)
			return string(ok), err
		})
		p = s.connect()
		p.ok(p.expect("ping"), `{"time":1}`)
		if ok, err := wait(); err != nil || ok != `{"time":1}` {
			s.Errorf("%s, %v", ok, err)
		}
		p.stop(c)
	})
}
