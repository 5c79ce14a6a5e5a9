package workers_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/workers"
)

// issuer is an identity provider: keys, and the document that tells them, behind a transport without a network.
type issuer struct {
	rsa     *rsa.PrivateKey
	ec      *ecdsa.PrivateKey
	ed      ed25519.PrivateKey
	mu      sync.Mutex
	keys    []map[string]any // guarded by mu
	status  int              // guarded by mu
	fetches int              // guarded by mu
}

var newIssuerKeys = sync.OnceValue(func() *issuer {
	i := &issuer{}
	var err error
	if i.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		panic(err)
	}
	if i.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		panic(err)
	}
	if _, i.ed, err = ed25519.GenerateKey(rand.Reader); err != nil {
		panic(err)
	}
	return i
})

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	k := newIssuerKeys()
	i := &issuer{rsa: k.rsa, ec: k.ec, ed: k.ed, status: http.StatusOK}
	point, err := i.ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	i.keys = []map[string]any{
		{"kty": "RSA", "kid": "r1", "n": b64(i.rsa.N.Bytes()), "e": "AQAB"},
		{"kty": "EC", "kid": "e1", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])},
		{"kty": "OKP", "kid": "d1", "crv": "Ed25519", "x": b64(i.ed.Public().(ed25519.PublicKey))},
		{"kty": "oct", "kid": "o1", "k": b64(secret), "alg": "HS256"},
		{"kty": "new", "kid": "n1"},
	}
	return i
}

func (i *issuer) RoundTrip(*http.Request) (*http.Response, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fetches++
	body, err := json.Marshal(map[string]any{"keys": i.keys})
	return &http.Response{StatusCode: i.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(body)))}, err
}

func (i *issuer) set(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
}

func (i *issuer) world(t *testing.T, change func(*workers.Config)) *world {
	f := newWorld(t, func(c *workers.Config) {
		c.JWKSURL = "http://issuer.test/keys"
		if change != nil {
			change(c)
		}
	})
	f.w.SetJWKSTransport(i)
	return f
}

type tokenSpec struct {
	method jwt.SigningMethod
	key    any
	header map[string]any
	claims jwt.MapClaims
}

