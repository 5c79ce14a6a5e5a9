package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/parley-chat/parley/bus/journal"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/persist/sink"
	"github.com/parley-chat/parley/workers"
)

// servers says which real servers to use. Each URL has a conventional environment variable and one of Parley's own,
// which wins.
type servers struct {
	brokers `embed:""`
	records `embed:""`
}

// brokers is what every role uses.
type brokers struct {
	NATSURL    string `name:"nats-url" env:"PARLEY_NATS_URL,NATS_URL" placeholder:"URL" help:"NATS: nats://host:4222, tls://…; comma list for a cluster."`
	RedisURL   string `name:"redis-url" env:"PARLEY_REDIS_URL,REDIS_URL" placeholder:"URL" help:"Redis: redis://host:6379/0, rediss://…; comma list for a cluster."`
	Prefix     string `name:"prefix" env:"PARLEY_PREFIX" default:"parley" help:"First part of every subject, key, topic and database name; installations that share servers differ in it."`
	Partitions int    `name:"partitions" env:"PARLEY_PARTITIONS" default:"${partitions}" help:"Partitions of the log: a power of two, fixed for the life of an installation. Of the embedded log always 8."`
}

// records is where messages are kept; edges need neither.
type records struct {
	KafkaBrokers []string `name:"kafka-brokers" env:"PARLEY_KAFKA_BROKERS,KAFKA_BROKERS" placeholder:"HOST:PORT" help:"Kafka bootstrap brokers."`
	KafkaSASL    string   `name:"kafka-sasl" env:"PARLEY_KAFKA_SASL,KAFKA_SASL_MECHANISM" enum:",plain,scram-sha-256,scram-sha-512" default:"" help:"SASL mechanism: plain, scram-sha-256, scram-sha-512."`
	KafkaUser    string   `name:"kafka-user" env:"PARLEY_KAFKA_USER,KAFKA_SASL_USERNAME" help:"SASL user."`
	KafkaSecret  string   `name:"kafka-password" env:"PARLEY_KAFKA_PASSWORD,KAFKA_SASL_PASSWORD" help:"SASL password."`
	KafkaTLS     bool     `name:"kafka-tls" env:"PARLEY_KAFKA_TLS,KAFKA_TLS" help:"Use TLS towards Kafka."`
	MongoURI     string   `name:"mongodb-uri" env:"PARLEY_MONGODB_URI,MONGODB_URI" placeholder:"URI" help:"MongoDB: mongodb://host:27017/parley."`
}

// process is what every role has.
type process struct {
	Node      string `name:"node" env:"PARLEY_NODE" placeholder:"NAME" help:"This process's name. Defaults to the role and a random suffix."`
	Ops       string `name:"ops" env:"PARLEY_OPS" default:"127.0.0.1:9100" help:"Operators' listener: health, metrics, profiles. \"off\" for none."`
	LogLevel  string `name:"log-level" env:"PARLEY_LOG_LEVEL" enum:"debug,info,warn,error" default:"info" help:"Least level that is logged: debug, info, warn or error. dev on a terminal takes info for warn."`
	LogFormat string `name:"log-format" env:"PARLEY_LOG_FORMAT" enum:"auto,text,json" default:"auto" help:"text, json or auto: text on a terminal, else json."`
}

// accounts is how people prove who they are.
type accounts struct {
	Secret   string `name:"secret" env:"PARLEY_SECRET" help:"HS256 secret of at least 32 bytes; guests' tokens are signed with it."`
	JWKSURL  string `name:"jwks-url" env:"PARLEY_JWKS_URL" placeholder:"URL" help:"Where to get the keys of RS256, ES256 and EdDSA tokens."`
	Issuer   string `name:"issuer" env:"PARLEY_ISSUER" help:"Required iss of tokens."`
	Audience string `name:"audience" env:"PARLEY_AUDIENCE" help:"Required aud of tokens."`
}

// retention is how long messages are kept. Persisters delete what is older, workers show it no more.
type retention struct {
	Retain time.Duration `name:"retain" env:"PARLEY_RETAIN" default:"0s" placeholder:"TIME" help:"How old messages become before what they say is deleted, at least 24h; 720h are thirty days. Give persisters and workers the same. 0 keeps them."`
}

// Validate tells what is wrong with the settings.
func (r *retention) Validate() error {
	if r.Retain != 0 && r.Retain < sink.LeastRetain {
		return fmt.Errorf("--retain %v: must be %v or more, or 0 to keep messages for ever", r.Retain, sink.LeastRetain)
	}
	return nil
}

