package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/client"
)

func TestJoinThenLive(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		wait := background(func() (contracts.JoinOK, error) { return c.Join(s.Context(), "lobby", nil) })
		r := p.expect("join")
		if r.Limit != nil {
			s.Errorf("limit %d, want none", *r.Limit)
		}
		p.join(p.since(r, 0, 0), "complete", 1, 7, 5, 7)
		ok, err := wait()
		if err != nil || ok.Head != 7 || ok.State != contracts.JoinComplete {
			s.Fatalf("%+v, %v", ok, err)
		}
		p.text("%s", entry("lobby", 1, 7)) // had it
		p.text("%s", entry("lobby", 1, 8))
		p.text("%s", entry("lobby", 1, 8))
		p.text("%s", entry("other", 1, 1)) // not joined
		p.text("%s", entry("lobby", 1, 9))
		s.check("join and live", "lobby/1.5, lobby/1.6, lobby/1.7, lobby/1.8, lobby/1.9")
		if at, ok := c.Position("lobby"); !ok || at != (contracts.Since{Epoch: 1, Seq: 9}) {
			s.Errorf("position %v, %v", at, ok)
		}
		p.stop(c)
	})
}

func TestJoinLimit(t *testing.T) {
	for limit, want := range map[int]int{-1: 0, 3: 3} {
		run(t, func(s *script) {
			s.cfg.JoinLimit = limit
			c, p := s.start()
			wait := background(func() (contracts.JoinOK, error) { return c.Join(s.Context(), "lobby", nil) })
			r := p.expect("join")
			if r.Limit == nil || *r.Limit != want {
				s.Errorf("limit %v, want %d", r.Limit, want)
			}
			p.join(r, "complete", 1, 7, 1, 0)
			if _, err := wait(); err != nil {
				s.Fatal(err)
			}
			p.stop(c)
		})
	}
}

// TestJoinMore reads a backlog of three pages, with an entry in two of them and holes, and a live entry too early.
func TestJoinMore(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		wait := background(func() (contracts.JoinOK, error) {
			return c.Join(s.Context(), "lobby", &contracts.Since{Epoch: 3, Seq: 10})
		})
		p.join(p.since(p.expect("join"), 3, 10), "more", 3, 40, 11, 13)
		p.join(p.since(p.expect("join"), 3, 13), "more", 3, 40, 13, 15)
		r := p.since(p.expect("join"), 3, 15)
		p.text("%s", entry("lobby", 3, 41))
		p.join(r, "complete", 3, 41, 20, 21)
		if ok, err := wait(); err != nil || ok.Head != 41 {
			s.Fatalf("%+v, %v", ok, err)
		}
		p.text("%s", entry("lobby", 3, 42))
		s.check("three pages", "lobby/3.11, lobby/3.12, lobby/3.13, lobby/3.14, lobby/3.15, lobby/3.20, lobby/3.21, lobby/3.42")
		p.stop(c)
	})
}

func TestJumpIsFetched(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.joined(5)
		p.text("%s", entry("lobby", 1, 8))
		p.text("%s", entry("lobby", 1, 9)) // one join serves both
		r := p.since(p.expect("join"), 1, 5)
		s.check("before the reply", "")
		p.join(r, "complete", 1, 9, 6, 9)
		p.text("%s", entry("lobby", 1, 10))
		s.check("after it", "lobby/1.6, lobby/1.7, lobby/1.8, lobby/1.9, lobby/1.10")
		p.stop(c)
	})
}

func TestGap(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.joined(5)
		p.text(`{"event":"gap","room":"lobby","from":6,"to":7}`)
		r := p.since(p.expect("join"), 1, 5)
		p.text("%s", entry("lobby", 1, 8))
		p.join(r, "complete", 1, 8, 6, 8)
		s.check("gap", "gap lobby/6-7, lobby/1.6, lobby/1.7, lobby/1.8")
		p.text(`{"event":"gap","room":"lobby","from":2,"to":3}`) // old news
		p.text("%s", entry("lobby", 1, 9))
		s.check("an old gap", "gap lobby/2-3, lobby/1.9")
		p.stop(c)
	})
}

