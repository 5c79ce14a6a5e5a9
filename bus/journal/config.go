package journal

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/parley-chat/parley/contracts"
)

// Mechanisms of Config.SASL.
const (
	SASLPlain       = "plain"
	SASLScramSHA256 = "scram-sha-256"
	SASLScramSHA512 = "scram-sha-512"
)

// Config says where the log is and how it is used. The same one serves a Writer, a Consumer and a Log.
type Config struct {
	// Brokers are host:port addresses of some of Kafka's brokers. Needed.
	Brokers []string
	// Names builds the topic's name. Defaults to the names under "parley".
	Names contracts.Names
	// Partitions is the topic's partition count. Defaults to contracts.DefaultPartitions.
	Partitions int
	// SASL is the authentication mechanism: SASLPlain, SASLScramSHA256 or SASLScramSHA512. Defaults to none.
	SASL string
	// User and Password are for SASL.
	User, Password string
	// TLS encrypts the connections and checks the brokers against the system's roots. Defaults to false.
	TLS bool
	// Dial makes the connections, and TLS is its own matter. Defaults to TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Dialed, where set, is called for every connection that is tried.
	Dialed func()
	// ClientID shows in the brokers' logs and quotas. Defaults to "parley".
	ClientID string
	// Linger is how long a record may wait for others to share its request: 0 for an embedded broker, 1 ms on a real
	// one. Defaults to 0.
	Linger time.Duration
	// DeliveryTimeout is after how long an unconfirmed record is given up as ErrUnknown. Defaults to two minutes.
	DeliveryTimeout time.Duration
	// Class is the durability of an embedded broker. Defaults to what the topic's settings tell.
	Class Durability
	// SessionTimeout is after how long without a heartbeat a consumer's partitions go to others. Defaults to 10 s.
	SessionTimeout time.Duration
}

// Validate reports the first setting that cannot work.
func (c Config) Validate() error {
	switch {
	case len(c.Brokers) == 0:
		return errors.New("journal: no Kafka brokers")
	case c.Partitions != 0 && !contracts.ValidPartitions(c.Partitions):
		return fmt.Errorf("journal: %d partitions: want a power of two of at most %d", c.Partitions, contracts.Lanes)
	case c.SASL != "" && c.SASL != SASLPlain && c.SASL != SASLScramSHA256 && c.SASL != SASLScramSHA512:
		return fmt.Errorf("journal: unknown SASL mechanism %q", c.SASL)
	case c.SASL != "" && c.User == "":
		return fmt.Errorf("journal: SASL mechanism %q needs a user", c.SASL)
	case c.Linger < 0 || c.DeliveryTimeout < 0 || c.SessionTimeout < 0:
		return errors.New("journal: negative duration")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Partitions == 0 {
		c.Partitions = contracts.DefaultPartitions
	}
	if c.ClientID == "" {
		c.ClientID = "parley"
	}
	if c.DeliveryTimeout == 0 {
		c.DeliveryTimeout = 2 * time.Minute
	}
	if c.SessionTimeout == 0 {
		c.SessionTimeout = 10 * time.Second
	}
	return c
}

func (c Config) topic() string { return c.Names.LogTopic() }

// heartbeat is the pause between two heartbeats. It is also how long a rebalance stays unnoticed, so it is short.
func (c Config) heartbeat() time.Duration {
	return max(min(c.SessionTimeout/20, 400*time.Millisecond), 50*time.Millisecond)
}

// rebalance is how long the group's other members wait for one that does not join again. The client's default is a minute. That
// long all stood still where Kafka, started again, had loaded the group twice at once (it says "Ignored load completion" then):
// it does not expire the dead members that it so remembers, and forgets who is about to join. A live member has heard of
// the rebalance by its next heartbeat and has revokeTimeout to commit.
func (c Config) rebalance() time.Duration { return max(c.SessionTimeout, 2*revokeTimeout) }

// newClient returns a client of the brokers with opts, which are applied last. It connects in the background.
func (c Config) newClient(log *slog.Logger, opts ...kgo.Opt) (*kgo.Client, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	all := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		kgo.WithLogger(&clientLog{log: log, said: make(map[string]time.Time)}),
		kgo.DisableClientMetrics(),
		kgo.DialTimeout(5 * time.Second),
		// The topic may be made after this client, and leaders move: look again soon.
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.RetryBackoffFn(func(fails int) time.Duration {
			return min(50*time.Millisecond<<min(fails, 10), time.Second)
		}),
	}
	if c.Dialed != nil {
		all = append(all, kgo.WithHooks(dialed(c.Dialed)))
	}
	switch {
	case c.Dial != nil:
		all = append(all, kgo.Dialer(c.Dial))
	case c.TLS:
		all = append(all, kgo.DialTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12}))
	}
	switch c.SASL {
	case SASLPlain:
		all = append(all, kgo.SASL(plain.Auth{User: c.User, Pass: c.Password}.AsMechanism()))
	case SASLScramSHA256:
		all = append(all, kgo.SASL(scram.Auth{User: c.User, Pass: c.Password}.AsSha256Mechanism()))
	case SASLScramSHA512:
		all = append(all, kgo.SASL(scram.Auth{User: c.User, Pass: c.Password}.AsSha512Mechanism()))
	}
	cl, err := kgo.NewClient(append(all, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("make Kafka client: %w", err)
	}
	return cl, nil
}

// dialed is the client's hook for connections.
type dialed func()

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (d dialed) OnBrokerConnect(kgo.BrokerMetadata, time.Duration, net.Conn, error) { d() }

// clientLog passes the client's warnings and errors on, each message once in saidAgain: while a broker is away, every try
// to reach it is one. What the client calls information is said at every rebalance and metadata update.
type clientLog struct {
	log *slog.Logger

	mu   sync.Mutex // guards said
	said map[string]time.Time
}

const saidAgain = 5 * time.Second

func (l *clientLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (l *clientLog) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	l.mu.Lock()
	again := time.Since(l.said[msg]) < saidAgain
	if !again {
		l.said[msg] = time.Now()
	}
	l.mu.Unlock()
	if again {
		return
	}
	to := slog.LevelWarn
	if level == kgo.LogLevelError {
		to = slog.LevelError
	}
	l.log.Log(context.Background(), to, "kafka client: "+msg, keyvals...)
}

// pause waits for d or until ctx ends, whose error it then returns.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