func (s tokenSpec) make(t *testing.T) string {
	t.Helper()
	token := jwt.NewWithClaims(s.method, s.claims)
	for k, v := range s.header {
		token.Header[k] = v
	}
	text, err := token.SignedString(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// good is a token of ours for u1.
func good(change func(*tokenSpec)) tokenSpec {
	s := tokenSpec{
		method: jwt.SigningMethodHS256, key: secret, header: map[string]any{},
		claims: jwt.MapClaims{"sub": "u1", "name": "Ada", "exp": time.Now().Add(time.Hour).Unix()},
	}
	if change != nil {
		change(&s)
	}
	return s
}

func connect(token string) contracts.Command {
	body, _ := json.Marshal(map[string]string{"token": token, "guest": "Eve"}) // strings always encode
	return contracts.Command{Op: contracts.OpConnect, Conn: 1, Body: body}
}

// Every token here must be refused, with the same words.
func TestBadTokens(t *testing.T) {
	i := newIssuer(t)
	der, err := x509.MarshalPKIXPublicKey(&i.rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.keys = append(i.keys, map[string]any{"kty": "RSA", "kid": "small", "n": b64(small.N.Bytes()), "e": "AQAB"})

	hs := func(change func(*tokenSpec)) string { return good(change).make(t) }
	claim := func(name string, value any) string {
		return hs(func(s *tokenSpec) {
			if value == nil {
				delete(s.claims, name)
			} else {
				s.claims[name] = value
			}
		})
	}
	rs := func(kid string, key any, method jwt.SigningMethod) string {
		return hs(func(s *tokenSpec) {
			s.method, s.key = method, key
			if kid != "" {
				s.header["kid"] = kid
			}
		})
	}
	plain := hs(nil)
	parts := strings.Split(plain, ".")
	raw := func(header string) string { return b64([]byte(header)) + "." + parts[1] + "." }
	now := time.Now()
	tokens := map[string]string{
		"empty":                    "",
		"garbage":                  "abc",
		"two parts":                parts[0] + "." + parts[1],
		"four parts":               plain + "." + parts[2],
		"four parts, last empty":   plain + ".",
		"no signature":             parts[0] + "." + parts[1] + ".",
		"padding":                  plain + "=",
		"white space":              " " + plain,
		"a bearer":                 "Bearer " + plain,
		"signature cut":            plain[:len(plain)-2],
		"other claims":             parts[0] + "." + b64([]byte(`{"sub":"admin","exp":99999999999}`)) + "." + parts[2],
		"longer than 8 KiB":        claim("pad", strings.Repeat("x", 8<<10)),
		"other secret":             hs(func(s *tokenSpec) { s.key = []byte(strings.Repeat("x", 32)) }),
		"HS384":                    hs(func(s *tokenSpec) { s.method = jwt.SigningMethodHS384 }),
		"HS512":                    hs(func(s *tokenSpec) { s.method = jwt.SigningMethodHS512 }),
		"critical extension":       hs(func(s *tokenSpec) { s.header["crit"] = []string{"x"}; s.header["x"] = 1 }),
		"no exp":                   claim("exp", nil),
		"exp is a string":          claim("exp", "99999999999"),
		"exp is null":              hs(func(s *tokenSpec) { s.claims["exp"] = nil }),
		"expired":                  claim("exp", now.Add(-31*time.Second).Unix()),
		"nbf ahead":                claim("nbf", now.Add(time.Minute).Unix()),
		"iat ahead":                claim("iat", now.Add(time.Minute).Unix()),
		"no sub":                   claim("sub", nil),
		"sub is empty":             claim("sub", ""),
		"sub is a number":          claim("sub", 5),
		"sub with a dot":           claim("sub", "a.b"),
		"sub with a colon":         claim("sub", "room:x"),
		"sub too long":             claim("sub", strings.Repeat("x", 65)),
		"name is an object":        claim("name", map[string]any{"$ne": ""}),
		"none":                     raw(`{"alg":"none","typ":"JWT"}`),
		"None":                     raw(`{"alg":"None"}`),
		"NONE":                     raw(`{"alg":"NONE"}`),
		"nOnE":                     raw(`{"alg":"nOnE"}`),
		"none with a signature":    raw(`{"alg":"none"}`) + parts[2],
		"no alg":                   raw(`{"typ":"JWT"}`) + parts[2],
		"alg is a number":          raw(`{"alg":256}`) + parts[2],
		"alg is empty":             raw(`{"alg":""}`) + parts[2],
		"HS256 with the RSA key":   hs(func(s *tokenSpec) { s.key = publicPEM; s.header["kid"] = "r1" }),
		"HS256 with the RSA DER":   hs(func(s *tokenSpec) { s.key = der; s.header["kid"] = "r1" }),
		"HS256 with the modulus":   hs(func(s *tokenSpec) { s.key = i.rsa.N.Bytes(); s.header["kid"] = "r1" }),
		"RS256 with another key":   rs("r1", other, jwt.SigningMethodRS256),
		"RS256 without kid, other": rs("", other, jwt.SigningMethodRS256),
		"RS256 with the EC's kid":  rs("e1", i.rsa, jwt.SigningMethodRS256),
		"RS256 with a short key":   rs("small", small, jwt.SigningMethodRS256),
		"RS384":                    rs("r1", i.rsa, jwt.SigningMethodRS384),
		"PS256":                    rs("r1", i.rsa, jwt.SigningMethodPS256),
		"ES256 with the RSA's kid": rs("r1", i.ec, jwt.SigningMethodES256),
		"ES384":                    rs("e1", p384, jwt.SigningMethodES384),
		"EdDSA with the EC's kid":  rs("e1", i.ed, jwt.SigningMethodEdDSA),
		"kid is a number":          hs(func(s *tokenSpec) { s.method, s.key = jwt.SigningMethodRS256, i.rsa; s.header["kid"] = 1 }),
		"unknown kid":              rs("../../../../etc/passwd", i.rsa, jwt.SigningMethodRS256),
		"kid of the secret":        rs("o1", i.rsa, jwt.SigningMethodRS256),
		"brings its key": hs(func(s *tokenSpec) {
			s.method, s.key = jwt.SigningMethodRS256, other
			s.header["jwk"] = map[string]any{"kty": "RSA", "n": b64(other.N.Bytes()), "e": "AQAB"}
		}),
		"names its key": hs(func(s *tokenSpec) {
			s.method, s.key = jwt.SigningMethodRS256, other
			s.header["jku"], s.header["x5u"] = "http://evil.test/keys", "http://evil.test/cert"
		}),
	}
	for name, token := range tokens {
		t.Run(name, func(t *testing.T) {
			f := i.world(t, nil)
			a := f.do(connect(token))
			wantErr(t, a, contracts.CodeUnauthorized, "")
			if a.Err.Message != "a valid token is needed" || a.Connected != nil {
				t.Errorf("it says %q, connected %v", a.Err.Message, a.Connected)
			}
			h := contracts.Command{Op: contracts.OpHistory, Room: "lobby", Token: token}
			wantErr(t, f.do(h), contracts.CodeUnauthorized, "")
			s := contracts.Command{Op: contracts.OpSend, Room: "lobby", Token: token, Body: json.RawMessage(`{"text":"a"}`)}
			wantErr(t, f.do(s), contracts.CodeUnauthorized, "")
			r := cmd(contracts.OpRefresh, "")
			r.Body = connect(token).Body
			wantErr(t, f.do(r), contracts.CodeUnauthorized, "")
		})
	}
}

func TestGoodTokens(t *testing.T) {
	i := newIssuer(t)
	as := func(method jwt.SigningMethod, key any, kid string) func(*tokenSpec) {
		return func(s *tokenSpec) {
			s.method, s.key = method, key
			if kid != "" {
				s.header["kid"] = kid
			}
		}
	}
	for name, change := range map[string]func(*tokenSpec){
		"HS256":              nil,
		"RS256":              as(jwt.SigningMethodRS256, i.rsa, "r1"),
		"RS256 without kid":  as(jwt.SigningMethodRS256, i.rsa, ""),
		"ES256":              as(jwt.SigningMethodES256, i.ec, "e1"),
		"EdDSA":              as(jwt.SigningMethodEdDSA, i.ed, "d1"),
		"within the leeway":  func(s *tokenSpec) { s.claims["exp"] = time.Now().Add(-20 * time.Second).Unix() },
		"clocks that differ": func(s *tokenSpec) { s.claims["nbf"] = time.Now().Add(20 * time.Second).Unix() },
	} {
		t.Run(name, func(t *testing.T) {
			f := i.world(t, nil)
			spec := good(change)
			a := f.do(connect(spec.make(t)))
			if a.Err != nil || a.OK != nil || a.Connected == nil {
				t.Fatalf("got %+v", a)
			}
			c := a.Connected
			if c.User != ada || c.OK.User != ada || c.OK.Token != "" || c.Expires != spec.claims["exp"].(int64)*1000 || c.OK.Expires != c.Expires {
				t.Errorf("connected as %+v, ok %+v", c, c.OK)
			}
			if c.OK.Session == "" || c.OK.Durability != "process" || c.OK.Server != (contracts.Server{Name: "parley", Version: "1.2.3"}) || c.OK.Ping != 0 {
				t.Errorf("ok %+v", c.OK)
			}
			want := contracts.Limits{TextBytes: 16 << 10, TextRunes: 4000, MetaBytes: 2 << 10, ReplyBytes: 250 << 10, Page: 200, ResumeEntries: 1000, KeyAgeMS: 86_400_000}
			if c.OK.Limits != want {
				t.Errorf("limits %+v", c.OK.Limits)
			}
			if again := f.do(connect(spec.make(t))); again.Connected.OK.Session == c.OK.Session {
				t.Error("two sessions of one name")
			}
		})
	}
	t.Run("the name falls back to the id", func(t *testing.T) {
		f := i.world(t, nil)
		for _, bad := range []any{"", "\n", strings.Repeat("x", 65)} {
			a := f.do(connect(good(func(s *tokenSpec) { s.claims["name"] = bad }).make(t)))
			if a.Connected == nil || a.Connected.User.Name != "u1" {
				t.Errorf("named %q: %+v", bad, a.Connected)
			}
		}
	})
	t.Run("nobody becomes a guest through others' tokens", func(t *testing.T) {
		f := i.world(t, nil)
		a := f.do(connect(good(func(s *tokenSpec) {
			s.method, s.key = jwt.SigningMethodES256, i.ec
			s.claims["guest"], s.claims["sub"] = true, "g-x"
		}).make(t)))
		if a.Connected == nil || a.Connected.User.Guest || a.Connected.OK.Token != "" {
			t.Errorf("got %+v", a.Connected)
		}
	})
}

func TestIssuerAndAudience(t *testing.T) {
	f := newWorld(t, func(c *workers.Config) { c.Issuer, c.Audience = "https://id.test", "chat" })
	made := f.do(contracts.Command{Op: contracts.OpConnect, Body: json.RawMessage(`{"guest":"\"E\\v <é>"}`)})
	if made.Err != nil {
		t.Fatal(made.Err)
	}
	// The token is put together by hand: the library must read it like one of its own.
	var c jwt.MapClaims
	if _, err := jwt.NewParser(jwt.WithStrictDecoding(), jwt.WithIssuer("https://id.test"), jwt.WithAudience("chat"), jwt.WithExpirationRequired(), jwt.WithIssuedAt()).
		ParseWithClaims(made.Connected.OK.Token, &c, func(*jwt.Token) (any, error) { return secret, nil }); err != nil {
		t.Errorf("a guest's token: %v", err)
	}
	if c["name"] != `"E\v <é>` || c["sub"] != string(made.Connected.User.ID) || c["guest"] != true {
		t.Errorf("a guest's token claims %v", c)
	}
	if a := f.do(connect(made.Connected.OK.Token)); a.Err != nil || a.Connected.User != made.Connected.User {
		t.Errorf("a guest came back as %+v, %v", a.Connected, a.Err)
	}
	for _, tt := range []struct {
		iss, aud any
		good     bool
	}{
		{"https://id.test", "chat", true},
		{"https://id.test", []string{"mail", "chat"}, true},
		{"https://id.test", "mail", false},
		{"https://id.test", nil, false},
		{"https://id.test", []string{}, false},
		{"https://id.test.evil", "chat", false},
		{nil, "chat", false},
		{[]string{"https://id.test"}, "chat", false},
	} {
		a := f.do(connect(good(func(s *tokenSpec) {
			for name, v := range map[string]any{"iss": tt.iss, "aud": tt.aud} {
				if v != nil {
					s.claims[name] = v
				}
			}
		}).make(t)))
		if tt.good != (a.Err == nil) {
			t.Errorf("iss %v aud %v: %v", tt.iss, tt.aud, a.Err)
		}
	}
	// A guest's own token has both.
	g := f.do(contracts.Command{Op: contracts.OpConnect, Body: json.RawMessage(`{"guest":"Eve"}`)})
	if a := f.do(connect(g.Connected.OK.Token)); a.Err != nil {
		t.Errorf("the guest cannot come back: %v", a.Err)
	}
}

func TestGuests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		a := f.do(contracts.Command{Op: contracts.OpConnect, Body: json.RawMessage(`{"guest":"Eve"}`)})
		if a.Err != nil {
			t.Fatal(a.Err)
		}
		first := *a.Connected.OK
		day := (24 * time.Hour).Milliseconds()
		if !first.User.Guest || first.User.Name != "Eve" || !contracts.ValidID(string(first.User.ID)) || first.ExpiresInMS != 30*day || first.Token == "" {
			t.Fatalf("got %+v", first)
		}
		if b := f.do(contracts.Command{Op: contracts.OpConnect, Body: json.RawMessage(`{"guest":"Eve"}`)}); b.Connected.User.ID == first.User.ID {
			t.Error("two guests of one name are one person")
		}
		back := func(token string) contracts.ConnectOK {
			t.Helper()
			a := f.do(connect(token))
			if a.Err != nil || a.Connected.User != first.User {
				t.Fatalf("came back as %+v, %v", a.Connected, a.Err)
			}
			return *a.Connected.OK
		}
		time.Sleep(22 * 24 * time.Hour)
		if ok := back(first.Token); ok.Token != first.Token || ok.Expires != first.Expires {
			t.Error("a token of 22 days was renewed")
		}
		time.Sleep(24 * time.Hour)
		renewed := back(first.Token)
		if renewed.Token == first.Token || renewed.ExpiresInMS != 30*day {
			t.Errorf("a token of 23 days was not renewed: %+v", renewed)
		}
		c := cmd(contracts.OpRefresh, `{}`)
		c.User = &first.User
		r := f.do(c)
		ok := decode[contracts.RefreshOK](t, r)
		if ok.ExpiresInMS != 30*day || r.Connected == nil || r.Connected.User != first.User || r.Connected.Expires != ok.Expires {
			t.Errorf("refreshed: %+v, %+v", ok, r.Connected)
		}
		back(ok.Token)
		time.Sleep(31 * 24 * time.Hour)
		wantErr(t, f.do(connect(ok.Token)), contracts.CodeUnauthorized, "")

		made := decode[contracts.GuestOK](t, f.do(contracts.Command{Op: contracts.OpGuest, Body: json.RawMessage(`{"name":"Eve"}`)}))
		if a := f.do(connect(made.Token)); a.Err != nil || a.Connected.User != made.User || a.Connected.Expires != made.Expires {
			t.Errorf("POST /v1/guests made %+v, which connects as %+v", made, a.Connected)
		}
		if made.User.ID <= first.User.ID {
			t.Errorf("guest %s was made after guest %s", made.User.ID, first.User.ID)
		}
	})
}

