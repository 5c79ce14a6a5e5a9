package fanout_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/parley-chat/parley/bus/fanout"
)

func TestConnect(t *testing.T) {
	tests := []struct {
		url     string
		addrs   []string
		cluster bool
		tls     bool
	}{
		{url: "redis://h:1/2", addrs: []string{"h:1"}},
		{url: "rediss://user:secret@h:1", addrs: []string{"h:1"}, tls: true},
		{url: "redis://h:1,", addrs: []string{"h:1"}, cluster: true},
		{url: "rediss://h:1, i:2,rediss://j:3", addrs: []string{"h:1", "i:2", "j:3"}, cluster: true, tls: true},
		{url: ""},
		{url: "h:1"},
		{url: "http://h:1"},
		{url: "redis://h:1,http://i:2"},
	}
	for _, tt := range tests {
		client, err := fanout.Config{URL: tt.url}.Connect()
		if tt.addrs == nil {
			if err == nil {
				t.Errorf("Connect(%q) succeeded", tt.url)
			}
			continue
		}
		if err != nil {
			t.Errorf("Connect(%q): %v", tt.url, err)
			continue
		}
		var addrs []string
		var cluster, tls bool
		switch c := client.(type) {
		case *redis.Client:
			addrs, tls = []string{c.Options().Addr}, c.Options().TLSConfig != nil
		case *redis.ClusterClient:
			addrs, cluster, tls = c.Options().Addrs, true, c.Options().TLSConfig != nil
		}
		if diff := cmp.Diff(tt.addrs, addrs); diff != "" || cluster != tt.cluster || tls != tt.tls {
			t.Errorf("Connect(%q): cluster %v, TLS %v, addresses (-want +got):\n%s", tt.url, cluster, tls, diff)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
}
