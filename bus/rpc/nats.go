package rpc

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/parley-chat/parley/bus/rawconn"
)

const (
	connectTimeout = 2 * time.Second
	writeTimeout   = time.Second             // of a write to a broker that takes nothing; all askers wait for it
	pingEvery      = 1500 * time.Millisecond // with two unanswered, a stalled broker counts as lost after 3 to 4.5 s, before requests give up
	reconnectMin   = 50 * time.Millisecond
	reconnectMax   = 500 * time.Millisecond // and how long a broker may be back before it is noticed
	inboxPending   = 16384                  // replies that wait for their callback; beyond, a reply is lost and its asker times out
	pingForgotten  = 10 * time.Second       // until a ping is forgotten that nobody waits for any more
	noResponders   = "503"                  // the status header that the broker sends when nobody serves a subject
	statusHeader   = "Status"
)

// Config says how to reach NATS.
type Config struct {
	// URL is nats://host:port, tls://…, or several of one cluster with commas between them. Not used with InProcess.
	// Defaults to nats.DefaultURL.
	URL string
	// Name shows in the broker's list of connections. Defaults to "parley".
	Name string
	// InProcess, where set, connects to a broker inside this process.
	InProcess nats.InProcessConnProvider
	// Dialed, where set, is called for every connection that is tried, but for those InProcess.
	Dialed func()
}

// NATS asks and serves over one connection to NATS, which reconnects by itself for as long as it takes. It is a Client
// and a Server.
type NATS struct {
	log     *slog.Logger
	server  string // where it is, for logs; without credentials
	conn    *nats.Conn
	closed  chan struct{} // closed when the connection will not come back
	greeted chan struct{} // closed when it was there for the first time
	waiting *waiting
	inbox   string // prefix of the reply subjects
	replies chan *nats.Msg
	done    chan struct{} // closed when the goroutine of the replies has ended
	answers *bundles      // what this one serves

	maxPayload atomic.Int64
	up         atomic.Bool // the broker is connected; see send
	closing    atomic.Bool
	greetOnce  sync.Once
	closeOnce  sync.Once

	gatherMu sync.Mutex            // guards gathered
	gathered map[string]*gathering // by Gathered subject

	mu        sync.Mutex // guards what follows
	services  map[string]*microService
	endpoints map[*endpoint]struct{} // those not stopped
}

var (
	_ Client = (*NATS)(nil)
	_ Server = (*NATS)(nil)
)

// Connect returns at once, also while the broker is away: then Up is false until it comes. It fails when the
// configuration is unusable.
func Connect(cfg Config, log *slog.Logger) (*NATS, error) {
	if cfg.URL == "" {
		cfg.URL = nats.DefaultURL
	}
	if cfg.Name == "" {
		cfg.Name = "parley"
	}
	n := &NATS{
		log:      log,
		server:   cfg.Server(),
		closed:   make(chan struct{}),
		greeted:  make(chan struct{}),
		waiting:  newWaiting(),
		inbox:    "_INBOX." + rand.Text() + ".",
		replies:  make(chan *nats.Msg, inboxPending),
		done:     make(chan struct{}),
		gathered: make(map[string]*gathering),
		services: make(map[string]*microService), endpoints: make(map[*endpoint]struct{}),
	}
	n.maxPayload.Store(1 << 20) // the broker's own default, until it says otherwise
	opts := []nats.Option{
		nats.Name(cfg.Name),
		nats.Timeout(connectTimeout),
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(2),
		nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1), // nothing stale is sent after an outage
		nats.FlusherTimeout(writeTimeout),
		nats.ReconnectOnFlusherError(), // what was not written is lost: let its askers know
		nats.WriteBufferSize(1 << 30),  // so that nobody but the flusher writes: another's failed write ends no connection
		nats.RetryOnFailedConnect(true),
		nats.CustomReconnectDelay(reconnectDelay),
		nats.ConnectHandler(n.connected),
		nats.ReconnectHandler(n.connected),
		nats.DisconnectErrHandler(n.disconnected),
		nats.ErrorHandler(n.asyncError),
		nats.ClosedHandler(func(*nats.Conn) { close(n.closed) }),
	}
	if cfg.InProcess != nil {
		opts = append(opts, nats.InProcessServer(cfg.InProcess))
	} else {
		opts = append(opts, nats.SetCustomDialer(dialer{cfg.Dialed}), nats.SkipHostLookup())
	}
	conn, err := nats.Connect(cfg.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to nats: %w", err)
	}
	n.conn = conn
	n.answers = newBundles(conn.Publish, n.MaxPayload)
	if conn.IsConnected() {
		<-n.greeted // connected is under way
	} else {
		log.Warn("waiting for NATS", "server", n.server, "err", cmp.Or(conn.LastError(), errNoAnswer))
	}
	if _, err := conn.ChanSubscribe(n.inbox+"*", n.replies); err != nil {
		conn.Close()
		return nil, fmt.Errorf("subscribe to the replies: %w", err)
	}
	go n.receive()
	go n.answers.run()
	if err := n.settle(); err != nil {
		_ = n.Close()
		return nil, err
	}
	return n, nil
}