func TestReset(t *testing.T) {
	t.Run("event", func(t *testing.T) {
		run(t, func(s *script) {
			c, p := s.joined(5)
			p.text(`{"event":"reset","room":"lobby","epoch":2,"head":4}`)
			r := p.since(p.expect("join"), 0, 0)
			p.text("%s", entry("lobby", 2, 6)) // between the two nothing is taken
			p.join(r, "complete", 2, 6, 4, 6)
			s.check("reset", "reset lobby, lobby/2.4, lobby/2.5, lobby/2.6")
			p.text(`{"event":"reset","room":"other","epoch":2,"head":4}`)
			p.text("%s", entry("lobby", 2, 7))
			s.check("reset of another room", "lobby/2.7")
			p.stop(c)
		})
	})
	t.Run("reply", func(t *testing.T) {
		run(t, func(s *script) {
			c, p := s.joined(5)
			p.close(contracts.CloseGoingAway)
			p = s.connect()
			p.join(p.since(p.expect("join"), 1, 5), "reset", 2, 5, 4, 5)
			p.text("%s", entry("lobby", 2, 6))
			s.check("reset", "reset lobby, lobby/2.4, lobby/2.5, lobby/2.6")
			if at, _ := c.Position("lobby"); at != (contracts.Since{Epoch: 2, Seq: 6}) {
				s.Errorf("position %v", at)
			}
			p.stop(c)
		})
	})
}

func TestJoinRetriesAndRefusals(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		wait := background(func() (contracts.JoinOK, error) { return c.Join(s.Context(), "lobby", nil) })
		begin := time.Now()
		p.fail(p.expect("join"), contracts.CodeUnavailable, 700)
		p.ok(p.expect("join"), `{"room":"lobby","state":"more","entries":[]}`) // makes no progress: a failure
		p.join(p.since(p.expect("join"), 0, 0), "complete", 1, 0, 1, 0)
		if _, err := wait(); err != nil {
			s.Fatal(err)
		}
		if took := time.Since(begin); took < 700*time.Millisecond || took > 3*time.Second {
			s.Errorf("joined after %v", took)
		}

		wait = background(func() (contracts.JoinOK, error) { return c.Join(s.Context(), "secret", nil) })
		p.fail(p.expect("join"), contracts.CodeNotFound, 0)
		if _, err := wait(); !errors.Is(err, &contracts.Error{Code: contracts.CodeNotFound}) {
			s.Fatalf("%v, want not_found", err)
		}
		if _, err := c.Join(s.Context(), "a.b", nil); !errors.Is(err, &contracts.Error{Code: contracts.CodeBadRoom}) {
			s.Errorf("%v, want bad_room", err)
		}

		// A room that is refused on the next connection is told of; one that was never joined is not asked for.
		p.close(contracts.CloseRestart)
		p = s.connect()
		p.fail(p.expect("join"), contracts.CodeForbidden, 0)
		s.check("refused later", "join_failed forbidden")
		p.stop(c)
	})
}

func TestJoinGivenUp(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		ctx, cancel := context.WithCancel(s.Context())
		wait := background(func() (contracts.JoinOK, error) { return c.Join(ctx, "lobby", nil) })
		r := p.expect("join")
		cancel()
		if _, err := wait(); !errors.Is(err, context.Canceled) {
			s.Fatal(err)
		}
		p.expect("leave")
		p.join(r, "complete", 1, 5, 4, 5)
		s.check("given up", "")
		p.stop(c)
	})
}

func TestLeave(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.joined(5)
		wait := background(func() (struct{}, error) { return struct{}{}, c.Leave(s.Context(), "lobby") })
		r := p.expect("leave")
		p.text("%s", entry("lobby", 1, 6))
		p.ok(r, "{}")
		if _, err := wait(); err != nil {
			s.Fatal(err)
		}
		s.check("behind leave", "")
		if at, ok := c.Position("lobby"); ok {
			s.Errorf("position %v of a room that was left", at)
		}
		p.close(contracts.CloseGoingAway)
		p = s.connect()
		p.stop(c) // no join came
	})
}

func TestLeftByTheServer(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.joined(5)
		p.text(`{"event":"left","room":"lobby","reason":"kicked"}`)
		p.text("%s", entry("lobby", 1, 6))
		p.text(`{"event":"left","room":"elsewhere","reason":"banned"}`)
		s.check("left", "left lobby, left elsewhere")
		p.stop(c)
	})
}

