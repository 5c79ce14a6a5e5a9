package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/client"
	"github.com/parley-chat/parley/edge/wire"
)

func TestConfigValidate(t *testing.T) {
	for want, cfg := range map[string]client.Config{
		"":        {URL: "ws://a/v1/ws", Guest: "Ada"},
		"want ws": {URL: "http://a/v1/ws", Guest: "Ada"},
		"neither": {URL: "wss://a/v1/ws"},
	} {
		if err := cfg.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
	if _, err := client.Dial(t.Context(), client.Config{}); err == nil {
		t.Error("dialled nothing")
	}
}

// TestCloseCodes goes through the protocol's table: who reconnects resumes, who stops says why.
func TestCloseCodes(t *testing.T) {
	tests := []struct {
		code  contracts.CloseCode
		stops bool
		least time.Duration
	}{
		{code: 1000}, {code: 1001}, {code: 1005}, {code: 1011}, {code: 1012}, {code: 1013}, {code: 4408}, {code: 4440}, {code: 4450},
		{code: 4451}, {code: 4499}, {code: 4550}, {code: 3000}, {code: 4999}, {code: 4410},
		{code: 4429, least: 5 * time.Second},
		{code: 1002, stops: true}, {code: 1003, stops: true}, {code: 1007, stops: true}, {code: 1008, stops: true}, {code: 1009, stops: true},
		{code: 4400, stops: true}, {code: 4403, stops: true}, {code: 4409, stops: true}, {code: 4500, stops: true}, {code: 4549, stops: true},
		{code: 4401, stops: true}, // without a new token
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.code), func(t *testing.T) {
			run(t, func(s *script) {
				c, p := s.joined(3)
				begin := time.Now()
				p.close(tt.code)
				if !tt.stops {
					p = s.connect()
					if took := time.Since(begin); took < tt.least || took > max(500*time.Millisecond, tt.least) {
						s.Errorf("connected again after %v", took)
					}
					p.join(p.since(p.expect("join"), 1, 3), "complete", 1, 4, 4, 4)
					s.check("resumed", "lobby/1.4")
					p.stop(c)
					return
				}
				<-c.Done()
				var closed *client.CloseError
				if err := c.Err(); !errors.As(err, &closed) || closed.Code != tt.code || closed.Reason != "by the test" {
					s.Errorf("stopped with %v", err)
				}
				if _, err := c.Send(s.Context(), "lobby", "a"); !errors.As(err, &closed) {
					s.Errorf("a send behind it: %v", err)
				}
				if _, err := c.Request(s.Context(), "rooms", nil); !errors.As(err, &closed) {
					s.Errorf("a request behind it: %v", err)
				}
				s.mu.Lock()
				last := s.states[len(s.states)-1]
				s.mu.Unlock()
				if last.Phase != client.Stopped || !errors.As(last.Err, &closed) {
					s.Errorf("the last state is %v %v", last.Phase, last.Err)
				}
				c.Close()
			})
		})
	}
}

func TestRenew(t *testing.T) {
	run(t, func(s *script) {
		tokens := []string{"second", "third", "third"}
		s.cfg.Token = "first"
		s.cfg.Renew = func(context.Context) (string, error) {
			token := tokens[0]
			tokens = tokens[1:]
			return token, nil
		}
		dial := background(func() (*client.Client, error) { return client.Dial(s.Context(), s.cfg) })
		refuse := func(want string) {
			s.Helper()
			p := s.accept()
			r := p.expect("connect")
			if r.Token != want || r.Guest != "" {
				s.Fatalf("connect with %+v, want token %s", r, want)
			}
			p.fail(r, contracts.CodeUnauthorized, 0)
			p.close(contracts.CloseUnauthorized)
		}
		refuse("first")
		p := s.accept()
		r := p.expect("connect")
		if r.Token != "second" {
			s.Fatalf("connect with %+v", r)
		}
		p.ok(r, hello(`"expires":1`))
		c, err := dial()
		if err != nil {
			s.Fatal(err)
		}
		p.close(contracts.CloseUnauthorized) // it expires on the live socket
		refuse("third")                      // and the next is no good: once only
		<-c.Done()
		var closed *client.CloseError
		if err := c.Err(); !errors.As(err, &closed) || closed.Code != contracts.CloseUnauthorized || !errors.Is(err, &contracts.Error{Code: contracts.CodeUnauthorized}) {
			s.Errorf("stopped with %v", err)
		}
		if len(tokens) != 1 {
			s.Errorf("%d tokens are left, want 1", len(tokens))
		}
	})
}

