//go:build lean

package main

import "strings"

// embed has no servers to start in this build: every URL must be given.
func (d *dev) embed(string) error {
	return missing("parley dev, built without embedded servers,", map[string]string{
		"NATS_URL": d.NATSURL, "REDIS_URL": d.RedisURL, "KAFKA_BROKERS": strings.Join(d.KafkaBrokers, ","), "MONGODB_URI": d.MongoURI,
	})
}
