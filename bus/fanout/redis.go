package fanout

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/parley-chat/parley/bus/rawconn"
	"github.com/parley-chat/parley/contracts"
)

const (
	dialTimeout = 2 * time.Second
	ioTimeout   = 2 * time.Second
)

// Config says how to reach Redis.
type Config struct {
	// URL is what Connect takes. Defaults to redis://localhost:6379.
	URL string
	// Dial makes the connections. Defaults to a TCP connection to the address, with TLS where the URL says so.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Dialed, where set, is called for every connection that is tried.
	Dialed func()
	// Publisher publishes in place of the client, where the server is in this process. Defaults to nil: the client does.
	Publisher Publisher
}

// Connect makes a client from c's URL: redis://user:password@host:port/db, or rediss:// for TLS. A list with commas between
// (the later ones may be host:port alone; an empty one is skipped) is a Redis Cluster. It does not wait for the server.
// Commands fail after 2 s or with their context, and are not tried again: who wants that knows better what a repeat means.
func (c Config) Connect() (redis.UniversalClient, error) {
	first, rest, cluster := strings.Cut(c.URL, ",")
	opt, err := redis.ParseURL(strings.TrimSpace(first))
	if err != nil {
		return nil, fmt.Errorf("read the redis url: %w", err)
	}
	opt.DialTimeout, opt.ReadTimeout, opt.WriteTimeout = dialTimeout, ioTimeout, ioTimeout
	opt.DialerRetries = 1
	opt.MaxRetries = -1
	opt.ContextTimeoutEnabled = true
	opt.Protocol = 2
	opt.DisableIdentity = true
	opt.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	if opt.Dialer = c.Dial; opt.Dialer == nil {
		opt.Dialer = redis.NewDialer(opt)
	}
	opt.Dialer = refuseRedial(c.raw(opt.Dialer))
	if !cluster {
		return redis.NewClient(opt), nil
	}
	addrs := []string{opt.Addr}
	for other := range strings.SplitSeq(rest, ",") {
		other = strings.TrimSpace(other)
		if other == "" {
			continue
		}
		if !strings.Contains(other, "://") {
			other = "redis://" + other
		}
		o, err := redis.ParseURL(other)
		if err != nil {
			return nil, fmt.Errorf("read the redis url: %w", err)
		}
		addrs = append(addrs, o.Addr)
	}
	return redis.NewClusterClient(&redis.ClusterOptions{
		Addrs:                    addrs,
		Username:                 opt.Username,
		Password:                 opt.Password,
		TLSConfig:                opt.TLSConfig,
		Dialer:                   opt.Dialer,
		DialTimeout:              opt.DialTimeout,
		ReadTimeout:              opt.ReadTimeout,
		WriteTimeout:             opt.WriteTimeout,
		DialerRetries:            opt.DialerRetries,
		MaxRetries:               opt.MaxRetries,
		ContextTimeoutEnabled:    opt.ContextTimeoutEnabled,
		Protocol:                 opt.Protocol,
		DisableIdentity:          opt.DisableIdentity,
		MaintNotificationsConfig: opt.MaintNotificationsConfig,
	}), nil
}

// noRedial marks the context of everything that a Subscriber does on a connection that it has. Without it go-redis
// would dial again inside such a call, silently, before the Receiver could be told Down.
type noRedial struct{}

var errRedial = errors.New("the connection is lost")

type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

func refuseRedial(dial dialer) dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if ctx.Value(noRedial{}) != nil {
			return nil, errRedial
		}
		return dial(ctx, network, addr)
	}
}

func (c Config) raw(dial dialer) dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if c.Dialed != nil {
			c.Dialed()
		}
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return rawconn.Wrap(nc), nil
	}
}

func isCluster(client redis.UniversalClient) bool {
	_, ok := client.(*redis.ClusterClient)
	return ok
}

// RedisPublisher is a Publisher on Redis Pub/Sub, sharded on a cluster.
type RedisPublisher struct {
	client   redis.UniversalClient
	sharded  bool
	channels []string // by lane
}

var (
	_ Publisher = (*RedisPublisher)(nil)
	_ Sharded   = (*RedisPublisher)(nil)
)

// NewPublisher makes a Publisher. The client is the caller's to close.
func NewPublisher(client redis.UniversalClient, names contracts.Names) *RedisPublisher {
	p := &RedisPublisher{client: client, sharded: isCluster(client), channels: make([]string, contracts.Lanes)}
	for lane := range p.channels {
		p.channels[lane] = names.LaneChannel(contracts.Lane(lane))
	}
	return p
}

// Sharded implements Sharded.
func (p *RedisPublisher) Sharded() bool { return p.sharded }

// Publish implements Publisher with one pipeline (one per node on a cluster).
func (p *RedisPublisher) Publish(ctx context.Context, messages []Message) error {
	if len(messages) == 0 {
		return nil
	}
	pipe := p.client.Pipeline()
	for _, m := range messages {
		channel := p.channels[m.Lane%contracts.Lanes]
		if p.sharded {
			pipe.SPublish(ctx, channel, m.Body)
		} else {
			pipe.Publish(ctx, channel, m.Body)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("publish %d lane messages: %w", len(messages), err)
	}
	return nil
}
