package workers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

const (
	jwksTimeout  = 3 * time.Second
	jwksPause    = 30 * time.Second // between two fetches, whatever they brought
	jwksMaxAge   = 10 * time.Minute // then a use of the keys brings a fetch along
	jwksMaxBytes = 1 << 20
	jwksMaxKeys  = 64
)

// errNoKeys says that no fetch has brought keys so far.
var errNoKeys = errors.New("no keys yet")

// keySet is the keys behind a JWKS URL (RFC 7517). They are fetched at the first use, when a key is asked for that is
// not among them, and when they are old; never more than once in jwksPause. A failed fetch leaves the keys as they
// are, a good one replaces them all.
type keySet struct {
	url     string
	client  *http.Client
	log     *slog.Logger
	running *tracker

	mu      sync.Mutex
	keys    keyfunc.Keyfunc // guarded by mu; nil before the first good fetch
	fetched time.Time       // guarded by mu; when keys came
	tried   time.Time       // guarded by mu; when the last fetch began
	busy    chan struct{}   // guarded by mu; closed at the end of the fetch under way, nil without one
}

func newKeySet(url string, log *slog.Logger, running *tracker) *keySet {
	client := &http.Client{
		Timeout: jwksTimeout,
		// A transport of its own, without idle connections: there is one fetch in minutes.
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
	}
	return &keySet{url: url, client: client, log: log, running: running}
}

// find returns the public keys that may have signed t: the one that its kid names, or all of them without a kid.
func (k *keySet) find(ctx context.Context, t *jwt.Token) ([]any, error) {
	k.mu.Lock()
	keys, old := k.keys, time.Since(k.fetched) > jwksMaxAge
	k.mu.Unlock()
	if keys != nil {
		found, err := lookUp(keys, t)
		if err == nil {
			if old {
				k.fetch()
			}
			return found, nil
		}
	}
	select {
	case <-k.fetch():
	case <-ctx.Done():
		return nil, errNoKeys
	}
	k.mu.Lock()
	keys = k.keys
	k.mu.Unlock()
	if keys == nil {
		return nil, errNoKeys
	}
	return lookUp(keys, t)
}

func lookUp(keys keyfunc.Keyfunc, t *jwt.Token) ([]any, error) {
	key, err := keys.Keyfunc(t)
	if err != nil {
		return nil, err
	}
	set, many := key.(jwt.VerificationKeySet)
	if !many {
		return []any{key}, nil
	}
	found := make([]any, len(set.Keys))
	for i := range set.Keys {
		found[i] = set.Keys[i]
	}
	return found, nil
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// fetch begins a fetch, unless one is under way or the pause is not over. The channel is closed when it has ended.
func (k *keySet) fetch() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy != nil {
		return k.busy
	}
	if !k.tried.IsZero() && time.Since(k.tried) < jwksPause {
		return closed
	}
	k.tried = time.Now()
	busy := make(chan struct{})
	k.busy = busy
	k.running.begin()
	go func() {
		defer k.running.end()
		keys, err := k.load()
		if err != nil {
			k.log.Warn("keys for tokens could not be fetched; the old ones stay", "url", k.url, "err", err)
		}
		k.mu.Lock()
		if err == nil {
			k.keys, k.fetched = keys, time.Now()
		}
		k.busy = nil
		k.mu.Unlock()
		close(busy)
	}()
	return busy
}

// load fetches the set and keeps the keys of it that can be read and are public.
func (k *keySet) load() (keyfunc.Keyfunc, error) {
	response, err := k.client.Get(k.url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }() // nothing more is read from it
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, jwksMaxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(body) > jwksMaxBytes {
		return nil, fmt.Errorf("more than %d bytes", jwksMaxBytes)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("read key set: %w", err)
	}
	var usable []json.RawMessage
	for _, raw := range set.Keys {
		var header struct {
			Type string `json:"kty"`
		}
		if json.Unmarshal(raw, &header) != nil || header.Type == "oct" {
			continue
		}
		if _, err := keyfunc.NewJWKJSON(raw); err == nil && len(usable) < jwksMaxKeys {
			usable = append(usable, raw)
		}
	}
	if len(usable) == 0 {
		return nil, errors.New("no usable key in the set")
	}
	set.Keys = usable
	if body, err = json.Marshal(set); err != nil {
		return nil, fmt.Errorf("encode key set: %w", err)
	}
	return keyfunc.NewJWKSetJSON(body)
}
