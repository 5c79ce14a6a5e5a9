package local

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// port is one that a process will listen on, on 127.0.0.1.
type port struct {
	name   string // of the process
	number int
}

func (p port) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.number)) }

// serverPorts are the ports of the servers.
type serverPorts struct {
	nats, redis, kafka, controller, mongo port
}

func (p *serverPorts) all() []*port {
	return []*port{&p.nats, &p.redis, &p.kafka, &p.controller, &p.mongo}
}

// choosePorts gives the servers ports by UpOptions.Ports. With PortsDefault a port that a server does not need in this
// run is not looked at.
func choosePorts(how string, needMongo bool) (serverPorts, error) {
	p := serverPorts{
		nats: port{"nats", 4222}, redis: port{"redis", 6379},
		kafka: port{"kafka", 9092}, controller: port{"kafka's controller", 9093},
		mongo: port{"mongo", 27017},
	}
	if how == PortsFree {
		return p, freePorts(p.all()...)
	}
	if base, err := strconv.Atoi(how); err == nil {
		for i, q := range p.all() {
			q.number = base + i
		}
	}
	var errs []error
	for _, q := range p.all() {
		if q != &p.mongo || needMongo {
			errs = append(errs, checkPort(*q, "--ports free takes free ones, --ports 20000 takes that one and the next four"))
		}
	}
	return p, errors.Join(errs...)
}

// checkPort fails with one line when something listens there already.
func checkPort(p port, instead string) error {
	ln, err := net.Listen("tcp", p.addr())
	if err != nil {
		return fmt.Errorf("port %d (%s) is in use: stop what listens there, or choose others (%s)", p.number, p.name, instead)
	}
	return ln.Close()
}

// freePorts gives each a port that nothing listens on. All are held until the last is found, so that they differ.
func freePorts(ports ...*port) error {
	var errs []error
	var held []net.Listener
	for _, p := range ports {
		ln, err := listenBelow()
		if err != nil {
			errs = append(errs, fmt.Errorf("find a free port for %s: %w", p.name, err))
			continue
		}
		held = append(held, ln)
		p.number = ln.Addr().(*net.TCPAddr).Port
	}
	for _, ln := range held {
		errs = append(errs, ln.Close())
	}
	return errors.Join(errs...)
}

// Free ports are taken from these, below what systems give to outgoing connections (Linux from 32768, others from 49152): one
// of those takes the port of a server that is not up yet, or is down for a while.
const lowestFree, highestFree = 20000, 32767

// listenBelow listens on a port of chance that is free, or, where it finds none, on one that the system chooses.
func listenBelow() (net.Listener, error) {
	for range 100 {
		number := lowestFree + rand.IntN(highestFree-lowestFree+1)
		if ln, err := net.Listen("tcp", Addr(number)); err == nil {
			return ln, nil
		}
	}
	return net.Listen("tcp", Addr(0))
}