type dialer struct{ dialed func() }

// Dial implements nats.CustomDialer. It resolves names itself, as nats.go gives each address of a name as much time as
// the name has, where the dialer is not its own.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	if d.dialed != nil {
		d.dialed()
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	hosts, err := net.LookupHost(host)
	if err != nil {
		return nil, err
	}
	mathrand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	for _, host := range hosts {
		var nc net.Conn
		if nc, err = net.DialTimeout(network, net.JoinHostPort(host, port), connectTimeout/time.Duration(len(hosts))); err == nil {
			return rawconn.Wrap(nc), nil
		}
	}
	return nil, err
}

const inThisProcess = "in this process"

// errNoAnswer stands where the library keeps no reason: it forgets a refused connection while it tries others.
var errNoAnswer = errors.New("no server accepts a connection")

// Server says where the broker is, for people: without credentials.
func (c Config) Server() string {
	if c.InProcess != nil {
		return inThisProcess
	}
	all := strings.Split(cmp.Or(c.URL, nats.DefaultURL), ",")
	for i, one := range all {
		all[i] = withoutUser(one)
	}
	return strings.Join(all, ",")
}

// withoutUser takes user, password and token out of a URL.
func withoutUser(raw string) string {
	raw = strings.TrimSpace(raw)
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		scheme, rest = "nats", raw
	}
	return scheme + "://" + rest[strings.LastIndexByte(rest, '@')+1:]
}

// settle waits until the broker knows the subscriptions made so far. A broker that is away or silent learns them when it comes.
func (n *NATS) settle() error {
	if !n.conn.IsConnected() {
		return nil
	}
	err := n.conn.FlushTimeout(connectTimeout)
	switch {
	case err == nil || !n.conn.IsConnected():
		return nil
	case errors.Is(err, nats.ErrTimeout):
		n.log.Warn("NATS is silent; it learns the subscriptions when it answers", "server", n.server)
		return nil
	}
	return fmt.Errorf("wait for nats to take the subscriptions: %w", err)
}

// Ask implements Client.
func (n *NATS) Ask(subject string, body []byte, timeout time.Duration, done func(reply []byte, err error)) {
	if len(body) > n.MaxPayload() {
		done(nil, ErrTooLarge)
		return
	}
	id := n.waiting.lastID.Add(1)
	if !n.waiting.add(id, timeout, done, nil) {
		done(nil, ErrDown)
		return
	}
	n.publish(id, subject, body)
}

// publish sends a waiting request by itself.
func (n *NATS) publish(id uint64, subject string, body []byte) {
	var b [64]byte
	reply := string(strconv.AppendUint(append(append(b[:0], n.inbox...), bundleMark...), id, 36))
	if err := n.send(subject, reply, body); err != nil {
		answer := ErrDown
		if errors.Is(err, nats.ErrMaxPayload) {
			answer = ErrTooLarge
		}
		n.waiting.end(id, nil, answer)
	}
}