func TestUnknownEvents(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.joined(5)
		p.text(`{"event":"poll","room":"lobby","seq":6,"epoch":1,"text":{"no":"string"},"time":"x"}`) // an entry all the same
		p.text(`{"event":"weather","room":{"no":"id"},"from":[1]}`)
		p.text(`{"event":"error","code":"rate_limited","message":"m","retry":true}`)
		p.text(`{"id":999,"ok":{}}`)
		p.text("%s", entry("lobby", 1, 7))
		s.check("unknown", "lobby/1.6, weather , error rate_limited, lobby/1.7")
		p.stop(c)
	})
}

func TestEntryFields(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.joined(5)
		p.text("%s", entry("lobby", 1, 6))
		synctest.Wait()
		s.mu.Lock()
		ev := s.events[0]
		s.mu.Unlock()
		if ev.Kind != "message" || ev.Text != "t6" || ev.From.Name != "Bo" || ev.Time != 5 || !ev.Live ||
			!strings.HasPrefix(ev.Key.String(), "01890a5d") || !strings.Contains(string(ev.Raw), `"seq":6`) {
			s.Errorf("%+v", ev)
		}
		p.stop(c)
	})
}

// TestMove follows a reconnect event: answers are awaited, the new connection opens, the old one closes, rooms resume.
func TestMove(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.joined(5)
		asked := background(func() (struct{}, error) {
			_, err := c.Request(s.Context(), "presence", map[string]any{"room": "lobby"})
			return struct{}{}, err
		})
		r := p.expect("presence")
		p.text(`{"event":"reconnect","after_ms":2000,"url":"ws://elsewhere.test/v1/ws?x=1"}`)
		synctest.Wait()
		sent := background(func() (contracts.SendOK, error) { return c.Send(s.Context(), "lobby", "later") })
		synctest.Wait()
		p.text("%s", entry("lobby", 1, 6)) // live goes on meanwhile
		begin := time.Now()
		p.ok(r, `{}`)
		if _, err := asked(); err != nil {
			s.Errorf("the answer was not awaited: %v", err)
		}
		next := s.accept()
		if took := time.Since(begin); took > 2*time.Second {
			s.Errorf("moved after %v", took)
		}
		if next.target != "elsewhere.test/v1/ws?x=1" {
			s.Errorf("moved to %q", next.target)
		}
		r = next.expect("connect")
		if r.Token != "guest-1" {
			s.Errorf("connected with token %q", r.Token)
		}
		next.ok(r, hello(`"token":"guest-2"`))
		if ev := p.event(); ev.Code != contracts.CloseNormal {
			s.Errorf("the old connection ends with %d %q", ev.Code, ev.Payload)
		}
		p.conn.Close()
		next.join(next.since(next.expect("join"), 1, 6), "complete", 1, 7, 7, 7)
		next.ok(next.expect("send"), `{"key":"01890a5d-ac96-774b-bcce-b302099a8057","time":1}`)
		if _, err := sent(); err != nil {
			s.Error(err)
		}
		s.check("over both", "reconnect , lobby/1.6, lobby/1.7")
		next.stop(c)
	})
}

// TestMoveWithoutAnswer leaves a request unanswered: it is given up after 5 s.
func TestMoveWithoutAnswer(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		asked := background(func() (struct{}, error) {
			_, err := c.Request(s.Context(), "presence", map[string]any{"room": "lobby"})
			return struct{}{}, err
		})
		p.expect("presence")
		begin := time.Now()
		p.text(`{"event":"reconnect","after_ms":0,"url":"/v1/ws?moved"}`)
		next := s.accept()
		if took := time.Since(begin); took != 5*time.Second || next.target != "edge.test/v1/ws?moved" {
			s.Errorf("moved to %s after %v", next.target, took)
		}
		if _, err := asked(); !errors.Is(err, client.ErrDisconnected) {
			s.Errorf("%v, want ErrDisconnected", err)
		}
		next.ok(next.expect("connect"), hello(`"expires":1`))
		p.event()
		next.stop(c)
	})
}
