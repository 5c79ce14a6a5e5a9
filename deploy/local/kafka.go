package local

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func (r *runner) startKafka(ctx context.Context, p, controller port) (string, error) {
	s, err := r.kafkaServer(ctx, kafkaPlan{at: p, controller: controller, data: filepath.Join(r.opts.Data, "kafka", "data")})
	if err != nil {
		return "", err
	}
	return p.addr(), r.serve(ctx, s, p, "")
}

// kafkaPlan is where a Kafka listens and what it tells its clients to connect to.
type kafkaPlan struct {
	at, controller port
	data           string // directory
	// through are further listeners, each with the address of the proxy in front of it, by name: letters and digits.
	through map[string]throughPorts
}

type throughPorts struct {
	listen    port
	advertise string // host:port
}

// kafkaServer is one Kafka that is broker and controller at once. Its data outlives it. It is fetched, configured and
// its storage formatted here, where that was not done before.
func (r *runner) kafkaServer(ctx context.Context, plan kafkaPlan) (*Process, error) {
	p := plan.at
	if err := r.fetchJars(ctx, "kafka", p.name, "43 MB"); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(plan.data, 0o755); err != nil {
		return nil, fmt.Errorf("configure kafka: %w", err)
	}
	config := plan.data + ".properties"
	if err := os.WriteFile(config, []byte(kafkaConfig(plan)), 0o644); err != nil {
		return nil, fmt.Errorf("configure kafka: %w", err)
	}
	dir := filepath.Join(r.opts.Dir, "kafka")
	classes := filepath.Join(dir, "lib", "*")
	logging := "-Dlog4j2.configurationFile=" + filepath.Join(dir, "log4j2.properties")
	if _, err := os.Stat(filepath.Join(plan.data, "meta.properties")); err != nil {
		err := r.setup(ctx, spec{name: "kafka-format", path: "java", args: []string{
			logging, "-cp", classes, "kafka.tools.StorageTool", "format", "--cluster-id", clusterID(), "--config", config,
		}})
		if err != nil {
			return nil, fmt.Errorf("format kafka's storage: %w", err)
		}
	}
	flags := []string{"-Xmx512m", "-XX:+ExitOnOutOfMemoryError"}
	if len(plan.through) > 0 {
		flags = append(flags, "-XX:TieredStopAtLevel=1") // it is started often: up sooner, and slower then
	}
	return &Process{
		r: r, within: 90 * time.Second,
		spec: spec{kind: kindServer, name: p.name, path: "java", args: append(flags, logging, "-cp", classes, "kafka.Kafka", config)},
		ask:  func(ctx context.Context) error { return askKafka(ctx, p) },
	}, nil
}

func askKafka(ctx context.Context, p port) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(p.addr()), kgo.RetryTimeout(time.Second), kgo.DialTimeout(time.Second))
	if err != nil {
		return fmt.Errorf("ask kafka: %w", err)
	}
	defer client.Close()
	m, err := kadm.NewClient(client).BrokerMetadata(ctx)
	if err == nil && len(m.Brokers) == 0 {
		err = errors.New("the broker has not joined yet")
	}
	return err
}

// fetchJars unpacks a directory of assets to one of the same name below Dir and has Maven put its libraries into lib,
// once per version of its pom.xml.
func (r *runner) fetchJars(ctx context.Context, asset, name, size string) error {
	if _, err := exec.LookPath("java"); err != nil {
		return fmt.Errorf("java is not on PATH, %s needs version 17 or newer: apt-get install default-jdk-headless, or brew install openjdk", name)
	}
	dir := filepath.Join(r.opts.Dir, asset)
	source, err := unpack(asset, dir)
	if err != nil {
		return err
	}
	lib := filepath.Join(dir, "lib")
	if made(lib, source) {
		return nil
	}
	if _, err := exec.LookPath("mvn"); err != nil {
		return fmt.Errorf("mvn is not on PATH, %s is fetched with it: apt-get install maven, or brew install maven", name)
	}
	r.out.line(name, "downloading (%s, once)", size)
	if err := os.RemoveAll(lib); err != nil {
		return fmt.Errorf("fetch %s: %w", name, err)
	}
	err = r.setup(ctx, spec{name: asset + "-download", path: "mvn", args: []string{
		"-q", "-B", "-f", filepath.Join(dir, "pom.xml"), "dependency:copy-dependencies", "-DoutputDirectory=" + lib,
	}})
	if err != nil {
		return fmt.Errorf("fetch %s: %w", name, err)
	}
	return markMade(lib, source)
}

// kafkaConfig is the broker's settings. Topics are created by Parley alone, with their own retention.
func kafkaConfig(plan kafkaPlan) string {
	listeners := []string{"PLAINTEXT://" + plan.at.addr(), "CONTROLLER://" + plan.controller.addr()}
	advertised := []string{"PLAINTEXT://" + plan.at.addr()}
	protocols := []string{"PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT"}
	for _, name := range slices.Sorted(maps.Keys(plan.through)) {
		listeners = append(listeners, name+"://"+plan.through[name].listen.addr())
		advertised = append(advertised, name+"://"+plan.through[name].advertise)
		protocols = append(protocols, name+":PLAINTEXT")
	}
	lines := []string{
		"process.roles=broker,controller",
		"node.id=1",
		"listeners=" + strings.Join(listeners, ","),
		"advertised.listeners=" + strings.Join(advertised, ","),
		"listener.security.protocol.map=" + strings.Join(protocols, ","),
		"inter.broker.listener.name=PLAINTEXT",
		"controller.listener.names=CONTROLLER",
		"controller.quorum.voters=1@" + plan.controller.addr(),
		"log.dirs=" + escapeProperty(plan.data),
		"auto.create.topics.enable=false",
		"offsets.topic.replication.factor=1",
		"offsets.topic.num.partitions=4",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"transaction.state.log.num.partitions=4",
		"share.coordinator.state.topic.replication.factor=1",
		"share.coordinator.state.topic.min.isr=1",
		"group.initial.rebalance.delay.ms=0",
		"log.cleaner.dedupe.buffer.size=16777216", // of the heap, from the start
	}
	if len(plan.through) > 0 {
		lines = append(lines,
			"num.network.threads=1", // of each listener
			// A broker that was killed may register again only once its session has ended.
			"broker.session.timeout.ms=2000", "broker.heartbeat.interval.ms=500",
		)
	}
	return strings.Join(lines, "\n") + "\n"
}

// escapeProperty writes a value for a Java properties file.
func escapeProperty(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }

// clusterID is 16 random bytes as Kafka writes them; it may not begin like an option.
func clusterID() string {
	var id [16]byte
	for {
		_, _ = rand.Read(id[:]) // never fails
		if s := base64.RawURLEncoding.EncodeToString(id[:]); s[0] != '-' {
			return s
		}
	}
}
