package workers

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/parley-chat/parley/contracts"
)

const (
	minSecret     = 32      // bytes
	maxTokenBytes = 8 << 10 // of a token that is looked at
	minRSABits    = 2048    // RFC 7518 section 3.3
	leeway        = 30 * time.Second
	rememberFor   = time.Minute
	rememberMost  = 10_000
)

// errUnauthorized answers whoever is not let in. It never says why.
var errUnauthorized = contracts.NewError(contracts.CodeUnauthorized, "a valid token is needed")

// claims are what a token says (RFC 7519 section 4.1, OpenID Connect Core section 5.1 for name).
type claims struct {
	jwt.RegisteredClaims
	Name  string `json:"name,omitempty"`
	Guest bool   `json:"guest,omitempty"`
}

// UnmarshalJSON reads claims and insists that times are numbers (RFC 7519 section 2), as the library takes strings too.
func (c *claims) UnmarshalJSON(data []byte) error {
	var times struct {
		ExpiresAt json.RawMessage `json:"exp"`
		NotBefore json.RawMessage `json:"nbf"`
		IssuedAt  json.RawMessage `json:"iat"`
	}
	if err := json.Unmarshal(data, &times); err != nil {
		return err
	}
	for _, raw := range []json.RawMessage{times.ExpiresAt, times.NotBefore, times.IssuedAt} {
		if len(raw) > 0 && raw[0] == '"' {
			return errors.New("a time is a string")
		}
	}
	type plain claims
	return json.Unmarshal(data, (*plain)(c))
}

// identity is who a token is for.
type identity struct {
	person  contracts.Person
	issued  int64 // Unix milliseconds; 0 where the token does not say
	expires int64 // Unix milliseconds
}

// auth checks and makes tokens.
type auth struct {
	cfg    *Config
	keys   *keySet // nil without a JWKS URL
	parser *jwt.Parser
	known  *cache[[sha256.Size]byte, remembered]
}

type remembered struct {
	identity
	until time.Time
}

func newAuth(cfg *Config, log *slog.Logger, running *tracker) *auth {
	var methods []string
	if len(cfg.Secret) > 0 {
		methods = append(methods, "HS256")
	}
	a := &auth{cfg: cfg, known: newCache[[sha256.Size]byte, remembered](rememberMost)}
	if cfg.JWKSURL != "" {
		methods = append(methods, "RS256", "ES256", "EdDSA")
		a.keys = newKeySet(cfg.JWKSURL, log, running)
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods(methods), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(leeway), jwt.WithStrictDecoding(),
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if cfg.Audience != "" {
		options = append(options, jwt.WithAudience(cfg.Audience))
	}
	a.parser = jwt.NewParser(options...)
	return a
}

// verify checks a token. The error is errUnauthorized, whatever is wrong with the token, or errUnavailable where the keys
// could never be fetched: then nobody knows.
func (a *auth) verify(ctx context.Context, token string) (identity, error) {
	if len(token) == 0 || len(token) > maxTokenBytes {
		return identity{}, errUnauthorized
	}
	var c claims
	parsed, err := a.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) { return a.key(ctx, t) })
	if errors.Is(err, errNoKeys) {
		return identity{}, errUnavailable
	}
	if err != nil || !contracts.ValidID(c.Subject) {
		return identity{}, errUnauthorized
	}
	id := identity{
		person:  contracts.Person{ID: contracts.UserID(c.Subject), Name: c.Name},
		expires: c.ExpiresAt.UnixMilli(),
	}
	if c.IssuedAt != nil {
		id.issued = c.IssuedAt.UnixMilli()
	}
	if contracts.ValidateName(c.Name) != nil {
		id.person.Name = c.Subject
	}
	// Only tokens of our own make guests, as theirs are renewed without a proof but themselves.
	id.person.Guest = c.Guest && parsed.Method == jwt.SigningMethodHS256 && strings.HasPrefix(c.Subject, guestPrefix)
	return id, nil
}

