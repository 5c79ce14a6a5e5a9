package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/proxy"
	"github.com/parley-chat/parley/deploy/local"
)

// The servers, as links name them.
const (
	nats    = "nats"
	redis   = "redis"
	kafka   = "kafka"
	mongo   = "mongo"
	clients = "clients" // not a server: the link in front of an edge
	replica = "replica" // the second Redis
)

// perRole is how many there are of each role.
const perRole = 2

// needs are the servers of each role.
var needs = map[string][]string{
	"edge": {nats, redis}, "worker": {nats, redis, kafka, mongo}, "dispatch": {nats, redis, kafka, mongo}, "persist": {redis, kafka, mongo},
}

// roles in the order in which they are started.
var roles = []string{"persist", "dispatch", "worker", "edge"}

// link is a connection between two parts, with a proxy in it.
type link struct {
	from, to string
}

func (l link) String() string { return l.from + ":" + l.to }

// plant is the installation: its processes and the proxies between them.
type plant struct {
	// Static after newPlant.
	dir   string
	host  *local.Host
	names contracts.Names
	procs map[string]*local.Process // roles and servers; mongo is missing where it was given
	links map[link]*proxy.Proxy
	ops   map[string]string // roles' operators' ports
	at    map[string]string // servers' addresses, without a proxy
	mongo string            // URI, without a proxy
	notes []string          // what this machine cannot do
	disk  string            // where Kafka's data lies, if that is a disk of its own
	bulks bulks             // what the persisters insert

	mu      sync.Mutex // guards the rest
	primary string     // redis or replica: the one that the links lead to
	down    map[string]int
}

// newPlant prepares everything and starts nothing but proxies. Close it, also after an error.
func newPlant(ctx context.Context, cfg Config, dir string, ownDisk bool) (*plant, error) {
	host, err := local.NewHost(local.UpOptions{Dir: cfg.Dir, Data: dir, Binary: cfg.Binary, Mongo: cfg.Mongo, MongoHeap: mongoHeap(cfg), Out: cfg.Out})
	if err != nil {
		return nil, err
	}
	p := &plant{
		dir: dir, host: host, names: contracts.Names{Prefix: "chaos-" + filepath.Base(dir)}, procs: make(map[string]*local.Process),
		links: make(map[link]*proxy.Proxy), ops: make(map[string]string), at: make(map[string]string), primary: redis, down: make(map[string]int),
	}
	kafkaDir := filepath.Join(dir, "kafka")
	if ownDisk {
		if err := mountDisk(kafkaDir, diskBytes(cfg)); err != nil {
			p.notes = append(p.notes, err.Error())
		} else {
			p.disk = kafkaDir
		}
	}
	return p, p.prepare(ctx, filepath.Join(kafkaDir, "data"))
}

func (p *plant) prepare(ctx context.Context, kafkaData string) error {
	ports, err := p.host.Ports(6 + 3*perRole + len(roles)*perRole + perRole)
	if err != nil {
		return err
	}
	take := func() int {
		n := ports[0]
		ports = ports[1:]
		return n
	}
	kafkaPort, controller := take(), take()
	for _, s := range []string{nats, redis, replica, mongo} {
		p.at[s] = local.Addr(take())
	}
	p.at[kafka] = local.Addr(kafkaPort)

	listeners := make(map[string]local.KafkaListener)
	for _, role := range roles {
		for i := range perRole {
			name := fmt.Sprintf("%s-%d", role, i+1)
			p.ops[name] = local.Addr(take())
			for _, server := range needs[role] {
				if server == kafka {
					through := take()
					err = errors.Join(err, p.connect(link{name, kafka}, local.Addr(through)))
					if err == nil {
						listeners[strings.ToUpper(role)+fmt.Sprint(i+1)] = local.KafkaListener{Port: through, Advertise: p.links[link{name, kafka}].Addr()}
					}
					continue
				}
				err = errors.Join(err, p.connect(link{name, server}, p.at[server]))
			}
			if role == "edge" {
				err = errors.Join(err, p.connect(link{clients, name}, local.Addr(take())))
			}
		}
	}
	err = errors.Join(err, p.connect(link{replica, redis}, p.at[redis]))
	if err != nil {
		return err
	}
	return p.servers(ctx, kafkaPort, controller, kafkaData, listeners)
}

// connect puts a proxy into a link.
func (p *plant) connect(l link, target string) error {
	x, err := proxy.Listen("127.0.0.1:0", target)
	if err == nil {
		if l.to == mongo && strings.HasPrefix(l.from, "persist") {
			x.Through(p.bulks.editor)
		}
		p.links[l] = x
		p.at[l.String()] = target
	}
	return err
}

func port(addr string) int {
	_, n, _ := strings.Cut(addr, ":")
	var number int
	_, _ = fmt.Sscan(n, &number) // always ours
	return number
}

