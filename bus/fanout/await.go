package fanout

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Await returns when Redis answers or ctx ends. It logs one warning, with the reason, where the first attempt fails (2 s
// at most), and one line when Redis is there: a client connects only when it is used, so a process that nobody uses yet
// would wait for a dead server in silence.
func Await(ctx context.Context, client redis.UniversalClient, url string, log *slog.Logger) {
	server := withoutUser(url)
	for warned := false; ; {
		try, cancel := context.WithTimeout(ctx, dialTimeout)
		err := Ping(try, client)
		cancel()
		if err == nil {
			log.Info("connected to redis", "server", server)
			return
		}
		if ctx.Err() != nil {
			return
		}
		if !warned {
			warned = true
			log.Warn("waiting for Redis", "server", server, "err", err)
		}
		select {
		case <-time.After(backoffMax):
		case <-ctx.Done():
			return
		}
	}
}

// Ping asks Redis for a sign of life: every master of a cluster, of which the client's own Ping asks one at a time.
func Ping(ctx context.Context, client redis.UniversalClient) error {
	if c, ok := client.(*redis.ClusterClient); ok {
		return c.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error { return master.Ping(ctx).Err() })
	}
	return client.Ping(ctx).Err()
}

// withoutUser takes user, password and parameters out of the URLs of a list.
func withoutUser(urls string) string {
	all := strings.Split(urls, ",")
	for i, one := range all {
		one, _, _ = strings.Cut(strings.TrimSpace(one), "?")
		scheme, rest, ok := strings.Cut(one, "://")
		if !ok {
			scheme, rest = "redis", one
		}
		all[i] = scheme + "://" + rest[strings.LastIndexByte(rest, '@')+1:]
	}
	return strings.Join(all, ",")
}