// remembered is verify for callers that bring the same token again and again; an answer is kept for a minute.
func (a *auth) remembered(ctx context.Context, token string) (identity, error) {
	if len(token) > maxTokenBytes {
		return identity{}, errUnauthorized
	}
	sum, now := sha256.Sum256([]byte(token)), time.Now()
	if r, ok := a.known.get(sum); ok && now.Before(r.until) {
		return r.identity, nil
	}
	id, err := a.verify(ctx, token)
	if err != nil {
		return identity{}, err
	}
	until := now.Add(rememberFor)
	if end := time.UnixMilli(id.expires).Add(leeway); end.Before(until) {
		until = end
	}
	a.known.put(sum, remembered{identity: id, until: until})
	return id, nil
}

// key returns the key, or keys, for a token's method: never one of another kind than the method's, whatever the
// token's header says. Headers that bring or name a key of their own (jwk, jku, x5u, x5c) are not looked at.
func (a *auth) key(ctx context.Context, t *jwt.Token) (any, error) {
	if _, critical := t.Header["crit"]; critical {
		return nil, errors.New("critical extensions are not understood") // RFC 7515 section 4.1.11
	}
	if t.Method == jwt.SigningMethodHS256 {
		return a.cfg.Secret, nil
	}
	if a.keys == nil {
		return nil, errors.New("no key set")
	}
	found, err := a.keys.find(ctx, t)
	if err != nil {
		return nil, err
	}
	var fit jwt.VerificationKeySet
	for _, key := range found {
		if keyFits(t.Method, key) {
			fit.Keys = append(fit.Keys, key)
		}
	}
	if len(fit.Keys) == 0 {
		return nil, errors.New("no key of the method's kind")
	}
	return fit, nil
}

// keyFits reports whether key is one for the method.
func keyFits(method jwt.SigningMethod, key any) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return method == jwt.SigningMethodRS256 && key.N.BitLen() >= minRSABits
	case *ecdsa.PublicKey:
		return method == jwt.SigningMethodES256 && key.Curve == elliptic.P256()
	case ed25519.PublicKey:
		return method.Alg() == jwt.SigningMethodEdDSA.Alg()
	}
	return false
}

// signedHead is the header of the tokens made here, encoded: they come in storms, and the library reflects on theirs.
var signedHead = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`))

// sign makes a guest's token (RFC 7515 section 7.1) with the claims that verify reads.
func (a *auth) sign(p contracts.Person) (token string, expires int64) {
	now := time.Now()
	end := now.Add(a.cfg.GuestLifetime).Truncate(time.Second)
	c := append(make([]byte, 0, 256), `{"sub":`...)
	c = contracts.AppendString(c, string(p.ID))
	if a.cfg.Issuer != "" {
		c = append(c, `,"iss":`...)
		c = contracts.AppendString(c, a.cfg.Issuer)
	}
	if a.cfg.Audience != "" {
		c = append(c, `,"aud":`...)
		c = contracts.AppendString(c, a.cfg.Audience)
	}
	c = append(c, `,"iat":`...)
	c = strconv.AppendInt(c, now.Unix(), 10)
	c = append(c, `,"exp":`...)
	c = strconv.AppendInt(c, end.Unix(), 10)
	c = append(c, `,"name":`...)
	c = contracts.AppendString(c, p.Name)
	c = append(c, `,"guest":true}`...)

	encoding := base64.RawURLEncoding
	b := make([]byte, 0, len(signedHead)+encoding.EncodedLen(len(c))+encoding.EncodedLen(sha256.Size)+2)
	b = append(append(b, signedHead...), '.')
	b = encoding.AppendEncode(b, c)
	mac := hmac.New(sha256.New, a.cfg.Secret)
	_, _ = mac.Write(b) // a hash never fails
	b = append(b, '.')
	return string(encoding.AppendEncode(b, mac.Sum(nil))), end.UnixMilli()
}