func (p *plant) servers(ctx context.Context, kafkaPort, controller int, kafkaData string, listeners map[string]local.KafkaListener) error {
	var mu sync.Mutex // guards procs, mongo and notes
	keep := func(name string, proc *local.Process, err error) error {
		mu.Lock()
		defer mu.Unlock()
		if err == nil && proc != nil {
			p.procs[name] = proc
		}
		return err
	}
	toReplica, replicaOf, _ := strings.Cut(p.links[link{replica, redis}].Addr(), ":")
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { x, err := p.host.NATS(ctx, port(p.at[nats])); return keep(nats, x, err) })
	g.Go(func() error { x, err := p.host.Redis(redis, port(p.at[redis])); return keep(redis, x, err) })
	g.Go(func() error {
		x, err := p.host.Redis(replica, port(p.at[replica]), "--replicaof", toReplica+" "+replicaOf, "--repl-diskless-sync-delay", "0")
		return keep(replica, x, err)
	})
	g.Go(func() error {
		x, err := p.host.Kafka(ctx, kafkaPort, controller, kafkaData, listeners)
		return keep(kafka, x, err)
	})
	g.Go(func() error {
		x, given, note, err := p.host.Mongo(ctx, port(p.at[mongo]))
		if err != nil {
			return err
		}
		mu.Lock()
		if note != "" {
			p.notes = append(p.notes, "the database is "+note)
		}
		p.mongo = "mongodb://" + p.at[mongo] + "/" + p.names.Database()
		if given != "" {
			p.mongo = given
		}
		mu.Unlock()
		return keep(mongo, x, nil)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return p.roles()
}

// roles prepares the roles, each with its own way to every server.
func (p *plant) roles() error {
	database := p.mongo
	if p.procs[mongo] == nil {
		uri, err := url.Parse(p.mongo)
		if err != nil {
			return errors.New("the MongoDB URI is not valid")
		}
		uri.Path = "/" // the prefix names the database
		database = uri.String()
		p.mongo = database
		p.notes = append(p.notes, "the database was given: nothing is done to it, nor to the links to it")
	}
	for _, role := range roles {
		for i := range perRole {
			name := fmt.Sprintf("%s-%d", role, i+1)
			env := []string{"PARLEY_PREFIX=" + p.names.Prefix, "PARLEY_PING=5s"}
			for _, server := range needs[role] {
				at := p.links[link{name, server}].Addr()
				switch server {
				case nats:
					env = append(env, "PARLEY_NATS_URL=nats://"+at)
				case redis:
					env = append(env, "PARLEY_REDIS_URL=redis://"+at+"/0")
				case kafka:
					env = append(env, "PARLEY_KAFKA_BROKERS="+at)
				case mongo:
					if p.procs[mongo] != nil {
						database = "mongodb://" + at + "/" + p.names.Database()
					}
					env = append(env, "PARLEY_MONGODB_URI="+database)
				}
			}
			if role == "edge" {
				env = append(env, "PARLEY_LISTEN="+p.at[link{clients, name}.String()], "PARLEY_DRAIN_LIMIT="+drainLimit.String())
			}
			p.procs[name] = p.host.Role(name, role, port(p.ops[name]), env)
		}
	}
	return nil
}

// start starts the servers, then the roles, and returns when all answer.
func (p *plant) start(ctx context.Context) error {
	for _, names := range [][]string{{nats, redis, replica, kafka, mongo}, p.roleNames()} {
		g, ctx := errgroup.WithContext(ctx)
		for _, name := range names {
			if proc := p.procs[name]; proc != nil {
				g.Go(func() error { return proc.Start(ctx) })
			}
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// roleNames lists the roles' processes.
func (p *plant) roleNames() []string {
	names := make([]string, 0, len(p.ops))
	for name := range p.ops {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// each returns the processes of one role.
func (p *plant) each(role string) []string {
	return slices.DeleteFunc(p.roleNames(), func(name string) bool { return !strings.HasPrefix(name, role+"-") })
}

// edges are where clients connect.
func (p *plant) edges() []string {
	var at []string
	for _, name := range p.each("edge") {
		at = append(at, p.links[link{clients, name}].Addr())
	}
	return at
}

// edgesThemselves are the edges without the proxies in front of them.
func (p *plant) edgesThemselves() []string {
	var at []string
	for _, name := range p.each("edge") {
		at = append(at, p.at[link{clients, name}.String()])
	}
	return at
}

// expect says that a process may be down, until the function that is returned is called.
func (p *plant) expect(names ...string) (over func()) {
	p.count(names, 1)
	return func() { p.count(names, -1) }
}

func (p *plant) count(names []string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		p.down[name] += n
	}
}

// ended lists the processes that have ended although nobody ended them.
func (p *plant) ended() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for name, proc := range p.procs {
		if _, running := proc.Pid(); !running && p.down[name] == 0 {
			names = append(names, name)
		}
	}
	return names
}

// redis returns the name of the Redis that the links lead to, and the other's.
func (p *plant) redis() (primary, other string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.primary == redis {
		return redis, replica
	}
	return replica, redis
}

// promote has the links lead to another Redis.
func (p *plant) promote(name string) {
	p.mu.Lock()
	p.primary = name
	p.mu.Unlock()
	for l, x := range p.links {
		if l.to == redis && l.from != replica {
			x.Retarget(p.at[name])
		}
	}
}

// healLinks ends whatever is done to links.
func (p *plant) healLinks() {
	for _, x := range p.links {
		x.Set(proxy.Fault{})
	}
}

// close stops everything.
func (p *plant) close() error {
	err := p.host.Close()
	for _, x := range p.links {
		err = errors.Join(err, x.Close())
	}
	if p.disk != "" {
		err = errors.Join(err, unmountDisk(p.disk))
	}
	return err
}

// startWithin bounds starting a process anew, also while a server that it needs is away.
const startWithin = 3 * time.Minute