func TestRenewFails(t *testing.T) {
	boom := errors.New("boom")
	for name, renew := range map[string]func(context.Context) (string, error){
		"error": func(context.Context) (string, error) { return "", boom },
		"same":  func(context.Context) (string, error) { return "guest-1", nil },
		"none":  func(context.Context) (string, error) { return "", nil },
	} {
		run(t, func(s *script) {
			s.cfg.Renew = renew
			c, p := s.start()
			p.close(contracts.CloseUnauthorized)
			<-c.Done()
			if err := c.Err(); errors.Is(err, boom) != (name == "error") || !strings.Contains(err.Error(), "4401") {
				s.Errorf("%s: stopped with %v", name, err)
			}
		})
	}
}

// TestConnectRefused refuses connect for good, with the close frame and without.
func TestConnectRefused(t *testing.T) {
	for _, how := range []string{"close", "cut", "silence"} {
		run(t, func(s *script) {
			dial := background(func() (*client.Client, error) { return client.Dial(s.Context(), s.cfg) })
			p := s.accept()
			r := p.expect("connect")
			if r.Guest != "Ada" || r.Token != "" {
				s.Errorf("connect with %+v", r)
			}
			p.fail(r, contracts.CodeForbidden, 0)
			switch how {
			case "close":
				p.close(contracts.CloseBanned)
			case "cut":
				p.conn.Close()
			}
			_, err := dial()
			var closed *client.CloseError
			if !errors.As(err, &closed) || closed.Code != contracts.CloseBanned {
				s.Errorf("%s: %v", how, err)
			}
		})
	}
}

// TestConnectRetried keeps the socket through a retryable error.
func TestConnectRetried(t *testing.T) {
	run(t, func(s *script) {
		dial := background(func() (*client.Client, error) { return client.Dial(s.Context(), s.cfg) })
		p := s.accept()
		begin := time.Now()
		p.fail(p.expect("connect"), contracts.CodeOverloaded, 400)
		r := p.expect("connect")
		if took := time.Since(begin); took != 400*time.Millisecond {
			s.Errorf("connect again after %v", took)
		}
		p.ok(r, hello(`"token":"g"`))
		c, err := dial()
		if err != nil {
			s.Fatal(err)
		}
		if got := c.Session().User.ID; got != "u1" {
			s.Errorf("connected as %q", got)
		}
		p.stop(c)
	})
}

// TestBackoff refuses 12 dials and looks at the waits between them.
func TestBackoff(t *testing.T) {
	run(t, func(s *script) {
		s.down = 12
		c, p := s.start()
		s.mu.Lock()
		states := s.states
		s.mu.Unlock()
		if len(states) != 13 || states[12].Phase != client.Connected || states[12].Session.Token != "guest-1" {
			s.Fatalf("%d states, the last %+v", len(states), states[len(states)-1])
		}
		total := time.Duration(0)
		for i, st := range states[:12] {
			most := min(500*time.Millisecond<<i, 30*time.Second)
			if st.Phase != client.Waiting || st.Wait > most || st.Err == nil {
				s.Errorf("state %d: %v for %v, at most %v", i, st.Phase, st.Wait, most)
			}
			total += st.Wait
		}
		if total < 10*time.Second {
			s.Errorf("12 waits take %v", total)
		}
		p.stop(c)
	})
}

func TestDialGivesUp(t *testing.T) {
	run(t, func(s *script) {
		s.down = 1 << 30
		ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
		defer cancel()
		_, err := client.Dial(ctx, s.cfg)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "refused by the test") {
			s.Errorf("%v", err)
		}
	})
}

// TestHTTPRefusals answers the upgrade with an error.
func TestHTTPRefusals(t *testing.T) {
	tests := []struct {
		status int
		header string
		stops  bool
		least  time.Duration
	}{
		{status: 503, header: "Retry-After: 7\r\n", least: 7 * time.Second},
		{status: 429}, {status: 500},
		{status: 403, stops: true}, {status: 404, stops: true}, {status: 400, stops: true},
	}
	for _, tt := range tests {
		run(t, func(s *script) {
			dial := background(func() (*client.Client, error) { return client.Dial(s.Context(), s.cfg) })
			p := &peer{script: s, conn: <-s.dialled}
			p.read()
			begin := time.Now()
			p.write(wire.AppendHTTPError(nil, &wire.HTTPError{Status: tt.status, Message: "no such luck", Header: tt.header}))
			if tt.stops {
				if _, err := dial(); err == nil || !strings.Contains(err.Error(), fmt.Sprint(tt.status)) || !strings.Contains(err.Error(), "no such luck") {
					s.Errorf("%d: %v", tt.status, err)
				}
				return
			}
			p = s.connect()
			if took := time.Since(begin); took < tt.least || took > tt.least+time.Second {
				s.Errorf("%d: again after %v", tt.status, took)
			}
			c, err := dial()
			if err != nil {
				s.Fatal(err)
			}
			p.stop(c)
		})
	}
}