// send hands a request to the broker's client. That holds its lock while it dials and is greeted, for seconds where the broker is
// silent: whoever may not wait must not come near it then.
func (n *NATS) send(subject, reply string, body []byte) error {
	if !n.up.Load() {
		return ErrDown
	}
	return n.conn.PublishRequest(subject, reply, body)
}

// receive calls the waiting askers back.
func (n *NATS) receive() {
	defer close(n.done)
	for m := range n.replies {
		if m == nil {
			return
		}
		token := strings.TrimPrefix(m.Subject, n.inbox)
		if token == bundleMark {
			err := unbundle(m.Data, func(id uint64, answer []byte, served bool) {
				if served {
					n.waiting.end(id, answer, nil)
				} else {
					n.waiting.end(id, nil, ErrNoServer)
				}
			})
			if err != nil {
				n.log.Warn("a server's answers could not be read", "err", err) // their askers run into their timeouts
			}
			continue
		}
		if gathered, ok := strings.CutPrefix(token, gatherMark); ok {
			n.ungathered(gathered) // the broker's refusal is all that comes to it
			continue
		}
		id, err := strconv.ParseUint(strings.TrimPrefix(token, bundleMark), 36, 64)
		if err != nil {
			continue
		}
		if len(m.Data) == 0 && m.Header != nil && m.Header.Get(statusHeader) == noResponders {
			n.waiting.end(id, nil, ErrNoServer)
			continue
		}
		n.waiting.end(id, m.Data, nil)
	}
}

// MaxPayload implements Client.
func (n *NATS) MaxPayload() int { return int(n.maxPayload.Load()) }

// Up implements Client.
func (n *NATS) Up() bool { return n.up.Load() }

// Ping asks the broker for a sign of life: that nobody serves a subject, which the broker answers itself. The client's own ping
// would hold its lock over a write to a broker that takes nothing; see send.
func (n *NATS) Ping(ctx context.Context) error {
	answer := make(chan error, 1)
	n.Ask(n.inbox+"is.there", nil, pingForgotten, func(_ []byte, err error) { answer <- err })
	select {
	case err := <-answer:
		if errors.Is(err, ErrNoServer) {
			return nil
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close implements Client. It also ends what Serve began and waits for the handlers; requests that nobody has taken yet
// are lost, unless the stops were called before.
func (n *NATS) Close() error {
	n.closeOnce.Do(func() {
		n.closing.Store(true)
		n.answers.stop() // what was answered before is sent
		n.conn.Close()
		<-n.closed
		n.up.Store(false)
		n.replies <- nil
		<-n.done
		n.waiting.close()
		n.mu.Lock()
		left := slices.Collect(maps.Keys(n.endpoints))
		n.mu.Unlock()
		for _, e := range left {
			_ = e.stop(n) // the connection is closed, so nothing can fail
		}
	})
	return nil
}

func (n *NATS) connected(conn *nats.Conn) {
	n.maxPayload.Store(conn.MaxPayload())
	n.up.Store(true)
	n.greetOnce.Do(func() { close(n.greeted) })
	server := n.server
	if server != inThisProcess {
		server = withoutUser(conn.ConnectedUrl())
	}
	n.log.Info("connected to nats", "server", server)
}

// disconnected ends every waiting request: its reply, if there is one, went with the connection.
func (n *NATS) disconnected(_ *nats.Conn, err error) {
	n.up.Store(false)
	if !n.closing.Load() {
		n.log.Warn("nats is not connected", "err", err)
	}
	n.waiting.endAll(ErrDown)
}

func (n *NATS) asyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	n.log.Warn("nats reported an error", "subject", subject, "err", err)
}

// reconnectDelay doubles from 100 to 500 ms, each with up to half of it taken off by chance, so that a fleet does not come
// back in step.
func reconnectDelay(attempts int) time.Duration {
	d := reconnectMax
	if attempts < 4 {
		d = min(reconnectMin<<max(attempts, 0), reconnectMax)
	}
	return d - mathrand.N(d/2)
}