func TestNoGuestsWithoutASecret(t *testing.T) {
	f := newIssuer(t).world(t, func(c *workers.Config) { c.Secret = nil })
	for _, c := range []contracts.Command{
		{Op: contracts.OpConnect, Body: json.RawMessage(`{"guest":"Eve"}`)},
		{Op: contracts.OpGuest, Body: json.RawMessage(`{"name":"Eve"}`)},
		connect(good(func(s *tokenSpec) { s.key = []byte{} }).make(t)),
		{Op: contracts.OpRefresh, User: &contracts.Person{ID: "g-1", Name: "Eve", Guest: true}},
	} {
		wantErr(t, f.do(c), contracts.CodeUnauthorized, "")
	}
}

func TestRefreshIsForTheSamePerson(t *testing.T) {
	f := newWorld(t, nil)
	refresh := func(sub string) contracts.Answer {
		c := cmd(contracts.OpRefresh, "")
		c.Body = connect(good(func(s *tokenSpec) { s.claims["sub"] = sub }).make(t)).Body
		return f.do(c)
	}
	a := refresh("u1")
	if ok := decode[contracts.RefreshOK](t, a); ok.Token != "" || ok.Expires != a.Connected.Expires || ok.ExpiresInMS <= 0 {
		t.Errorf("got %+v", ok)
	}
	wantErr(t, refresh("u2"), contracts.CodeUnauthorized, "")
}

