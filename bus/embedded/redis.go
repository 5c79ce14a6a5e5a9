//go:build !lean

package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/alicebob/miniredis/v2"

	"github.com/parley-chat/parley/bus/fanout"
	"github.com/parley-chat/parley/contracts"
)

// clockStep is how often the embedded Redis looks for expired keys: a key may live that much longer than it should. Each
// look walks all keys that expire.
const clockStep = time.Second

// Redis is a Redis server inside this process, on a loopback port of its own. It keeps nothing on disk. It is safe for
// concurrent use. Who is in this process as well comes by Dial and Publisher instead of the port: a system call costs more than
// all that is done with a message.
//
// Keys and scripts are miniredis's. Publish and subscribe are not: there a message to a subscriber is handed over, and
// written, while the lock of all keys is held, and its channel is looked for one by one.
type Redis struct {
	server   *miniredis.Miniredis
	addr     string
	stop     chan struct{}
	done     chan struct{}
	channels atomic.Pointer[channels] // nil while interrupted

	mu       sync.Mutex     // guards what follows
	listener net.Listener   // nil while interrupted
	serving  sync.WaitGroup // what runs for listener and its connections
	closed   bool
}

// StartRedis starts a server on a free loopback port.
func StartRedis() (*Redis, error) {
	r := &Redis{
		server: miniredis.NewMiniRedis(),
		addr:   "127.0.0.1:0",
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	if err := r.Resume(); err != nil {
		return nil, fmt.Errorf("start the embedded redis server: %w", err)
	}
	r.addr = r.listener.Addr().String()
	go r.run()
	return r, nil
}

// run moves the server's clock. The server's own clock (ClockTTL) walks all keys at every command.
func (r *Redis) run() {
	defer close(r.done)
	ticker := time.NewTicker(clockStep)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.server.FastForward(clockStep)
		case <-r.stop:
			return
		}
	}
}

// URL is for fanout.Config. It stays the same through Interrupt and Resume.
func (r *Redis) URL() string { return "redis://" + r.addr }

// FastForward lets d pass for the keys that expire.
func (r *Redis) FastForward(d time.Duration) { r.server.FastForward(d) }

// Interrupt stops the server, as an outage does: every connection ends and new ones are refused. The keys stay.
func (r *Redis) Interrupt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener == nil {
		return
	}
	_ = r.listener.Close()
	r.listener = nil
	r.channels.Store(nil)
	r.serving.Wait() // the accepting ends first, then all connections with the server
}

// Resume starts the server again on the same port. It does nothing while the server runs.
func (r *Redis) Resume() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener != nil || r.closed {
		return nil
	}
	ln, err := net.Listen("tcp", r.addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	// Dial is what starts a server without a listener of its own.
	first, err := r.server.Dial()
	if err != nil {
		_ = ln.Close()
		return fmt.Errorf("start: %w", err)
	}
	_ = first.Close()
	r.listener = ln
	told := newChannels()
	r.server.Server().SetPreHook(told.hook)
	r.channels.Store(told)
	r.serving.Go(func() { r.serve(ln) })
	return nil
}

// errAway is what an interrupted server gives.
var errAway = errors.New("the embedded redis server is interrupted")

// Dial connects to the server, whatever the address: it is a fanout.Config's Dial.
func (r *Redis) Dial(context.Context, string, string) (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener == nil {
		return nil, errAway
	}
	client, server := newPipe(outboxBytes)
	r.server.Server().ServeConn(server)
	return client, nil
}

// Publisher is a fanout.Config's Publisher: it hands messages to the server's subscribers without a connection.
func (r *Redis) Publisher(names contracts.Names) fanout.Publisher {
	p := &publisher{redis: r, channels: make([]string, contracts.Lanes)}
	for lane := range p.channels {
		p.channels[lane] = names.LaneChannel(contracts.Lane(lane))
	}
	return p
}

// Add is a recent.Config's Add.
func (r *Redis) Add(key, id, field, value string) error {
	if r.channels.Load() == nil {
		return errAway
	}
	_, err := r.server.XAdd(key, id, []string{field, value})
	return err
}

type publisher struct {
	redis    *Redis
	channels []string // by lane
}

// Publish implements fanout.Publisher.
func (p *publisher) Publish(ctx context.Context, messages []fanout.Message) error {
	for _, m := range messages {
		told := p.redis.channels.Load()
		if err := ctx.Err(); err != nil {
			return err
		}
		if told == nil {
			return errAway
		}
		// Not copied: it is written into a string of its own right here.
		told.publish(p.channels[m.Lane%contracts.Lanes], unsafe.String(unsafe.SliceData(m.Body), len(m.Body)))
	}
	return nil
}

// serve accepts connections until ln is closed, and then ends all of them.
func (r *Redis) serve(ln net.Listener) {
	server := r.server.Server()
	defer r.server.Close()
	for {
		nc, err := accept(ln)
		if err != nil {
			return
		}
		c := newOutbox(nc)
		r.serving.Go(c.run)
		server.ServeConn(c)
	}
}

// Close stops the server and waits until it has ended.
func (r *Redis) Close() error {
	r.Interrupt()
	r.mu.Lock()
	closed := r.closed
	r.closed = true
	r.mu.Unlock()
	if !closed {
		close(r.stop)
	}
	<-r.done
	return nil
}