// kafka is where and how the log is.
func (s *records) kafka() journal.Config {
	return journal.Config{
		Brokers: s.KafkaBrokers, SASL: s.KafkaSASL, User: s.KafkaUser, Password: s.KafkaSecret, TLS: s.KafkaTLS,
		Linger: kafkaLinger,
	}
}

// kafkaLinger is how long a record waits for others on its way to a real Kafka: without it every figure is worse above a
// thousand records a second.
const kafkaLinger = time.Millisecond

func (s *brokers) names() contracts.Names { return contracts.Names{Prefix: s.Prefix} }

// Validate tells what is wrong with the settings.
func (s *brokers) Validate() error {
	if !contracts.ValidID(s.Prefix) {
		return fmt.Errorf("--prefix %q: use 1 to 64 of A-Z a-z 0-9 _ -", s.Prefix)
	}
	if !contracts.ValidPartitions(s.Partitions) {
		return fmt.Errorf("--partitions %d: must be a power of two from 1 to %d", s.Partitions, contracts.Lanes)
	}
	return errors.Join(
		schemes("--nats-url", s.NATSURL, "nats", "tls", "ws", "wss"),
		schemes("--redis-url", s.RedisURL, "redis", "rediss"),
	)
}

// Validate tells what is wrong with the settings.
func (r *records) Validate() error {
	if r.MongoURI == "" || strings.HasPrefix(r.MongoURI, "mongodb://") || strings.HasPrefix(r.MongoURI, "mongodb+srv://") {
		return nil
	}
	return errors.New("--mongodb-uri: must begin with mongodb:// or mongodb+srv://")
}

// Validate tells what is wrong with the settings.
func (s *servers) Validate() error { return errors.Join(s.brokers.Validate(), s.records.Validate()) }

// schemes says which scheme in a comma list of URLs is none of those allowed. A URL may hold a password, so no more of it
// is repeated. An entry without a scheme is left to the library.
func schemes(flag, urls string, allowed ...string) error {
	for one := range strings.SplitSeq(urls, ",") {
		scheme, _, ok := strings.Cut(strings.TrimSpace(one), "://")
		if ok && !slices.Contains(allowed, strings.ToLower(scheme)) {
			return fmt.Errorf("%s begins with %q: use %s://", flag, scheme+"://", strings.Join(allowed, "://, "))
		}
	}
	return nil
}

// Validate tells what is wrong with the settings.
func (p *process) Validate() error {
	if p.Node != "" && !contracts.ValidID(p.Node) {
		return fmt.Errorf("--node %q: use 1 to 64 of A-Z a-z 0-9 _ -", p.Node)
	}
	return nil
}

// node returns the process's name: the given one, or the role's with a random suffix.
func (p *process) node(role string) (contracts.NodeID, error) {
	if p.Node != "" {
		return contracts.NodeID(p.Node), nil
	}
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make a name for this %s: %w", role, err)
	}
	return contracts.NodeID(role + "-" + hex.EncodeToString(b[:])), nil
}

// worker returns a worker's settings that concern accounts.
func (a *accounts) worker(node contracts.NodeID) workers.Config {
	return workers.Config{Node: node, Secret: []byte(a.Secret), JWKSURL: a.JWKSURL, Issuer: a.Issuer, Audience: a.Audience}
}

// Validate tells what is wrong with the settings.
func (a *accounts) Validate() error {
	if a.Secret != "" && len(a.Secret) < 32 {
		return fmt.Errorf("--secret is %d bytes long: use at least 32, for example from: openssl rand -hex 32", len(a.Secret))
	}
	return nil
}

// logger returns the process's logger.
func (p *process) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(p.LogLevel)) // the parser allows known levels only
	opts := &slog.HandlerOptions{Level: level}
	if p.LogFormat == "json" || p.LogFormat == "auto" && !terminal(w) {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// missing lists what a role needs and was not given, as one line with what to do.
func missing(role string, needs map[string]string) error {
	var names []string
	for name, value := range needs {
		if value == "" {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	hint := "set the variable or see --help"
	if !strings.HasPrefix(role, "dead ") {
		hint += "; `parley dev` needs none, `task up` starts real servers"
	}
	return fmt.Errorf("%s needs %s (%s)", role, strings.Join(names, ", "), hint)
}