// A token that stands in for a user is checked anew after a minute, and never trusted beyond its end.
func TestRememberedTokensEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newWorld(t, nil)
		token := good(func(s *tokenSpec) { s.claims["exp"] = time.Now().Add(10 * time.Second).Unix() }).make(t)
		ask := func() contracts.Answer { return f.do(contracts.Command{Op: contracts.OpPing, Token: token}) }
		for range 4 {
			if a := ask(); a.Err != nil {
				t.Fatal(a.Err)
			}
			time.Sleep(10 * time.Second)
		}
		time.Sleep(time.Second)
		wantErr(t, ask(), contracts.CodeUnauthorized, "")
		s := contracts.Command{Op: contracts.OpSend, Room: "lobby", Token: good(nil).make(t), Body: json.RawMessage(`{"text":"over HTTP"}`)}
		decode[contracts.SendOK](t, f.do(s))
		if f.appended[0].From != ada {
			t.Errorf("sent as %+v", f.appended[0].From)
		}
	})
}

func TestKeySetIsFetchedSparingly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t)
		f := i.world(t, nil)
		rs := func(kid string) string {
			return good(func(s *tokenSpec) { s.method, s.key, s.header["kid"] = jwt.SigningMethodRS256, i.rsa, kid }).make(t)
		}
		fetches := func(want int) {
			t.Helper()
			i.set(func() {
				if i.fetches != want {
					t.Errorf("%d fetches, want %d", i.fetches, want)
				}
			})
		}
		var all []<-chan contracts.Answer
		for n := range 1000 {
			all = append(all, f.begin(connect(rs(fmt.Sprint("hostile", n)))))
		}
		for _, c := range all {
			wantErr(t, <-c, contracts.CodeUnauthorized, "")
		}
		fetches(1)
		if a := f.do(connect(rs("r1"))); a.Err != nil {
			t.Error(a.Err)
		}
		fetches(1)
		// Keys that were added are found, half a minute after the last fetch at the latest.
		i.set(func() { i.keys[0]["kid"] = "r2" })
		wantErr(t, f.do(connect(rs("r2"))), contracts.CodeUnauthorized, "")
		time.Sleep(30 * time.Second)
		if a := f.do(connect(rs("r2"))); a.Err != nil {
			t.Error(a.Err)
		}
		fetches(2)
		// Keys that were removed go.
		wantErr(t, f.do(connect(rs("r1"))), contracts.CodeUnauthorized, "")
		// An issuer that fails takes nothing away.
		i.set(func() { i.status = http.StatusInternalServerError })
		time.Sleep(time.Hour)
		for range 3 {
			if a := f.do(connect(rs("r2"))); a.Err != nil {
				t.Error(a.Err)
			}
			synctest.Wait()
		}
		fetches(3)
		// Old keys that were removed go even if nobody asks for unknown ones.
		i.set(func() { i.status, i.keys[0]["kid"] = http.StatusOK, "r3" })
		time.Sleep(time.Minute)
		_ = f.do(connect(rs("r2")))
		synctest.Wait()
		wantErr(t, f.do(connect(rs("r2"))), contracts.CodeUnauthorized, "")
	})
}

// While no keys ever came nobody can say that a token is bad.
func TestKeySetThatNeverCame(t *testing.T) {
	i := newIssuer(t)
	i.status = http.StatusBadGateway
	f := i.world(t, nil)
	token := good(func(s *tokenSpec) { s.method, s.key = jwt.SigningMethodRS256, i.rsa }).make(t)
	wantErr(t, f.do(connect(token)), contracts.CodeUnavailable, "")
	if a := f.do(connect(good(nil).make(t))); a.Err != nil {
		t.Errorf("a token of our own: %v", a.Err)
	}
	if err := f.w.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func FuzzToken(f *testing.F) {
	f.Add("a.b.c")
	f.Add(b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(`{"sub":"u1","exp":99999999999}`)) + ".")
	f.Add(b64([]byte(`{"alg":"HS256","crit":["x"]}`)) + "." + b64([]byte(`{"sub":"u1","exp":99999999999}`)) + ".AAAA")
	f.Fuzz(func(t *testing.T, token string) {
		w := newWorld(t, nil)
		if a := w.do(connect(token)); a.Err == nil {
			t.Errorf("token %q was made up and let in", token)
		}
	})
}