// TestSilence says nothing: the client asks after connect.ping, and goes elsewhere 10 s later.
func TestSilence(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		begin := time.Now()
		p.ok(p.expect("ping"), `{"time":1}`)
		if took := time.Since(begin); took != 25*time.Second {
			s.Errorf("ping after %v", took)
		}
		p.write(wire.AppendControl(nil, wire.OpPing, []byte("x"))) // the server's own counts as well
		if ev := p.event(); ev.Op != wire.OpPong || string(ev.Payload) != "x" {
			s.Errorf("frame %d %q instead of a pong", ev.Op, ev.Payload)
		}
		p.expect("ping")
		if took := time.Since(begin); took != 50*time.Second {
			s.Errorf("the second ping after %v", took)
		}
		next := s.connect()
		if took := time.Since(begin); took < 60*time.Second || took > 61*time.Second {
			s.Errorf("connected again after %v", took)
		}
		p.conn.Close()
		next.stop(c)
	})
}

func TestTokenEvent(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		p.text(`{"event":"token","expires_in_ms":60000}`)
		p.ok(p.expect("refresh"), `{"expires":1,"expires_in_ms":1,"token":"guest-9"}`)
		synctest.Wait()
		p.close(contracts.CloseGoingAway)
		p = s.accept()
		r := p.expect("connect")
		if r.Token != "guest-9" {
			s.Errorf("connect with %+v", r)
		}
		p.ok(r, hello(`"expires":1`))
		s.check("token", "token ")
		p.stop(c)
	})
}

// TestGarbage sends what no server may send.
func TestGarbage(t *testing.T) {
	tests := map[string]struct {
		frame []byte
		stops bool
	}{
		"not JSON":  {frame: wire.AppendText(nil, []byte("{"))},
		"masked":    {frame: []byte{0x81, 0x80, 1, 2, 3, 4}, stops: true},
		"binary":    {frame: []byte{0x82, 0x01, 0x00}, stops: true},
		"too large": {frame: []byte{0x81, 127, 0, 0, 0, 0, 0, 5, 0, 0}, stops: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			run(t, func(s *script) {
				c, p := s.start()
				p.write(tt.frame)
				if tt.stops {
					<-c.Done()
					var closed *client.CloseError
					if err := c.Err(); !errors.As(err, &closed) {
						s.Errorf("stopped with %v", err)
					}
					return
				}
				p = s.connect()
				p.stop(c)
			})
		})
	}
}

// TestFragments sends a reply in pieces, with a ping between them, a byte at a time.
func TestFragments(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.joined(5)
		text := entry("lobby", 1, 6)
		var b []byte
		b = append(append(b, 0x01, 10), text[:10]...)
		b = wire.AppendControl(b, wire.OpPing, nil)
		b = append(append(b, 0x00, 100), text[10:110]...)
		b = append(append(b, 0x80, byte(len(text)-110)), text[110:]...)
		b = wire.AppendText(b, []byte(entry("lobby", 1, 7)))
		for i := range b {
			p.write(b[i : i+1])
		}
		if ev := p.event(); ev.Op != wire.OpPong {
			s.Errorf("frame %d %q instead of a pong", ev.Op, ev.Payload)
		}
		s.check("in pieces", "lobby/1.6, lobby/1.7")
		p.stop(c)
	})
}

// TestCloseWithoutAnswer closes while the server does not react.
func TestCloseWithoutAnswer(t *testing.T) {
	run(t, func(s *script) {
		c, p := s.start()
		wait := background(func() (struct{}, error) {
			_, err := c.Join(s.Context(), "lobby", nil)
			return struct{}{}, err
		})
		p.expect("join")
		begin := time.Now()
		go func() { p.conn.Read(make([]byte, 64)) }()
		c.Close()
		if took := time.Since(begin); took != time.Second {
			s.Errorf("closed after %v", took)
		}
		if _, err := wait(); !errors.Is(err, client.ErrClosed) {
			s.Errorf("join: %v", err)
		}
		if _, err := c.Send(s.Context(), "lobby", "a"); !errors.Is(err, client.ErrClosed) {
			s.Errorf("send: %v", err)
		}
		p.conn.Close()
	})
}
